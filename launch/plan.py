"""The plan of a sweep, in lines: the number of runs, and how long they will take."""

from collections.abc import Iterator, Sequence

from jaxtickets.progress_lines import duration
from jaxtickets.workdir import Workdir
from launch.points import Point
from launch.watching import Watch


def plan(
    all_points: Sequence[Point],
    finished: Sequence[Point],
    watch: Watch,
    at_once: int,
    devices_per_job: int,
    jobs_per_device: int,
    together: int = 1,
) -> Iterator[str]:
    """The number of runs, and how long they will take by those of this directory that have finished."""
    shares = {point.name: watch.look(point.name).share for point in all_points}
    done = {point.name for point in finished}
    started = {point.name for point in all_points if Workdir(point.workdir).is_started} - done
    counts = {"finished": len(done), "to go on": len(started), "to start": len(all_points) - len(done) - len(started)}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    yield f"{len(all_points)} run{'s' if len(all_points) > 1 else ''}: {told}; {at_once} at a time"
    if len(done) == len(all_points):
        return
    # What has run elsewhere, such as in a job of SLURM, has its training's seconds alone.
    by = None if done & watch.seconds.keys() else watch.trained(done)
    each = [watch.needed([name], share, by) for name, share in shares.items() if name not in done]
    if None in each:
        yield (
            "How long they take is not known."
            if done
            else "None of these runs has finished yet: how long they take is not known."
        )
        return
    # Without one of the two flags the runs have this machine together, which is then one device.
    seconds = max(sum(each) / at_once, max(each))
    hours = sum(each) / 3600 * (devices_per_job or 1 / (jobs_per_device or at_once))
    what = "" if by is None else " of training alone"
    # Of runs that trained together each has the seconds of all.
    most = "about" if by is None or together == 1 else "at most"
    yield f"By those that have finished, {most} {duration(seconds)} and {hours:.2g} device hours{what}"
