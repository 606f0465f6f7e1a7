"""What a family of models is, and the two processes that every one of its cases goes through."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Families in the order of the table; all but a few are for the sweep.
FAMILIES = ("torch_nn", "keras_layers", "jax_functions", "flax_linen", "flax_nnx", "equinox_nn")
FAMILIES += ("keras_applications", "transformers_models")
QUICK = ("keras_layers",)

# Both processes compile alike, so that their bits compare, and sooner than they would by default.
_UNOPTIMISED = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
}
_QUICK = dict.fromkeys(("flax_linen", "flax_nnx", "equinox_nn", "jax_functions"), _UNOPTIMISED)


@dataclass(frozen=True)
class Family:
    """Models that are covered together.

    Attributes:
        title: for the table.
        exist: the names of all that the framework has.
        cases: name -> what makes a model and the inputs of its example (None: no example).
            A name may be followed by a space and a variant: `"Linear without bias"`.
        refused: name -> why it is refused when it is saved.
        left_out: name -> why there is no case: it is no model by itself.
        custom_objects: to load with.
    """

    title: str
    exist: Callable[[], list[str]]
    cases: Mapping[str, Callable[[], tuple[Any, Any]]]
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    custom_objects: Mapping[str, Any] = field(default_factory=dict)


def family(name: str) -> Family:
    import importlib

    found: Family = importlib.import_module(f"tests.coverage.{name}").FAMILY
    return found


def save_all(name: str, folder: str) -> dict[str, str]:
    """Save every case; returns for each "" or what went wrong."""
    import milepost

    results = {}
    chosen = family(name)
    for case, make in {**chosen.cases}.items():
        with _quiet():
            try:
                model, inputs = make()
                milepost.save_model(model, os.path.join(folder, case), example=inputs)
                results[case] = ""
            except Exception as error:
                results[case] = f"{type(error).__name__}: {error}"
        model = inputs = None
    return results


def load_all(name: str, folder: str) -> dict[str, str]:
    """Load and replay every case that was saved; returns for each "" or what went wrong."""
    import milepost

    results = {}
    chosen = family(name)
    for case in sorted(os.listdir(folder)):
        path = os.path.join(folder, case)
        with _quiet():
            try:
                with milepost.open(path) as snapshot:
                    replay = snapshot.document.example is not None
                milepost.load_model(path, custom_objects=chosen.custom_objects, replay=replay)
                results[case] = ""
            except Exception as error:
                results[case] = f"{type(error).__name__}: {error}"
    return results


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def in_new_process(verb: str, name: str, folder: str) -> dict[str, str]:
    """`save_all` or `load_all` in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.coverage", verb, name, folder],
        cwd=ROOT,
        env={**os.environ, **_QUICK.get(name, {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return dict(json.loads(finished.stdout.splitlines()[-1]))


def run(name: str, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """What became of every case when it was saved, and when it was loaded."""
    return in_new_process("save", name, folder), in_new_process("load", name, folder)
