"""A bar that shows how much has been read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def reading(total: int) -> Iterator[Callable[[int], None]]:
    """What to tell how many of `total` bytes more have been read. Seen on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(nbytes: int) -> None:
            bar.advance(task, nbytes)

        yield advance
