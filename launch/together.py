"""Groups of points of a sweep that train in one program."""

from collections.abc import Sequence

from jaxtickets import cli, portfolio
from launch.points import Point


def groups(points: Sequence[Point], at_most: int, known: Sequence[Sequence[str]]) -> list[tuple[Point, ...]]:
    """The points in groups of at most `at_most` whose steps are the same, in the order of their first points.

    Groups that are known stay as they are: a ticket's last bits depend on how many it trains beside. The points of
    other groups wait for the same runs, so that all can start at a time, and none waits for another of its group.

    Args:
      known: names of the points of each group of an earlier start.
    """
    by_name = {point.name: point for point in points}
    found = [tuple(by_name[name] for name in names) for names in known if set(names) <= by_name.keys()]
    placed = {point.name for group in found for point in group}
    alike = {}
    for number, point in enumerate(point for point in points if point.name not in placed):
        alike.setdefault((point.after, repr(_key(point.arguments) or number)), []).append(point)
    for same in alike.values():
        found += [tuple(same[start : start + at_most]) for start in range(0, len(same), at_most)]
    return sorted(found, key=lambda group: points.index(group[0]))


def _key(arguments):
    """See `portfolio.key`."""
    config, _ = cli.read_run(arguments)
    return portfolio.key(config)
