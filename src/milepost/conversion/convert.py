"""`convert`: anything that milepost opens, in another format."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from milepost import dtypes
from milepost.conversion import casting, targets
from milepost.conversion.casting import Losses
from milepost.conversion.content import Content, Tensor, check, content_of
from milepost.conversion.renaming import Rules, new_names
from milepost.conversion.report import ConversionReport
from milepost.conversion.writers import Options, Writer
from milepost.dtypes import Array
from milepost.errors import UsageError
from milepost.formats.safetensors import ModelSnapshot
from milepost.formats.sharding import size_in_bytes
from milepost.opening import Path
from milepost.opening import open as open_path
from milepost.record import Box
from milepost.snapshot import Snapshot
from milepost.store import Store

# Is told how many bytes are done, and of how many.
Progress: TypeAlias = Callable[[int, int], None]


def convert(
    src: Path,
    dst: Path,
    *,
    to: str | None = None,
    dtype: str | None = None,
    rename: Rules = (),
    only: Sequence[str] = (),
    drop: Sequence[str] = (),
    dequantise: bool = False,
    shard_size: int | str | None = None,
    step: int | str | None = None,
    step_number: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Write the leaves of a file, or of a checkpoint in a store, in another format.

    Nothing of the source is run and no framework is needed. Arrays go from file to file part by
    part, to the last bit, unless `dtype` casts them. What the new format has no form for is in
    the report, or is an error if it is numbers.

    Arguments:
        src: what `milepost.open` opens.
        dst: the file, or the folder with `shard_size` or of a store.
        to: `"safetensors"`, `"npz"`, `"torch"`, `"weights.h5"`, `"gguf"`, `"store"` or
            `"model"`; by default what the extension of `dst` says.
        dtype: cast all floating arrays, and nothing else: `"float32"`, `"bfloat16"`, ...
        rename: old name -> new name, of leaves or subtrees, or globs such as
            `"layers.*.weight"` -> `"blocks.{1}.w"`; in their order.
        only, drop: names, subtrees or globs, of those to convert and of those to leave out.
        dequantise: quantised arrays as float32.
        shard_size: write a folder of safetensors files of at most so many bytes (`"2GB"`), with
            an index, as on the Hugging Face Hub.
        step: which checkpoint of a store to convert; the newest by default.
        step_number: its number in the store that is written; the next by default.
        overwrite: whether what is at `dst` gives way, once the new file is whole.
        progress: is told now and then how many bytes are done, and of how many.

    Raises:
        UsageError: `dst` exists, the format cannot hold an array, a rule is about nothing.
        StepExistsError: the store has a step of that number.
        PathNotFoundError, UnknownFormatError, DamagedError, UntrustedError: of `src`.
        StorageError: `dst` cannot be written. What was there is as it was.
    """
    began = time.monotonic()
    path = os.path.abspath(os.fspath(dst))
    target = targets.target_of(path, to, sharded=shard_size is not None)
    size = None if shard_size is None else size_in_bytes(shard_size)
    if step_number is not None and target != "store":
        raise UsageError(f"step_number is for stores: the target is {target}")
    if os.path.lexists(path) and not overwrite and target != "store":
        raise UsageError(f"{path} exists already: pass overwrite, or write elsewhere")
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UsageError(f"{path} is a pipe or a device: write elsewhere")
    with _opened(src, step) as snapshot:
        if target == targets.MODEL:
            _refuse_changes(dtype=dtype, rename=rename, only=only, drop=drop)
            return _as_model(snapshot, src, path, size)
        source = snapshot.dequantised() if dequantise else snapshot
        check(source)
        content = content_of(source)
        names = new_names(content.names, rename, only, drop)
        content, losses, count = content.renamed(names), Losses(), 0
        if dtype is not None:
            content, count = casting.cast(content, casting.check(dtype), losses)
        writer = targets.writer_of(target)
        content, left_out = _fitting(content, writer)
        if progress is not None:
            content = _followed(content, progress)
        written = writer.write(path, content, Options(overwrite, size, step_number))
        return ConversionReport(
            source=snapshot.name,
            path=path,
            target=target,
            leaves=len(content.names),
            nbytes=content.nbytes,
            files=written.files,
            cast=count,
            overflowed=losses.overflowed,
            vanished=losses.vanished,
            left_out=left_out,
            notes=(*written.notes, *_notes(snapshot, content, writer)),
            seconds=time.monotonic() - began,
        )


