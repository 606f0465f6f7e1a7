"""The demo from beginning to end: three processes that follow one another, and one beside."""

from __future__ import annotations

import os
from typing import Any

import click
import numpy as np

import milepost
from milepost.demo.images import held_out
from milepost.demo.processes import DemoProcess, watch

_DIE_IN_EPOCH = 4


def run_demo(backend: str, folder: str, *, quiet: bool) -> dict[str, Any]:
    """Train, be killed, resume, save, load, predict; returns what came out of it."""

    def say(text: str) -> None:
        if not quiet:
            click.echo(text)

    say(f"Training a network on handwritten digits (Keras on {backend}).\n")
    uninterrupted = _train(backend, folder, "uninterrupted")
    killed = watch(
        _train(backend, folder, "interrupted", f"--die-in-epoch={_DIE_IN_EPOCH}"), quiet=quiet
    )
    store = _store(folder, "interrupted")
    committed = ", ".join(map(str, store.steps))
    left = len(os.listdir(os.path.join(folder, "interrupted", "partial")))
    say(
        f"\nKilled (exit status {killed}) in the midst of writing the checkpoint of epoch "
        f"{_DIE_IN_EPOCH}:\n{left} unfinished file is left, and the committed steps are "
        f"{committed}.\nA new process resumes from the last of them.\n"
    )
    watch(_train(backend, folder, "interrupted"), quiet=quiet)
    uninterrupted.wait()
    say("\nA third process loads the model file and predicts digits that were held out.\n")
    predictions = _predict(backend, folder, quiet=quiet)
    steps = [store[step] for step in store.steps]
    return {
        "backend": backend,
        "killed_with": killed,
        "unfinished_files": left,
        "log": [{"step": s.step, **s.metadata, **s.metrics} for s in steps],
        **predictions,
        "same_training": _same(store.latest, _store(folder, "uninterrupted").latest),
    }


def summary(result: dict[str, Any]) -> str:
    """What came out, in words."""
    words = {True: "equal to the last bit", False: "DIFFERENT"}
    return (
        f"test accuracy                         {result['test_accuracy']:.1%}\n"
        f"predictions before and after loading  {words[result['same_predictions']]}\n"
        f"interrupted and uninterrupted run     {words[result['same_training']]}"
    )


def _store(folder: str, name: str) -> milepost.Store:
    store = milepost.open(os.path.join(folder, name))
    assert isinstance(store, milepost.Store)
    return store


def _train(backend: str, folder: str, run: str, *options: str) -> DemoProcess:
    return DemoProcess(
        *("-m", "milepost.demo.train", "--backend", backend),
        *("--folder", folder, "--run", run),
        *options,
    )


def _predict(backend: str, folder: str, *, quiet: bool) -> dict[str, Any]:
    images, labels = held_out()
    before, after = (
        os.path.join(folder, f"{name}-predictions.npy") for name in ("interrupted", "loaded")
    )
    inputs = os.path.join(folder, "images.npy")
    np.save(inputs, images)
    model = os.path.join(folder, "interrupted-model")
    DemoProcess("-m", "milepost.demo.predict", backend, model, inputs, after).wait()
    probabilities = np.load(after)
    predicted = probabilities.argmax(axis=1)
    if not quiet:
        _show_digits(images, predicted, labels)
    return {
        "same_predictions": np.load(before).tobytes() == probabilities.tobytes(),
        "test_accuracy": float((predicted == labels).mean()),
    }


def _same(a: milepost.Snapshot, b: milepost.Snapshot) -> bool:
    """Whether two checkpoints are the same to the last bit: weights, optimizer, generators."""

    def value(snapshot: milepost.Snapshot, name: str) -> Any:
        found = snapshot.read(name)
        return found.tobytes() if isinstance(found, np.ndarray) else found

    return list(a) == list(b) and all(value(a, name) == value(b, name) for name in a)


def _show_digits(images: Any, predicted: Any, labels: Any) -> None:
    """Four digits side by side, as text, with what was predicted and what is true."""
    shades = " .:-=+*#%@"
    for row in range(8):
        cells = [
            "".join(shades[int(pixel * 9.99)] * 2 for pixel in image.reshape(8, 8)[row])
            for image in images[:4]
        ]
        click.echo("   ".join(cells))
    found = [f"predicted {p}, true {t}" for p, t in zip(predicted[:4], labels[:4], strict=True)]
    click.echo("   ".join(text.ljust(16) for text in found))
