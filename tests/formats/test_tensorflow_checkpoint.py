"""TensorFlow checkpoints, as TensorFlow writes them, and as somebody hostile would."""

from __future__ import annotations

import os
import shutil

import ml_dtypes
import numpy as np
import pytest

import milepost
from milepost.errors import (
    DamagedError,
    LeafNotFoundError,
    UnknownFormatError,
    UntrustedError,
    UsageError,
    VersionError,
)
from milepost.formats.tensorflow_bundle import slice_key
from milepost.testing import FormatTests
from milepost.testing.watch import soon
from tests.formats.tensorflow_files import (
    block,
    entry,
    expected,
    field,
    header,
    table,
    texts,
    varint,
    write,
)

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def copied(tmp_path_factory, name, make):
    """A folder that is made once, and copied for each test."""
    source = tmp_path_factory.mktemp(name)
    return source, make(source)


@pytest.fixture(scope="module")
def module(tf, tmp_path_factory):
    def make(folder):
        class Model(tf.Module):
            def __init__(self):
                super().__init__("net")
                chance = np.random.default_rng(7)
                self.layers = [
                    tf.Variable(chance.normal(size=(3, n)), name=f"w{n}") for n in (2, 5)
                ]
                self.named = {"a/b": tf.Variable(1.5), "c.d": tf.Variable([True, False])}
                self.me = self
                self.text = tf.Variable("hello")
                self.texts = tf.Variable([["a", "bb"], ["", "x" * 300]])
                self.empty = tf.Variable(tf.zeros((0, 3)))
                for name in NUMBERS:
                    setattr(self, name, tf.Variable(tf.cast([[1, 2, 0], [3, 1, 0]], name)))

        model = Model()
        tf.train.Checkpoint(net=model, again=model.layers).save(str(folder / "ckpt"))
        return expected(folder / "ckpt-1", lambda key: READABLE.get(key, key.removesuffix(VALUE)))

    return copied(tmp_path_factory, "module", make)


NUMBERS = (
    *("bfloat16", "float16", "float64", "complex64", "complex128", "int8", "uint8", "int16"),
    *("uint16", "uint32", "uint64", "int4", "uint4"),
)
READABLE = {f"net/named/a.Sb{VALUE}": "net/named/a/b", f"net/named/c..d{VALUE}": "net/named/c.d"}


class TestModule(FormatTests):
    """A folder, with lists, dicts, strings, a circle, and all dtypes."""

    @pytest.fixture(autouse=True)
    def _made_once(self, module):
        self.once = module

    def make(self, folder):
        path = folder / "run"
        shutil.copytree(self.once[0], path)
        return path, self.once[1]

    def test_its_leaves_have_further_names(self, made):
        with self.opened(made[0]) as snapshot:
            weights = np.asarray(snapshot["again/1"])
            for name in ("net/layers/1", f"again/1{VALUE}", "net/me/me/layers/1", "w5"):
                assert name in snapshot
                assert np.array_equal(snapshot[name], weights)
            assert snapshot["net/named/a.Sb"].shape == ()
            assert snapshot["net/me/text"] == b"hello"
            assert "net/layers/2" not in snapshot
            assert "net" not in snapshot
            assert snapshot.aliases()["w5"] == "again/1"
            assert snapshot.aliases()[f"net/text{VALUE}"] == "net/text"
            assert set(snapshot.aliases().values()) <= set(snapshot)


@pytest.fixture(scope="module")
def keras_run(tf, tmp_path_factory):
    keras = pytest.importorskip("keras")

    def make(folder):
        first = keras.layers.Dense(5, name="first")
        layers = [keras.Input((4,)), first, keras.layers.BatchNormalization()]
        model = keras.Sequential([*layers, keras.layers.Dense(2)], name="named")
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(folder / "ckpt"))
        kernel = np.asarray(first.kernel)
        return expected(folder / "ckpt-1"), kernel

    return copied(tmp_path_factory, "keras", make)


