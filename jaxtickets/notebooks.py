"""The progress of runs inside a Jupyter or Colab notebook: one line of its output, which changes in place."""

import io
import sys
import time

import rich.console
import rich.progress

EVERY = 0.5  # Seconds between two changes of the line; each is a message to the browser.
WIDTH = 200  # Characters; the browser breaks longer lines.


def is_running() -> bool:
    """Whether this process is the kernel of a notebook; IPython in a terminal is not."""
    ipython = sys.modules.get("IPython")  # A kernel has loaded it.
    shell = ipython and ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Line(rich.progress.Progress):
    """A display like `rich.progress.Progress`, as plain text in one output of the cell that has started it.

    What its console prints goes below that output, on standard output.
    """

    def __init__(self, *columns):
        console = rich.console.Console(file=sys.stdout, force_jupyter=False, color_system=None, highlight=False)
        super().__init__(*columns, console=console, disable=True)
        self._output, self._drawn = None, 0.0

    def start(self) -> None:
        """Shows the line."""
        from IPython.display import display

        self._output = display(self._text(), raw=True, display_id=True)

    def stop(self) -> None:
        """Leaves the line as it is now; none where nothing has trained, because all was finished before."""
        if self._output is not None and not any(task.completed for task in self.tasks):
            self._output.update({"text/plain": ""}, raw=True)
        else:
            self._draw()

    def refresh(self) -> None:
        """Changes the line, at most every `EVERY` seconds."""
        if time.monotonic() - self._drawn >= EVERY:
            self._draw()

    def update(self, *arguments, **fields) -> None:
        """See `rich.progress.Progress.update`."""
        super().update(*arguments, **fields)
        self.refresh()

    def _draw(self):
        if self._output is not None:
            self._drawn = time.monotonic()
            self._output.update(self._text(), raw=True)

    def _text(self):
        console = rich.console.Console(file=io.StringIO(), width=WIDTH, force_jupyter=False, color_system=None)
        console.print(self.get_renderable())
        lines = console.file.getvalue().splitlines()
        return {"text/plain": "\n".join(line.rstrip() for line in lines)}
