"""Small reads here and there in a large file, of which only those pages are read."""

from __future__ import annotations

from milepost.errors import DamagedError
from milepost.source import ByteSource, read_exactly

_PAGE_BITS = 12
_PAGE = 1 << _PAGE_BITS
_KEPT = 1 << 12
# So many reads take a second or two. A file that needs more has been made to.
_MOST_READS = 700_000
# So many bytes count as another read, for memory is limited, too.
_COUNTED_BITS = 8


class Pages:
    """The bytes of a file, read in pages that are kept for the next read.

    It is for looking at what describes the data, in one thread; the data itself is read from
    the source. The number of reads is limited, and so is the time that a hostile file can take.
    """

    def __init__(self, source: ByteSource, most_reads: int = _MOST_READS) -> None:
        self.source = source
        self.size = source.size
        self._pages: dict[int, bytes] = {}
        self._left = most_reads

    def read(self, position: int, length: int) -> bytes:
        """`length` bytes at `position`.

        Raises:
            DamagedError: the file ends before, or too much of it has been asked for.
        """
        self._left -= 1 + (length >> _COUNTED_BITS)
        if self._left < 0:
            raise DamagedError(
                f"{self.source.name} is in more pieces than any model is known to have: "
                "it is damaged, or made to keep its readers busy"
            )
        number, start = position >> _PAGE_BITS, position & (_PAGE - 1)
        if start + length > _PAGE or position < 0 or length < 0:
            return bytes(read_exactly(self.source, position, length))
        page = self._pages.get(number) or self._load(number)
        if start + length > len(page):
            read_exactly(self.source, position, length)  # which says what is wrong
        return page[start : start + length]

    def _load(self, number: int) -> bytes:
        if len(self._pages) >= _KEPT:
            self._pages.clear()
        first = min(number << _PAGE_BITS, self.size)
        page = bytes(read_exactly(self.source, first, min(_PAGE, self.size - first)))
        self._pages[number] = page
        return page
