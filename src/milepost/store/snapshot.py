"""A checkpoint of a store as a snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from milepost.errors import (
    DamagedError,
    MilepostError,
    PathNotFoundError,
    StepNotFoundError,
    StorageError,
)
from milepost.reading import Part
from milepost.record import ArrayRecord
from milepost.snapshot import Description, Snapshot
from milepost.source import ByteSource, look_into
from milepost.storage.base import Storage
from milepost.store.manifest import Manifest, PackRef

# How often a checkpoint is looked for that is compacted again and again while it is read.
_TRIES = 3
# More files than this are not held open: a process may have 1024, or 256.
_MOST_HELD = 64


class CheckpointSnapshot(Snapshot):
    """One committed checkpoint.

    Arguments:
        storage: where the store lies.
        manifest: what the checkpoint says of itself.
        name: what messages call it.
        advice: says what to do about damage of a step.
        again: the manifest as it is now; None if there is no such checkpoint any more. It
            refers to other packs once the checkpoint is compacted.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        name: str,
        advice: Callable[[int], str],
        again: Callable[[], Manifest | None],
    ) -> None:
        self.manifest = manifest
        self._advice, self._again = advice, again
        self._storage = storage
        self._packs = [PackSource(storage, pack, self._missing) for pack in manifest.packs]
        description = Description("milepost checkpoint", manifest.metadata, manifest.objects)
        super().__init__(name, manifest.records, self._packs, description)

    def hold(self) -> bool:
        """Open the packs now: open files can be read although they are deleted meanwhile.

        Returns False if it is too late: the checkpoint was removed.
        """
        if len(self._packs) > _MOST_HELD:
            return True
        for pack in self._packs:
            try:
                pack.open()
            except StepNotFoundError:
                return False
            except (DamagedError, StorageError):
                pass  # it is told when a leaf is read that needs this pack
        return True

    def _missing(self, pack: str) -> MilepostError:
        now = self._again()
        if now is not None and now.packs == self.manifest.packs:
            return DamagedError(f"{pack} is missing")
        return StepNotFoundError(
            f"{self.name} was removed or overwritten by another process while it was read: "
            "open it again, or another step"
        )

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.manifest.metrics

    @property
    def created(self) -> str:
        """When it was committed, UTC, as `2026-11-23T12:00:00Z`."""
        return self.manifest.created

    def facts(self) -> dict[str, Any]:
        return {
            "format": self.description.format,
            "step": self.step,
            "created": self.created,
            "metrics": dict(self.metrics),
            "metadata": dict(self.metadata),
            "versions": dict(self.manifest.versions),
            "bytes": self.nbytes,
        }

    def fetch(self, parts: Iterable[Part], *, look: bool = False) -> None:
        wanted = list(parts)
        try:
            for _ in range(_TRIES):
                try:
                    super().fetch(wanted, look=look)
                    return
                except StepNotFoundError:
                    moved = self._moved(wanted)
                    if moved is None:
                        raise
                    wanted = moved
            super().fetch(wanted, look=look)
        except DamagedError as error:
            raise DamagedError(f"{error}; {self._advice(self.step)}") from None

    def _moved(self, parts: Sequence[Part]) -> list[Part] | None:
        """The same parts where they lie now, if the checkpoint was only compacted meanwhile."""
        now = self._again()
        if now is None:
            return None
        places = {
            chunk.digest: chunk
            for record in now.records.values()
            if isinstance(record, ArrayRecord)
            for chunk in record.chunks
        }
        if not all(part.chunk.digest in places for part in parts):
            return None  # it was overwritten: these are other data
        self.close()
        self.manifest = now
        self._records = now.records
        self._packs = [PackSource(self._storage, pack, self._missing) for pack in now.packs]
        self._files = self._packs
        return [replace(part, chunk=places[part.chunk.digest]) for part in parts]


class PackSource:
    """A pack, opened when the first byte of it is read, if not before.

    `missing` makes the error to raise if there is no such file.
    """

    def __init__(
        self, storage: Storage, pack: PackRef, missing: Callable[[str], MilepostError]
    ) -> None:
        self._storage = storage
        self._pack = pack
        self._missing = missing
        self._source: ByteSource | None = None
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        return f"{self._storage.name}/{self._pack.name}"

    @property
    def size(self) -> int:
        return self._pack.nbytes

    def read_into(self, offset: int, buffer: memoryview) -> int:
        return self.open().read_into(offset, buffer)

    def look_into(self, offset: int, buffer: memoryview) -> int:
        return look_into(self.open(), offset, buffer)

    def open(self) -> ByteSource:
        """The open file.

        Raises:
            DamagedError: it is missing, or has another size.
        """
        with self._opening:
            if self._source is None:
                self._source = self._open()
            return self._source

    def _open(self) -> ByteSource:
        try:
            source = self._storage.open(self._pack.name)
        except PathNotFoundError:
            raise self._missing(self.name) from None
        if source.size != self._pack.nbytes:
            found = source.size
            source.close()
            raise DamagedError(
                f"{self.name} is damaged: expected {self._pack.nbytes} bytes, found {found}"
            )
        return source

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None
