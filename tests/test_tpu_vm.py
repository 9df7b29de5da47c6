"""launch/tpu_vm.sh: the commands of its dry run, and its scripts under a stand-in for gcloud."""

import io
import os
import shlex
import shutil
import subprocess
import tarfile

import pytest
from conftest import ROOT

SCRIPT = ROOT / "launch" / "tpu_vm.sh"
WHERE = ("--name=t", "--zone=us-central2-b")
TYPE = ("--type=v4-8", "--version=tpu-ubuntu2204-base")
RUN = ("--", "--config=configs/gan_celeba.py", "--config.prune.sparsities=(0.5,0.8)")

# Does what gcloud would do on the worker, in directories: `ssh` runs the command, the bucket is a folder.
GCLOUD = """#!/usr/bin/env bash
case "$*" in
    *"tpu-vm ssh"*)
        cd "$HOME" || exit
        for a; do if [[ $a == --command=* ]]; then exec bash -c "${a#--command=}"; fi; done ;;
    "storage ls "*)
        if [[ -n ${LS_SAYS-} ]]; then echo "$LS_SAYS" >&2; exit 1; fi
        if ! ls "$BUCKET/$(basename "$3")"; then echo "ERROR: One or more URLs matched no objects." >&2; exit 1; fi ;;
    "storage mv "*) mv "$BUCKET/$(basename "$3")" "$BUCKET/$(basename "$4")"; echo >> "$BUCKET/saves" ;;
    "storage cp gs://"*) [[ -z ${CP_FAILS-} ]] && cp "$BUCKET/$(basename "$3")" "$4" ;;
    "storage cp "*) cp "$3" "$BUCKET/$(basename "$4")" ;;
esac
"""
# In the place of Python: notes that it runs, and on SIGTERM that it has saved.
PYTHON = """#!/usr/bin/env bash
trap 'echo saved >> runs/state; exit 143' TERM
printf '%s\\n' "$@" > arguments
echo started >> runs/state
for _ in $(seq 600); do sleep 0.1; done
"""


def call(*arguments, **environment):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=os.environ | environment)


def dry_run(*arguments):
    """The commands that would run, as lists of arguments; the quotes are the shell's."""
    done = call(*arguments, "--dry_run") if "--" not in arguments else call(arguments[0], "--dry_run", *arguments[1:])
    assert done.returncode == 0, done.stderr
    shell = f"run() {{ printf '%s\\0' \"$@\" END; }}\n{''.join(f'run {line}' for line in done.stdout.splitlines(True))}"
    words = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    commands = [[]]
    for word in words:
        commands.append([]) if word == "END" else commands[-1].append(word)
    return commands[:-1]


def test_the_script_is_clean_for_shellcheck():
    if not (shellcheck := shutil.which("shellcheck")):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_dry_run_prints_the_commands_and_needs_no_gcloud():
    tpu, where = ["gcloud", "compute", "tpus", "tpu-vm"], ["--zone=us-central2-b", "--quiet"]
    types = ["--accelerator-type=v4-8", "--version=tpu-ubuntu2204-base"]
    assert dry_run("create", *WHERE, *TYPE) == [[*tpu, "create", "t", *types, *where]]
    assert dry_run("create", *WHERE, *TYPE, "--spot", "--project=p") == [
        [*tpu, "create", "t", *types, "--spot", where[0], "--project=p", where[1]]
    ]
    assert dry_run("delete", *WHERE) == [[*tpu, "delete", "t", *where]]
    archive, copy, install = dry_run("install", *WHERE)
    assert archive[:2] == ["git", "-C"] and copy[:5] == [*tpu, "scp"] and "--worker=all" in copy
    assert install[:7] == [*tpu, "ssh", "t", "--worker=all"] and '-e ".[tpu,datasets]"' in install[7]
    ((*_, command, _, _),) = dry_run("run", *WHERE, *RUN)
    assert f"jaxtickets.main {shlex.join(RUN[1:]).split()[0]} " in command
    parts = dry_run("resume", *WHERE, *TYPE, "--bucket=gs://b", *RUN)
    assert [part[4] if part[0] == "gcloud" else part[0] for part in parts] == [
        *("delete", "create", "git", "scp", "ssh", "ssh", "ssh")
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("start",), "start: allowed are create, install"),
        (("create", *WHERE), "--type: create needs it"),
        (("run", "--zone=z"), "--name: run needs it"),
        (("run", *WHERE), "--: run needs the arguments"),
        (("run", *WHERE, "--config=x"), "--config=x: no such option"),
        (("resume", *WHERE, *TYPE, *RUN), "--bucket: resume needs it"),
        (("run", *WHERE, "--bucket=b", *RUN), "--bucket=b: allowed is gs://"),
        (("run", *WHERE, "--bucket=gs://b; id", *RUN), "--bucket=gs://b; id: allowed is gs://"),
        (("run", "--name=$(id)", "--zone=z", *RUN), "--name=$(id): allowed are lower-case letters"),
        (("delete", *WHERE), "gcloud is not installed"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_done(arguments, named, tmp_path):
    for tool in ("bash", "cat", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = call(*arguments, PATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"tpu_vm.sh: {named}") and done.stderr.count("\n") == 1


@pytest.fixture
def worker(tmp_path):
    """The environment of a first worker whose home and bucket are directories."""
    home, tools, bucket = (tmp_path / name for name in ("home", "tools", "bucket"))
    for path in (home / "venv" / "bin", home / "jaxtickets", tools, bucket):
        path.mkdir(parents=True)
    executable(tools / "gcloud", GCLOUD)
    executable(home / "venv" / "bin" / "python", PYTHON)
    (tmp_path / "hostname").write_text("HOSTNAME=t1v-n-1-w-0\n")
    own = {"HOME": str(home), "BUCKET": str(bucket), "PATH": f"{tools}:{os.environ['PATH']}"}
    return own | {"BASH_ENV": str(tmp_path / "hostname")}  # Bash sets HOSTNAME itself.


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def wait_for(condition):
    waiting = f"until [[ {condition} ]]; do /bin/sleep 0.05; done"
    subprocess.run(["bash", "-c", waiting], check=True, timeout=30)


def test_a_run_is_stopped_saved_to_the_bucket_and_brought_back(worker, tmp_path):
    here, bucket = tmp_path / "home" / "jaxtickets", tmp_path / "bucket"
    for seen in ("started", "started\nsaved\nstarted"):
        done = call("run", *WHERE, "--bucket=gs://b", *RUN, **worker)
        assert done.returncode == 0, done.stderr
        wait_for(f"$(cat {here}/runs/state 2>/dev/null) == {shlex.quote(seen)}")
        stopped = call("stop", *WHERE, **worker)
        assert "ended with status 143" in stopped.stdout, stopped.stderr
        assert (here / "arguments").read_text().split() == ["-m", "jaxtickets.main", *RUN[1:]]
        assert sorted(path.name for path in bucket.iterdir()) == ["saves", "t.tar"]
        shutil.rmtree(here)  # The TPU is gone.
        here.mkdir()


def saved(path, text):
    """Writes a file of the bucket in which a run's state is `text`."""
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("runs/state")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))


