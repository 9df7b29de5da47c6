"""launch/tpu_vm.sh: the commands of its dry run, and its scripts under a stand-in for gcloud."""

import os
import shlex
import shutil
import subprocess

import pytest
from conftest import ROOT

SCRIPT = ROOT / "launch" / "tpu_vm.sh"
WHERE = ("--name=t", "--zone=us-central2-b")
TYPE = ("--type=v4-8", "--version=tpu-ubuntu2204-base")
RUN = ("--", "--config=configs/gan_celeba.py", "--config.prune.sparsities=(0.5,0.8)")

# Does what gcloud would do on the worker, in directories: `ssh` runs the command, the bucket is a folder.
GCLOUD = """#!/usr/bin/env bash
case "$*" in
    *"tpu-vm ssh"*) for a; do if [[ $a == --command=* ]]; then (cd "$HOME" && bash -c "${a#--command=}"); fi; done ;;
    "storage cp gs://"*) cp "$BUCKET/$(basename "$3")" "$4" ;;
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
    assert install[:7] == [*tpu, "ssh", "t", "--worker=all"] and '-e ".[tpu]"' in install[7]
    ((*_, command, _, _),) = dry_run("run", *WHERE, *RUN)
    assert f"jaxtickets.main {shlex.join(RUN[1:]).split()[0]} " in command
    parts = dry_run("resume", *WHERE, *TYPE, "--bucket=gs://b", *RUN)
    assert [part[4] if part[0] == "gcloud" else part[0] for part in parts] == [
        *("delete", "create", "git", "scp", "ssh", "ssh")
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
        (("delete", *WHERE), "gcloud is not installed"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_done(arguments, named, tmp_path):
    for tool in ("bash", "cat", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = call(*arguments, PATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"tpu_vm.sh: {named}") and done.stderr.count("\n") == 1


def test_a_run_is_stopped_saved_to_the_bucket_and_brought_back(tmp_path):
    home, tools, bucket = (tmp_path / name for name in ("home", "tools", "bucket"))
    for path in (home / "venv" / "bin", home / "jaxtickets", tools, bucket):
        path.mkdir(parents=True)
    for path, text in ((tools / "gcloud", GCLOUD), (home / "venv" / "bin" / "python", PYTHON)):
        path.write_text(text)
        path.chmod(0o755)
    own = {"HOME": str(home), "BUCKET": str(bucket), "PATH": f"{tools}:{os.environ['PATH']}", "HOSTNAME": "t1v-n-1-w-0"}
    own["BASH_ENV"] = str(tmp_path / "hostname")  # Bash sets HOSTNAME itself.
    (tmp_path / "hostname").write_text("HOSTNAME=t1v-n-1-w-0\n")
    for seen in ("started", "started\nsaved\nstarted"):
        assert call("run", *WHERE, "--bucket=gs://b", *RUN, **own).returncode == 0
        state = home / "jaxtickets" / "runs" / "state"
        waiting = f"until [[ $(cat {state} 2>/dev/null) == '{seen}' ]]; do sleep 0.05; done"
        subprocess.run(["bash", "-c", waiting], check=True, timeout=30)
        stopped = call("stop", *WHERE, **own)
        assert "ended with status 143" in stopped.stdout, stopped.stderr
        assert (home / "jaxtickets" / "arguments").read_text().split() == ["-m", "jaxtickets.main", *RUN[1:]]
        assert (bucket / "t.tar").exists()
        shutil.rmtree(home / "jaxtickets")  # The TPU is gone.
        (home / "jaxtickets").mkdir()
