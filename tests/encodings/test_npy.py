"""Headers of arrays in `.npy` form: what is understood, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

from milepost.encodings.npy import read_header
from milepost.errors import DamagedError, UnknownFormatError, UntrustedError, VersionError
from tests.encodings.sources import Bytes


def npy(text: str, version: tuple[int, int] = (1, 0), data: bytes = bytes(64)) -> bytes:
    """A file with this header, and enough data behind it."""
    encoded = text.encode("latin-1") + b"\n"
    width = 2 if version == (1, 0) else 4
    return b"\x93NUMPY" + bytes(version) + len(encoded).to_bytes(width, "little") + encoded + data


def described(descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_that_numpy_writes(version):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((3, 4), ">i2"), version)
    header = read_header(Bytes(file.getvalue()))
    assert (header.kind, header.itemsize, header.big_endian) == ("i", 2, True)
    assert (header.shape, header.end) == ((3, 4), len(file.getvalue()))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (described(shape="()"), ()),
        (described(shape="(3,)"), (3,)),
        (described(shape="(3L, 4L)"), (3, 4)),
        ('{"shape":(2,1),"fortran_order":True,"descr":"<f4"}', (2, 1)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4)}   \n", (0, 4)),
    ],
)
def test_what_other_writers_write(text, shape):
    assert read_header(Bytes(npy(text))).shape == shape


HOSTILE = {
    "no mark": (b"\x93NUMPX" + npy(described())[6:], DamagedError),
    "only a mark": (b"\x93NUMPY\x01", DamagedError),
    "a newer version": (npy(described(), (4, 0)), VersionError),
    "a header longer than the file": (b"\x93NUMPY\x01\x00\xff\x1f{}", DamagedError),
    "a header of gigabytes": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", DamagedError),
    "no text": (b"\x93NUMPY\x03\x00\x04\x00\x00\x00\xff\xfe\xff\xfe", DamagedError),
    "code": (npy("__import__('os').system('true')"), DamagedError),
    "code for a shape": (npy(described(shape="(2**99,)")), DamagedError),
    "a call for a type": (npy(described("exec('1')")), DamagedError),
    "deep brackets": (npy("{" + "(" * 5000 + ")" * 4000 + "}"), DamagedError),
    "objects": (npy(described("'|O'")), UntrustedError),
    "objects of eight bytes": (npy(described("'|O8'")), UntrustedError),
    "records": (npy(described("[('a', '<f4'), ('b', '|O')]")), UnknownFormatError),
    "a key twice": (npy(described()[:-1] + "'shape': (1,)}"), DamagedError),
    "another key": (npy(described()[:-1] + "'color': 'red'}"), DamagedError),
    "a key less": (npy("{'descr': '<f4', 'shape': (2,)}"), DamagedError),
    "a type without a size": (npy(described("'<f'")), DamagedError),
    "a type of no bytes": (npy(described("'|S0'", shape="(99999999999,)")), DamagedError),
    "a number for a shape": (npy(described(shape="(3)")), DamagedError),
    "a negative shape": (npy(described(shape="(-3, 2)")), DamagedError),
    "a shape of text": (npy(described(shape="'3'")), DamagedError),
    "a shape that wraps": (npy(described(shape="(4294967296, 4294967296)")), DamagedError),
    "zeros that hide a wrap": (npy(described(shape="(0, 9223372036854775807)")), DamagedError),
    "many axes": (npy(described(shape="(" + "1," * 65 + ")")), DamagedError),
    "a number of a thousand digits": (npy(described(shape=f"({'9' * 1000},)")), DamagedError),
    "more than the file has": (npy(described(shape="(1000,)")), DamagedError),
    "an order that is text": (npy(described(order="'False'")), DamagedError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name):
    data, error = HOSTILE[name]
    with pytest.raises(error):
        read_header(Bytes(data))
