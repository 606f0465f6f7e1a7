"""`milepost demo`: train, be killed in the midst of a save, resume, save, load, predict."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

import milepost
from milepost.cli.log import log
from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_json

BACKENDS = ("tensorflow", "jax", "torch")


@click.command()
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="tensorflow",
    show_default=True,
    help="What Keras runs on.",
)
@click.option("--folder", type=click.Path(), help="Keep everything in this new folder.")
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
    from milepost.demo.run import run_demo, summary

    began = time.monotonic()
    with _folder(folder) as path:
        result = run_demo(backend, path, quiet=as_json)
        result["seconds"] = round(time.monotonic() - began, 1)
        if as_json:
            echo_json(result)
        else:
            for line in ("", "The run's log, `milepost log`:", ""):
                echo(line)
            log.main([os.path.join(path, "interrupted")], standalone_mode=False)
            for line in ("", *summary(result).split("\n"), f"{result['seconds']} s"):
                echo(line)
    if not (result["same_predictions"] and result["same_training"]):
        raise milepost.MilepostError("the demo found a difference: please report it as a bug")


def _require_packages(backend: str) -> None:
    needed = {"keras": "keras", "sklearn": "scikit-learn", backend: backend}
    missing = [
        package for name, package in needed.items() if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise milepost.errors.MissingPackageError(
            f"the demo on {backend} needs {' and '.join(missing)}, which this Python does not "
            f"have: pip install {' '.join(missing)}"
        )


@contextmanager
def _folder(given: str | None) -> Iterator[str]:
    if given is None:
        with tempfile.TemporaryDirectory(prefix="milepost-demo-") as path:
            yield path
        return
    os.makedirs(given, exist_ok=True)
    if os.listdir(given):
        raise milepost.errors.UsageError(f"{given} is not empty: give the demo a new folder")
    yield given
