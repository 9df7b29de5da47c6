"""The state of a sweep while it runs: a row for each run, and a sentence about all."""

from collections import Counter
from collections.abc import Mapping

from jaxtickets.progress_lines import duration
from launch.display import Row
from launch.watching import Watch, best_of

RUNNING, FAILED, WAITING, FINISHED = "running", "failed", "waiting", "finished"


def overview(watch: Watch, states: Mapping[str, tuple[str, float]], at_once: int) -> tuple[list[Row], str]:
    """The rows of the table, in the order of `states`, and the sentence.

    Args:
      states: of each run by name, one of the words above, and the seconds since it was started.
      at_once: the number of runs at a time.
    """
    found = {name: watch.look(name) for name in states}
    left = {
        name: watch.left(name, found[name].share, since_start)
        for name, (state, since_start) in states.items()
        if state == RUNNING
    }
    rows = []
    for name, (state, _) in states.items():
        rounds = f"{found[name].rounds}/{watch.rounds(name) or '?'}" if found[name].rounds or state != WAITING else ""
        share = 1.0 if state == FINISHED else found[name].share
        rows.append(Row(name, state, rounds, share, left.get(name), str(found[name].best or "")))
    counts = Counter(state for state, _ in states.values())
    words = [f"{counts[state]} {state}" for state in (FINISHED, RUNNING, WAITING, FAILED) if counts[state]]
    text = f"[{', '.join(words)}]"
    needed = watch.needed([name for name, (state, _) in states.items() if state == WAITING])
    if needed is not None and None not in left.values():
        # Not sooner than the longest of those that run, and not sooner than all of them, evenly spread.
        seconds = max([*left.values(), (sum(left.values()) + needed) / at_once])
        text += f" about {duration(seconds)} left" if seconds >= 1 else ""
    if best := best_of(found):
        text += f"; best so far: {best[0]}, {best[1]}"
    return rows, text
