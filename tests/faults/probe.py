"""Reads data sets and other files of strangers, each in a child process with limits, and tells what the child did.

A line on standard input is a call: `{"call": one of CALLS, "arguments": [...]}`. The answer is a line: `outcome`, its
`detail`, what was written on standard error (`said`), the `peak` of the child's memory in bytes, and a list `seen` of
what it should not have done (`watching`).
"""

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import watching  # noqa: E402

from jaxtickets import data  # noqa: E402
from jaxtickets.data import decoding  # noqa: E402
from jaxtickets.errors import UserError  # noqa: E402

MEMORY, FILE, SECONDS = 6 << 30, 256 << 20, 60


def load(name: str, size: int = 8) -> str:
    """Loads both splits of a data set as a run does. Returns what there is."""
    found = [data.load(name, split, size) for split in data.SPLITS]
    return f"{[len(one.images) for one in found]} {list(found[0].label_names)}"


def skim(name: str, size: int = 8) -> str:
    """The same, but images that can't be read are left out."""
    recipe = decoding.Recipe(on_broken="skip")
    found = [data.load(name, split, size, recipe=recipe) for split in data.SPLITS]
    return f"{[len(one.images) for one in found]} {list(found[0].label_names)}"


def torch(path: str) -> str:
    """Reads a file of PyTorch."""
    from jaxtickets.metrics import torch_file

    return str(list(torch_file.read(path)))


def ticket(path: str) -> str:
    """Reads a ticket file."""
    from jaxtickets import tickets

    return str(list(tickets.load_ticket(path).params))


def report(*arguments: str) -> str:
    """The command line of the report."""
    from jaxtickets.report.__main__ import main

    return str(main(arguments))


CALLS = {function.__name__: function for function in (load, skim, torch, ticket, report)}


def answer(call: str, arguments: list) -> dict:
    """Makes a call in a child process."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        if not (child := os.fork()):
            try:
                for end, file in enumerate((told, said, said)):
                    os.dup2(file.fileno(), end)
                _in_child(call, arguments)
            finally:
                os._exit(1)
        _, status, usage = os.wait4(child, 0)
        result, text = (file.seek(0) or file.read() for file in (told, said))
    found = json.loads(result) if result else {"outcome": "died", "detail": f"status {status}", "seen": []}
    return found | {"said": text.decode("utf-8", "backslashreplace"), "peak": usage.ru_maxrss * 1024}


def _in_child(call, arguments):
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    watching.install()
    with watching.writes() as seen:
        try:
            found = {"outcome": "accepted", "detail": CALLS[call](*arguments)}
        except UserError as error:
            found = {"outcome": "refused", "detail": str(error)}
        except BaseException:
            found = {"outcome": "failed", "detail": traceback.format_exc()}
    sys.stdout.flush()
    os.write(0, json.dumps(found | {"seen": seen}).encode())
    os._exit(0)


def main() -> None:
    for line in sys.stdin:
        request, start = json.loads(line), time.monotonic()
        found = answer(request["call"], request["arguments"])
        print(json.dumps(found | {"seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    main()
