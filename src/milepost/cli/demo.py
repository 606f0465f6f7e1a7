"""`milepost demo`: train, be killed in the midst of a save, resume, save, load, predict."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

import milepost
from milepost.cli.options import as_json
from milepost.cli.output import echo_json

BACKENDS = {
    "tensorflow": ("tensorflow", "pip install keras scikit-learn tensorflow"),
    "jax": ("jax", "pip install keras scikit-learn jax"),
    "torch": ("torch", "pip install keras scikit-learn torch"),
}
_DIE_IN_EPOCH = 4


@click.command()
@click.option(
    "--backend", type=click.Choice(list(BACKENDS)), default="tensorflow", show_default=True,
    help="What Keras runs on.",
)
@click.option("--folder", type=click.Path(), help="Keep everything in this folder.")
@as_json
def demo(backend: str, folder: str | None, as_json: bool) -> None:
    """Train a small network on handwritten digits, kill it, and see that nothing is lost.

    The training process is killed (SIGKILL) in the midst of writing a checkpoint. A new
    process resumes from the last one that was committed and ends the training. Its model is
    saved as one file, which a third process loads, without the training code, to predict
    digits that nobody trained on. A run that nobody interrupted is compared to the last bit.

    \b
    Examples:
      milepost demo
      milepost demo --backend torch
      milepost demo --folder digits && milepost log digits/interrupted
    """
    _require_packages(backend)
    began = time.monotonic()
    with _folder(folder) as path:
        run = _Demo(backend, path, quiet=as_json)
        result = run.run()
        result["seconds"] = round(time.monotonic() - began, 1)
        if as_json:
            echo_json(result)
        else:
            run.summary(result)
    if not (result["same_predictions"] and result["same_training"]):
        raise milepost.MilepostError("the demo found a difference, which is a bug of milepost: please report it")


def _require_packages(backend: str) -> None:
    module, install = BACKENDS[backend]
    missing = [name for name in ("keras", "sklearn", module) if importlib.util.find_spec(name) is None]
    if missing:
        raise milepost.errors.MissingPackageError(
            f"the demo on {backend} needs {' and '.join(missing)}, which is not installed: {install}"
        )


@contextmanager
def _folder(given: str | None) -> Iterator[str]:
    if given is None:
        with tempfile.TemporaryDirectory(prefix="milepost-demo-") as path:
            yield path
        return
    os.makedirs(given, exist_ok=True)
    if os.listdir(given):
        raise milepost.errors.UsageError(f"{given} is not empty: choose a new folder for the demo")
    yield given


class _Demo:
    def __init__(self, backend: str, folder: str, *, quiet: bool) -> None:
        self._backend = backend
        self._folder = folder
        self._quiet = quiet

    def run(self) -> dict[str, Any]:
        self._say(f"Training a network on handwritten digits (Keras on {self._backend}).\n")
        uninterrupted = self._start("uninterrupted")
        killed = self._watch(self._start("interrupted", f"--die-in-epoch={_DIE_IN_EPOCH}"), 1)
        store = milepost.open(self._path("interrupted"))
        assert isinstance(store, milepost.Store)
        self._say(
            f"\nKilled (exit status {killed}) while it wrote the checkpoint of epoch {_DIE_IN_EPOCH}. "
            f"Committed are the steps {', '.join(map(str, store.steps))}.\n"
            "A new process resumes from the last of them.\n"
        )
        _expect(self._watch(self._start("interrupted"), _DIE_IN_EPOCH), 0)
        _expect(self._wait(uninterrupted), 0)
        return self._compare(killed, self._predict())

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text)

    def _start(self, run: str, *options: str) -> subprocess.Popen[str]:
        command = ["-m", "milepost.demo.train", "--backend", self._backend, "--run", run]
        return self._python(*command, "--folder", self._folder, *options)

    def _python(self, *arguments: str) -> subprocess.Popen[str]:
        # What a process complains about is shown only if it fails.
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        process.errors = errors  # type: ignore[attr-defined]
        return process

    def _watch(self, process: subprocess.Popen[str], first_epoch: int) -> int:
        """Show the progress of a training process until it ends; returns its exit status."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[metrics]}"), TimeElapsedColumn())
        with Progress(*columns, disable=self._quiet) as progress:
            task = progress.add_task("starting", total=None, metrics="")
            for event in _events(process):
                if event["event"] == "epoch":
                    task = self._next_epoch(progress, task, event)
                elif event["event"] == "batch":
                    progress.advance(task)
                elif event["event"] == "end of epoch":
                    progress.update(task, metrics=_metrics(event))
        return self._wait(process)

    def _next_epoch(self, progress: Any, task: Any, event: dict[str, Any]) -> Any:
        if progress.tasks[-1].total is None:
            progress.remove_task(task)
        return progress.add_task(f"epoch {event['epoch']}", total=event["batches"], metrics="")

    def _wait(self, process: subprocess.Popen[str]) -> int:
        for _ in _events(process):
            pass
        status = process.wait()
        errors = process.errors  # type: ignore[attr-defined]
        errors.seek(0)
        if status > 0:
            raise milepost.MilepostError(f"a process of the demo failed:\n{errors.read()[-2000:]}")
        errors.close()
        return status

    def _predict(self) -> dict[str, Any]:
        import numpy as np

        from milepost.demo.images import held_out

        images, labels = held_out()
        np.save(self._path("images.npy"), images)
        self._say("\nA third process loads the model file and predicts held-out digits.\n")
        arguments = [self._path(n) for n in ("interrupted-model", "images.npy", "loaded-predictions.npy")]
        _expect(self._wait(self._python("-m", "milepost.demo.predict", self._backend, *arguments)), 0)
        before = np.load(self._path("interrupted-predictions.npy"))
        after = np.load(self._path("loaded-predictions.npy"))
        predicted = after.argmax(axis=1)
        if not self._quiet:
            _show_digits(images, predicted, labels)
        return {
            "same_predictions": before.tobytes() == after.tobytes(),
            "test_accuracy": float((predicted == labels).mean()),
        }

    def _compare(self, killed: int, predictions: dict[str, Any]) -> dict[str, Any]:
        store = milepost.open(self._path("interrupted"))
        other = milepost.open(self._path("uninterrupted"))
        assert isinstance(store, milepost.Store) and isinstance(other, milepost.Store)
        log = [
            {"step": step, **store[step].metadata, **store[step].metrics} for step in store.steps
        ]
        same = _same_leaves(store.latest, other.latest)
        return {
            "backend": self._backend,
            "killed_with": killed,
            "log": log,
            **predictions,
            "same_training": same,
        }

    def summary(self, result: dict[str, Any]) -> None:
        from milepost.cli.log import log

        click.echo("\nThe run's log, `milepost log`:\n")
        log.main([self._path("interrupted")], standalone_mode=False)
        yes = {True: "equal to the last bit", False: "DIFFERENT"}
        click.echo(
            f"\ntest accuracy                        {result['test_accuracy']:.1%}"
            f"\npredictions before and after loading {yes[result['same_predictions']]}"
            f"\ninterrupted and uninterrupted run    {yes[result['same_training']]}"
            f"\n{result['seconds']} s"
        )


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            yield json.loads(line)


