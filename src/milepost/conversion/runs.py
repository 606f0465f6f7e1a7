"""`import_run`: the checkpoints of another tool's run, into a store."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from milepost.conversion.content import Content, Tensor, check, content_of
from milepost.conversion.layouts import TRAINER_STATE, Run, find_run
from milepost.conversion.writers import store as store_writer
from milepost.errors import (
    DamagedError,
    NotAStoreError,
    StepExistsError,
    UnknownFormatError,
    UntrustedError,
    UsageError,
    VersionError,
)
from milepost.opening import Path
from milepost.opening import open as open_path
from milepost.snapshot import Description, Snapshot
from milepost.source import read_exactly
from milepost.state import Plain
from milepost.storage.local import LocalStorage, open_file
from milepost.store import Store, Writer

# Is told the step that is next, how many are done, and of how many.
Progress: TypeAlias = Callable[[int, int, int], None]

_DAMAGED = (DamagedError, UntrustedError, VersionError, UnknownFormatError)
# What a folder is that has its checkpoint, or several, one folder further down.
_NOT_ITSELF = (NotAStoreError, UnknownFormatError)
_MAX_STATE_BYTES = 64 << 20
# What Transformers' Trainer leaves in a checkpoint: file, and the prefix of its leaves.
_TRAINER = {
    "model": ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
              "pytorch_model.bin.index.json", "adapter_model.safetensors"),
    "optimizer": ("optimizer.pt", "optimizer.bin"),
    "scheduler": ("scheduler.pt",),
    "scaler": ("scaler.pt",),
}  # fmt: skip
_RANDOM = "rng_state"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        source: the folder that was imported.
        path: the store.
        steps: those that were committed.
        present: those that the store had already.
        skipped: step -> why it was not imported.
        left_out: file or leaf -> why it was not.
        leaves: how many were committed, all steps together.
        nbytes: the size of their arrays.
        written: how many of these bytes were new to the store.
    """

    source: str
    path: str
    steps: tuple[int, ...]
    present: tuple[int, ...]
    skipped: Mapping[int, str]
    left_out: Mapping[str, str]
    leaves: int
    nbytes: int
    written: int


