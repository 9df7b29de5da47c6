"""Every command and all Python code in README.md and docs/ is run by a test, or HELD and CODE say why not.

"Run" means here: a command of jaxtickets is called with its arguments as they stand there. Those that train are called
up to the first step: the config file is read, all flags are parsed and the config is validated, so that a name that is
misspelt or a value that is not allowed fails. Reports, samples and evaluations are made from the run of two seeds. The
slow tests train, with fewer steps.
"""

import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, environment, load_config, tiny
from documented import COMMANDS, OUTPUT, Found, blocks, commands, pages, parts
from PIL import Image

import jaxtickets as jt
from jaxtickets import config as config_lib
from launch.points import points


class By(NamedTuple):
    """Another test that runs it: `file.py::test`."""

    test: str


class Not(NamedTuple):
    """Why no test runs it."""

    reason: str


HERE = "called by this module"
INSTALLS = Not("installs into the environment; .ci/run installs the package with its extras for tests, docs and TFDS")
HOURS = Not("measures for minutes to hours; its figures are on the page")
FAULTS = Not("looks for faults for minutes to hours; what it has found is in tests")

# The beginning of a command -> what runs it. Of several beginnings the longest counts.
HELD = {
    "python -m jaxtickets.main": HERE,
    "python -m jaxtickets.main --config=DIR/retrain.py": By(
        "test_tickets.py::test_a_ticket_trained_from_its_file_is_the_round_that_has_found_it"
    ),
    "python -m jaxtickets.flops": HERE,
    "python -m jaxtickets.evaluate": HERE,
    "python -m jaxtickets.evaluate --real=DIR --fake=DIR --metrics=fid,kid": By(
        "test_inception.py::test_the_command_gives_the_numbers_of_torch_fidelity_on_the_same_folders"
    ),
    "python -m jaxtickets.metrics.inception --fetch": By(
        "test_inception.py::test_a_download_is_kept_only_if_it_is_whole_and_the_published_file"
    ),
    "python -m jaxtickets.sample": HERE,
    "python -m jaxtickets.report": HERE,
    "python -m jaxtickets.report WORKDIR --serve": By(
        "test_report_serving.py::test_the_command_serves_until_it_is_interrupted_and_ends_with_one_line"
    ),
    "python -m jaxtickets.tickets": By(
        "test_ticket_commands.py::test_info_shows_what_is_in_a_file_and_json_has_the_numbers"
    ),
    "python -m launch.sweep": HERE,
    "python -m launch.sweep --config=configs/mine.py": By(
        "test_extending.py::test_a_score_from_outside_is_a_point_of_a_sweep"
    ),
    "python -m launch.reproduce": HERE,
    "jaxtickets configs": By(
        "test_named_configs.py::test_the_command_lists_configs_tells_its_version_and_refuses_other_words"
    ),
    "jaxtickets --version": By(
        "test_named_configs.py::test_the_command_lists_configs_tells_its_version_and_refuses_other_words"
    ),
    "srun": Not("needs a cluster; the command that it starts is on the same page, and SLURM's jobs are in tests/slurm"),
    "gcloud": Not("needs a TPU pod; launch/tpu_vm.sh starts the same, with a stand-in for gcloud in test_tpu_vm.py"),
    "launch/tpu_vm.sh": By("test_tpu_vm.py::test_a_dry_run_prints_the_commands_and_needs_no_gcloud"),
    "launch/lock.sh": Not("asks the package index for versions; test_locks.py holds its files to setup.py"),
    "docker": Not("needs Docker; test_locks.py reads the Dockerfile"),
    "pip install": INSTALLS,
    "pip install .": By("test_named_configs.py::test_a_wheel_brings_configs_commands_and_the_types_marker"),
    "pip install --require-hashes": By("test_locks.py::test_every_locked_package_has_its_hashes"),
    "python -m venv": INSTALLS,
    "source": INSTALLS,
    "apt-get install": Not("installs into the system"),
    "mkdocs serve": Not("serves pages until it is stopped; .ci/run builds the same pages"),
    "mkdocs build": Not("needs the extra `docs`; .ci/run builds the site"),
    "pytest": Not("is what runs this"),
    "python benchmarks/": HOURS,
    "python benchmarks/device_hours.py": By("test_scaling.py::test_the_page_has_the_table_of_the_script"),
    "python tests/faults/": FAULTS,
}

