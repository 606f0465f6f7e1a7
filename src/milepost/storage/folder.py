"""Folders that are written whole: a new one takes the place of the old."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

from milepost.digest import Buffer
from milepost.storage.filesystem import UNSUPPORTED, FileSystem, OperatingSystem
from milepost.storage.local import check_space, create_locked, fill, remove_dead, translated

# Beside the file that a live writer holds locked, `.NAME.RANDOM.partial`: its new folder, and
# the old one for as long as it has no other name.
_NEW, _OLD = ".folder", ".old"
_NO_EXCHANGE = {errno.EINVAL, *UNSUPPORTED}
# Of a file: its bytes, and how many there are.
Contents = tuple[Iterable[Buffer], int]


def replace_folder(
    path: str,
    files: Mapping[str, Contents],
    replaced: Collection[str] = (),
    filesystem: FileSystem | None = None,
) -> None:
    """Write a folder durably; a folder of that name gives way once the new one is whole.

    The new folder grows beside its target, under a hidden name, and the two swap their names.
    On Linux that is one instant. Elsewhere, and on filesystems that cannot do it, it is two
    renames: a crash between them leaves no folder of the name, and both whole under hidden
    ones; the next save puts the old one back before it begins. The old folder is removed
    last.

    Arguments:
        path: the folder. Its own parent has to exist.
        files: name -> contents.
        replaced: the files of the old folder. They are removed with it, and nothing else is.
        filesystem: for tests.

    Raises:
        PathNotFoundError: the folder above does not exist.
        StorageError: it cannot be written. What was there is as it was.
    """
    fs = filesystem or OperatingSystem()
    path = os.path.realpath(path)
    above, base = os.path.split(path)
    with translated(path, "write"), contextlib.ExitStack() as alive:
        if not fs.is_folder(above):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), above)
        check_space(fs, above, path, sum(nbytes for _, nbytes in files.values()))
        _remove_dead_folders(fs, above, base)
        remove_dead(fs, above, base)
        lock, handle = create_locked(fs, above, base, alive)
        fs.close(handle)
        new = lock + _NEW
        try:
            _write(fs, new, files)
            _commit(fs, new, path, lock + _OLD)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove(fs, new, files)
                _unlink(fs, lock)
            raise
        # The new one stands: what is left of the old one is in nobody's way.
        with contextlib.suppress(OSError):
            _remove(fs, new, replaced)
            _unlink(fs, lock)


def _write(fs: FileSystem, folder: str, files: Mapping[str, Contents]) -> None:
    fs.make_folder(folder)
    for name, (parts, _) in files.items():
        fill(fs, fs.create(os.path.join(folder, name)), parts)
    fs.sync_folder(folder)


def _commit(fs: FileSystem, new: str, path: str, aside: str) -> None:
    """Give the new folder its name, durably; an old one then has the new one's."""
    above = os.path.dirname(path)
    if not fs.exists(path):
        fs.rename(new, path)
        with _undone(fs, path, new):
            fs.sync_folder(above)
        return
    try:
        fs.exchange(new, path)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        fs.rename(path, aside)
        with _undone(fs, aside, path):
            fs.rename(new, path)
        fs.sync_folder(above)
        fs.rename(aside, new)
        return
    try:
        fs.sync_folder(above)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.exchange(new, path)
        raise


@contextlib.contextmanager
def _undone(fs: FileSystem, source: str, target: str) -> Iterator[None]:
    """Rename, if the block fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            fs.rename(source, target)
        raise


def _remove_dead_folders(fs: FileSystem, above: str, base: str) -> None:
    """Remove what killed writers left, but for an old folder that has lost its name."""
    for name in sorted(fs.list(above)):
        folder = os.path.join(above, name)
        lock, kind = os.path.splitext(folder)
        if not name.startswith(f".{base}.") or kind not in (_NEW, _OLD):
            continue
        if not lock.endswith(".partial") or not fs.is_folder(folder):
            continue
        with _dead(fs, lock) as dead:
            if dead and kind == _OLD and not fs.exists(os.path.join(above, base)):
                fs.rename(folder, os.path.join(above, base))
            elif dead:
                _remove(fs, folder, fs.list(folder))


@contextlib.contextmanager
def _dead(fs: FileSystem, lock: str) -> Iterator[bool]:
    """Whether the writer that locked a file is surely dead. Without the file it is."""
    with contextlib.ExitStack() as held:
        dead = True
        with contextlib.suppress(FileNotFoundError):
            dead = held.enter_context(fs.lock(lock, exclusive=True, wait=False))
        yield dead


def _remove(fs: FileSystem, folder: str, names: Iterable[str]) -> None:
    """Remove a folder and these files of it. With any other, it stays."""
    for name in names:
        _unlink(fs, os.path.join(folder, name))
    with contextlib.suppress(OSError):
        fs.remove_folder(folder)


def _unlink(fs: FileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(path)
