"""Workdirs and tickets of strangers, and directories that are no workdirs: a report or one line, and no code runs."""

import contextlib
import html.parser
import json
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import report_workdirs
from safetensors.numpy import save

from jaxtickets import evaluate, fields, report, sample, tickets
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.progress import say, show
from jaxtickets.report.__main__ import main as report_main
from jaxtickets.scalars import Scalars
from jaxtickets.tickets.__main__ import main as tickets_main

EVIL = (
    "</title><script>alert(1)</script><img src=x onerror='alert(2)'>\"><a href=javascript:alert(3)>\x1b[31m\x1b]0;t\x07"
)
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "div", "p", "dl", "dt", "dd", "table", "thead"}
TAGS |= {"tbody", "tr", "th", "td", "figure", "img", "figcaption", "pre", "details", "summary", "a", "link"}
TAGS |= {"main", "nav", "section", "h3", "ul", "li", "label", "input", "output", "script"}
TAGS |= {"svg", "g", "defs", "path", "text", "use", "rect", "clippath", "image", "tspan"}
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "alt", "src", "href", "id", "style", "hidden", "download"}
ATTRIBUTES |= {"role", "tabindex", "aria-label", "aria-live", "scope", "for", "type", "min", "max", "value", "step"}
ATTRIBUTES |= {
    "data-svg",
    "rel",
    "d",
    "x",
    "y",
    "width",
    "height",
    "viewbox",
    "version",
    "xmlns",
    "xmlns:xlink",
    "xlink:href",
}
ATTRIBUTES |= {"transform", "clip-path", "stroke-linejoin", "stroke-linecap", "preserveaspectratio", "rel"}
ADDRESS = r"data:(image/webp|text/csv|application/json);base64,[\w+/=]*|data:,|#[a-z]+"


class Page(html.parser.HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.addresses, self.texts = set(), set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {value for name, value in attrs if name in ("src", "href")}

    def handle_data(self, data):
        self.texts.append(data)


def poisoned(value, seldom=()):
    """A JSON value with something evil at the end of all its texts and keys, except where readers need them."""
    if isinstance(value, dict):
        return {key if key in seldom else key + EVIL: poisoned(item, seldom) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, seldom) for item in value]
    return value + EVIL if isinstance(value, str) else value


def poison(path):
    """Puts script and escape sequences into all texts of a workdir's files that may be any."""
    record = json.loads((path / "config.json").read_text())
    columns = {"moved": "moved"}
    metrics = {"fd_digits": {"label": "distance", "better": "lower", "about": "of digits"}}
    known = (*record, *record["config"], "title", "columns", "metrics", *columns, *metrics, "label", "better", "about")
    record = poisoned(record | {"about": {"title": "imp", "columns": columns, "metrics": metrics}}, known)
    record["about"]["metrics"]["fd_digits"]["better"] = "lower"
    record["git_revision"] = EVIL
    (path / "config.json").write_text(json.dumps(record))
    verdict = json.loads((path / "verdict.json").read_text())
    (path / "verdict.json").write_text(json.dumps(verdict | {"message": EVIL, "metric_label": EVIL, "subject": EVIL}))
    for name in ("rounds.csv", "layers.csv"):
        head, *rows = (path / name).read_text().splitlines()
        text = EVIL.replace('"', '""')
        if name == "rounds.csv":
            rows = [f'{row},"{text}",1' for row in rows]
            head += f',moved,"{text}"'
        else:
            rows = [re.sub(r",([^,]*),", rf',"\g<1>{re.escape(text)}",', row, count=1) for row in rows]
        (path / name).write_text("\n".join([head, *rows]) + "\n", newline="\n")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row | {f"loss{EVIL}": 1.0}) + "\n" for row in rows))
    return path


@pytest.fixture
def workdir(tmp_path):
    return poison(report_workdirs.write_workdir(tmp_path / "run", rounds=2, winner=1))


def assert_one_line(capsys, status, call, *arguments):
    """The command ends with this status, and with one printable line on standard error. Returns the line."""
    capsys.readouterr()
    assert call([str(argument) for argument in arguments]) == status
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.isprintable() and len(line) < 3000, line
    return line


# The page, the terminal, TensorBoard.


