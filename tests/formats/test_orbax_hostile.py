"""Orbax checkpoints made by somebody who wishes us ill: other files, bombs, loops, lies."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, MilepostError, UntrustedError, VersionError
from milepost.testing.watch import soon

crc32c = pytest.importorskip("crc32c")
tensorstore = pytest.importorskip("tensorstore")

_ZARR = {
    "chunks": [4],
    "compressor": {"id": "zstd", "level": 1},
    "dimension_separator": ".",
    "dtype": "|u1",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [4],
    "zarr_format": 2,
}


def tree_metadata(**leaves):
    """`_METADATA` of a tree without a database."""
    described = {
        f"('{name}',)": {
            "key_metadata": [{"key": name, "key_type": 2}],
            "value_metadata": {"value_type": kind, "skip_deserialize": False},
        }
        for name, kind in leaves.items()
    }
    return {
        "tree_metadata": described,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
    }


def compressed(data):
    """`data` as a Zstandard frame, by TensorStore."""
    context = tensorstore.Context()
    metadata = {**_ZARR, "chunks": [len(data)], "shape": [len(data)]}
    spec = {"driver": "zarr", "kvstore": {"driver": "memory"}, "metadata": metadata}
    opened = tensorstore.open(spec, create=True, context=context).result()
    opened.write(np.frombuffer(data, np.uint8)).result()
    kvstore = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    return bytes(kvstore["0"])


def bomb(size):
    """A Zstandard frame of so many zeros, in blocks that say "128 KiB of this byte"."""
    block = 1 << 17
    header = (block << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00\x58" + header * (size // block) + last


def folder_of(path, name="w", chunk=None, **changes):
    """A tree with one array in a folder of its own."""
    (path / name).mkdir(parents=True)
    (path / "_METADATA").write_text(json.dumps(tree_metadata(**{name: "np.ndarray"})))
    (path / name / ".zarray").write_text(json.dumps({**_ZARR, **changes}))
    (path / name / "0").write_bytes(compressed(b"\0" * 4) if chunk is None else chunk)
    return path


def varint(value):
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def envelope(magic, body, compression=0):
    data = struct.pack(">I", magic) + struct.pack("<Q", len(body) + 18) + b"\0"
    data += bytes([compression]) + body
    return data + struct.pack("<I", crc32c.crc32c(data))


def files(*paths):
    """The table of files of a node, none of which shares a beginning."""
    parts = [varint(len(paths)), bytes(max(0, len(paths) - 1))]
    parts += [varint(len(path)) for path in paths] + [b"\0" * len(paths)]
    return b"".join(parts) + b"".join(path.encode() for path in paths)


def manifest(path="d/root", offset=0, length=0, height=0, count=1):
    config = bytes(16) + b"\0" + varint(1024) + varint(1 << 20) + b"\4" + b"\0"
    numbers = b"\1" * count + bytes([height]) * count + b"\0" * count
    numbers += varint(offset) * count + varint(length) * count + b"\0" * 3 * count
    body = config + files(path) + varint(count) + numbers + bytes(8) * count + b"\0"
    return envelope(0x0CDB3A2A, body)


def leaf(values, table=("d/data",)):
    """A leaf node: key -> bytes, or (file number, offset, length)."""
    keys = sorted(values)
    places = [values[key] for key in keys if isinstance(values[key], tuple)]
    body = b"\0" + files(*table) + varint(len(keys)) + bytes(len(keys) - 1)
    body += b"".join(varint(len(key)) for key in keys) + b"".join(key.encode() for key in keys)
    for key in keys:
        value = values[key]
        body += varint(value[2] if isinstance(value, tuple) else len(value))
    body += bytes(isinstance(values[key], tuple) for key in keys)
    body += b"".join(varint(place[0]) for place in places)
    body += b"".join(varint(place[1]) for place in places)
    body += b"".join(values[key] for key in keys if not isinstance(values[key], tuple))
    return envelope(0x0CDB20DE, body)


def inner(height, children, table=("d/root",)):
    """An inner node: (key, file number, offset, length) of each child."""
    body = bytes([height]) + files(*table) + varint(len(children)) + bytes(len(children) - 1)
    body += b"".join(varint(len(child[0])) for child in children) + bytes(len(children))
    body += b"".join(child[0].encode() for child in children)
    for column in (1, 2, 3):
        body += b"".join(varint(child[column]) for child in children)
    return envelope(0x0CDB20DE, body + bytes(3 * len(children)))


def database(folder, node, data=b"", **changes):
    """A tree whose database has one node in the file `d/root`, and `data` beside it."""
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "root").write_bytes(node)
    (folder / "d" / "data").write_bytes(data)
    (folder / "manifest.ocdbt").write_bytes(manifest(**{"length": len(node), **changes}))
    return folder


def array(chunk=None, **changes):
    zarr = json.dumps({**_ZARR, **changes}).encode()
    return {"w/.zarray": zarr, "w/0": compressed(b"\1\2\3\4") if chunk is None else chunk}


def test_the_database_made_here_is_one(tmp_path):
    data = compressed(bytes(range(4)))
    node = leaf({**array(), "w/0": (0, 0, len(data))})
    with milepost.open(database(tmp_path / "c", node, data)) as snapshot:
        assert snapshot.read("w").tolist() == [0, 1, 2, 3]
    kvstore = tensorstore.KvStore.open(f"file://{tmp_path}/c/|ocdbt:").result()
    assert kvstore["w/0"] == data


def test_the_folder_made_here_is_one(tmp_path):
    with milepost.open(folder_of(tmp_path / "c")) as snapshot:
        assert snapshot.read("w").tolist() == [0] * 4


_OUTSIDE = ("../secret", "/etc/passwd", "d/../../secret", "..", "d//x", "d/./x", "d\\..\\x")


@pytest.mark.parametrize("name", _OUTSIDE)
def test_a_value_outside_of_the_folder(name, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret" * 100)
    node = leaf({**array(), "w/0": (0, 0, 4)}, [name])
    with pytest.raises(UntrustedError), milepost.open(database(tmp_path / "c", node)) as snapshot:
        snapshot.read("w")


@pytest.mark.parametrize("name", _OUTSIDE)
def test_a_node_outside_of_the_folder(name, tmp_path):
    shutil.copytree(database(tmp_path / "other", leaf(array())) / "d", tmp_path / "secret")
    with pytest.raises(UntrustedError):
        milepost.open(database(tmp_path / "c", leaf(array()), path=name))


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc"])
def test_an_array_outside_of_the_folder(name, tmp_path):
    folder_of(tmp_path, "secret")
    path = folder_of(tmp_path / "c")
    (path / "_METADATA").write_text(json.dumps(tree_metadata(**{name: "np.ndarray"})))
    with pytest.raises(UntrustedError):
        milepost.open(path)


@pytest.mark.parametrize("file", ["w/0", "w/.zarray", "w", "_METADATA"])
def test_a_link_that_leads_out(file, tmp_path):
    path = folder_of(tmp_path / "c")
    shutil.move(path / file, tmp_path / "outside")
    (path / file).symlink_to(tmp_path / "outside")
    with pytest.raises(UntrustedError), milepost.open(path) as snapshot:
        snapshot.read("w")


@pytest.mark.parametrize("file", ["w/0", "w/.zarray"])
def test_a_pipe_is_not_waited_for(file, tmp_path):
    path = folder_of(tmp_path / "c")
    (path / file).unlink()
    os.mkfifo(path / file)
    with pytest.raises(MilepostError), milepost.open(path) as snapshot:
        snapshot.read("w")


_WRONG_ARRAYS = {
    "larger than its files can hold": ({"shape": [1 << 42], "chunks": [1 << 20]}, DamagedError),
    "one chunk of 4 TiB": ({"shape": [1 << 42], "chunks": [1 << 42]}, DamagedError),
    "more chunks than can be": ({"shape": [1 << 24], "chunks": [1]}, DamagedError),
    "a shape that wraps": ({"shape": [1 << 33, 1 << 33], "chunks": [1, 1]}, DamagedError),
    "a negative shape": ({"shape": [-4]}, DamagedError),
    "a chunk of nothing": ({"chunks": [0]}, DamagedError),
    "chunks of other rank": ({"chunks": [2, 2]}, DamagedError),
    "a shape of text": ({"shape": "4"}, DamagedError),
    "objects": ({"dtype": "|O"}, VersionError),
    "records": ({"dtype": [["a", "<f4"]]}, DamagedError),
    "an unknown dtype": ({"dtype": "float3"}, VersionError),
    "a list of dtypes as text": ({"dtype": ",f8"}, VersionError),
    "a count that is computed": ({"dtype": "((2)f4"}, VersionError),
    "an unknown codec": ({"compressor": {"id": "pickle"}}, VersionError),
    "a codec that is no name": ({"compressor": {"id": ["zstd"]}}, VersionError),
    "filters": ({"filters": [{"id": "pickle"}]}, VersionError),
    "another version": ({"zarr_format": 3}, DamagedError),
    "a separator that leads out": ({"dimension_separator": "/../"}, DamagedError),
}


@pytest.mark.parametrize("name", _WRONG_ARRAYS)
def test_metadata_of_an_array_that_is_wrong(name, tmp_path):
    changes, refusal = _WRONG_ARRAYS[name]
    with pytest.raises(refusal):
        milepost.open(folder_of(tmp_path / "c", **changes))


_WRONG_CHUNKS = {
    "a bomb": bomb(1 << 31),
    "too short": compressed(b"\0" * 3),
    "too long": compressed(b"\0" * 5),
    "nothing": b"",
    "no Zstandard": b"\0" * 100,
    "cut short": compressed(b"\1\2\3\4")[:-1],
}


@pytest.mark.parametrize("name", _WRONG_CHUNKS)
def test_a_chunk_that_is_wrong(name, tmp_path):
    path = folder_of(tmp_path / "c", chunk=_WRONG_CHUNKS[name])
    _refused_at_no_cost(path)


def test_a_chunk_of_blosc_that_lies_of_its_size(tmp_path):
    lie = b"\2\1\1\1" + struct.pack("<3I", 1 << 31, 1 << 20, 16)
    _refused_at_no_cost(folder_of(tmp_path / "c", chunk=lie, compressor={"id": "blosc"}))


def test_a_part_of_a_chunk_much_larger_than_its_files(tmp_path):
    size = 80 << 20
    path = folder_of(tmp_path / "c", chunk=bomb(size), chunks=[size], shape=[size])
    with milepost.open(path) as snapshot:
        with pytest.raises(milepost.errors.UsageError, match="whole"):
            snapshot["w"][:4]
        assert not snapshot.read("w").any()


_KEYS = {f"layer_{i:06}/.zarray": b"{}" for i in range(3)}
_NODE = leaf(_KEYS)
_LOOP_LENGTH = len(inner(1, [("a", 0, 0, 50), ("b", 0, 0, 50)]))
_WRONG_DATABASES = {
    "no node": (b"", {}),
    "another node's length": (_NODE, {"length": 1 << 50}),
    "a node longer than its file": (_NODE, {"length": len(_NODE) + 1}),
    "behind its file": (_NODE, {"offset": 1 << 60}),
    "another height": (_NODE, {"height": 3}),
    "no version": (_NODE, {"count": 0}),
    "a node below itself": (inner(1, [("a", 0, 0, _LOOP_LENGTH), ("b", 0, 0, 50)]), {"height": 1}),
    "a file without a number": (inner(1, [("a", 7, 0, 50)]), {"height": 1}),
    "a bomb": (envelope(0x0CDB20DE, bomb(1 << 31), 1), {}),
    "keys without end": (envelope(0x0CDB20DE, b"\0\0" + varint(1 << 40)), {}),
    "files without end": (envelope(0x0CDB20DE, b"\0" + varint(1 << 40)), {}),
    "a path without a beginning": (
        envelope(0x0CDB20DE, b"\0\2" + varint(40_000) + b"\3\3\0\0abcdef"),
        {},
    ),
    "a key without a beginning": (
        envelope(0x0CDB20DE, b"\0\0\2" + varint(40_000) + b"\3\3abcdef"),
        {},
    ),
    "a number without an end": (envelope(0x0CDB20DE, b"\0" + b"\xff" * 20), {}),
    "a checksum that is wrong": (_NODE[:-1] + bytes([_NODE[-1] ^ 1]), {}),
}


@pytest.mark.parametrize("name", _WRONG_DATABASES)
def test_a_database_that_is_wrong(name, tmp_path):
    node, changes = _WRONG_DATABASES[name]
    _refused_at_no_cost(database(tmp_path / "c", node, **changes))


def test_keys_that_grow_with_each_other(tmp_path):
    """Each key is all of the one before and a byte more: few bytes tell of many."""
    count = 60_000
    body = b"\0\0" + varint(count) + b"".join(map(varint, range(1, count))) + b"\1" * count
    node = envelope(0x0CDB20DE, body + b"a" * count)
    _refused_at_no_cost(database(tmp_path / "c", node))


def test_a_newer_database_is_refused_as_such(tmp_path):
    path = database(tmp_path / "c", _NODE)
    data = bytearray((path / "manifest.ocdbt").read_bytes())
    data[12] = 1
    data[-4:] = struct.pack("<I", crc32c.crc32c(bytes(data[:-4])))
    (path / "manifest.ocdbt").write_bytes(data)
    with pytest.raises(VersionError):
        milepost.open(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"tree_metadata": 3}', '{"tree_metadata": {"a": {}}}']
)
def test_a_tree_that_is_none(text, tmp_path):
    path = folder_of(tmp_path / "c")
    (path / "_METADATA").write_text(text)
    with pytest.raises(DamagedError):
        milepost.open(path)


def test_an_array_that_a_tree_names_and_nobody_has(tmp_path):
    path = folder_of(tmp_path / "c")
    (path / "_METADATA").write_text(json.dumps(tree_metadata(v="np.ndarray")))
    with pytest.raises(DamagedError, match="'v'"):
        milepost.open(path)


def test_tensorstore_is_given_no_path_of_a_checkpoint(tmp_path, monkeypatch):
    specs = []
    opened = tensorstore.KvStore.open

    def watched(spec, **options):
        specs.append(json.dumps(spec))
        return opened(spec, **options)

    monkeypatch.setattr(tensorstore.KvStore, "open", watched)
    data = compressed(b"\1\2\3\4")
    specs.clear()
    node = leaf({**array(), "w/0": (0, 0, len(data))})
    with milepost.open(database(tmp_path / "c", node, data)) as snapshot:
        snapshot.read("w")
    assert specs
    assert all('"memory"' in spec and str(tmp_path) not in spec for spec in specs)


def _refused_at_no_cost(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with soon(2), pytest.raises(MilepostError), milepost.open(path) as snapshot:
        snapshot.read("w")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