def _opened(src: Path, step: int | str | None) -> Snapshot:
    opened = open_path(src)
    if isinstance(opened, Store):
        return opened.open_step("latest" if step is None else step)
    if step is not None:
        opened.close()
        raise UsageError(f"step is for stores, and {opened.name} is a file")
    return opened


def _fitting(content: Content, writer: Writer) -> tuple[Content, dict[str, str]]:
    """What a format can hold of a content, and why the rest is left out.

    Raises:
        UsageError: it cannot hold the numbers of an array.
    """
    left_out = {}
    for name, tensor in content.tensors.items():
        if writer.holds(tensor.dtype):
            continue
        if tensor.dtype != dtypes.STRING:
            raise UsageError(
                f"leaf {name!r} is {tensor.spec}, and {writer.NAME} has no such dtype: cast "
                f"floating arrays with --dtype float32, or leave it out with --drop {name!r}"
            )
        left_out[name] = f"{writer.NAME} has no arrays of strings"
    for name, value in content.values.items():
        if not writer.keeps(name, value):
            left_out[name] = f"{writer.NAME} cannot hold it ({type(value).__name__})"
    tensors = {n: tensor for n, tensor in content.tensors.items() if n not in left_out}
    values = {n: value for n, value in content.values.items() if n not in left_out}
    return replace(content, tensors=tensors, values=values), left_out


def _notes(snapshot: Snapshot, content: Content, writer: Writer) -> Iterator[str]:
    """What of the source is not in the new file, beside leaves."""
    keys = sorted(map(str, content.description.metadata))
    if keys and not writer.KEEPS_METADATA:
        shown = ", ".join(keys[:5]) + ", ..." * (len(keys) > 5)
        yield f"the metadata of the source is left out ({shown}): {writer.NAME} has no place for it"
    if content.metrics and writer.NAME != "a store":
        yield "the metrics of the checkpoint are left out"
    if isinstance(snapshot, ModelSnapshot):
        yield "the model's structure is left out: only a model file has it"
    kinds = sorted({tensor.kind.split()[0] for tensor in content.tensors.values() if tensor.kind})
    if kinds:
        yield (
            f"quantised arrays ({', '.join(kinds)}) are written as the raw bytes that they are: "
            "pass dequantise for numbers"
        )


def _followed(content: Content, progress: Progress) -> Content:
    """The same, which tells of each part that is read."""
    total, done = content.nbytes, dict[str, int]()

    def followed(tensor: Tensor) -> Tensor:
        def parts() -> Iterator[tuple[Box, Array]]:
            count = 0
            for box, part in tensor.parts():
                yield box, part
                count += part.nbytes
                done[tensor.name] = max(done.get(tensor.name, 0), count)
                progress(sum(done.values()), total)

        return replace(tensor, parts=parts)

    tensors = {name: followed(tensor) for name, tensor in content.tensors.items()}
    return replace(content, tensors=tensors)


def _refuse_changes(**changes: object) -> None:
    asked = [name for name, value in changes.items() if value]
    if asked:
        raise UsageError(
            f"{', '.join(asked)} cannot change a whole model, whose structure names its leaves: "
            "convert to another format, or change the model itself"
        )


def _as_model(snapshot: Snapshot, src: Path, path: str, size: int | None) -> ConversionReport:
    from milepost.conversion.writers import model

    began = time.monotonic()
    written = model.write(snapshot, os.path.abspath(os.fspath(src)), path, size)
    with _opened(path, None) as made:
        leaves, nbytes = len(made), made.nbytes
    return ConversionReport(
        source=snapshot.name,
        path=path,
        target=targets.MODEL,
        leaves=leaves,
        nbytes=nbytes,
        files=written.files,
        notes=written.notes,
        seconds=time.monotonic() - began,
    )