def test_script_in_any_text_of_a_workdir_is_shown_and_not_run(workdir, capsys):
    assert report_main([str(workdir)]) == 0
    text = (workdir / "report.html").read_text()
    page = Page(text)
    assert page.tags <= TAGS and page.attributes <= ATTRIBUTES
    assert all(re.fullmatch(ADDRESS, address) for address in page.addresses)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    assert "alert" not in script
    for plot in (workdir / "plots").glob("*.svg"):
        ElementTree.fromstring(plot.read_text())
    assert sum("<script>alert(1)" in text for text in page.texts) > 5  # Shown as it is.
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    assert r"\x1b[31m" in said.out


def test_script_in_the_names_of_workdirs_is_shown_and_not_run(tmp_path, capsys):
    evil = tmp_path / "<script>alert(1)<"
    report_workdirs.write_seeds(evil, rounds=(5, 5))
    page = Page(report.build(evil).read_text())
    assert page.tags <= TAGS and page.attributes <= ATTRIBUTES and any(evil.name in text for text in page.texts)
    assert all(re.fullmatch(rf"{ADDRESS}|seed_\d/report.html", address) for address in page.addresses)


def test_workdirs_of_any_name_are_reported_and_compared(tmp_path, capsys):
    parts = [b"new\nline", b"\x1b[31mred", b"caf\xe9", "日本".encode(), b"$x^2$ $\\frac{1$", b"_hidden", b"<b>"]
    place = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), *parts)))
    place.mkdir(parents=True)
    runs = [place / "$\\frac{1$", place / "b"]
    for seed, run in enumerate(runs):
        report_workdirs.write_workdir(run, seed=seed, rounds=2, winner=1)
    for arguments in (runs[:1], [*runs, f"--out={tmp_path}/out"]):
        assert report_main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    (said.out + said.err).encode("utf-8")


def test_mathematics_in_names_is_drawn_as_text(workdir):
    text = (workdir / "layers.csv").read_text().replace("generator/up_8", "$\\frac{1$ generator")
    (workdir / "layers.csv").write_text(text)
    report.build(workdir)


def test_lines_with_escape_sequences_are_printed_escaped(capsys):
    say("a\x1b[2Jb\nc\r\x9b0m\u202e")
    assert capsys.readouterr().err == "jaxtickets: a\\x1b[2Jb\\nc\\r\\x9b0m\\u202e\n"
    assert str(UserError("a\x1bb\nc\udce9")) == "a\\x1bb\\nc\\udce9"
    assert str(UserError("naïve 日本 × \\ 'x'")) == "naïve 日本 × \\ 'x'"


