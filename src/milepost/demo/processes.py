"""The demo's processes: started, watched, and their progress shown."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from milepost.errors import MilepostError


class DemoProcess:
    """A Python process that reports with one JSON object a line."""

    def __init__(self, *arguments: str) -> None:
        # What a process complains about is shown only if it fails.
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                yield json.loads(line)

    def wait(self) -> int:
        """The exit status, once the process has ended; negative if a signal ended it.

        Raises:
            MilepostError: the process failed by itself; the message has what it said.
        """
        for _ in self.events():
            pass
        status = self._process.wait()
        with self._complaints as complaints:
            complaints.seek(0)
            if status > 0:
                raise MilepostError(f"a process of the demo failed:\n{complaints.read()[-3000:]}")
        return status


def watch(process: DemoProcess, *, quiet: bool) -> int:
    """Show a progress bar for each epoch of a training process; returns its exit status."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task("starting", total=None, metrics="")
        for event in process.events():
            if event["event"] == "epoch":
                task = _next_epoch(progress, task, event)
            elif event["event"] == "batch":
                progress.advance(task)
            elif event["event"] == "end of epoch":
                progress.update(task, metrics=_metrics(event))
        if not quiet and progress.tasks[-1].total is None:
            progress.remove_task(task)
    return process.wait()


def _next_epoch(progress: Progress, task: TaskID, event: dict[str, Any]) -> TaskID:
    if progress.tasks[-1].total is None:
        progress.remove_task(task)
    return progress.add_task(f"epoch {event['epoch']}", total=event["batches"], metrics="")


def _metrics(event: dict[str, Any]) -> str:
    names = {"loss": "loss", "accuracy": "accuracy", "val_accuracy": "test"}
    return "  ".join(f"{shown} {event[name]:.3f}" for name, shown in names.items())