class TestKeras(FormatTests):
    """A model and its optimizer, opened by the prefix."""

    @pytest.fixture(autouse=True)
    def _made_once(self, keras_run):
        self.once = keras_run

    def make(self, folder):
        shutil.copytree(self.once[0], folder, dirs_exist_ok=True)
        return folder / "ckpt-1", self.once[1][0]

    def test_its_variables_have_their_names_in_the_model(self, made):
        with self.opened(made[0]) as snapshot:
            kernel = self.once[1][1]
            assert np.array_equal(snapshot["model/_functional/_operations/1/_kernel"], kernel)
            assert np.array_equal(snapshot["named/first/kernel"], kernel)

    def test_prefix_and_index_and_folder_are_one(self, made):
        for path in (made[0], made[0].with_name("ckpt-1.index"), made[0].parent):
            with self.opened(path) as snapshot:
                assert set(snapshot) == set(made[1])


@pytest.fixture(scope="module")
def saver(tf, tmp_path_factory):
    def make(folder):
        v1 = tf.compat.v1
        with tf.Graph().as_default(), v1.Session() as session:
            rows = v1.get_variable(
                "rows", [10, 3], partitioner=v1.fixed_size_partitioner(3),
                initializer=v1.random_normal_initializer(), use_resource=False,
            )  # fmt: skip
            v1.get_variable(
                "columns", [2, 300], partitioner=v1.fixed_size_partitioner(4, axis=1),
                initializer=v1.random_normal_initializer(), use_resource=False,
            )  # fmt: skip
            assert len(list(rows)) == 3
            v1.get_variable("scope/plain", initializer=np.arange(6, dtype=np.int64))
            v1.get_variable("word", initializer="a word", dtype=tf.string)
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "model.ckpt"), global_step=3)
        return expected(folder / "model.ckpt-3")

    return copied(tmp_path_factory, "saver", make)


class TestSaver(FormatTests):
    """A checkpoint by names, of partitioned variables, with its graph beside it."""

    @pytest.fixture(autouse=True)
    def _made_once(self, saver):
        self.once = saver

    def make(self, folder):
        path = folder / "run"
        shutil.copytree(self.once[0], path)
        return path, self.once[1]

    def test_it_has_slices(self, made):
        with self.opened(made[0]) as snapshot:
            assert snapshot.metadata["kind"] == "names"
            assert np.array_equal(snapshot["rows"][3:8, 1], made[1]["rows"][3:8, 1])


@pytest.fixture(scope="module")
def sharded(tf, tmp_path_factory):
    def make(folder):
        v1 = tf.compat.v1
        devices = tf.config.experimental.list_logical_devices("CPU")
        with tf.Graph().as_default():
            config = v1.ConfigProto(device_count={"CPU": 3})
            with v1.Session(config=config) as session:
                for number in range(max(3, len(devices))):
                    with tf.device(f"/job:localhost/replica:0/task:0/device:CPU:{number}"):
                        initial = np.full((number + 2, 3), number, np.float32)
                        v1.get_variable(f"v{number}", initializer=initial)
                session.run(v1.global_variables_initializer())
                v1.train.Saver(sharded=True).save(session, str(folder / "model.ckpt"))
        return expected(folder / "model.ckpt")

    return copied(tmp_path_factory, "sharded", make)


def test_all_dtypes_of_numbers(tf, tmp_path):
    """Those that no variable can have, too."""
    numbers = {
        name: tf.constant(np.array([1.5, -2, 3], getattr(ml_dtypes, name)))
        for name in ("float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz")
    }
    for name in ("qint8", "quint8", "qint32", "qint16", "quint16"):
        numbers[name] = tf.bitcast(tf.constant([1, 2, 3], name[1:]), name)
    for name in ("int2", "uint2", "int4", "uint4"):
        numbers[name] = tf.constant(np.array([1, 0, 1], getattr(ml_dtypes, name)))
    prefix = str(tmp_path / "all")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(numbers),
        shape_and_slices=[""] * len(numbers),
        tensors=list(numbers.values()),
    )
    with milepost.open(prefix) as snapshot:
        assert set(snapshot) == set(numbers)
        for name, number in numbers.items():
            wanted = number.numpy() if name[0] != "q" and name[1] != "q" else np.array([1, 2, 3])
            assert np.array_equal(snapshot.read(name), wanted), name
            plain = name.replace("qu", "u").replace("qi", "i")
            assert snapshot.spec(name).dtype == plain


class TestSharded(FormatTests):
    """A checkpoint of several data files."""

    @pytest.fixture(autouse=True)
    def _made_once(self, sharded):
        self.once = sharded

    def make(self, folder):
        path = folder / "run"
        shutil.copytree(self.once[0], path)
        assert len([name for name in os.listdir(path) if ".data-" in name]) > 1
        return path, self.once[1]


