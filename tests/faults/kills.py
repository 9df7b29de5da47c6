"""Kills runs between any two file operations and at random moments, lets them go on, and compares what they end with.

    python tests/faults/kills.py --kills=100 --seed=0

Each chain starts one of `EXPERIMENTS` in a new workdir, kills it some times, lets it end, and compares the workdir with
that of an uninterrupted run (`comparing.py`). Prints one line per chain and a summary; the status is 1 if any is wrong.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from warm import KILLS, ROOT, Ended, Warm, library

MAIN, REPORT = "jaxtickets.main", "jaxtickets.report.__main__"
# Narrow networks, few steps: a run takes about three seconds once its programs are in the cache.
TINY = {
    **{"model.width": 4, "model.latent_size": 4, "model.image_size": 16},
    **{"train.batch_size": 16, "train.steps": 12, "train.epochs": 0, "train.log_every": 4},
    **{"train.checkpoint_every": 5, "prune.sparsities": (0.5, 0.8), "tolerance": 1000.0},
    **{"eval.samples": 64, "eval.batch_size": 64, "rewind_step": 3.0},
    "latent_pictures": False,  # They take longer than all else; `JUDGED` has them.
}
EARLY = {"early_bird.every": 2, "early_bird.until": 8.0, "early_bird.queue": 3, "early_bird.threshold": 1.0}
CHANNELS = {"prune.channel_multiple": 1, "prune.sparsities": (0.4,)}
# Steps enough to learn something: without that there is no ticket.
LEARNING = {"optimizer.learning_rate": 0.01, "train.log_every": 20, "train.checkpoint_every": 30}
JUDGED = LEARNING | {"train.steps": 80, "eval.metrics": ("negative_elbo",), "latent_pictures": True}
SEEDS = {"seeds": 2, "prune.sparsities": (0.6,)}


class Experiment(NamedTuple):
    """A run that is killed.

    Attributes:
      config: the config file, without `:quick`.
      changes: fields beside `TINY`; `{source}` stands for the finished workdir of the experiment `source`.
      source: the name of an experiment.
      devices: the number of forced devices.
      from_round: the uninterrupted run, finished, is taken back to this round.
    """

    config: str
    changes: dict = {}
    source: str | None = None
    devices: int = 1
    from_round: int | None = None


EXPERIMENTS = {
    "gan": Experiment("gan_digits"),
    "vae": Experiment("vae_digits", JUDGED),
    "autoencoder": Experiment("ae_digits", LEARNING | {"train.steps": 50, "prune.sparsities": (0.3,)}),
    "early_bird": Experiment("early_bird_gan", EARLY | CHANNELS),
    "rigl": Experiment("gan_digits", {"experiment": "rigl", "prune.update_every": 2.0, "prune.sparsities": (0.5,)}),
    "gradual": Experiment(
        "vae_digits", {"experiment": "gradual", "prune.update_every": 2.0, "prune.sparsities": (0.5,)}
    ),
    "chained": Experiment("gan_digits", {"rewind": "none"}),
    "branch": Experiment(
        "vae_digits",
        {"experiment": "branch", "branch.of": "{source}", "branch.kind": "shuffled"} | JUDGED,
        source="vae",
    ),
    "narrow": Experiment(
        "vae_digits",
        {"experiment": "branch", "branch.of": "{source}", "branch.kind": "dense_short"} | JUDGED,
        source="vae",
    ),
    "transfer": Experiment("gan_digits", {"experiment": "transfer", "transfer.of": "{source}"}, source="vae"),
    "seeds": Experiment("gan_digits", SEEDS),
    "at_once": Experiment("gan_digits", SEEDS | {"tickets_per_host": 2}, devices=2),
    "from_round": Experiment("vae_digits", JUDGED, from_round=1),
    "from_dense": Experiment("vae_digits", JUDGED, from_round=0),
}


class Kill(NamedTuple):
    """One kill: at the file operation number `at`, or, if `how` is "moment", after `at` seconds."""

    how: str
    at: float
    what: str = ""

    def __str__(self):
        return f"{self.how}@{self.at:g}" + (f" ({self.what})" if self.what else "")


class Chain(NamedTuple):
    """What has become of one run that was killed some times.

    Attributes:
      kills: those that were planned.
      died: how many of them came before the run's end.
      found: what is wrong, one line each.
    """

    experiment: str
    kills: list[Kill]
    died: int
    found: list[str]
    seconds: float


class Harness:
    """Uninterrupted runs, made once, and chains of kills that are held to them."""

    def __init__(self, folder: Path, cache: Path | None = None, tree: Path = ROOT, env: dict | None = None):
        """
        Args:
          folder: where workdirs are made, and kept where something was wrong.
          cache: the user's cache directory, which may be filled already.
          tree: the checkout whose code runs.
          env: what is added to the environment.
        """
        self.folder, self.cache = folder, cache or folder / "cache"
        folder.mkdir(parents=True, exist_ok=True)
        self.library = library(folder)
        self.warm = Warm(self.cache, self.library, tree, env)
        self._operations, self._seconds, self._n = {}, {}, 0

    def __enter__(self):
        self.warm.__enter__()
        return self

    def __exit__(self, *exception):
        self.warm.__exit__(*exception)

    def flags(self, name: str, workdir: Path) -> list[str]:
        """The command line of an experiment in a workdir."""
        one = EXPERIMENTS[name]
        source = str(self.whole(one.source)) if one.source else ""
        fields = (TINY | one.changes | {"data.dir": str(self.folder / "tfds")}).items()
        words = [f"--config.{field}={_text(value, source)}" for field, value in fields]
        return [f"--config=configs/{one.config}.py:quick", f"--workdir={workdir}", *words]

    def start(self, name: str, workdir: Path, goes_back: bool = False, **how) -> Ended:
        """Starts or resumes an experiment in a workdir; the other options are those of `Warm.run`.

        Args:
          goes_back: whether a finished run is taken back to the experiment's `from_round`.
        """
        one, flags = EXPERIMENTS[name], self.flags(name, workdir)
        if goes_back and one.from_round is not None:
            flags.append(f"--from_round={one.from_round}")
        count = f"--xla_force_host_platform_device_count={one.devices}"
        devices = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}", "PJRT_NPROC": "32"}
        return self.warm.run(MAIN, *flags, env=devices if one.devices > 1 else {}, **how)

    def whole(self, name: str) -> Path:
        """The workdir of an uninterrupted run, which is made if there is none."""
        path = self.folder / "whole" / name
        if name not in self._operations:
            self.prepare(name, path)
            ended = self.start(name, path, below=path, log=True, timeout=600, goes_back=True)
            if ended.status:
                raise RuntimeError(f"{name} does not even run without a kill: {ended}")
            self._operations[name], self._seconds[name] = ended.operations, ended.seconds
        return path

    def prepare(self, name: str, path: Path) -> None:
        """Makes the directory that an experiment starts in."""
        shutil.rmtree(path, ignore_errors=True)
        if EXPERIMENTS[name].from_round is None:
            return
        before = self.folder / "finished" / name
        if not before.exists():
            path.mkdir(parents=True)
            ended = self.start(name, before, timeout=600)
            if ended.status:
                raise RuntimeError(f"{name} does not even run without a kill: {ended}")
        shutil.copytree(before, path, dirs_exist_ok=True)

    def operations(self, name: str) -> list[tuple[str, str]]:
        """The file operations of an uninterrupted run."""
        self.whole(name)
        return self._operations[name]

    def plan(self, name: str, rng: random.Random, n: int) -> list[Kill]:
        """Draws `n` kills. Rare operations are as likely as frequent ones; every fifth kill is at a random moment."""
        operations, kinds = self.operations(name), collections.defaultdict(list)
        for number, (what, path) in enumerate(operations, 1):
            kinds[kind(what, path)].append(number)
        kills = []
        for _ in range(n):
            if rng.random() < 0.2 or not kinds:
                kills.append(Kill("moment", round(rng.uniform(0.3, self._seconds[name]), 2)))
                continue
            chosen = rng.choice(sorted(kinds))
            kills.append(Kill(rng.choice(KILLS), rng.choice(kinds[chosen]), chosen))
        return kills

    def chain(self, name: str, kills: list[Kill], check_report: bool = False) -> Chain:
        """Kills a run as planned, lets it end, and compares it with the uninterrupted one.

        Args:
          check_report: whether a report is asked for after each kill.
        """
        whole, start = self.whole(name), time.monotonic()
        self._n += 1
        path, found, died, notes = self.folder / "killed" / f"{name}_{self._n}", [], 0, []
        self.prepare(name, path)
        for number, one in enumerate(kills):
            how = {"after": (one.at, signal.SIGKILL)} if one.how == "moment" else {"action": one.how, "at": int(one.at)}
            ended = self.start(name, path, below=path, log=True, goes_back=not number, **how)
            # A kill may come before or after the results are discarded; a plain start must mend both.
            last = ended.operations[-1] if ended.operations else ("", "")
            notes.append(" ".join(last))
            if ended.status == 0:
                break
            if ended.status == -signal.SIGKILL:
                died += 1
            else:
                found += _complaints("a start after a kill", ended)
                break
            if check_report:
                reported = self.warm.run(REPORT, str(path), timeout=60)
                if reported.status not in (0, 2) or reported.has_traceback:
                    found += _complaints("a report after a kill", reported)
        if not found:
            ended = self.start(name, path)
            if ended.status != 0 or ended.has_traceback:
                found += _complaints("the last start", ended)
            else:
                compared = self.warm.run("comparing", str(whole), str(path))
                found += compared.out.splitlines() if compared.status in (0, 1) else _complaints("comparing", compared)
        seconds = time.monotonic() - start
        if found:
            (path.parent / f"{path.name}.json").write_text(
                json.dumps({"kills": list(map(str, kills)), "last operations": notes, "found": found}, indent=2)
            )
        else:
            shutil.rmtree(path)
        return Chain(name, kills, died, found, seconds)


def _text(value, source):
    return repr(value) if isinstance(value, tuple) else str(value).format(source=source)


def kind(what: str, path: str) -> str:
    """An operation and its path, with numbers and random parts taken out."""
    path = re.sub(r"[0-9a-f]{32}", "<hash>", path)
    path = re.sub(r"(/\.[\w]+)-\w{8}(?=\.|$)|^(\.[\w]+)-\w{8}(?=\.|$)", r"\1\2-<random>", path)
    path = re.sub(r"tfevents\..*", "tfevents", path)
    return f"{what} {re.sub(r'[0-9]+', 'N', path)}"


def _complaints(when, ended):
    if ended.status is None:
        stacks = [line.strip() for line in ended.err.splitlines() if line.strip().startswith("File ")]
        return [f"{when} hangs; the last of its stacks: {' | '.join(stacks[:4])}"]
    lines = [line for line in ended.err.strip().splitlines() if line.strip()][-1:]
    what = "ends in a traceback" if ended.has_traceback else "ends"
    return [f"{when} {what} with status {ended.status}: {' '.join(lines)[:400]}"]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="the number of kills at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS))
    parser.add_argument("--longest", type=int, default=4, help="the largest number of kills of one run")
    parser.add_argument(
        "--every", type=int, default=0, help="instead: one kill at each N-th operation of each experiment"
    )
    parser.add_argument("--report", action="store_true", help="ask for a report after each kill")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--cache", type=Path, help="a cache directory that may be filled already")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose code runs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no chain after that time")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    names, rng, chains, start = options.experiments.split(","), random.Random(options.seed), [], time.monotonic()
    with Harness(folder, options.cache, options.tree.resolve()) as harness:
        if not harness.library:
            print("no compiler: kills at random moments only")
        for name, kills in _plans(harness, names, rng, options):
            if time.monotonic() - start > 60 * options.minutes:
                break
            chains.append(harness.chain(name, kills, options.report))
            _show(chains[-1])
    return _summary(chains, folder)


def _plans(harness, names, rng, options):
    if options.every:
        for name in names:
            kinds = [kind(*one) for one in harness.operations(name)]
            for number in range(1 + rng.randrange(options.every), len(kinds) + 1, options.every):
                yield name, [Kill(rng.choice(KILLS), number, kinds[number - 1])]
        return
    planned, round_ = 0, 0
    while planned < options.kills:
        name = names[round_ % len(names)]
        kills = harness.plan(name, rng, rng.randint(1, options.longest))
        planned, round_ = planned + len(kills), round_ + 1
        yield name, kills


def _show(chain):
    verdict = "equal" if not chain.found else "WRONG"
    kills = "; ".join(map(str, chain.kills))
    print(f"{chain.experiment:12} {chain.died} of {len(chain.kills)} kills  {chain.seconds:5.1f} s  {verdict}  {kills}")
    for line in chain.found[:6]:
        print(f"    {line}")
    sys.stdout.flush()


def _summary(chains, folder):
    wrong = [chain for chain in chains if chain.found]
    print(f"\n{'experiment':12} {'kills':>6} {'runs':>6} {'equal':>6}")
    for name in dict.fromkeys(chain.experiment for chain in chains):
        own = [chain for chain in chains if chain.experiment == name]
        print(f"{name:12} {sum(one.died for one in own):6} {len(own):6} {sum(not one.found for one in own):6}")
    print(f"{'all':12} {sum(one.died for one in chains):6} {len(chains):6} {len(chains) - len(wrong):6}")
    kinds = collections.Counter(re.sub(r"[0-9.]+|:.*", "", line) for chain in chains for line in set(chain.found))
    for line, n in kinds.most_common():
        print(f"{n:4} times: {line}")
    if wrong:
        print(f"the workdirs of the others are in {folder / 'killed'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
