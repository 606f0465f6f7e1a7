"""Checkpoints as TensorFlow writes them, and hostile ones as it never would."""

from __future__ import annotations

import os
import struct

import crc32c
import numpy as np

from milepost.encodings.crc32c import masked

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")


def expected(prefix, wanted=lambda key: key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")):
    """What TensorFlow's own reader finds, by the names that are expected of ours."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    keys = [key for key in reader.get_variable_to_shape_map() if "CHECKPOINTABLE" not in key]
    found = {wanted(key): reader.get_tensor(key) for key in keys}
    return {name: v if isinstance(v, bytes) else np.asarray(v) for name, v in found.items()}


def varint(value):
    value &= 2**64 - 1
    code = b""
    while value > 127:
        code, value = code + bytes([value & 127 | 128]), value >> 7
    return code + bytes([value])


def field(number, value):
    """A field of a message: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def crc(data):
    return masked(crc32c.crc32c(data))


def block(entries, restarts=1):
    """A block with its trailer; each entry may say itself how much of its key is shared."""
    body = b""
    for shared, key, value in ((0, *e) if len(e) == 2 else e for e in entries):
        body += varint(shared) + varint(len(key)) + varint(len(value)) + key + value
    return sealed(body + bytes(4 * min(restarts, 1)) + struct.pack("<I", restarts))


def sealed(contents, kind=b"\0"):
    return contents + kind + struct.pack("<I", crc(contents + kind))


def table(*blocks, index=None, footer=None):
    """A table of data blocks."""
    handles, data = [], b""
    for number, one in enumerate(blocks):
        handles.append((bytes([number + 1]), varint(len(data)) + varint(len(one) - 5)))
        data += one
    meta, main = block([]), block(handles) if index is None else index
    ends = varint(len(data)) + varint(len(meta) - 5)
    ends += varint(len(data) + len(meta)) + varint(len(main) - 5)
    return data + meta + main + (footer or ends).ljust(40, b"\0") + MAGIC


def header(shards=1, endianness=0):
    return (b"", field(1, shards) + field(2, endianness) + field(3, field(1, 1)))


def entry(dtype, shape, data, *, shard=0, offset=0, size=None, checksum=None, slices=()):
    sizes = b"".join(field(2, field(1, n)) for n in shape)
    message = field(1, dtype) + field(2, sizes) + field(3, shard) + field(4, offset)
    message += field(5, len(data) if size is None else size)
    code = crc(data) if checksum is None else checksum
    message += varint(6 << 3 | 5) + struct.pack("<I", code)
    return message + b"".join(field(7, part) for part in slices)


def texts(*values, order="<"):
    """The bytes of a string tensor, and their checksum."""
    lengths = b"".join(struct.pack(f"{order}I", len(value)) for value in values)
    middle = struct.pack(f"{order}I", crc(lengths))
    data = b"".join(values)
    return b"".join(varint(len(v)) for v in values) + middle + data, crc(lengths + middle + data)


def write(folder, entries, data=b"", head=None, name="x"):
    """A checkpoint of one data file; returns the path of its index."""
    path = os.path.join(folder, f"{name}.index")
    with open(path, "wb") as file:
        file.write(table(block([head or header(), *entries])))
    with open(os.path.join(folder, f"{name}.data-00000-of-00001"), "wb") as file:
        file.write(data)
    return path
