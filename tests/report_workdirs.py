"""Workdirs as runs leave them, for the tests of reports."""

import csv
import json
import math
import re

import numpy as np
from PIL import Image

from jaxtickets import report
from jaxtickets.report.reading import read
from jaxtickets.runs.verdict import judge_seeds

LAYERS = {
    "generator/project/dense/kernel": 65_536,
    "generator/up_8/conv/kernel": 147_456,
    "generator/up_16/conv/kernel": 36_864,
    "generator/out/conv/kernel": 864,
    "discriminator/down_16/conv/kernel": 864,
    "discriminator/down_8/conv/kernel": 36_864,
}
DISTANCES = [12.31, 11.84, 12.02, 12.9, 13.4, 17.2]
WINNER = 4


def write_workdir(path, *, seed=0, rate=0.3, rounds=6, finished=True, winner=WINNER, distances=DISTANCES):
    """Writes a workdir as a GAN run of `rounds` rounds leaves it."""
    random = np.random.default_rng(seed)
    (path / "samples").mkdir(parents=True)
    config = {
        "experiment": "imp",
        "seed": seed,
        "data": {"name": "digits"},
        "prune": {"rate": rate, "rounds": 5, "include": [".*<kernel>"]},
    }
    record = {
        "config": config,
        "versions": {"jax": "0.4.38", "python": "3.11"},
        "devices": ["cpu:0"],
        "git_revision": "0123abc",
        "command": "python -m jaxtickets.main --config=configs/gan_digits.py:quick",
    }
    (path / "config.json").write_text(json.dumps(record))
    weights = sum(LAYERS.values())
    rows, layers, metrics = [], [], []
    for number in range(rounds):
        density = (1 - rate) ** number
        rows.append(
            {
                "round": number,
                "sparsity": 1 - density,
                "sparsity_all": 0.99 * (1 - density),
                "density": density,
                "fd_digits": distances[number] + 0.1 * seed,
                "kid": distances[number] / 300,
                "flops_dense": 80_000_000,
                "flops_effective": int(80_000_000 * density),
                "params_kept": round(weights * density),
                "train_seconds": 31.4 + number,
                "steps_per_second": 63.5,
            }
        )
        for index, (layer, count) in enumerate(LAYERS.items()):
            kept = round(count * density ** (1.6 - 0.25 * index))
            layers.append({"round": number, "layer": layer, "weights": count, "kept": kept})
        for step in range(0, 2001, 25):
            decay = np.exp(-step / 400) * (1 + 0.1 * number)
            metrics.append(
                {
                    "round": number,
                    "step": step,
                    "split": "train",
                    "seconds": step / 60,
                    "generator_loss": 2.1 - decay + 0.1 * random.normal(),
                    "discriminator_loss": 0.6 + decay + 0.05 * random.normal(),
                }
            )
        samples_grid(random, density).save(path / "samples" / f"round_{number:03d}.png")
    write_csv(path / "rounds.csv", rows)
    write_csv(path / "layers.csv", layers)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if finished:
        verdict = {
            "metric": "fd_digits",
            "metric_label": "Frechet distance in digits features, 2,048 samples",
            "tolerance": 0.1,
            "dense": distances[0],
            "threshold": 1.1 * distances[0],
            "winning_round": winner,
            "sparsity": None if winner is None else 1 - (1 - rate) ** winner,
            "value": None if winner is None else distances[winner],
            "message": "No round after the dense one wins." if winner is None else f"Round {winner} wins.",
        }
        (path / "verdict.json").write_text(json.dumps(verdict))
    return path


