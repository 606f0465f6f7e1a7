"""Archives told as their readers tell them: one of zip by its end, one of tar by its checksum."""

from __future__ import annotations

import tarfile

from milepost.encodings import zip as zip_file
from milepost.source import ByteSource, read_exactly

_END, _END_SIZE = b"PK\x05\x06", 22
_LONGEST_COMMENT = 1 << 16


def ends_with_archive(source: ByteSource) -> bool:
    """Whether readers of zip archives find one in a file that does not begin as one."""
    length = min(source.size, _END_SIZE + _LONGEST_COMMENT)
    start = bytes(read_exactly(source, 0, min(4, source.size)))
    if length < _END_SIZE or start in (zip_file.MARK, _END):
        return False
    tail = bytes(read_exactly(source, source.size - length, length))
    place = tail.rfind(_END)
    if place < 0 or place + _END_SIZE > length:
        return False
    # A directory of that size lies before it; comments may be cut, and readers do not mind.
    members = int.from_bytes(tail[place + 10 : place + 12], "little")
    size = int.from_bytes(tail[place + 12 : place + 16], "little")
    return members > 0 and size <= source.size


def has_tar_header(start: bytes) -> bool:
    """Whether a file that begins so is a tar archive, of whatever age: the oldest has no mark."""
    if len(start) < tarfile.BLOCKSIZE or not any(start):
        return False
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return start[257:262] == b"ustar"
    return True
