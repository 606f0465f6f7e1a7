"""Local folders: durable, atomic writes over a `FileSystem`."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

from milepost.digest import Buffer
from milepost.errors import MilepostError, NotAStoreError, PathNotFoundError, StorageError
from milepost.source import ByteSource
from milepost.storage import alone
from milepost.storage.base import NewObject, Stamp
from milepost.storage.direct import NewFile, buffers
from milepost.storage.filesystem import UNSUPPORTED, FileSystem, Handle, OperatingSystem

_PARTIAL = "partial"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOOK_BYTES = 64 << 20  # who reads more of a file may read all of it, and others, too
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class LocalStorage:
    """A folder of a local or mounted filesystem.

    A new object is written under `partial/`, synced, given its final name, and the folder of
    that name is synced: so the name never stands for less than the whole object.
    """

    def __init__(self, path: str | os.PathLike[str], filesystem: FileSystem | None = None) -> None:
        self._root = os.path.abspath(os.fspath(path))
        self._fs: FileSystem = filesystem or OperatingSystem()
        self._buffers = buffers()

    @property
    def name(self) -> str:
        return self._root

    def _path(self, name: str) -> str:
        return os.path.join(self._root, *name.split("/"))

    def exists(self) -> bool:
        return self._fs.exists(self._root)

    def prepare(self) -> None:
        if self._fs.exists(self._root) and not self._fs.is_folder(self._root):
            raise NotAStoreError(
                f"{self._root} is a file, not a store of checkpoints: save elsewhere"
            )
        with translated(self._root, "make the folder"):
            make_folders(self._fs, self._root)

    def list(self, folder: str) -> list[str]:
        return sorted(self._names(folder))

    def last(self, folder: str) -> str | None:
        return max(self._names(folder), default=None)

    def _names(self, folder: str) -> Iterable[str]:
        path = self._path(folder) if folder else self._root
        try:
            with translated(path, "list"):
                return self._fs.list(path)
        except PathNotFoundError:
            return []

    def stamps(self, folder: str) -> Mapping[str, Stamp]:
        found: dict[str, Stamp] = {}
        path = self._path(folder) if folder else self._root
        with translated(path, "look at"):
            for name in self._names(folder):
                try:
                    found[name] = self._fs.stamp(f"{path}{os.sep}{name}")
                except FileNotFoundError:
                    continue  # removed meanwhile
        return found

    def change(self, folder: str) -> Stamp | None:
        path = self._path(folder)
        try:
            with translated(path, "look at"):
                return self._fs.stamp(path)
        except PathNotFoundError:
            return None

    def stamp(self, name: str) -> Stamp | None:
        return self.change(name)

    def mark(self, folder: str) -> str | None:
        with contextlib.suppress(OSError):
            return alone.marked_anew(self._fs, self._path(folder))
        return None

    def marked(self, folder: str) -> str | None:
        with contextlib.suppress(OSError):
            return self._fs.marked(self._path(folder))
        return None

    def open(self, name: str) -> ByteSource:
        return open_file(self._path(name), self._fs)

    def write(
        self, name: str, parts: Iterable[Buffer], nbytes: int, since: str | None = None
    ) -> str | None:
        with self._partial(name, nbytes) as (partial, final):
            fill(self._fs, self._fs.create(partial), parts)
            return self._name_once(partial, final, since)

    def replace(self, name: str, parts: Iterable[Buffer], nbytes: int) -> None:
        with self._partial(name, nbytes) as (partial, final):
            fill(self._fs, self._fs.create(partial), parts)
            self._fs.rename(partial, final)
            self._fs.sync_folder(os.path.dirname(final))

    @contextlib.contextmanager
    def create(self, name: str, head_bytes: int, nbytes: int) -> Iterator[NewObject]:
        with self._partial(name, nbytes) as (partial, final):
            handle = self._fs.create(partial)
            try:
                with NewFile(self._fs, handle, head_bytes, self._buffers) as new:
                    yield new
                if new.finished:
                    self._fs.sync(handle)
            finally:
                self._fs.close(handle)
            if new.finished:
                self._name_once(partial, final)
            else:
                self._fs.unlink(partial)

    @contextlib.contextmanager
    def _partial(self, name: str, nbytes: int) -> Iterator[tuple[str, str]]:
        """The name under `partial/` at which the block makes a file, and its final name."""
        final = self._path(name)
        partial = self._partial_path(name)
        with translated(final, "write"):
            check_space(self._fs, self._root, final, nbytes)
            make_folders(self._fs, os.path.dirname(final))
            make_folders(self._fs, os.path.dirname(partial))
            with _removed_on_error(self._fs, partial):
                yield partial, final

    def _name_once(self, partial: str, final: str, since: str | None = None) -> str | None:
        """Give a finished file its name, unless the name is taken; the mark is as by `write`."""
        if self._fs.exists(final):
            raise FileExistsError(errno.EEXIST, "exists", final)
        partials, folder = os.path.dirname(partial), os.path.dirname(final)
        watched = alone.watch(self._fs, partials, [os.path.basename(partial)], folder, since)
        try:
            self._fs.link(partial, final)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._rename_once(partial, final)
        with _removed_on_error(self._fs, final):
            self._fs.sync_folder(folder)
        mark = alone.renewed(self._fs, partials, watched, folder)
        # The second name does no harm, and the next writer removes it.
        with contextlib.suppress(OSError):
            self._fs.unlink(partial)
        return mark

    def _rename_once(self, partial: str, final: str) -> None:
        """As a link, where there are no links: one writer of milepost at a time."""
        turn = self._path(f"{_PARTIAL}/rename.lock")
        with contextlib.suppress(FileExistsError):
            self._fs.close(self._fs.create(turn))
        with self._fs.lock(turn, exclusive=True, wait=True):
            if self._fs.exists(final):
                raise FileExistsError(errno.EEXIST, "exists", final)
            self._fs.rename(partial, final)

    def note(self, name: str, data: bytes) -> None:
        partial = self._partial_path(name)
        with contextlib.suppress(OSError), _removed_on_error(self._fs, partial):
            handle = self._fs.create(partial)
            try:
                self._fs.write(handle, data)
            finally:
                self._fs.close(handle)
            self._fs.rename(partial, self._path(name))

    def _partial_path(self, name: str) -> str:
        return self._path(f"{_PARTIAL}/{secrets.token_hex(8)}-{name.rpartition('/')[2]}")

    def delete(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            path = self._path(name)
            with translated(path, "delete"), contextlib.suppress(FileNotFoundError):
                self._fs.unlink(path)
                folders.add(os.path.dirname(path))
        for folder in sorted(folders):
            with translated(folder, "sync"):
                self._fs.sync_folder(folder)

    def lock(self, *, exclusive: bool, wait: bool = True) -> AbstractContextManager[bool]:
        return self._lock(exclusive, wait)

    @contextlib.contextmanager
    def _lock(self, exclusive: bool, wait: bool) -> Iterator[bool]:
        path = self._path("lock")
        with contextlib.ExitStack() as held:
            with translated(path, "lock"):
                if not self._fs.exists(path):
                    with contextlib.suppress(FileExistsError):
                        self._fs.close(self._fs.create(path))
                locked = held.enter_context(self._fs.lock(path, exclusive=exclusive, wait=wait))
            yield locked

    def remove_unfinished(self) -> None:
        self.delete(f"{_PARTIAL}/{name}" for name in self.list(_PARTIAL))


class FileSource:
    """An open file. Closed when nobody refers to it any more, if not before."""

    def __init__(self, filesystem: FileSystem, path: str, handle: Handle) -> None:
        self._fs = filesystem
        self._handle = handle
        self._name = path
        self._size = filesystem.size(handle)
        self._looked = 0
        self._close = weakref.finalize(self, filesystem.close, handle)

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if not self._close.alive:
            raise ValueError(f"{self._name} is closed")
        with translated(self._name, "read"):
            return self._fs.read_into(self._handle, offset, buffer)

    def look_into(self, offset: int, buffer: memoryview) -> int:
        if self._looked < _LOOK_BYTES and self._close.alive:
            found = self._fs.look_into(self._handle, offset, buffer)
            if found is not None:
                self._looked += found
                return found
        return self.read_into(offset, buffer)

    def close(self) -> None:
        self._close()


def open_file(path: str, filesystem: FileSystem | None = None) -> FileSource:
    """Open a file for reading.

    Raises:
        PathNotFoundError: there is none.
        StorageError: it cannot be read, a folder for one.
    """
    fs = filesystem or OperatingSystem()
    with translated(path, "open"):
        if fs.is_folder(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return FileSource(fs, path, fs.open(path))


def replace_file(
    path: str, parts: Iterable[Buffer], nbytes: int, filesystem: FileSystem | None = None
) -> None:
    """Write a file durably; a file of that name gives way in one instant, once it is whole.

    Raises:
        PathNotFoundError: the folder does not exist.
        StorageError: it cannot be written. The file of that name, if any, is as it was.
    """
    with replacing(path, nbytes, filesystem) as (fs, handle):
        for part in parts:
            fs.write(handle, part)


@contextlib.contextmanager
def replacing(
    path: str, nbytes: int, filesystem: FileSystem | None = None
) -> Iterator[tuple[FileSystem, Handle]]:
    """As `replace_file`, for a block that writes all of the new file by itself.

    The new file grows beside its target, under a hidden name that ends in `.partial`. What a
    killed writer left there is removed here, once it is surely dead.

    Raises:
        PathNotFoundError: the folder does not exist.
        StorageError: it cannot be written. The file of that name, if any, is as it was.
    """
    fs = filesystem or OperatingSystem()
    folder, base = os.path.split(os.path.abspath(path))
    with translated(path, "write"):
        if not fs.is_folder(folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
        if fs.is_folder(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        check_space(fs, folder, path, nbytes)
        remove_dead(fs, folder, base)
        with contextlib.ExitStack() as alive:
            partial, handle = create_locked(fs, folder, base, alive)
            with _removed_on_error(fs, partial):
                with _synced(fs, handle):
                    yield fs, handle
                if not fs.renames_open_files:
                    alive.close()
                fs.rename(partial, os.path.join(folder, base))
        fs.sync_folder(folder)


def create_locked(
    fs: FileSystem, folder: str, base: str, alive: contextlib.ExitStack
) -> tuple[str, Handle]:
    """A new file, locked until `alive` ends, by which `_remove_dead` knows that its writer lives.

    Another process may find it before it is locked, and remove it: then there is the next.
    """
    while True:
        partial = os.path.join(folder, f".{base}.{secrets.token_hex(8)}.partial")
        with _removed_on_error(fs, partial), contextlib.ExitStack() as opened:
            handle = fs.create(partial)
            opened.callback(fs.close, handle)
            with contextlib.suppress(FileNotFoundError):
                alive.enter_context(fs.lock(partial, exclusive=True, wait=True))
                if fs.exists(partial):
                    opened.pop_all()
                    return partial, handle


def remove_dead(fs: FileSystem, folder: str, base: str) -> None:
    for name in sorted(fs.list(folder)):
        if name.startswith(f".{base}.") and name.endswith(".partial"):
            path = os.path.join(folder, name)
            with (
                contextlib.suppress(FileNotFoundError),
                fs.lock(path, exclusive=True, wait=False) as dead,
            ):
                if dead:
                    fs.unlink(path)


def make_folders(fs: FileSystem, path: str) -> None:
    """Make a folder and those above it, each durably."""
    if fs.is_folder(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_folders(fs, parent)
    with contextlib.suppress(FileExistsError):
        fs.make_folder(path)
    if not fs.is_folder(path):
        raise StorageError(f"{path} is a file where a folder is needed: save elsewhere")
    fs.sync_folder(parent)


def fill(fs: FileSystem, handle: Handle, parts: Iterable[Buffer]) -> None:
    with _synced(fs, handle):
        for part in parts:
            fs.write(handle, part)


@contextlib.contextmanager
def _synced(fs: FileSystem, handle: Handle) -> Iterator[None]:
    """Sync and close a file that the block writes."""
    try:
        yield
        fs.sync(handle)
    finally:
        fs.close(handle)


def check_space(fs: FileSystem, folder: str, path: str, nbytes: int) -> None:
    while not fs.exists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    free = fs.free_bytes(folder)
    if nbytes > free:
        raise StorageError(
            f"{path} needs {nbytes:,} bytes, but only {free:,} are free there: "
            "free some, or save elsewhere; nothing was written"
        )


@contextlib.contextmanager
def _removed_on_error(fs: FileSystem, path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            fs.unlink(path)
        raise


@contextlib.contextmanager
def translated(path: str, doing: str) -> Iterator[None]:
    """The operating system's errors in words that say what to do."""
    try:
        yield
    except (MilepostError, FileExistsError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PathNotFoundError(f"{error.filename or path} does not exist") from error
    except OSError as error:
        if error.errno in _FULL:
            hint = "the disk, or a limit on it, is full: free some space, or save elsewhere"
        elif error.errno in _FORBIDDEN:
            hint = "not permitted: check the owner, the mode and whether it is mounted read-only"
        else:
            hint = error.strerror or type(error).__name__
        raise StorageError(f"cannot {doing} {path}: {hint}") from error