def write_searches(path, *, epochs=12, emerged=(7, 5, 6, None, 4), unit="channels"):
    """Turns the workdir into that of an early-bird run, with a search in each round but the dense one.

    `emerged` has for each round the index of the ticket among the masks, which were drawn once per epoch of 31 steps.
    """
    record = json.loads((path / "config.json").read_text())
    record["config"]["experiment"] = "early_bird"
    record["command"] = "python -m jaxtickets.main --config=configs/early_bird.py:quick"
    (path / "config.json").write_text(json.dumps(record))
    (path / "search").mkdir()
    random = np.random.default_rng(record["config"]["seed"])
    steps = [31 * epoch for epoch in range(1, epochs + 1)]
    rows = read_rows(path)
    for number, (row, index) in enumerate(zip(rows, (None, *emerged), strict=False)):
        row["emergence_epoch"] = None if index is None else 31 * (index + 1) * 64 / 2000
        row["search_seconds"] = 9.5 if number else 0
        row["step_bytes"] = round(48_300_000 * float(row["density"]))
        if number == 0:
            continue
        # Scores move less and less, and so do the masks, which keep the upper 70 %.
        moves = random.normal(size=(epochs, 400)) * np.exp(-np.arange(epochs) / 2.2)[:, None]
        scores = np.cumsum(moves, axis=0)
        masks = scores > np.quantile(scores, 0.3, axis=1, keepdims=True)
        search = {
            "steps": steps,
            "epochs": [step * 64 / 2000 for step in steps],
            "distances": (masks[:, None] != masks[None]).mean(axis=2).tolist(),
            "queue": 5,
            "threshold": 0.1,
            "emerged": index,
            "unit": unit,
        }
        (path / "search" / f"{number:03d}.json").write_text(json.dumps(search))
    write_csv(path / "rounds.csv", rows)
    return path


def write_seeds(path, *, rounds=(6, 6, 6), rate=0.3, distances=DISTANCES, finished=True, emerged=None):
    """Writes a workdir as a run over several seeds leaves it; seed n has finished `rounds[n]` rounds.

    `emerged` has the `emerged` of `write_searches` for each seed, if there was a search.
    """
    rows = []
    for seed, count in enumerate(rounds):
        seed_path = path / f"seed_{seed}"
        write_workdir(seed_path, seed=seed, rate=rate, rounds=count, distances=distances, finished=False)
        if emerged:
            write_searches(seed_path, emerged=emerged[seed])
        rows += [{"seed": seed, **row} for row in read_rows(seed_path)]
        if count == max(rounds):
            (seed_path / "report.html").write_text("the report of one seed")
    record = json.loads((path / "seed_0" / "config.json").read_text())
    record["config"] |= {"seeds": len(rounds)}
    (path / "config.json").write_text(json.dumps(record))
    write_csv(path / "rounds.csv", rows)
    if finished:
        judged = [
            {
                "round": number,
                "sparsity": 1 - (1 - rate) ** number,
                "mean": distances[number] + 0.1,
                "low": distances[number] - 0.4,
                "high": distances[number] + 0.6,
                "p_value": (0.0004 if number <= WINNER else 0.734) if number else None,
                "wins": number <= WINNER if number else None,
            }
            for number in range(max(rounds))
        ]
        verdict = {
            "metric": "fd_digits",
            "metric_label": "Frechet distance in digits features, 2,048 samples",
            "tolerance": 0.1,
            "confidence": 0.95,
            "seeds": list(range(len(rounds))),
            "dense": distances[0] + 0.1,
            "threshold": 1.1 * (distances[0] + 0.1),
            "rounds": judged,
            "winning_round": WINNER,
            "sparsity": judged[WINNER]["sparsity"],
            "value": judged[WINNER]["mean"],
            "message": f"Round {WINNER} wins over {len(rounds)} seeds.",
        }
        (path / "verdict.json").write_text(json.dumps(verdict))
    return path


def samples_grid(random, density):
    """An 8 x 8 grid of 16 x 16 strokes on black, 2 pixels apart."""
    grid = np.full((8 * 18 - 2, 8 * 18 - 2), 40, np.uint8)
    y, x = np.mgrid[:16, :16] - 7.5
    for row in range(8):
        for column in range(8):
            angle, radius = random.uniform(0, np.pi), random.uniform(3, 6)
            ring = np.abs(np.hypot(x * np.cos(angle) + y * np.sin(angle), 0.6 * y) - radius)
            noise = 60 * (1 - density) * random.random((16, 16))
            cell = np.clip(255 * np.exp(-(ring**2)) + noise, 0, 255)
            grid[18 * row :][:16, 18 * column :][:, :16] = cell
    return Image.fromarray(grid)