def test_names_of_scalars_lead_tensorboard_nowhere_else(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    scalars = Scalars(place / "metrics.jsonl", place / "tb", lambda row: True, lambda: ())
    for name in ("../../out", "/tmp/out", EVIL, "a\nb", "loss"):
        scalars.write(0, 1, "train", 0.0, {name: 1.0})
    scalars.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {path.name for path in place.iterdir()} == {"metrics.jsonl", "tb"}
    assert all(path.parent.name == "round_000" for path in (place / "tb").rglob("*") if path.is_file())


# Files of another form.


def write_cell(path, row, column, value):
    """Changes a cell of a table; row 0 has the headings."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[row][rows[0].index(column)] = value
    path.write_text("\n".join(map(",".join, rows)) + "\n")


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        *(("rounds.csv", "sparsity", value) for value in ("x", "nan", "-0.1", "1.5", "1e999", "")),
        *(("rounds.csv", "density", value) for value in ("0", "2")),
        *(("rounds.csv", "round", value) for value in ("-1", "9" * 400)),
        *(("rounds.csv", "train_seconds", value) for value in ("x", "1e200", "9" * 300)),
        *(("layers.csv", "weights", value) for value in ("-3", "x", "9" * 400)),
    ],
)
def test_a_cell_that_no_run_writes_is_named(name, column, value, tmp_path):
    place = report_workdirs.write_workdir(tmp_path / "run", rounds=2, winner=1)
    write_cell(place / name, 2, column, value)
    with pytest.raises(DamagedError) as caught:
        report.build(place)
    assert f"{name}: is damaged, or not of a run: in row 2, {column} is " in str(caught.value)
    assert not (place / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("verdict.json", {"message": 5}),
        ("verdict.json", {"message": "x", "rounds": [{"round": 0}]}),  # Without confidence.
        ("verdict.json", {"message": "x", "sparsity": 1}),
        ("verdict.json", {"message": "x", "better": "x"}),
        ("verdict.json", {"message": "x", "dense": 10**400}),
        ("references.json", {"fd_digits": {"held_out": "x"}}),
        ("references.json", {"fd_digits": 5}),
    ],
)
def test_an_optional_file_of_another_form_is_left_out_in_one_line(name, content, tmp_path, capsys):
    place = report_workdirs.write_workdir(tmp_path / "run", rounds=2, winner=1)
    (place / name).unlink(missing_ok=True)
    without = report.read(place)
    (place / name).write_text(json.dumps(content))
    assert report.read(place) == without
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and "left out" in line
    assert report.summary(place)


def test_rows_of_scalars_of_another_form_are_left_out_and_counted(tmp_path, capsys):
    place = report_workdirs.write_workdir(tmp_path / "run", rounds=2, winner=1)
    whole = report.read(place)
    with (place / "metrics.jsonl").open("a") as file:
        for row in (
            {"round": "x"},
            {"round": 0, "step": 1, "split": []},
            {"round": 0, "step": 1, "split": "train", "l": {}},
        ):
            file.write(json.dumps(row) + "\n")
    capsys.readouterr()
    assert report.read(place) == whole
    assert "left out" in capsys.readouterr().err


def test_whole_numbers_beyond_the_range_of_floats_are_no_numbers():
    for value, is_one in ((10**308, True), (10**309, False), (-(10**400), False), (math.nan, False), (math.inf, False)):
        assert fields.is_finite(value) is is_one
        assert fields.number(lambda number: True, "").possible(value) is is_one


# What is no workdir.


def deep(size=100_000):
    return "[" * size + "]" * size


def numbers(path):
    path.write_text("round,sparsity,density\n0,0,1\n")


NOT_WORKDIRS = {
    "nothing": lambda path: None,
    "an empty directory": lambda path: path.mkdir(),
    "a file": lambda path: path.write_text("x"),
    "somebody's directory": lambda path: (path.mkdir(), (path / "photo.jpg").write_bytes(b"\xff\xd8")),
    **{
        f"a config.json of {what}": lambda path, text=text: (path.mkdir(), (path / "config.json").write_bytes(text))
        for what, text in {
            "nothing": b"",
            "a list": b"[]",
            "null": b"null",
            "zeros": bytes(4096),
            "noise": bytes(range(256)),
            "another program": b'{"model_type": "bert", "hidden_size": 768}',
            "an empty config": b'{"config": {}}',
            "a text as config": b'{"config": "x"}',
            "other fields": b'{"config": {"experiment": "imp", "nothing": 1}}',
            "an unknown method": b'{"config": {"experiment": "\\u001b[31m", "seeds": 1, "seed": 0}}',
            "wrong types": b'{"config": {"experiment": [], "seeds": {}, "seed": "x", "model": 5}}',
            "deep lists": deep().encode(),
            "deep fields": b'{"config": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
            "long numbers": b'{"config": {"seed": ' + b"9" * 5000 + b"}}",
        }.items()
    },
    "a config.json that is a directory": lambda path: (path / "config.json").mkdir(parents=True),
    "a config.json that is a pipe": lambda path: (path.mkdir(), os.mkfifo(path / "config.json")),
    "a config.json that leads nowhere": lambda path: (path.mkdir(), (path / "config.json").symlink_to("config.json")),
}


@pytest.mark.parametrize("what", NOT_WORKDIRS)
def test_what_is_no_workdir_is_one_line_for_each_command(what, tmp_path, capsys):
    path = tmp_path / "it"
    NOT_WORKDIRS[what](path)
    out, other = tmp_path / "out", report_workdirs.write_workdir(tmp_path / "run", rounds=1)
    has_config = what == "a config.json of an unknown method"
    for call, arguments in (
        (report_main, [path]),
        (report_main, [path, "--power"]),
        (report_main, [path, other, f"--out={out}"]),
        (evaluate.main, [f"--workdir={path}"]),
        (sample.main, [f"--workdir={path}", f"--out={out}"]),
        (sample.main, [f"--ticket={path}", f"--out={out}"]),
        (tickets_main, ["info", path]),
        (tickets_main, ["extract", path, f"--out={out}"]),
    ):
        if not (has_config and call is report_main):
            line = assert_one_line(capsys, 2, call, *arguments)
            assert str(path) in line or "--" in line
    assert not out.exists()


FOREIGN_TABLES = {
    "nothing": b"",
    "zeros": bytes(900),
    "noise": bytes(range(256)) * 4,
    "another table": b"name,age\nA,3\nB,4\n",
    "a page": b"<!doctype html><html><body>\n</html>\n",
    "a table of texts": b"round,sparsity,density\nx,y,z\n",
    "odd numbers": b"round,sparsity,density\n0,nan,1\n1,inf,-1\n2,1e999,0\n",
    "long rows": b"round," + b"a," * 100_000 + b"b\n" + b"1," * 100_001 + b"2\n",
}


@pytest.mark.parametrize("what", FOREIGN_TABLES)
@pytest.mark.parametrize("name", ["rounds.csv", "layers.csv", "metrics.jsonl", "verdict.json", "references.json"])
def test_other_peoples_files_in_a_workdir_are_one_line_or_left_out(name, what, tmp_path, capsys):
    place = report_workdirs.write_workdir(tmp_path / "run", rounds=2, winner=1)
    (place / name).write_bytes(FOREIGN_TABLES[what])
    with contextlib.suppress(UserError):
        show(report.summary(place))
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    assert len(said.err.splitlines()) <= 2


@pytest.mark.parametrize("name", ["rounds.csv", "layers.csv", "metrics.jsonl", "verdict.json", "samples/round_000.png"])
@pytest.mark.parametrize(
    "make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)], ids=["directory", "pipe", "link"]
)
def test_files_that_are_none_do_not_hang_a_report(name, make, tmp_path, capsys):
    place = report_workdirs.write_workdir(tmp_path / "run", rounds=2, winner=1)
    (place / name).unlink()
    make(place / name)
    with contextlib.suppress(UserError):
        report.summary(place)
    assert len(capsys.readouterr().err.splitlines()) <= 2


# Tickets.


def tensors(header: bytes, length: int | None = None, values: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + values


HEADERS = {
    "no bytes": b"",
    "three bytes": b"abc",
    "a length of 2^64 - 1": tensors(b"{}", 2**64 - 1),
    "a length of 2^40": tensors(b"{}", 2**40),
    "a header of 90 MB": tensors(b'{"__metadata__": {"a": "' + b"x" * 90_000_000 + b'"}}'),
    "20,000 tensors": tensors(
        json.dumps(
            {f"params/{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
        ).encode()
    ),
    "a tensor of 2^60 bytes": tensors(
        b'{"a": {"dtype": "U8", "shape": [1152921504606846976], "data_offsets": [0, 1152921504606846976]}}'
    ),
    "a shape that overflows": tensors(
        b'{"a": {"dtype": "F64", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}'
    ),
    "a shape below zero": tensors(b'{"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 0]}}'),
    "bytes twice": tensors(
        json.dumps(dict.fromkeys("ab", {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]})).encode(),
        values=b"1234",
    ),
    "deep lists": tensors(deep(50_000).encode()),
    "metadata of deep lists": tensors(json.dumps({"__metadata__": {"ticket": deep(50_000)}}).encode()),
    "metadata of another program": save({"a": np.zeros(3)}, metadata={"format": "pt"}),
    "a pickle": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "a web page": b"<!doctype html><html></html>" * 9,
}


@pytest.mark.parametrize("what", HEADERS)
def test_ticket_files_with_any_header_are_one_line(what, tmp_path, capsys):
    path = tmp_path / "\x1b[31mticket.safetensors"
    path.write_bytes(HEADERS[what])
    for read in (tickets.load_ticket, tickets.load_trained):
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 2000
    assert_one_line(capsys, 2, sample.main, f"--ticket={path}", f"--out={tmp_path / 'out'}")


def test_huge_headers_of_ticket_files_take_little_memory(tmp_path):
    paths = []
    for what in ("a header of 90 MB", "20,000 tensors", "a length of 2^40", "a tensor of 2^60 bytes"):
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        paths[-1].write_bytes(HEADERS[what])
    code = (
        "import resource, sys\nfrom jaxtickets import tickets\nfrom jaxtickets.errors import UserError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = peak()\n"
        "for path in sys.argv[1:]:\n    try:\n        tickets.load_ticket(path)\n    except UserError:\n        pass\n"
        "    print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert all(int(line) < 300_000 for line in done.stdout.splitlines()), done.stdout


def test_a_name_that_is_not_utf_8_is_printed_on_a_terminal_that_is(tmp_path):
    place = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9\x1b[31m"))
    report_workdirs.write_workdir(Path(place), rounds=1)
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "jaxtickets.report", place]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr and rb"caf\udce9\x1b[31m" in done.stdout