def test_workdirs_that_are_there_are_newer_than_those_of_the_bucket(worker, tmp_path):
    runs = tmp_path / "home" / "jaxtickets" / "runs"
    saved(tmp_path / "bucket" / "t.tar", "old\n")
    runs.mkdir()
    (runs / "state").write_text("new\n")
    assert call("run", *WHERE, "--bucket=gs://b", *RUN, **worker).returncode == 0
    wait_for(f"$(cat {runs}/state) == *started")
    assert "ended with status 143" in call("stop", *WHERE, **worker).stdout
    assert (runs / "state").read_text() == "new\nstarted\nsaved\n"


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ({"CP_FAILS": "1"}, "tpu_vm.sh: gs://b/t.tar could not be brought back; nothing is started"),
        (
            {"LS_SAYS": "ERROR: 503"},
            "tpu_vm.sh: whether there is a gs://b/t.tar is not known, nothing is started: ERROR: 503",
        ),
    ],
)
def test_a_download_that_fails_starts_no_run_from_nothing(worker, tmp_path, failure, line):
    saved(tmp_path / "bucket" / "t.tar", "old\n")
    done = call("run", *WHERE, "--bucket=gs://b", *RUN, **worker, **failure)
    assert done.returncode != 0 and done.stderr.splitlines() == [line]
    assert not list((tmp_path / "home" / "jaxtickets" / "runs").iterdir())
    assert not (tmp_path / "home" / "jaxtickets" / "start.sh").exists()
    assert call("run", *WHERE, "--bucket=gs://b", *RUN, **worker).returncode == 0  # The same command, once it works.
    wait_for(f"$(cat {tmp_path}/home/jaxtickets/runs/state) == *started")
    assert "ended with status 143" in call("stop", *WHERE, **worker).stdout


@pytest.mark.slow
def test_a_save_while_the_run_goes_on_has_copies_of_what_the_run_appends_to_and_links_to_the_rest(worker, tmp_path):
    here, bucket = tmp_path / "home" / "jaxtickets", tmp_path / "bucket"
    executable(tmp_path / "tools" / "sleep", '#!/bin/bash\n[[ $1 == 1 ]] || exec /bin/sleep "$1"\n')  # 1 is no time.
    for path in ("gan/metrics.jsonl", "gan/tb/0/events", "gan/snapshots/last/state"):
        (here / "runs" / path).parent.mkdir(parents=True, exist_ok=True)
        (here / "runs" / path).write_text("first")
    assert call("run", *WHERE, "--bucket=gs://b", *RUN, **worker).returncode == 0
    wait_for(f"-e {bucket}/saves")
    assert "ended with status 143" in call("stop", *WHERE, **worker).stdout
    for path, links in (("gan/metrics.jsonl", 1), ("gan/tb/0/events", 1), ("gan/snapshots/last/state", 2)):
        assert (here / "saving" / "runs" / path).stat().st_nlink == links, path
    with tarfile.open(bucket / "t.tar") as archive:  # The last save is that of the end.
        assert archive.extractfile("runs/state").read() == b"started\nsaved\n"
        assert archive.extractfile("runs/gan/tb/0/events").read() == b"first"
    assert (bucket / "saves").read_text().count("\n") >= 2


def test_install_says_that_changes_which_are_not_committed_are_not_sent(worker, tmp_path):
    copy = tmp_path / "copy"
    (copy / "launch").mkdir(parents=True)
    shutil.copy(SCRIPT, copy / "launch")
    git = ["git", "-C", copy, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    install = ["bash", copy / "launch" / "tpu_vm.sh", "install", *WHERE, "--dry_run"]
    assert subprocess.run(install, capture_output=True, text=True).stderr == ""
    (copy / "new").write_text("")
    assert subprocess.run(install, capture_output=True, text=True).stderr == (
        "tpu_vm.sh: the last commit is sent; there are changes that are not committed, which are not sent\n"
    )