def read_rows(path, name="rounds.csv"):
    with (path / name).open() as file:
        return list(csv.DictReader(file))


def table_of(path):
    """The lines of a run's summary without its heading."""
    return report.summary(path).partition("\n\n")[2].splitlines()


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# The verdict over several seeds, as it is written today; `write_seeds` writes one of before.

RATIOS = (1, 0.9, 0.8, 0.95, 1.0, 1.5)  # Of each round to the dense run, in the mean over the seeds.


def write_ratios(path, *, ratios=RATIOS, spread=0.03, seeds=5, **options):
    """Writes a workdir as a run over several seeds leaves it, with the verdict that this version gives."""
    write_seeds(path, rounds=(len(ratios),) * seeds)
    random = np.random.default_rng(3)
    rows = read_rows(path)
    levels = np.exp(random.normal(2.5, 0.2, seeds))
    for row in rows:
        noise = math.exp(spread * random.normal())
        row["fd_digits"] = levels[int(row["seed"])] * ratios[int(row["round"])] * noise
    write_csv(path / "rounds.csv", rows)
    verdict = judge_seeds(read(path).seed_rounds, "fd_digits", "Frechet distance", 0.1, 0.95, **options)
    (path / "verdict.json").write_text(json.dumps(verdict))
    return path


def write_two_seeds(path, ratio=0.36, apart=0.15, dense=(45.0, 5.0)):
    """Writes a workdir of two seeds with one pruned round, whose ratios are `ratio` times and by exp(`apart`)."""
    write_ratios(path, seeds=2)
    rows = [row for row in read_rows(path) if int(row["round"]) < 2]
    for row in rows:
        seed = int(row["seed"])
        of_round = ratio * math.exp(apart * (1 - 2 * seed)) if int(row["round"]) else 1
        row["fd_digits"] = dense[seed] * of_round
    write_csv(path / "rounds.csv", rows)
    verdict = judge_seeds(read(path).seed_rounds, "fd_digits", "Frechet distance", 0.1, 0.95)
    (path / "verdict.json").write_text(json.dumps(verdict))
    return path


# A metric of which more is better.

HIGHER = [7.1, 7.6, 7.4, 7.0, 6.9, 5.2]  # The dense run's first; with a tolerance of 10 %, 6.39 wins.


def make_higher_better(path):
    """Turns the metric of a workdir into one of which more is better."""
    verdict = json.loads((path / "verdict.json").read_text())
    (path / "verdict.json").write_text(json.dumps(verdict | {"better": "higher", "threshold": 0.9 * verdict["dense"]}))
    return path


# The names that config.json has for reports.

ABOUT = {
    "title": "regrow, magnitude",
    "columns": {"regrown": "regrown", "growth": "grown by", "growth_seconds": "growth [s]"},
    "metrics": {
        "fd_digits": {"label": "Frechet distance in digits features", "better": "lower"},
        "kid": {"label": "Agreement with the digits", "better": "higher"},
    },
}


def write_about(path, about=ABOUT):
    """Turns the workdir into that of a method with columns of its own, which config.json names."""
    record = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(record | {"about": about}))
    own = [{"regrown": 1234 * number or None, "growth": "random", "growth_seconds": number / 2} for number in range(6)]
    write_csv(path / "rounds.csv", [row | more for row, more in zip(read_rows(path), own, strict=False)])
    return path


# References: held-out images and an untrained network.

REFERENCES = {
    "fd_digits": {"held_out": 10.5, "untrained": 2450.0, "held_out_images": 296, "training_images": 1501},
    "kid": {"held_out": None, "untrained": 0.09, "held_out_images": 296, "training_images": 1501},
}


def write_references(path, references=REFERENCES):
    (path / "references.json").write_text(json.dumps(references))
    return path


def reference_labels(figure):
    return [text for text in figure.axes[0].get_legend_handles_labels()[1] if "held-out" in text or "untrained" in text]


def cells(table):
    """The cells of a table by the first cell of their row; the header's are at ""."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if "  " in line]
    return {"": lines[0][1:], **{line[0]: line[1:] for line in lines[1:]}}
