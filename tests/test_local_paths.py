"""Paths that a user gives: the home directory is meant by `~`, and a URL is refused instead of made a directory."""

from pathlib import Path

import pytest
from conftest import ROOT, load_config

import jaxtickets as jt
from jaxtickets import cache, evaluate, main, sample
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.report.__main__ import main as report_main
from launch.sweep import sweep


@pytest.mark.parametrize(
    "text, expected", [("~", ""), ("~/runs/a", "runs/a"), ("~/a~b", "a~b"), ("~//x/", "x"), (Path("~/p"), "p")]
)
def test_a_leading_tilde_is_the_home_directory(monkeypatch, tmp_path, text, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path(text, "--workdir") == tmp_path / expected


@pytest.mark.parametrize("text", ["runs/a", "/tmp/x y", "./~", "a~", "files:x", "C:/runs", "a:b", "x=1,y=2", "ä/ö\n"])
def test_any_other_path_stays_as_it_is(text):
    assert local_path(text, "--workdir") == Path(text)


@pytest.mark.parametrize("text", ["gs://bucket/run", "s3://b", "file:///tmp/x", "https://x.org/a", "gs:/b/run"])
def test_a_url_is_refused_by_name(text):
    with pytest.raises(UserError, match=rf"^--out={text}: is a URL; allowed is a path in this machine's file system"):
        local_path(text, "--out")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "--out='': is no path"),
        ("a\0b", r"--out='a\\x00b': is no path"),
        ("~nobody-here/x", "~nobody-here has no"),
        ("9" * 300, "--out=9{80}...: is too long; allowed is a path"),
        ("ab/" * 2000, "--out=(ab/)+ab...: is too long; allowed is a path"),
        ("$HOME/x", r"--out=\$HOME/x: a variable is for the shell"),
        ("${A}", r"\$\{A\}: a"),
    ],
)
def test_what_is_no_path_is_refused_in_one_line(text, reason):
    with pytest.raises(UserError, match=reason) as caught:
        local_path(text, "--out")
    assert "\n" not in str(caught.value)


def test_texts_given_to_the_library_are_paths_of_users_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jt.Workdir("~/run").path == tmp_path / "run"
    with pytest.raises(UserError, match="workdir=gs://a/b: is a URL"):
        jt.Workdir("gs://a/b")
    with pytest.raises(UserError, match=f"^{tmp_path}/t.safetensors: "):
        jt.load_ticket("~/t.safetensors")


def test_every_flag_and_field_with_a_path_refuses_a_url_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    url = "gs://bucket/x"

    def run(name="gan_digits", **changes):
        config = load_config(name)
        config.update_from_flattened_dict(changes)
        main.run(config, tmp_path / "run")

    calls = {
        "--workdir": lambda: main.run(load_config("gan_digits"), url),
        "--sweepdir": lambda: sweep(str(ROOT / "configs" / "gan_digits.py"), ["seed=0"], url),
        "config.data.dir": lambda: run(**{"data.dir": url}),
        "config.branch.of": lambda: run(experiment="branch", **{"branch.of": url, "eval.features": "digits"}),
        "config.transfer.of": lambda: run(experiment="transfer", **{"transfer.of": url}),
        "JAXTICKETS_CACHE": lambda: (monkeypatch.setenv("JAXTICKETS_CACHE", url), cache.directory()),
    }
    for flag, call in calls.items():
        with pytest.raises(UserError, match=f"^{flag}={url}: is a URL"):
            call()
    for flag, command in {
        "WORKDIR": lambda: report_main([url]),
        "--out": lambda: report_main(["a", "b", f"--out={url}"]),
        "--workdir": lambda: evaluate.main([f"--workdir={url}"]),
        "--ticket": lambda: sample.main([f"--ticket={url}", "--out=x"]),
    }.items():
        assert command() == 2
        assert capsys.readouterr().err.startswith(f"jaxtickets: {flag}={url}: is a URL")
    assert not list(tmp_path.iterdir())
