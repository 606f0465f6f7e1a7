"""A checkpoint of a store as a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from milepost.dtypes import Array
from milepost.errors import DamagedError, PathNotFoundError
from milepost.record import ArrayRecord
from milepost.snapshot import Description, Snapshot
from milepost.source import ByteSource
from milepost.storage.base import Storage
from milepost.store.manifest import Manifest, PackRef


class CheckpointSnapshot(Snapshot):
    """One committed checkpoint."""

    def __init__(
        self, storage: Storage, manifest: Manifest, name: str, advice: Callable[[int], str]
    ) -> None:
        self.manifest = manifest
        self._advice = advice
        files = [PackSource(storage, pack) for pack in manifest.packs]
        description = Description("milepost checkpoint", manifest.metadata, manifest.objects)
        super().__init__(name, manifest.records, files, description)

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

    def read_box(self, name: str, record: ArrayRecord, box: tuple[tuple[int, int], ...]) -> Array:
        try:
            return super().read_box(name, record, box)
        except DamagedError as error:
            raise DamagedError(f"{error}; {self._advice(self.step)}") from None


class PackSource:
    """A pack, opened when the first byte of it is read."""

    def __init__(self, storage: Storage, pack: PackRef) -> None:
        self._storage = storage
        self._pack = pack
        self._source: ByteSource | None = None

    @property
    def name(self) -> str:
        return f"{self._storage.name}/{self._pack.name}"

    @property
    def size(self) -> int:
        return self._pack.nbytes

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if self._source is None:
            self._source = self._open()
        return self._source.read_into(offset, buffer)

    def _open(self) -> ByteSource:
        try:
            source = self._storage.open(self._pack.name)
        except PathNotFoundError:
            raise DamagedError(f"{self.name} is missing") from None
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