def import_run(
    folder: Path,
    store: Path,
    *,
    resume: bool = False,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Commit every checkpoint of a folder to a store, oldest first, under its own step.

    The folder is of TensorFlow, Orbax, PyTorch's distributed checkpoints, Lightning, Transformers'
    Trainer, or has files with numbers in their names. Nothing of it is run or changed, and no
    framework is needed; arrays are in memory part by part. What two checkpoints share is
    written once.

    Arguments:
        folder: the run's folder.
        store: the store's; made if need be.
        resume: pass over steps that the store has already.
        skip_damaged: pass over checkpoints that cannot be read, and report them.
        progress: is told before each step.

    Raises:
        PathNotFoundError, UsageError: there is no run, or it cannot be told which step is which.
        StepExistsError: the store has one of the steps.
        DamagedError, UntrustedError, UnknownFormatError: a checkpoint cannot be read. Those before
            it are committed.
        StorageError: the store cannot be written.
    """
    path = os.path.abspath(os.fspath(folder))
    if os.path.isdir(path) and Store.is_there(LocalStorage(path)):
        raise UsageError(
            f"{path} is a store of milepost's already: copy the folder, or one checkpoint of it "
            "with milepost convert --to store"
        )
    run = _with_unnumbered(find_run(path), skip_damaged)
    writer = Writer(Store.open_or_create(LocalStorage(store)))
    present = [step for step in run.steps if step in writer.store]
    if present and not resume:
        raise StepExistsError(
            f"{writer.store.name} has step {present[0]} already: pass resume to import only what "
            "it has not, or import to another store"
        )
    wanted = [step for step in run.steps if step not in present]
    left_out = dict.fromkeys(run.ignored, "it is no checkpoint")
    skipped: dict[int, str] = {}
    leaves = nbytes = written = 0
    for done, step in enumerate(wanted):
        if progress is not None:
            progress(step, done, len(wanted))
        try:
            with _content(run.steps[step], step, left_out) as content:
                written += store_writer.save(writer, content, step)
        except _DAMAGED as error:
            if not skip_damaged:
                raise type(error)(
                    f"step {step}: {error}; pass skip_damaged to import the others"
                ) from error
            skipped[step] = str(error)
            continue
        leaves += len(content.names)
        nbytes += content.nbytes
    return ImportReport(
        run.folder,
        writer.store.name,
        tuple(step for step in wanted if step not in skipped),
        tuple(present),
        skipped,
        left_out,
        leaves,
        nbytes,
        written,
    )


def _with_unnumbered(run: Run, skip_damaged: bool) -> Run:
    """A run with the files whose step is inside of them: Lightning's `last.ckpt`."""
    steps, ignored = dict(run.steps), list(run.ignored)
    for path in run.unnumbered:
        try:
            step = _step_inside(path)
        except _DAMAGED:
            if not skip_damaged:
                raise
            step = None
        if step is None or step in steps:
            ignored.append(os.path.basename(path))
        else:
            steps[step] = {"": path}
    return replace(run, steps=dict(sorted(steps.items())), ignored=ignored)


def _step_inside(path: str) -> int | None:
    with _opened(path) as snapshot:
        step = snapshot.get("global_step")
    return step if isinstance(step, int) and step >= 0 else None


def _opened(path: str) -> Snapshot:
    opened = open_path(path)
    if isinstance(opened, Store):
        raise UsageError(f"{path} is a store already: copy its checkpoints with milepost convert")
    return opened


@contextlib.contextmanager
def _content(parts: Mapping[str, str], step: int, left_out: dict[str, str]) -> Iterator[Content]:
    """What the files of one step hold together, while they are open."""
    metadata: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    files = dict(parts)
    for prefix, path in parts.items():
        if os.path.isfile(os.path.join(path, TRAINER_STATE)):
            del files[prefix]
            metrics, metadata = _trainer_state(path, step)
            found = _trainer_files(path, left_out)
            files |= {_path(prefix, name): file for name, file in found.items()}
    tensors: dict[str, Tensor] = {}
    values: dict[str, Plain] = {}
    with contextlib.ExitStack() as opened:
        for prefix, path in files.items():
            for inner, snapshot in _snapshots(path):
                opened.enter_context(snapshot)
                check(snapshot)
                content = content_of(snapshot)
                prefixed = content.renamed(
                    {name: _path(prefix, inner, name) for name in content.names}
                )
                tensors |= prefixed.tensors
                values |= prefixed.values
                metadata |= _json(snapshot.metadata)
        for name in [name for name, tensor in tensors.items() if tensor.dtype == "string"]:
            del tensors[name]
            left_out[name] = "a store has no arrays of strings"
        yield Content(tensors, values, Description("", metadata), metrics)


def _path(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _snapshots(path: str) -> Iterator[tuple[str, Snapshot]]:
    """What is at a path; of a folder that is no checkpoint itself what is in it, by name."""
    try:
        yield "", _opened(path)
        return
    except _NOT_ITSELF as error:
        if not os.path.isdir(path):
            raise
        reason = str(error)
    inner = []
    for name in sorted(os.listdir(path)):
        if os.path.isdir(os.path.join(path, name)):
            with contextlib.suppress(*_NOT_ITSELF):
                inner.append((name, _opened(os.path.join(path, name))))
    if not inner:
        raise UnknownFormatError(reason)
    yield from inner


def _trainer_files(folder: str, left_out: dict[str, str]) -> dict[str, str]:
    """The files of a Trainer's checkpoint, by the prefix of their leaves."""
    found: dict[str, str] = {}
    names = sorted(os.listdir(folder))
    for prefix, choices in _TRAINER.items():
        there = [name for name in choices if name in names]
        if there:
            found[prefix] = os.path.join(folder, there[0])
    for name in names:
        stem, extension = os.path.splitext(name)
        if stem.startswith(_RANDOM) and extension == ".pth":
            found[stem.replace(_RANDOM, "random", 1)] = os.path.join(folder, name)
    if "model" not in found:
        raise DamagedError(f"{folder} has a {TRAINER_STATE}, and no model's file")
    taken = {os.path.basename(path) for path in found.values()} | {TRAINER_STATE}
    for name in names:
        if name not in taken and not _is_shard(name):
            reason = "it is a pickle of Python objects" if name == "training_args.bin" else ""
            left_out[name] = reason or "it holds no arrays of the training"
    return found


def _is_shard(name: str) -> bool:
    return name.startswith(("model-", "pytorch_model-"))


def _trainer_state(folder: str, step: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a step, and what else is known of it, from a Trainer's JSON."""
    path = os.path.join(folder, TRAINER_STATE)
    source = open_file(path)
    try:
        if source.size > _MAX_STATE_BYTES:
            raise DamagedError(f"{path} has {source.size:,} bytes, too many for a Trainer's state")
        state = json.loads(bytes(read_exactly(source, 0, source.size)))
        entries = [entry for entry in state["log_history"] if entry.get("step") == step]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is no Trainer's state: {error}") from None
    finally:
        source.close()
    metrics = {
        str(name): float(value)
        for entry in entries
        for name, value in entry.items()
        if name != "step" and type(value) in (int, float)
    }
    kept = ("epoch", "global_step", "best_metric", "best_global_step")
    return metrics, _json({name: state[name] for name in kept if name in state})


def _json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of metadata that a manifest can hold."""
    result = {}
    for name, value in metadata.items():
        with contextlib.suppress(ValueError, TypeError):
            result[str(name)] = json.loads(json.dumps(value, allow_nan=False))
    return result