# What TensorFlow of today does not write here.


def opened(path):
    return milepost.open(str(path))


def test_slots_have_readable_names(tmp_path):
    data = np.arange(3, dtype="<f4").tobytes()
    keys = [f"net{VALUE}", f"net/.OPTIMIZER_SLOT/train/adam/m{VALUE}", "table/.ATTRIBUTES/keys"]
    text, checksum = texts(field(1, b""))
    entries = [(key.encode(), entry(1, [3], data)) for key in keys]
    graph = entry(7, [], text, offset=12, checksum=checksum)
    path = write(tmp_path, [(b"_CHECKPOINTABLE_OBJECT_GRAPH", graph), *entries], data + text)
    with opened(path) as snapshot:
        assert list(snapshot) == ["net", "train/adam/slots/m/net", "table/keys"]
        assert np.array_equal(snapshot[keys[1]], [0, 1, 2])


def test_big_endian_data_is_turned(tmp_path):
    numbers = {
        b"a": (1, np.array([1.5, -2], ">f4")),
        b"b": (18, np.array([1 + 2j, -3j], ">c16")),
        b"c": (14, np.array([1.5, 3], ml_dtypes.bfloat16).view("u2").astype(">u2")),
        b"d": (10, np.array([True, False])),
    }
    data, entries = b"", []
    for key, (dtype, array) in numbers.items():
        entries.append((key, entry(dtype, array.shape, array.tobytes(), offset=len(data))))
        data += array.tobytes()
    text, checksum = texts(b"one", b"three", order=">")
    entries.append((b"e", entry(7, [2], text, offset=len(data), checksum=checksum)))
    with opened(write(tmp_path, entries, data + text, header(endianness=1))) as snapshot:
        assert snapshot["a"][:].tolist() == [1.5, -2]
        assert snapshot["b"][1] == -3j
        assert snapshot.read("c").dtype == ml_dtypes.bfloat16
        assert snapshot.read("c").astype(float).tolist() == [1.5, 3]
        assert snapshot.read("d").tolist() == [True, False]
        assert snapshot.read("e").tolist() == [b"one", b"three"]


def test_what_only_tensorflow_understands_is_told_of(tmp_path):
    entries = [(b"a", entry(21, [], b"variant")), (b"b", entry(3, [], bytes(4)))]
    with opened(write(tmp_path, entries, b"variant")) as snapshot:
        assert list(snapshot) == ["b"]
        assert snapshot.metadata["unreadable"] == {"a": "variant"}