# A line of Python code, or a page -> the test that runs the block that it stands in, or all of its blocks.
CODE = {
    "loss = loss_fn(jt.masks.apply(params, mask))": By(
        "test_face.py::test_the_readmes_example_of_a_network_of_ones_own_runs"
    ),
    'verdict = jt.run(gan_digits.get_config("quick"), "runs/notebook")': By(
        "test_documented_commands.py::test_the_readmes_notebook_runs"
    ),
    'ticket = jt.load_ticket("runs/gan_digits/ticket.safetensors")': By(
        "test_documented_commands.py::test_the_tutorial_runs_from_top_to_bottom"
    ),
    "scores = jax.tree.map(lambda w, mask: None": By(
        "test_documented_commands.py::test_a_criterion_needs_no_registration"
    ),
    'axes = {"net": jt.axes(module, x)}': By(
        "test_documented_commands.py::test_axes_are_a_tree_or_a_function_of_the_path"
    ),
    "docs/library.md": By("test_library_page.py::test_the_code_of_the_librarys_page_runs"),
    "from safetensors.numpy import load_file": By("test_tickets.py::test_the_lines_of_the_documentation_read_a_file"),
    "torch_twins.load(": By("test_ticket_commands.py::test_pytorch_makes_the_same_outputs_from_the_state_dict"),
    'jt.save_ticket("mine.safetensors"': By("test_tickets.py::test_any_tree_comes_back_with_its_structure"),
    'def get_sweep(variant=""):': By("test_documented_commands.py::test_a_sweep_in_a_file_is_two_experiments"),
    "import my_plugins": By("test_extending.py::test_a_score_from_outside_is_a_point_of_a_sweep"),
    "SCORES.add(": By("test_extending.py::test_a_score_a_method_a_metric_and_a_data_set_from_outside_work_together"),
    "METHODS.add(": By("test_extending.py::test_a_score_a_method_a_metric_and_a_data_set_from_outside_work_together"),
    "METRICS.add(": By("test_extending.py::test_a_score_a_method_a_metric_and_a_data_set_from_outside_work_together"),
    "FEATURE_NETWORKS.add(": By(
        "test_extending.py::test_a_score_a_method_a_metric_and_a_data_set_from_outside_work_together"
    ),
    "data.SOURCES.add(": By(
        "test_extending.py::test_a_score_a_method_a_metric_and_a_data_set_from_outside_work_together"
    ),
    "OBJECTIVES.add(": By("test_extending.py::test_a_game_with_a_time_input_from_outside_goes_through_imp"),
    'config.model.update(name="velocity_mlp"': By(
        "test_extending.py::test_a_game_with_a_time_input_from_outside_goes_through_imp"
    ),
    "def train_alone(config, steps):": By("test_extending.py::test_the_loop_trains_without_a_run"),
}

ALTERNATIVES = re.compile(r"\w+(?:\|\w+)+")
OF_LAUNCH = ("reproduce", "sweep")  # Of the other words after `jaxtickets` the module is jaxtickets.<word>.


def spelled_out(command: str) -> list[str]:
    """A command as those of HELD begin: `jaxtickets report|sample` is two, `jaxtickets report` python -m ..."""
    if match := ALTERNATIVES.search(command):
        return [one for word in match[0].split("|") for one in spelled_out(command.replace(match[0], word))]
    if match := re.match(r"jaxtickets (--config|\w+)", command):
        if match[1] == "--config":
            return [command.replace("jaxtickets", "python -m jaxtickets.main", 1)]
        if match[1] != "configs":
            package = "launch" if match[1] in OF_LAUNCH else "jaxtickets"
            return [command.replace(match[0], f"python -m {package}.{match[1]}", 1)]
    command = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)
    return [re.sub(r"^python -m jaxtickets(?= |$)", "python -m jaxtickets.main", command)]


