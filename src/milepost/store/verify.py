"""Verifying a store: every byte against its digest, every pack against its own header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from milepost import container, digest, sealed
from milepost.errors import DamagedError, MilepostError, StepNotFoundError
from milepost.snapshot import Damage
from milepost.source import ByteSource
from milepost.store import layout
from milepost.store.manifest import PackRef
from milepost.store.store import Store


def verify_store(store: Store, steps: Iterable[int] | None = None) -> Iterator[Damage]:
    """Everything that is wrong with a store, or with some of its steps. Reads all of it.

    Of all steps, one that another process removes meanwhile is passed over.

    Raises:
        StepNotFoundError: one of `steps` is not there.
    """
    checked: set[str] = set()
    for step in store.steps if steps is None else steps:
        try:
            yield from _verify_step(store, step, checked)
        except StepNotFoundError:
            if steps is not None:
                raise


def _verify_step(store: Store, step: int, checked: set[str]) -> list[Damage]:
    """What is wrong with a step, but for the headers of packs that were `checked` before."""
    while True:
        store.forget(step)
        try:
            manifest = store.manifest(step)
        except StepNotFoundError:
            raise
        except MilepostError as error:
            return [Damage(f"{store.name}/{layout.manifest_name(step)}", None, str(error))]
        found: list[Damage] = []
        for pack in manifest.packs:
            if pack.name not in checked:
                found += _verify_header(store, pack)
        with store[step] as checkpoint:
            found += checkpoint.damage()
        # Removed or overwritten in the midst of this is not damaged: look again.
        if not found or store.still_has(manifest):
            checked.update(pack.name for pack in manifest.packs)
            return found


def _verify_header(store: Store, pack: PackRef) -> Iterator[Damage]:
    """Whether a pack is still the safetensors file that its manifests say it is."""
    name = f"{store.name}/{pack.name}"
    try:
        source = store.storage.open(pack.name)
    except MilepostError:
        yield Damage(name, None, "is missing")
        return
    try:
        header = container.read_header(source)
        if not digest.matches(pack.header, header.raw):
            yield Damage(name, None, f"its header is damaged: expected {pack.header}")
        else:
            _check_index(header, source)
    except MilepostError as error:
        yield Damage(name, None, str(error))
    finally:
        source.close()


def _check_index(header: container.Header, source: ByteSource) -> None:
    """Whether the digests in a pack's own header cover its tensors."""
    body = sealed.unseal("pack", header.metadata.get("milepost", "").encode(), source.name)
    sizes = dict.fromkeys(header.tensors, 0)
    for name, nbytes, *_ in body["chunks"]:
        sizes[name] += nbytes
    if sizes != {name: entry.nbytes for name, entry in header.tensors.items()}:
        raise DamagedError(f"{source.name}: its list of digests does not cover its tensors")
