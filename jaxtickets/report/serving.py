"""A report that follows its run: `--serve` shows it on this machine alone, and the page renews itself.

The server listens on 127.0.0.1, answers `/` and `/state`, and gives no file. The page asks for `/state` every two
seconds and loads itself again once the run has begun, or a round, or the run, has finished.
"""

import contextlib
import errno
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jaxtickets.errors import UserError
from jaxtickets.names import near
from jaxtickets.progress import show
from jaxtickets.report.elements import paragraph
from jaxtickets.report.page import document
from jaxtickets.workdir import Workdir

HOST = "127.0.0.1"
PORT = 8321  # Where --serve names none; another free one, if it is taken.
OTHERS = "give another one, --serve=PORT, or --serve alone for one that is free"
FAILED = "The report can't be made"
UNLIKE_ANY = ""  # A state that no run has: its page tries again every two seconds.


def state(workdir: Workdir) -> str:
    """A text that changes when a round or the run has finished; the workdir need not be there yet."""
    runs = [workdir, *workdir.seed_dirs().values()]
    files = [file for run in runs for file in (run.config, run.rounds, run.verdict)]
    pictures = [path for by_round in workdir.list_pictures().values() for path in by_round.values()]
    return " ".join(map(_stamp, [*files, *pictures]))


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "-"
    return f"{found.st_mtime_ns}:{found.st_size}"


def waiting(workdir: Workdir) -> str:
    """Which directory is watched, and what is not there yet, in a sentence; "" once a run has begun in it."""
    path = workdir.path.resolve()
    if workdir.config.exists():
        return ""
    if path.is_dir():
        return f"{path} has no config.json yet, so no run has begun there."
    others = [other.name for other in path.parent.glob("*/")]
    return f"{path} does not exist yet{near(path.name, others) or '.'}"


class Page:
    """The page of a workdir, made again only when its state has changed."""

    def __init__(self, workdir: Workdir, make: Callable[[str], str]):
        """make: `(state) -> html` of a run that has begun; it may raise UserError."""
        self._workdir, self._make = workdir, make
        self._lock, self._state, self._html = threading.Lock(), None, ""

    def state(self) -> str:
        """See `state`."""
        return state(self._workdir)

    def html(self) -> str:
        """The page as the run is now."""
        with self._lock:  # Matplotlib draws in one thread at a time.
            # Before the files are read: what is written meanwhile makes the page old.
            now = self.state()
            if absent := waiting(self._workdir):
                return notice("Nothing is here yet", [absent, "The report comes by itself once the run begins."], now)
            if now != self._state:
                self._state, self._html = now, self._make(now)
            return self._html


def notice(title: str, texts: Iterable[str], state: str) -> str:
    """A page in the place of a report that can't be made now, with the state at which it does not renew itself."""
    return document(title, map(paragraph, texts), [], state)


def server(page: Page, port: int | None) -> ThreadingHTTPServer:
    """A server of the page on 127.0.0.1.

    Args:
      port: None: `PORT`, or another free one if that is taken.

    Raises:
      UserError: the port is taken, or may not be used.
    """
    try:
        return _listening(page, PORT if port is None else port)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return _listening(page, 0)
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
        raise UserError(f"--serve={port}: the port {reason}; {OTHERS}") from None


def _listening(page, port):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            # A page of somebody else's in the browser can't read the report under a name of its own.
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (HOST, "localhost") or self.path not in ("/", "/state"):
                self._answer(404, "text/plain", "There is nothing here.\n")
                return
            if self.path == "/state":
                self._answer(200, "text/plain", page.state())
                return
            now = page.state()
            try:
                self._answer(200, "text/html", page.html())
            except ConnectionError:
                pass  # The reader has gone.
            except UserError as error:
                self._answer(503, "text/html", notice(FAILED, [str(error)], UNLIKE_ANY))
            except Exception as error:
                # Not tried again before the run has changed: drawing would slow down a run on this machine.
                self._answer(500, "text/html", notice(FAILED, [f"{type(error).__name__}: {error}"], now))

        def _answer(self, status, kind, text):
            content = text.encode(errors="backslashreplace")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            with contextlib.suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            """Says nothing of each request."""

    return ThreadingHTTPServer((HOST, port), Handler)


def serve(workdir: str | Path, make: Callable[[str], str], port: int | None) -> None:
    """Serves the report of a workdir, whose run may begin later, until the process is interrupted.

    Args:
      make: `(state) -> html`.
      port: see `server`.

    Raises:
      UserError: `workdir` is a file, or the port can't be used.
      KeyboardInterrupt: the user has ended it.
    """
    place = Workdir(workdir)
    if place.path.exists() and not place.path.is_dir():
        raise UserError(f"{workdir}: is a file; allowed is the workdir of a run")
    with server(Page(place, make), port) as serving:
        show(f"Report: http://{HOST}:{serving.server_port}/ follows {workdir}; Ctrl-C ends it")
        if absent := waiting(place):
            show(f"Waiting for a run: {absent}")
        serving.serve_forever()