def held(command: str):
    """What HELD says of a command; None if nothing."""
    return HELD[max(begins, key=len)] if (begins := [begin for begin in HELD if command.startswith(begin)]) else None


ALL = sorted({one: found for page in pages() for found in commands(page) for one in spelled_out(found.text)}.items())
CALLED = [(command, found) for command, found in ALL if held(command) == HERE]


@pytest.mark.parametrize(("command", "found"), ALL, ids=lambda value: value if isinstance(value, str) else value.page)
def test_a_command_is_run_by_a_test_or_says_why_not(command, found):
    assert held(command), (
        f"{found.page}, line {found.line}: `{command}` is run by no test. Give its beginning to HELD in "
        "tests/test_documented_commands.py, with the test that runs it, or with the reason why none does"
    )


def test_each_block_says_in_what_language_it_is():
    known = (*COMMANDS, *OUTPUT, "python")
    other = [found[:2] for page in pages() for language, found in blocks(page) if language not in known]
    assert not other, (
        f"allowed after the three backticks are python, text for output, and nothing for commands: {other}"
    )


def test_python_code_is_run_by_a_test():
    for page in pages():
        for language, found in blocks(page):
            if language == "python":
                assert any(one == page or one in found.text for one in CODE), (
                    f"{page}, line {found.line}: this code is run by no test. Give a line of it to CODE in "
                    "tests/test_documented_commands.py, with the test that runs it"
                )


def test_no_entry_is_left_over_and_the_tests_that_are_named_exist():
    used = {begin for begin in HELD for command, _ in ALL if command.startswith(begin) and held(command) == HELD[begin]}
    assert not set(HELD) - used
    code = [found for page in pages() for language, found in blocks(page) if language == "python"]
    assert not [one for one in CODE if not any(one == found.page or one in found.text for found in code)]
    for entry in (*HELD.values(), *CODE.values()):
        if isinstance(entry, By):
            file, _, name = entry.test.partition("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), entry.test


def test_every_field_that_is_a_flag_on_a_page_exists():
    for page in pages():
        for name in re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)", (ROOT / page).read_text()):
            if name not in ("field", "x.y"):
                config_lib.check_field(name)


def test_every_name_of_the_package_on_a_page_exists():
    for page in pages():
        for name in re.findall(r"`((?:jaxtickets|jt)\.[\w.]+\w)(?:\([^`]*)?`", (ROOT / page).read_text()):
            if not re.search(r"\.(main|py|md|html)$", name):
                resolve(name)


def test_every_public_name_is_on_the_first_page_of_the_api():
    named = set(re.findall(r"`jt\.(\w+)`", (ROOT / "docs" / "api" / "index.md").read_text()))
    missing = set(jt.__all__) - named
    assert not missing, f"give {', '.join(sorted(missing))} a place in docs/api/index.md and a page in docs/api/"


def resolve(name):
    """What a dotted name means."""
    first, *others = name.split(".")
    value = jt
    for count, other in enumerate(others, start=1):
        try:
            value = getattr(value, other)
        except AttributeError:
            value = importlib.import_module(".".join(["jaxtickets", *others[:count]]))
    return value


# Commands that are called.

PLACEHOLDERS = {"WORKDIR": "W", "A": "W", "B": "V", "DIR": "pictures"}


@pytest.fixture(scope="module")
def place(digits_metric, data_directory, tmp_path_factory):
    """A directory like a clone of the repository, with the workdirs that the commands name, of two seeds each."""
    place = tmp_path_factory.mktemp("place")
    for name in ("configs", "launch", "jaxtickets"):
        (place / name).symlink_to(ROOT / name)
    (place / "cluster.sh").write_text("module load cuda/12\n")
    (place / "data").mkdir()
    with zipfile.ZipFile(place / "data" / "faces.zip", "w") as archive:
        for number in range(20):
            file = io.BytesIO()
            Image.new("RGB", (32, 32), (10 * number, 100, 0)).save(file, "PNG")
            archive.writestr(f"{number}.png", file.getvalue())
    config = tiny(
        "gan_digits", data_directory, seeds=2, **{"prune.rounds": 1, "eval.kid_subset_size": 16, "eval.kid_subsets": 2}
    )
    jt.run(config, place / "W")
    for name in ("V", "runs/gan_digits", "runs/reinit", "runs/a", "runs/b", "runs/c"):
        shutil.copytree(place / "W", place / name)
    return place


