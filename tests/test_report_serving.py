"""`--serve`: the report of a run on this machine alone, renewed with each round."""

import contextlib
import http.client
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from pages import other_files, parsed
from report_workdirs import write_seeds, write_workdir

from jaxtickets import report
from jaxtickets.errors import UserError
from jaxtickets.report import serving
from jaxtickets.report.__main__ import main
from jaxtickets.workdir import Workdir


@contextlib.contextmanager
def served(path, make):
    with serving.server(serving.Page(Workdir(path), make), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def answer(port, path="/", host=None):
    connection = http.client.HTTPConnection(serving.HOST, port, timeout=60)
    connection.request("GET", path, headers={"Host": host or f"{serving.HOST}:{port}"})
    found = connection.getresponse()
    text = found.read().decode()
    connection.close()
    return found.status, text


def test_the_page_is_made_once_for_each_state_of_the_run(tmp_path):
    path, made = write_workdir(tmp_path / "run", rounds=2, finished=False), []
    with served(path, lambda state: made.append(state) or f"page {len(made)}") as port:
        assert [answer(port)[1] for _ in range(3)] == ["page 1"] * 3
        assert answer(port, "/state") == (200, made[0])
        with (path / "metrics.jsonl").open("a") as file:  # Within a round.
            file.write("{}\n")
        assert answer(port)[1] == "page 1"
        rows = (path / "rounds.csv").read_text()
        (path / "rounds.csv").write_text(rows + rows.splitlines()[-1] + "\n")
        assert answer(port, "/state")[1] != made[0] and answer(port)[1] == "page 2"


def test_a_round_of_a_seed_renews_the_page(tmp_path):
    path = write_seeds(tmp_path / "seeds", finished=False)
    before = serving.state(Workdir(path))
    (path / "seed_1" / "verdict.json").write_text("{}")
    assert serving.state(Workdir(path)) != before


def test_no_file_is_served_and_no_other_name_of_the_host_is_answered(tmp_path):
    path = write_workdir(tmp_path / "run", rounds=2, finished=False)
    with served(path, lambda state: "page") as port:
        for name in ("/config.json", "/rounds.csv", "/../run/config.json", "//etc/passwd", "/report.html", "/state/"):
            assert answer(port, name)[0] == 404
        assert answer(port, host=f"localhost:{port}")[0] == 200
        assert answer(port, host=f"evil.example:{port}")[0] == 404
        with serving.server(None, 0) as other:
            assert other.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(("error", "status"), [(UserError("rounds.csv: <cut>"), 503), (KeyError("fd"), 500)])
def test_what_keeps_a_report_from_being_made_is_told_on_a_page_that_tries_again(tmp_path, error, status):
    errors = [error, error]

    def make(state):
        if errors:
            raise errors.pop()
        return "the report"

    path = write_workdir(tmp_path / "run", rounds=1, finished=False)
    with served(path, make) as port:
        found, html = answer(port)
        page = parsed(html)
        assert found == status and str(error) in page.one("main").text and "fetch('state'" in page.one("script").text
        (path / "verdict.json").write_text("{}")
        # The page loads itself again where its state is another one.
        assert page.one("body")["data-state"] != answer(port, "/state")[1]
        assert [answer(port)[0], answer(port)] == [status, (200, "the report")]


def test_before_a_run_has_begun_the_page_waits_and_names_the_directory(tmp_path):
    (tmp_path / "gan_digits").mkdir()
    path = tmp_path / "gan_digts"
    with served(path, lambda state: "the report") as port:
        for expected in (f"{path} does not exist yet; did you mean 'gan_digits'?", f"{path} has no config.json yet"):
            status, html = answer(port)
            page = parsed(html)
            assert status == 200 and page.one("h1").text == "Nothing is here yet" and expected in page.one("main").text
            assert "fetch('state'" in page.one("script").text and not list(page.all("nav"))
            assert page.one("body")["data-state"] == answer(port, "/state")[1]
            path.mkdir(exist_ok=True)
        shutil.rmtree(path)
        write_workdir(path, rounds=1, finished=False)
        assert page.one("body")["data-state"] != answer(port, "/state")[1]
        assert answer(port)[1] == "the report"
        shutil.rmtree(path)
        assert "does not exist yet" in answer(port)[1]


def test_a_run_that_was_killed_is_shown_as_far_as_it_is_written_and_followed_when_it_goes_on(tmp_path):
    path = write_workdir(tmp_path / "run", rounds=3, finished=False)
    whole = (path / "rounds.csv").read_text()
    (path / "rounds.csv").write_text(whole[:-20])  # The last row is half there.
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "st')
    with served(path, lambda state: report.summary(path)) as port:
        table = answer(port)[1]
        assert "12.31" in table and "11.84" in table and "12.02" not in table and "not finished" in table
        (path / "rounds.csv").write_text(whole)
        assert "12.02" in answer(port)[1]


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path, capsys):
    path = str(write_workdir(tmp_path / "run", rounds=1, finished=False))
    with serving.server(None, 0) as taken:
        mistakes = {
            f"--serve={taken.server_port}": "is taken; give another one, --serve=PORT, or --serve alone",
            "--serve=70000": "allowed is a port",
            "--serve=no": "allowed is a port",
        }
        for flag, text in mistakes.items():
            assert main([path, flag]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert text in line and flag in line
    file = f"{path}/config.json"
    assert main([path, path + "2", "--serve"]) == main([path, "--serve", "--power"]) == main([file, "--serve"]) == 2
    assert "is a file" in capsys.readouterr().err.splitlines()[2]


def test_without_a_port_a_free_one_is_taken_where_the_usual_one_is_taken(monkeypatch):
    with serving.server(None, 0) as taken:
        monkeypatch.setattr(serving, "PORT", taken.server_port)
        with serving.server(None, None) as other:
            assert other.server_port != taken.server_port


def test_the_command_says_which_directory_it_waits_for(tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.ThreadingHTTPServer, "serve_forever", interrupted)
    write_workdir(tmp_path / "run", rounds=1, finished=False)
    waiting = [f"Waiting for a run: {tmp_path / 'none'} does not exist yet."]
    for name, expected in (("none", waiting), ("run", [])):
        with pytest.raises(KeyboardInterrupt):
            main([str(tmp_path / name), "--serve=0"])
        first, *others = capsys.readouterr().out.splitlines()
        assert first.startswith("Report: http://127.0.0.1:") and str(tmp_path / name) in first and others == expected


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted_and_ends_with_one_line(tmp_path):
    path = write_seeds(tmp_path / "seeds", finished=False)
    before = sorted(path.rglob("*"))
    command = [sys.executable, "-m", "jaxtickets.report", str(path), "--serve=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        status, html = answer(port)
        page = parsed(html)
        assert status == 200 and "Not finished yet" in html and other_files(page) == []
        assert page.one("body")["data-state"] == answer(port, "/state")[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "jaxtickets: interrupted\n"
    assert sorted(path.rglob("*")) == before
