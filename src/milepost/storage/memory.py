"""A storage in memory: for tests, and the shortest example of what a storage has to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from milepost.digest import Buffer
from milepost.errors import PathNotFoundError
from milepost.source import ByteSource
from milepost.storage.base import NewObject, Stamp


class MemoryStorage:
    """Objects in a dict. Durable for as long as the process lives."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._stamps: dict[str, int] = {}
        self._change = 0
        self._changes: dict[str, int] = {}  # folder -> the last change in it
        self._changed = threading.Condition()
        self._holders = 0  # of the lock: how many share it, or -1 for one alone

    @property
    def name(self) -> str:
        return self._name

    def exists(self) -> bool:
        return bool(self._objects)

    def prepare(self) -> None:
        pass

    def list(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        below = [name.removeprefix(prefix) for name in self._objects if name.startswith(prefix)]
        return sorted({name.partition("/")[0] for name in below})

    def last(self, folder: str) -> str | None:
        return max(self.list(folder), default=None)

    def stamps(self, folder: str) -> Mapping[str, Stamp]:
        prefix = f"{folder}/" if folder else ""
        return {file: self._stamps.get(f"{prefix}{file}") for file in self.list(folder)}

    def change(self, folder: str) -> Stamp | None:
        return self._change

    def stamp(self, name: str) -> Stamp | None:
        return self._stamps.get(name) if name in self._objects else None

    def mark(self, folder: str) -> str | None:
        return self.marked(folder)

    def marked(self, folder: str) -> str | None:
        return str(self._changes.get(folder, 0))

    def open(self, name: str) -> ByteSource:
        try:
            return MemorySource(f"{self._name}/{name}", self._objects[name])
        except KeyError:
            raise PathNotFoundError(f"{self._name}/{name} does not exist") from None

    def write(
        self, name: str, parts: Iterable[Buffer], nbytes: int, since: str | None = None
    ) -> str | None:
        data, folder = b"".join(parts), name.rpartition("/")[0]
        with self._changed:
            if name in self._objects:
                raise FileExistsError(f"{self._name}/{name} exists")
            before = self.marked(folder)
            self._put(name, data)
            return self.marked(folder) if since is not None and since == before else None

    def replace(self, name: str, parts: Iterable[Buffer], nbytes: int) -> None:
        data = b"".join(parts)
        with self._changed:
            self._put(name, data)

    def _put(self, name: str, data: bytes) -> None:
        self._objects[name] = data
        self._stamps[name] = self._count(name)

    def _count(self, name: str) -> int:
        """Note that a name has changed."""
        self._change += 1
        self._changes[name.rpartition("/")[0]] = self._change
        return self._change

    def note(self, name: str, data: bytes) -> None:
        self.replace(name, [data], len(data))

    @contextmanager
    def create(self, name: str, head_bytes: int, nbytes: int) -> Iterator[NewObject]:
        new = _Growing(head_bytes)
        yield new
        if new.finished:
            self.write(name, [new.data], len(new.data))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with self._changed:
                self._objects.pop(name, None)
                self._count(name)

    @contextmanager
    def lock(self, *, exclusive: bool, wait: bool = True) -> Iterator[bool]:
        def is_free() -> bool:
            return self._holders == 0 or (not exclusive and self._holders > 0)

        with self._changed:
            if not wait and not is_free():
                held = False
            else:
                held = self._changed.wait_for(is_free)
                self._holders = -1 if exclusive else self._holders + 1
        try:
            yield held
        finally:
            if held:
                with self._changed:
                    self._holders = 0 if exclusive else self._holders - 1
                    self._changed.notify_all()

    def remove_unfinished(self) -> None:
        pass


class _Growing:
    """An object that is being written."""

    def __init__(self, head_bytes: int) -> None:
        self.data, self.finished = bytearray(head_bytes), False

    def append(self, data: memoryview, done: Callable[[], object]) -> None:
        self.data += data
        done()

    def finish(self, head: bytes) -> None:
        self.data[: len(head)] = head
        self.finished = True


class MemorySource:
    """Bytes in memory, read as if they were a file."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = memoryview(data)

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self._data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        pass
