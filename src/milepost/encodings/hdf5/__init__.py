"""HDF5 files: groups, datasets and attributes, read without the HDF5 library.

https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html

The library is a large one in C that trusts what it reads: of files changed at random here and
there, some end the process, and others never end (libhdf5 1.14.6). This reader
is of Python, follows no link, loads no plug-in and opens no other file; every size is checked
against the file before anything is made of it. It reads what h5py, PyTables and netCDF write
of numbers and strings; what it does not read, it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from milepost.encodings.hdf5.attributes import read_attributes
from milepost.encodings.hdf5.datasets import Dataset, is_dataset, read_dataset
from milepost.encodings.hdf5.groups import is_group, members
from milepost.encodings.hdf5.heaps import GlobalHeap
from milepost.encodings.hdf5.image import Image
from milepost.encodings.hdf5.objects import MARK, find_base, read_header, read_superblock
from milepost.errors import UntrustedError
from milepost.source import ByteSource

DEEPEST = 64  # groups around a dataset, the root among them
_MOST_AGAIN = 1000  # other names of what has one already


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file, by path; the root group's is empty.

    Attributes:
        datasets: in the order of the file's own index: by name, unless it was told to be another.
        attributes: of every group and dataset that has some.
    """

    datasets: Mapping[str, Dataset]
    attributes: Mapping[str, Mapping[str, Any]]


def read_contents(source: ByteSource) -> Contents:
    """Everything in a file but the elements of its datasets.

    Raises:
        DamagedError: it is not valid, or cut short.
        UntrustedError: it leads to other files or places, or is made to be slow.
        UnknownFormatError: it uses something that is not read here; the message names it.
    """
    image, root = read_superblock(source)
    walk = _Walk(image)
    try:
        walk.visit("", root, ())
    except RecursionError:
        raise UntrustedError(f"{source.name} is nested too deeply") from None
    return Contents(walk.datasets, walk.attributes)


class _Walk:
    def __init__(self, image: Image) -> None:
        self.image = image
        self.heap = GlobalHeap(image)
        self.datasets: dict[str, Dataset] = {}
        self.attributes: dict[str, dict[str, Any]] = {}
        self._seen: set[int] = set()
        self._again = 0

    def visit(self, path: str, address: int, above: tuple[int, ...]) -> None:
        """Note what is at an address, and below it; `above` are the groups around it."""
        image = self.image
        self._again += address in self._seen
        self._seen.add(address)
        if len(above) > DEEPEST:
            raise UntrustedError(
                f"{image.source.name}: {path[:80]!r} lies in more than {DEEPEST} groups"
            )
        if address in above or self._again > _MOST_AGAIN:
            raise UntrustedError(
                f"{image.source.name}: {path[:80]!r} leads back to a group around it, or there "
                "are far too many ways to the same thing"
            )
        messages = read_header(image, address)
        found = read_attributes(image, self.heap, messages)
        if found:
            self.attributes[path] = found
        if is_dataset(messages):
            self.datasets[path] = read_dataset(image, messages)
        elif is_group(messages):
            names = set()
            for name, place in members(image, messages):
                if name in names:
                    raise image.damaged(f"{path!r} has two members called {name!r:.80}")
                names.add(name)
                self.visit(f"{path}/{name}" if path else name, place, (*above, address))


__all__ = ["MARK", "Contents", "Dataset", "find_base", "read_contents"]
