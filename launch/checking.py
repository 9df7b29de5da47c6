"""Validates every point of a sweep before the first one starts."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from jaxtickets import cli
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir
from launch.points import Point


class Checked(NamedTuple):
    """What the config of a point says of the work of its run.

    Attributes:
      levels: the number of rounds of a seed, the dense one included; None where another run decides it and is not read.
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

    What a point refers to is read, unless the sweep makes it or the point has finished. Nothing is started, downloaded
    or written.

    Raises:
      UserError: the flags of a point are mistaken, a run or a ticket that it refers to can't be had, or two points are
        the same run.
    """
    from jaxtickets import config as config_lib  # Imports JAX.

    found, of_config = {}, {}
    for point in points:
        try:
            config, _ = cli.read_run(point.arguments)
            # Where it runs, a run checks the number of devices itself.
            config_lib.validate(config, devices=config.get("tickets_per_host", 1))
            levels = _levels(point, config, found)
        except UserError as error:
            raise UserError(f"{error} (in {point.name}; nothing has been started)") from None
        content = json.dumps(config_lib.to_dict(config), sort_keys=True)
        if content in of_config:
            raise UserError(f"{of_config[content]} and {point.name} are the same run; leave one of them out")
        of_config[content] = point.name
        found[point.name] = Checked(levels, config.seeds, config.train.steps)
    return found


def _levels(point, config, found):
    """See `Checked.levels`; reads the run outside the sweep to which a point refers, and refuses what can't be had."""
    from jaxtickets import config as config_lib
    from jaxtickets import runs

    if config_lib.method(config).source is None:
        return len(config_lib.levels(config))
    if point.after:
        is_file = config[config.experiment].of.endswith(".safetensors")
        return 2 if is_file else found[point.after[0]].levels  # A ticket file has one ticket.
    return None if Workdir(point.workdir).is_finished else runs.rounds_of_source(config)
