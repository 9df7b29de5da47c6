"""Validates every point of a sweep before the first one starts."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from jaxtickets import cli
from jaxtickets.errors import UserError
from launch.points import Point


class Checked(NamedTuple):
    """What the config of a point says of the work of its run.

    Attributes:
      levels: the number of rounds of a seed, the dense one included; None where a run outside the sweep decides it.
      seeds: the number of seeds.
      steps: of a round; 0 where the data decide it.
    """

    levels: int | None
    seeds: int
    steps: int

    @property
    def rounds(self) -> int | None:
        """The number of rounds of all seeds together, if it is known."""
        return self.levels and self.levels * self.seeds


def check(points: Sequence[Point]) -> dict[str, Checked]:
    """Validates the flags of every point, as its run will; returns the work of each point by its name.

    Nothing is started, downloaded or written, and no accelerator is touched.

    Raises:
      UserError: the flags of a point are mistaken, or two points are the same run.
    """
    from jaxtickets import config as config_lib  # Imports JAX.

    found, of_config = {}, {}
    for point in points:
        try:
            config, _ = cli.read_run(point.arguments)
            # Where it runs, a run checks the number of devices itself.
            config_lib.validate(config, devices=config.get("tickets_per_host", 1))
        except UserError as error:
            raise UserError(f"{error} (in {point.name}; nothing has been started)") from None
        content = json.dumps(config_lib.to_dict(config), sort_keys=True)
        if content in of_config:
            raise UserError(f"{of_config[content]} and {point.name} are the same run; leave one of them out")
        of_config[content] = point.name
        if config_lib.method(config).source is None:
            levels = len(config_lib.levels(config))
        else:  # As many as the run has whose tickets it trains.
            levels = found[point.after[0]].levels if point.after else None
        found[point.name] = Checked(levels, config.seeds, config.train.steps)
    return found