WRONG = [
    "python -m jaxtickets.main --config=configs/gan_digits.py --config.prune.rat=0.3",
    "python -m jaxtickets.main --config=configs/gan_digit.py",
    "python -m jaxtickets.main --config=configs/gan_digits.py --dryrun",
    "python -m launch.sweep --config=configs/gan_digits.py:quick --grid=prune.scope=global,layers",
    "python -m jaxtickets.sample --workdir=W --grids=grid.png",
]


@pytest.fixture(scope="module")
def results(place):
    """`{command: (exit status, standard error)}` of all commands that this module calls, in one process."""
    called = [*(command for command, _ in CALLED), *WRONG]
    calls = json.dumps([arguments_of(command) for command in called])
    script = [sys.executable, str(ROOT / "tests" / "documented_process.py")]
    with_package = environment(PYTHONPATH=str(ROOT))
    result = subprocess.run(
        script, input=calls, capture_output=True, text=True, cwd=place, env=with_package, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return dict(zip(called, json.loads(result.stdout), strict=True))


def arguments_of(command):
    """`[module, arguments]` of a command, with values in the place of what a page leaves open."""
    python, m, module, *words = shlex.split(command)
    assert (python, m) == ("python", "-m"), command
    words = [word.strip("[]") for word in words]
    words = [re.sub(r"=\.\.\.$", "=gan_digits:quick", word) for word in words if word != "..."]
    words = ["=".join(PLACEHOLDERS.get(part, part) for part in word.split("=")) for word in words]
    words = [word.replace("/data/", "data/") for word in words]
    if not words:  # Only the name of the command stands there.
        words = ["--help"]
    if module == "jaxtickets.report" and words[:2] == ["W", "W"]:
        words[1] = "V"
    if len(words) > 1 and module in ("jaxtickets.report", "jaxtickets.sample") and "--power" not in words:
        words.append("--overwrite")  # Commands of several pages write files of the same name.
    return [module, words]


@pytest.mark.parametrize(
    ("command", "found"), CALLED, ids=lambda value: value if isinstance(value, str) else value.page
)
def test_a_command_is_understood(results, command, found):
    status, told = results[command]
    assert status == 0, f"{found.page}, line {found.line}: {told}"


@pytest.mark.parametrize("command", WRONG)
def test_a_command_that_is_misspelt_fails(results, command):
    assert results[command][0] == 2


# Code.


def code(page, line):
    """The block of a page with this line."""
    (found,) = [found for language, found in blocks(page) if language == "python" and line in found.text]
    return found.text


def test_a_criterion_needs_no_registration():
    space = {"params": {"net": {"dense": {"kernel": jax.random.normal(jax.random.key(0), (10, 10))}}}}
    exec(code("docs/criterion.md", "scores = jax.tree.map(lambda w, mask: None"), space)  # noqa: S102
    weights, kept = (
        jnp.ravel(abs(space["params"]["net"]["dense"]["kernel"])),
        jnp.ravel(space["mask"]["net"]["dense"]["kernel"]),
    )
    assert kept.sum() == 20 and weights[kept].min() > weights[~kept].max()


def test_axes_are_a_tree_or_a_function_of_the_path():
    module, x = nn.Dense(4), jnp.ones((2, 3))
    params = {"net": module.init(jax.random.key(0), x)["params"]}
    params["net"]["kernel"] = params["net"]["kernel"].T  # As the second example says: [out, in].
    space = {"jt": jt, "module": module, "x": x, "params": params, "dense": jt.masks.ones(params)}
    exec(code("docs/guide.md", 'axes = {"net": jt.axes(module, x)}'), space)  # noqa: S102
    rows = space["mask"]["net"]["kernel"]
    assert rows.all(axis=1).sum() == 2 and (~rows).all(axis=1).sum() == 2


def test_a_sweep_in_a_file_is_two_experiments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # As `python -m` has it.
    text = code("docs/sweeps.md", 'def get_sweep(variant=""):')
    (tmp_path / "study.py").write_text(f"from configs.gan_digits import get_config\n\n\n{text}")
    names = [point.name for point in points(str(tmp_path / "study.py"), tmp_path / "sweep")]
    assert len(names) == 5 + 5 * 2 and names[0] == "imp,seed=0"


# What trains.

SHORT = ("--config.train.steps=60", "--config.prune.rounds=1", "--config.tolerance=100")
SEARCHED = (
    "--config.train.steps=60",
    "--config.early_bird.every=3",
    "--config.prune.sparsities=(0.5,)",
)  # Time enough for five masks.


def trained(command, place, more=()):
    """Runs a command in a process of its own, after a change to its quick variant if it trains."""
    words = shlex.split(command)
    if words[2] == "jaxtickets.main":
        words = [re.sub(r"^(--config=[^:]+)$", r"\1:quick", word) for word in words]
        words = [re.sub(r"^--config\.seeds=.*", "--config.seeds=2", word) for word in words]
        words += more
    result = subprocess.run(
        [sys.executable, *words[1:]], capture_output=True, text=True, cwd=place, env=environment(PYTHONPATH=str(ROOT))
    )
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout


@pytest.fixture
def clone(tmp_path, digits_metric, data_directory, monkeypatch):
    """A directory with the configs, and TFDS's data of the session."""
    monkeypatch.setenv("TFDS_DATA_DIR", data_directory)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(clone, capsys):
    ran = []
    for found in commands("docs/tutorial.md"):
        for command in spelled_out(found.text):
            if held(command) == HERE:
                trained(command, clone, SEARCHED if "early_bird" in command else SHORT)
                ran.append(command)
    assert len(ran) >= 7
    for name in ("runs/gan_digits/report.html", "runs/compared/summary.csv", "grid.png", "walk.png", "samples.npz"):
        assert (clone / name).stat().st_size > 1000 or name.endswith(".csv"), name
    exec(code("docs/tutorial.md", "jt.load_ticket"), {})  # noqa: S102
    assert "20.0% pruned" in capsys.readouterr().out


@pytest.mark.slow
def test_the_readmes_notebook_runs(clone, monkeypatch):
    from configs import gan_digits

    config = load_config("gan_digits")
    config.train.steps, config.prune.rounds, config.tolerance = 100, 1, 100.0
    monkeypatch.setattr(gan_digits, "get_config", lambda variant: config)
    space = {}
    exec(code("README.md", "verdict = jt.run("), space)  # noqa: S102
    assert space["verdict"]["winning_round"] == 1
    assert jt.masks.sparsity(space["ticket"].masks) == pytest.approx(0.2, abs=1e-3)


@pytest.mark.slow
def test_a_ticket_goes_from_a_vae_to_a_gan_as_in_the_guide(clone):
    text = (ROOT / "docs" / "guide.md").read_text()
    pair = [found.text for found in commands("docs/guide.md", text) if "runs/vae" in found.text]
    assert len(pair) == 2
    for command in pair:
        trained(command, clone, SHORT)


# The reading of pages itself.


def test_comments_continued_lines_and_ampersands_are_read_as_a_shell_reads_them():
    shell = 'pip install -e ".[test]" && pytest  # all\npython -m a \\\n    --b="c && d"\n'
    text = f"A\n\n```\n{shell}```\n\n`python x.py --y`\n"
    found = [one.text for one in commands("page", text)]
    assert found == ['pip install -e ".[test]"', "pytest", 'python -m a --b="c && d"', "python x.py --y"]
    assert parts("# nothing") == []
    assert list(commands("page", text))[-1] == Found("page", 9, "python x.py --y")
