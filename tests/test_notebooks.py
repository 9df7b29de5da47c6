"""The notebooks of launch/colab: they run from top to bottom in a kernel, and hold no outputs in the repository."""

import ast
import base64
import json
import os
import re
import struct

import pytest
from conftest import ROOT

from jaxtickets import notebooks
from jaxtickets.progress import Progress

NOTEBOOKS = sorted((ROOT / "launch" / "colab").glob("*.ipynb"))
PICTURES = {"bring_your_own_model": 2, "early_bird": 3, "quickstart_tpu": 3}


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebooks_are_those_that_are_named_here():
    assert [path.stem for path in NOTEBOOKS] == sorted(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_is_kept_without_outputs(path):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_notebook_lead_to_files(path):
    for target in re.findall(r"\]\((?!http)([^) ]+\.[a-z]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def executed(path, directory, **environment):
    """The code cells of a notebook after a kernel has run all of them in their quick form."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    own = {"JAXTICKETS_QUICK": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environment}
    client = nbclient.NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
    )
    return [cell for cell in client.execute(env=os.environ | own).cells if cell.cell_type == "code"]


def texts(cell, stream="stdout"):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == stream)


def pictures(cells):
    """The sizes of the pictures in the outputs, in pixels."""
    encoded = [o.data["image/png"] for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    return [struct.unpack(">II", base64.b64decode(one)[16:24]) for one in encoded]


def lines_of_progress(cell):
    return [output.data["text/plain"] for output in cell.outputs if output.output_type == "display_data"]


@pytest.mark.slow
def test_the_notebook_of_ones_own_network_prunes_three_libraries(tmp_path):
    pytest.importorskip("equinox")
    path = ROOT / "launch" / "colab" / "bring_your_own_model.ipynb"
    cells = executed(path, tmp_path)
    assert len(pictures(cells)) == PICTURES[path.stem]
    said = "".join(map(texts, cells))
    for library in ("Flax linen", "Flax NNX", "Equinox"):
        assert f"{library}: 20,480 prunable weights" in said
        assert re.search(f"{library}: error .* at 48.8%", said)
    assert "Refused: structure 'filter'" in said and "64 of 128 units kept" in said


@pytest.mark.slow
def test_the_quickstart_is_interrupted_and_goes_on_with_one_line_of_progress(tmp_path, quick_runs, data_directory):
    path, workdir = ROOT / "launch" / "colab" / "quickstart_tpu.ipynb", tmp_path / "run"
    cells = executed(path, tmp_path, JAXTICKETS_WORKDIR=str(workdir), TFDS_DATA_DIR=data_directory)
    stopped, went_on = [cell for cell in cells if "jt.run(" in cell.source]
    assert "Stopped: the state is saved; the same call goes on from it" in texts(stopped)
    assert "the training saves its state after this step" in texts(stopped, "stderr")
    assert "Report:" not in texts(stopped) and "Report:" in texts(went_on)
    for cell in (stopped, went_on):
        (line,) = lines_of_progress(cell)
        assert re.search("round . .*/120", line)
    assert "480/480" in line and texts(went_on).count(" s of training\n") == 4 and "\x1b" not in texts(went_on)
    assert len(pictures(cells)) == PICTURES[path.stem]
    assert (workdir / "verdict.json").exists()


@pytest.mark.slow
def test_the_notebook_of_early_bird_tickets_shows_searches_and_smaller_networks(tmp_path, quick_runs, data_directory):
    path, workdir = ROOT / "launch" / "colab" / "early_bird.ipynb", tmp_path / "run"
    cells = executed(path, tmp_path, JAXTICKETS_WORKDIR=str(workdir), TFDS_DATA_DIR=data_directory)
    said = "".join(map(texts, cells))
    assert re.search("50%: the ticket (did not emerge|emerged in epoch)", said) and "fd_digits" in said
    assert len(pictures(cells)) == PICTURES[path.stem]


# The line of progress, without a kernel.


@pytest.fixture
def shown(monkeypatch):
    """The outputs of the cell, `[each text of one]`, once this process passes for a kernel."""
    display = pytest.importorskip("IPython.display")
    outputs = []

    class Output(list):
        def update(self, data, raw):
            self.append(data["text/plain"])

    def show(data, raw, display_id):
        outputs.append(Output([data["text/plain"]]))
        return outputs[-1]

    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr(notebooks, "is_running", lambda: True)
    return outputs


def test_many_steps_change_one_output_no_oftener_than_allowed(shown, capsys, monkeypatch):
    monkeypatch.setattr(notebooks, "EVERY", float("inf"))
    with Progress(rounds=2, steps=1000) as progress:
        for round_ in range(2):
            progress.start_round(round_, "dense", 0, 1000)
            for step in range(1, 1001):
                progress.update(round_, step, {"loss": 0.5})
            progress.say(f"round {round_} is done")
    (output,) = shown
    assert "2000/2000" in output[-1] and "1000/1000" in output[-1] and "loss 0.500" in output[-1]
    assert len(output) == 2  # At the start and at the end.
    assert capsys.readouterr() == ("round 0 is done\nround 1 is done\n", "")


def test_a_run_that_was_finished_before_leaves_no_line(shown):
    with Progress(rounds=2, steps=1000):
        pass
    assert shown[0][-1] == ""


def test_a_process_that_is_no_kernel_shows_bars_on_terminals_only(capsys):
    assert not notebooks.is_running()
    with Progress(rounds=2, steps=1000) as progress:
        progress.update(0, 1, {"loss": 0.5})
    assert capsys.readouterr() == ("", "")