def _expect(status: int, expected: int) -> None:
    if status != expected:
        raise milepost.MilepostError(f"a process of the demo ended with {status} instead of {expected}")


def _metrics(event: dict[str, Any]) -> str:
    return f"loss {event['loss']:.3f}  accuracy {event['accuracy']:.3f}  test {event['val_accuracy']:.3f}"


def _same_leaves(a: milepost.Snapshot, b: milepost.Snapshot) -> bool:
    """Whether two checkpoints are the same to the last bit: weights, optimizer, generators."""
    import numpy as np

    def value(snapshot: milepost.Snapshot, name: str) -> Any:
        found = snapshot.read(name)
        return found.tobytes() if isinstance(found, np.ndarray) else found

    return list(a) == list(b) and all(value(a, name) == value(b, name) for name in a)


def _show_digits(images: Any, predicted: Any, labels: Any) -> None:
    """Six digits side by side, as text, with what was predicted and what is true."""
    shades = " .:-=+*#%@"
    for row in range(8):
        cells = [
            "".join(shades[int(pixel * 9.99)] * 2 for pixel in image.reshape(8, 8)[row])
            for image in images[:6]
        ]
        click.echo("  ".join(cells))
    found = [f"predicted {p}, true {t}" for p, t in zip(predicted[:6], labels[:6], strict=True)]
    click.echo("  ".join(text.ljust(16) for text in found))
