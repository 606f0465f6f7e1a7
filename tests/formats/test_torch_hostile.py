"""PyTorch's files made to do harm: each is refused, nothing is run, and it takes no time."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost.encodings.pickle import globals_in
from milepost.errors import DamagedError, MilepostError, UntrustedError, VersionError
from milepost.formats import formats
from milepost.testing.mutation import mutated, read_through
from milepost.testing.watch import soon, watched

_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
_MAGIC += pickle.dumps({"little_endian": True}, 2)


def archive(path, data, storages=None):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for key, content in (storages or {}).items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", b"3\n")
    return path


def legacy(path, data):
    path.write_bytes(_MAGIC + data + pickle.dumps([], 2))
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return f"I{value}\n".encode()


# Each makes the file `ran` when Python runs it.
_SHELL = "echo > ran"
_CALLS = {
    "global": b"cos\nsystem\n(" + text(_SHELL) + b"tR.",
    "protocol 0": f"cos\nsystem\n(S'{_SHELL}'\ntR.".encode(),
    "instance": b"(" + text(_SHELL) + b"ios\nsystem\n.",
    "object": b"(cos\nsystem\n" + text(_SHELL) + b"o.",
    "stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + text(_SHELL) + b"tR.",
    "memoised": b"\x80\x04\x8c\x06system\x940\x8c\x02osh\x00\x93(" + text(_SHELL) + b"tR.",
    "in a dict": b"}" + text("x") + b"cos\nsystem\n(" + text(_SHELL) + b"tRs.",
    "then dropped": b"cos\nsystem\n(" + text(_SHELL) + b"tR0}.",
    "as an argument": b"ccollections\nOrderedDict\n(cos\nsystem\n(" + text(_SHELL) + b"tRtR.",
    "as a function": b"cbuiltins\ngetattr\n(cos\n__dict__\n" + text("get") + b"tR(tR.",
    "in an id": b"cos\nsystem\n(" + text(_SHELL) + b"tRQ.",
    "in a storage": b"(" + text("storage") + b"cos\nsystem\n(" + text(_SHELL) + b"tRtQ.",
    "in a state": b"capp\nModel\n)\x81cos\nsystem\n(" + text(_SHELL) + b"tRb.",
    "as a tensor's class": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncos\nsystem\n("
    + text(_SHELL)
    + b"t}tR.",
    "reconstructed": b"ccopyreg\n__newobj__\n(cos\nsystem\ntR0"
    b"ccopyreg\n_reconstructor\n(cos\nsystem\ncbuiltins\nobject\nNtR0"
    b"cos\nsystem\n(" + text(_SHELL) + b"tR.",
    "nested": b"cpickle\nloads\n(B" + struct.pack("<I", 4) + b"N.N.tR.",
    "nested in torch": b"ctorch.storage\n_load_from_bytes\n(C\x02N.tR.",
    "evaluated": b"cbuiltins\neval\n(" + text("1+1") + b"tR.",
    "extension": b"\x82\x01)R.",
    "class called": b"csubprocess\nPopen\n(" + text(_SHELL) + b"tR.",
    "keywords": b"\x80\x04csubprocess\nPopen\n)}R.",
    "no global": b"N)R.",
    "dotted": b"\x80\x04\x8c\x05torch\x8c\x11serialization.os\x93(" + text(_SHELL) + b"tR.",
}


@pytest.mark.parametrize("make", [archive, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("data", _CALLS.values(), ids=_CALLS)
def test_a_call_of_anything_unknown_is_refused(tmp_path, monkeypatch, make, data):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "file", data)
    with pytest.raises((UntrustedError, DamagedError)) as caught:
        milepost.open(path)
    assert not (tmp_path / "ran").exists()
    if b"system" in data and "storage" not in str(caught.value):
        assert isinstance(caught.value, UntrustedError)
        assert "system" in str(caught.value)
        assert "offset" in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, data in _CALLS.items() if b"os" in data and b"system" in data]
)
def test_a_scanner_sees_them_all(name):
    assert "os.system" in [str(found) for found in globals_in(_CALLS[name])]


def test_what_is_only_named_is_shown_as_text(tmp_path):
    path = archive(tmp_path / "file", b"}" + text("f") + b"cos\nsystem\ns.")
    with milepost.open(path) as snapshot:
        assert dict(snapshot) == {"f": "os.system"}


def tensor(*, key="0", count=4, offset=0, size=(4,), stride=(1,), kind="FloatStorage"):
    """The pickle of a tensor whose numbers can be anything."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    shape = b"(" + b"".join(map(number, size)) + b"t"
    strides = b"(" + b"".join(map(number, stride)) + b"t"
    function = b"ctorch._utils\n_rebuild_tensor\n("
    return function + storage + number(count) + b"tQ" + number(offset) + shape + strides + b"tR."


_TENSORS = {
    "past the end": tensor(size=(5,)),
    "offset past the end": tensor(offset=1),
    "huge offset": tensor(offset=2**63),
    "huger offset": tensor(offset=2**64),
    "negative offset": tensor(offset=-1),
    "negative stride": tensor(stride=(-1,)),
    "huge stride": tensor(stride=(2**62,)),
    "wrapping stride": tensor(size=(3,), stride=(2**63,)),
    "negative size": tensor(size=(-4,)),
    "huge size": tensor(size=(2**62, 2**62), stride=(0, 0)),
    "other rank": tensor(stride=(1, 1)),
    "many axes": tensor(size=(1,) * 70, stride=(1,) * 70),
    "storage larger than its member": tensor(count=5),
    "storage of 2**62": tensor(count=2**62),
    "storage of 2**64": tensor(count=2**64),
    "negative storage": tensor(count=-4),
    "no such storage": tensor(key="1"),
    "storage elsewhere": tensor(key="../version"),
    "unknown kind": tensor(kind="StringStorage"),
    "kind of another module": tensor(kind="nn.FloatStorage"),
}


@pytest.mark.parametrize("data", _TENSORS.values(), ids=_TENSORS)
def test_a_tensor_that_is_not_inside_of_its_storage_is_refused(tmp_path, data):
    with pytest.raises(DamagedError):
        milepost.open(archive(tmp_path / "file", data, {"0": bytes(16)}))


def test_as_a_check_of_these_the_sound_one_opens(tmp_path):
    with milepost.open(archive(tmp_path / "file", tensor(), {"0": bytes(16)})) as snapshot:
        assert snapshot.read("value").tolist() == [0, 0, 0, 0]


def laughs(depth: int, width: int) -> bytes:
    """Lists of lists, each of which has the last one many times."""
    data = b"]q\x00K\x01a"
    for level in range(1, depth):
        data += b"](" + f"h{chr(level - 1)}".encode("latin1") * width + b"eq" + bytes([level])
    return data + b"."


_BOMBS = {
    "shared lists": laughs(60, 10),
    "shared tuples as keys": b"K\x01K\x02\x86q\x00" + b"h\x00h\x00\x86q\x00" * 90 + b"}h\x00Ns.",
    "nested tuples": b")" + b"\x85" * 10_000 + b".",
    "nested lists": b"]" * 20_000 + b"a" * 19_999 + b".",
    "nested marks": b"(" * 3_000_000 + b".",
    "many operations": b"N0" * 3_000_000 + b"}.",
    "many dicts": b"(" + b"}" * 3_000_000 + b"l.",
    "many sets": b"\x80\x04(" + b"\x8f" * 3_000_000 + b"l.",
    "colliding keys": b"}("
    + b"".join(b"\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") + b"N" for n in range(60_000))
    + b"u.",
    "colliding tuples": b"}("
    + b"".join(
        b"(" + b"".join(b"J" + struct.pack("<i", -1 - (n >> b & 1)) for b in range(14)) + b"tN"
        for n in range(1 << 14)
    )
    + b"u.",
    "long integer": b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
    "negative length": b"\x8b" + struct.pack("<i", -5) + b".",
    "huge length": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "long decimal": b"I" + b"9" * 10**6 + b"\n.",
    "longer decimal": b"L" + b"9" * 10**6 + b"L\n.",
    "line without end": b"V" + b"x" * 10**7,
    "huge string": b"\x8d" + struct.pack("<Q", 2**63) + b".",
    "huge bytes": b"\x8e" + struct.pack("<Q", 2**64 - 1) + b".",
    "huge memo": b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xfej\x00\x00\x00\x00.",
    "negative memo": b"Np-1\n.",
    "nothing": b"",
    "only the end": b".",
    "no end": b"N",
    "no mark": b"Nt.",
    "nothing to call": b"R.",
    "nothing to build": b"b.",
    "no such operation": b"\xff.",
    "a key without a value": b"}(Nu.",
    "a list as a key": b"}]Ns.",
    "a state without an object": b"Nb.",
    "a name of bytes": b"\x80\x04C\x02osC\x06system\x93.",
    "a buffer": b"\x80\x05\x97.",
    "a module in itself": b"ca\nB\n)\x81q\x00}("
    + text("_parameters")
    + b"}"
    + text("_buffers")
    + b"}"
    + text("_modules")
    + b"}"
    + text("x")
    + b"h\x00sub.",
    "a dict in itself": b"}q\x00" + text("x") + b"h\x00s.",
    "an array of a broken dtype": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n("
    + text("f8")
    + b"tRC\x01xtR.",
    "an array of objects": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n("
    + text("O")
    + b"tRC\x08xxxxxxxxtR.",
    "an array of a dtype by code": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n("
    + text("f8,(9999999,99999)f8")
    + b"tRC\x08xxxxxxxxtR.",
}
_LAUGHS = laughs(60, 10)[:-1]
_LONG = text("x" * (1 << 20))
_TYPED = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x01"
_BOMBS |= {
    "a long text, encoded often": _LONG
    + b"q\x000("
    + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 1000
    + b"l.",
    "paths of paths": text("x")
    + b"q\x000"
    + b"cpathlib\nPosixPath\n(h\x00h\x00tRq\x000" * 40
    + b"h\x00.",
    "devices of devices": text("x")
    + b"q\x000"
    + b"ctorch\ndevice\n(h\x00h\x00tRq\x000" * 40
    + b"R.",
    "a list, copied often": b"]q\x00("
    + b"N" * 100_000
    + b"e0("
    + b"cbuiltins\nset\n(h\x00tR" * 20_000
    + b"l.",
    "laughs for a stride": tensor()[:-1] + _LAUGHS + b"q\x7f0"
    b"ctorch._utils\n_rebuild_tensor\n(("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + b"K\x04tQK\x00h\x7fh\x7ftR.",
    "laughs for an id": _LAUGHS + b"Q.",
    "laughs for a layout": b"K\x01q\x00"
    + b"h\x00h\x00h\x00\x87q\x00" * 60
    + b"0ctorch._utils\n_rebuild_sparse_tensor\n(h\x00)tR.",
    "laughs for a scheme": b"ctorch._utils\n_rebuild_qtensor\n(("
    + text("storage")
    + b"ctorch\nCharStorage\n"
    + text("0")
    + text("cpu")
    + b"K\x04tQK\x00))"
    + _LAUGHS
    + b"tR.",
    "laughs for a function": _LAUGHS + b")R.",
    "laughs for a dtype": b"cnumpy._core.multiarray\nscalar\n(" + _LAUGHS + b"C\x01xtR.",
    "laughs in a set": b"\x80\x04\x8f(ca\nB\n)\x81" + _LAUGHS + b"bca\nB\n)\x81h\x3bb\x90.",
    "types of types": b"Nq\x000"
    + _TYPED
    + b"0"
    + b"(h\x01Nh\x00Ntq\x000" * 20_000
    + b"h\x01h\x00R.",
    "objects of objects": b"ccopyreg\n__newobj__\nq\x00(" + b"h\x00" * 200_000 + b"tR)R.",
    "a long key, walked often": b"}" + _LONG + b"](" + b"]" * 300_000 + b"es.",
    "colliding keys of an ordered dict": b"ccollections\nOrderedDict\n(]("
    + b"".join(
        b"(\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") + b"Nt" for n in range(60_000)
    )
    + b"etR.",
    "a module in itself many times": b"ca\nB\n)\x81q\x00}("
    + text("_parameters")
    + b"}"
    + text("_buffers")
    + b"}"
    + text("_modules")
    + b"}("
    + b"".join(text(str(n)) + b"h\x00" for n in range(1000))
    + b"uub.",
}
_HARMLESS = {"a dict in itself", "an array of objects", "an array of a dtype by code"}


@pytest.mark.parametrize("make", [archive, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", _BOMBS)
def test_a_pickle_that_exhausts_or_confuses_is_refused_at_once(tmp_path, make, name):
    path = make(tmp_path / "file", _BOMBS[name])
    with soon(5):
        if name in _HARMLESS:
            with milepost.open(path) as snapshot:
                assert list(snapshot) == []
                assert snapshot.metadata["left_out"]
        else:
            with pytest.raises(MilepostError):
                milepost.open(path)


def test_a_newer_protocol(tmp_path):
    with pytest.raises(VersionError):
        milepost.open(archive(tmp_path / "file", b"\x80\x06}."))


def test_many_tensors_over_one_large_storage_are_no_larger_than_they_are(tmp_path):
    # As many parts of 16 MiB as these would have together cannot all be written down.
    count, elements = 2_000, 2**28
    data = b"("
    for index in range(count):
        one = tensor(
            count=elements, size=(elements - 1_000,), kind="ByteStorage", offset=index % 1000
        )
        data += one[:-1]
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data + b"l.")
        with file.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(256):
                member.write(bytes(1 << 20))
    with soon(5), milepost.open(path) as snapshot:
        assert len(snapshot) == count
    path.unlink()


def test_pickles_changed_at_random_raise_only_errors_of_ours(tmp_path):
    """The archive's checksums would hide most of what a change of the file does to its pickle."""
    value = [OrderedDict(a=np.arange(3.0), b=np.float64(2)), {"c": Fraction(1, 3), 4: {5, "x"}}]
    value += [
        Path("a/b"),
        argparse.Namespace(rate=[0.1, None, True, b"y"]),
        defaultdict(list, d=[1]),
    ]
    pickles = [pickle.dumps(value, protocol) for protocol in (0, 2, 4)]
    pickles += [
        b"}" + text("w") + tensor() + text("v") + tensor(size=(2, 2), stride=(2, 1)) + b"u."
    ]
    pickles[-1] = pickles[-1].replace(b"}", b"}(", 1)
    chance = random.Random(int(os.environ.get("MILEPOST_FUZZ_SEED", "7")))
    sound = 0
    list(formats())
    for _ in range(int(os.environ.get("MILEPOST_FUZZ", "400"))):
        data = mutated(chance.choice(pickles), chance, pickles)
        path = archive(tmp_path / "file", data, {"0": bytes(16)})
        with watched(tmp_path):
            sound += read_through(path)
    assert sound