@pytest.mark.parametrize("count", [1, 40_000, 100_000])
def test_many_strings_are_read_part_by_part(tmp_path, count):
    values = [b"%d" % n * (n % 4) for n in range(count)]
    text, checksum = texts(*values)
    path = write(tmp_path, [(b"s", entry(7, [count, 1], text, checksum=checksum))], text)
    with opened(path) as snapshot:
        assert snapshot.read("s")[:, 0].tolist() == values
        assert snapshot["s"][count - 3 :, 0].tolist() == values[count - 3 if count > 3 else 0 :]
        middle = slice(count // 3, count // 3 + 5)
        assert snapshot["s"][middle, 0].tolist() == values[middle]


def test_any_flipped_bit_of_the_data_names_the_leaf(tmp_path):
    text, checksum = texts(b"one", b"three")
    numbers = np.arange(4, dtype="<f4").tobytes()
    entries = [
        (b"n", entry(1, [4], numbers, offset=len(text))),
        (b"s", entry(7, [2], text, checksum=checksum)),
    ]
    data = text + numbers
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        leaf = "s" if place < len(text) * 8 else "n"
        with opened(write(tmp_path, entries, bytes(changed))) as snapshot:
            for read in (snapshot.read, lambda name, s=snapshot: s[name][:1]):
                with pytest.raises(DamagedError, match=f"leaf '{leaf}'"):
                    read(leaf)
            [damage] = snapshot.damage()
            assert damage.leaf == leaf


def test_parts_read_their_bytes_only_once_the_whole_is_checked(tmp_path):
    data = np.arange(12 << 20, dtype="<f4").tobytes()
    path = write(tmp_path, [(b"w", entry(1, [12 << 20], data))], data)
    with opened(path) as snapshot:
        shard = snapshot._files[0]
        read, inner = [], shard.read_into
        shard.read_into = lambda offset, buffer: read.append(len(buffer)) or inner(offset, buffer)
        assert sum(len(part) for _, part in snapshot.read_parts("w")) == 12 << 20
        assert sum(read) == 2 * len(data)
        read.clear()
        assert snapshot["w"][1000] == 1000
        assert sum(read) < 1 << 16


def sliced(extents, shape=(4, 2), parts=None):
    """A variable of slices, each an extent of the first axis."""
    whole = [b"".join(field(1, field(1, a) + field(2, n)) for a, n in axes) for axes in extents]
    entries = [(b"w", entry(1, shape, b"", slices=whole))]
    for axes in sorted(extents if parts is None else parts):
        sizes = [n for _, n in axes]
        data = bytes(4 * int(np.prod(sizes)))
        entries.append((slice_key(b"w", tuple(axes)), entry(1, sizes, data)))
    return sorted(entries)


TOP, BOTTOM = ((0, 2), (0, 2)), ((2, 2), (0, 2))
F = [4]
HOSTILE = {
    "behind the end": [(b"a", entry(1, F, b"", size=16, offset=2**62))],
    "a negative offset": [(b"a", entry(1, F, b"", size=16, offset=-8))],
    "a negative size": [(b"a", entry(1, F, b"", size=-16))],
    "another size than the shape's": [(b"a", entry(1, [5], bytes(16)))],
    "a negative shape": [(b"a", entry(1, [-2, -2], bytes(16)))],
    "a shape that overflows": [(b"a", entry(1, [2**32, 2**32], bytes(0)))],
    "an unknown rank": [(b"a", field(1, 1) + field(2, field(3, 1)))],
    "a data file that is not one of them": [(b"a", entry(1, F, bytes(16), shard=1))],
    "a negative data file": [(b"a", entry(1, F, bytes(16), shard=-1))],
    "bytes for a number": [(b"a", field(1, b"float"))],
    "a number for a shape": [(b"a", field(1, 1) + field(2, 3))],
    "half a message": [(b"a", b"\x12\x7f")],
    "more strings than bytes": [(b"a", entry(7, [2**40], bytes(16)))],
    "slices that overlap": sliced([TOP, ((1, 2), (0, 2))]),
    "slices with a gap": sliced([TOP]),
    "a slice outside": sliced([TOP, ((3, 2), (0, 2))]),
    "a slice that overflows": sliced([TOP, ((2**62, 2**63 - 1), (0, 2))], parts=[TOP]),
    "a slice of another rank": sliced([((0, 4),)]),
    "a slice that is missing": sliced([TOP, BOTTOM], parts=[TOP]),
    "a slice without its variable": sliced([TOP, BOTTOM])[:2],
    "a name that is no text": [(b"\xff\xfe", entry(1, F, bytes(16)))],
    "a name with control characters": [(b"a\x1b[2J", entry(1, F, bytes(16)))],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_index_is_refused(tmp_path, name):
    with pytest.raises(DamagedError):
        opened(write(tmp_path, HOSTILE[name], bytes(16)))


def test_slices_make_up_their_variable(tmp_path):
    with opened(write(tmp_path, sliced([TOP, BOTTOM]), bytes(16))) as snapshot:
        assert snapshot.read("w").shape == (4, 2)
        assert list(snapshot) == ["w"]


def string_tensor(lengths, body=b""):
    data = b"".join(map(varint, lengths)) + bytes(4) + body
    return [(b"a", entry(7, [len(lengths)], data))], data


@pytest.mark.parametrize(
    "lengths", [[2**64 - 1, 2], [2**63, 2**63], [2**32, 2**32], [200, 0], [0, 0, 2**60]]
)
def test_lengths_of_strings_that_overflow_are_refused(tmp_path, lengths):
    entries, data = string_tensor(lengths, b"twelve bytes")
    snapshot = opened(write(tmp_path, entries, data))
    with snapshot, pytest.raises(DamagedError, match="leaf 'a'|a number of 10 bytes"):
        snapshot.read("a")


def test_a_billion_data_files_are_not_looked_for(tmp_path):
    entries = [(b"a", entry(1, F, bytes(16), shard=10**9 - 1))]
    with soon(2), pytest.raises(DamagedError, match="999999999-of-1000000000 is missing"):
        opened(write(tmp_path, entries, head=header(10**9)))


def test_newer_and_older_ones_are_refused_as_such(tmp_path):
    newer = (b"", field(1, 1) + field(3, field(1, 9) + field(2, 9)))
    with pytest.raises(VersionError):
        opened(write(tmp_path, [], head=newer))
    with pytest.raises(VersionError, match="dtype 77"):
        opened(write(tmp_path, [(b"a", entry(77, F, bytes(16)))]))
    with pytest.raises(UnknownFormatError, match="V1"):
        opened(write(tmp_path, [], head=(b"", field(1, b"slices"))))
    (tmp_path / "other.ldb").write_bytes(table(block([(b"key", b"value")])))
    with pytest.raises(UnknownFormatError, match="not of a TensorFlow"):
        opened(tmp_path / "other.ldb")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ('model_checkpoint_path: "x"', None),
        ('model_checkpoint_path: "/somewhere/else/x"\nall_model_checkpoint_paths: "y"', None),
        ('model_checkpoint_path: "../../x"', None),
        ('model_checkpoint_path: "\\170"', None),
        ('model_checkpoint_path: "../../y"', DamagedError),
        ('model_checkpoint_path: "a/.."', UntrustedError),
        ('model_checkpoint_path: ""', UntrustedError),
        ('model_checkpoint_path: "x\\000"', UntrustedError),
        ('model_checkpoint_path: "\\377"', DamagedError),
        ("", DamagedError),
    ],
)
def test_the_latest_one_is_looked_for_in_its_folder_only(tmp_path, state, error):
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, [(b"a", entry(3, [], bytes(4)))], bytes(4))
    write(tmp_path, [(b"b", entry(3, [], bytes(4)))], bytes(4), name="y")
    (folder / "checkpoint").write_text(state)
    if error is None:
        assert list(opened(folder)) == ["a"]
    else:
        with pytest.raises(error):
            opened(folder)


