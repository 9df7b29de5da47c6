"""What a run does not show, said beside its verdict."""

from collections.abc import Iterator

from jaxtickets.report.reading import (
    FEW,
    STAND_IN,
    Results,
    has_nothing_to_beat,
    is_finite,
    judged_rounds,
    main_metric,
    winning_round,
)


def limits(run: Results) -> Iterator[str]:
    """One sentence or two for each thing that the verdict could be taken for, and is not."""
    metric, verdict = main_metric(run.rounds, run.verdict, run.about), run.verdict
    if verdict is None or metric is None:
        return
    if not judged_rounds(verdict):
        yield "One seed is an observation: another seed may find another round. Several seeds test it (config.seeds)."
    else:
        seeds, sure = len(verdict["seeds"]), 1 - verdict["confidence"]
        if winning_round(verdict) is None:
            yield (
                f"No winner over {seeds} seeds does not mean that there is no winning ticket: it was not shown."
                " --power tells how many seeds would show it."
            )
        else:
            yield (
                f"The test errs in at most {sure:.2g} of all runs, if the ratios of the seeds are about log-normal."
                f" A collapse that happens in one training of ten is absent from {0.9**seeds:.0%} of all runs over"
                f" {seeds} seeds."
            )
    if has_nothing_to_beat(verdict):
        yield "The dense run has not learned, so nothing is said of any ticket."
    if metric.startswith(STAND_IN):
        yield f"{metric} is not FID, and compares only with runs on the same data in the same feature networks."
    counts = run.references.get(metric, {})
    if is_finite(images := counts.get("held_out_images")) and images < FEW:
        yield f"{images} held-out images are too few for a floor."
    elif _is_far_from_real(counts.get("held_out"), verdict):
        times = verdict["dense"] / counts["held_out"]
        yield (
            f"Within the tolerance is as good as this dense run, which is {times:.1f} times as far from the training"
            " images as real held-out images are. It is not as good as real images."
        )
    if run.config.get("experiment") in ("imp", "one_shot", "early_bird"):
        yield (
            "Whether this mask is better than a random one with the same sparsity in each layer takes controls"
            " (the experiment branch)."
        )
    structure = (run.config.get("prune") or {}).get("structure")
    if structure != "channel" and run.config.get("experiment") not in ("dense", None):
        yield (
            "FLOPs and parameters count the kept weights: what hardware that skips zeros could save. The seconds here"
            " are those of dense arrays, which save nothing."
        )
    yield "The figures hold for this network, these data and this length of training."


def _is_far_from_real(floor, verdict):
    """Whether the dense run's distance is above twice that of held-out images."""
    is_known = is_finite(floor) and floor > 0 and is_finite(verdict.get("dense"))
    return is_known and verdict.get("better") != "higher" and verdict["dense"] > 2 * floor
