"""Progress on stderr: a bar on a terminal, and a line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import click

from fishing.errors import printable

_SECONDS = 10.0  # between two lines where there is no terminal
_LINE = "{desc}: {n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
# As tqdm's own, but for a rate that is never seconds for one.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit}, {rate_noinv_fmt}"


class ProgressBar:
    """A `fishing.progress.Progress` that shows how far each piece of work has come.

    When its context ends, even by an error or Ctrl-C, the bar stays as it is, and the
    next output begins on a line of its own.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown = ExitStack()  # what the end of a bar has to undo
        self._bar: Any = None
        self._work: tuple[str, int | None, str] | None = None
        self._first = self._last = 0
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        """Report progress; see `fishing.progress.Progress`."""
        label = printable(label)
        is_new = self._is_new(label, done, total, unit)
        if is_new:
            self._first, self._began = done, time.monotonic()
            if self._is_terminal:
                self._open_bar(done, total, unit)
        self._work, self._last = (label, total, unit), done
        if self._is_terminal:
            self._bar.set_description_str(label, refresh=False)
            self._bar.update(done - self._bar.n)
            if done == total:
                self._bar.refresh()
        elif not is_new and time.monotonic() - self._printed >= _SECONDS:
            self._print_line(label, done, total, unit)

    def _is_new(self, label: str, done: int, total: int | None, unit: str) -> bool:
        """Tell whether this is new work rather than a step of the work under way."""
        if self._work is None or done < self._last:
            return True
        is_over = total is not None and self._last >= total
        return self._work[1:] != (total, unit) or (is_over and label != self._work[0])

    def _open_bar(self, done: int, total: int | None, unit: str) -> None:
        """End the previous bar and begin one that measures its rate from here."""
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._shown.close()
        tqdm.monitor_interval = 0  # neither a thread nor a semaphore of its own
        tqdm.set_lock(threading.RLock())
        self._bar = tqdm(
            total=total,
            initial=done,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format=None if total is None else _BAR,
            **_in(unit),
        )
        # Log messages are printed above the bar.
        ours = [logging.getLogger("fishing")]
        self._shown.enter_context(logging_redirect_tqdm(ours))
        self._shown.callback(self._bar.close)

    def _print_line(self, label: str, done: int, total: int | None, unit: str) -> None:
        from tqdm import tqdm

        self._printed = time.monotonic()
        line = tqdm.format_meter(
            *(done, total, self._printed - self._began),
            initial=self._first,
            prefix=label,
            bar_format=_LINE_WITHOUT_TOTAL if total is None else _LINE,
            **_in(unit),
        )
        click.echo(line, err=True)


def _in(unit: str) -> dict[str, Any]:
    """Write a unit as tqdm takes it: bytes get the prefixes k, M and G."""
    return {"unit": unit if unit == "B" else f" {unit}", "unit_scale": unit == "B"}