def test_without_that_text_a_folder_may_have_one_checkpoint_only(tmp_path):
    write(tmp_path, [], name="x")
    assert list(opened(tmp_path)) == []
    write(tmp_path, [], name="y")
    with pytest.raises(UsageError, match="x, y"):
        opened(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    path = write(folder, [(b"a", entry(3, [], bytes(4)))], bytes(4))
    data = folder / "x.data-00000-of-00001"
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(UntrustedError, match="link"):
        opened(path)
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(UntrustedError, match="ordinary"):
        opened(path)


def graph_of(tmp_path, graph):
    text, checksum = texts(graph)
    entries = [
        (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(7, [], text, offset=4, checksum=checksum)),
        (f"a{VALUE}".encode(), entry(3, [], bytes(4))),
    ]
    return write(tmp_path, entries, bytes(4) + text)


def reference(node, name):
    return field(1, field(1, node) + field(2, name))


def test_circles_end(tmp_path):
    key = field(2, field(1, b"VARIABLE_VALUE") + field(3, f"a{VALUE}".encode()))
    root = field(1, reference(0, b"me") + reference(1, b"you"))
    other = field(1, reference(0, b"back") + reference(1, b"self") + key)
    with opened(graph_of(tmp_path, root + other)) as snapshot:
        assert snapshot["you/back/" * 500 + "you"].shape == ()
        assert snapshot.aliases() == {"you": "a", "you/self": "a", f"a{VALUE}": "a"}


HOSTILE_GRAPHS = {
    "a million references": field(1, reference(0, b"") * 1_000_000),
    "a million objects": field(1, b"") * 1_000_000,
    "an object that is not there": field(1, reference(7, b"x")),
    "a negative object": field(1, reference(-1, b"x")),
    "a name that is no text": field(1, reference(0, b"\xff")),
    "half a message": b"\x0a\x7f",
    "deep nesting": b"\x0a\xff\xff\x03" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE_GRAPHS)
def test_a_hostile_graph_costs_nothing_until_it_is_needed(tmp_path, name):
    with opened(graph_of(tmp_path, HOSTILE_GRAPHS[name])) as snapshot:
        assert snapshot.read("a") == 0
        with soon(2), pytest.raises(DamagedError):
            snapshot["another"]


def test_an_empty_graph_knows_no_names(tmp_path):
    with opened(graph_of(tmp_path, b"")) as snapshot:
        with pytest.raises(LeafNotFoundError):
            snapshot["another"]
        assert snapshot.aliases() == {f"a{VALUE}": "a"}
