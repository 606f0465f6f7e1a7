"""One table: how small lossless codecs make the checkpoints of real runs, and how fast.

    python benchmarks/runs.py --out /tmp/runs
    python benchmarks/compressing.py --runs /tmp/runs --output compressing.md

Arrays are coded one by one, as a store would, and decoded again; a difference ends the program.
An array that equals the one of the checkpoint before counts once, since milepost writes it once.
Of the transformer's six layers two are coded (`--layers`), and everything outside of layers.

- *planes*: all first bytes of a block of numbers, then all second ones, and so on.
- *rotated*: the same, after the bits are rotated left by one, so that the exponent fills a byte
  and the sign is the lowest bit.
- *integers to 1 before*: planes of the difference to the same array in the checkpoint before.
  Bits are subtracted as integers, and zigzagged, so that small differences of either sign have
  many leading zeros. A restore decodes a chain; *depth* is how many arrays that are at worst.
- *to the first of 8*: checkpoints 0, 8, 16 are whole, the others differences to the last of them.
- *zstd-H*: zstd that hardly looks for repetitions; what is left is its Huffman coder.

Seconds are those of the processor: one thread, but other work on the machine does not count.
Codecs that are not installed are named; zstandard must be.
"""

from __future__ import annotations

import argparse
import importlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import milepost
from measuring import machine

Bits = npt.NDArray[Any]  # flat, uint32 or uint16: what a float is made of
PACKAGES = "milepost zstandard blosc2 pcodec zipnn openzl numpy"
BLOCK = 1 << 17  # numbers: what is made of a block stays in the processor's cache
# zstd that hardly looks for repetitions, since chance ones cost more than they save: what is left
# is its Huffman coder. Files are ordinary zstd.
ENTROPY = {"strategy": 1, "min_match": 7, "hash_log": 6, "chain_log": 6}
LONGEST = 8  # checkpoints between an array and what it is a difference to


class Codec:
    """`encode` gives pieces of bytes, `decode` the bits again; `base` is an earlier array."""

    needs = "zstandard"

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        raise NotImplementedError

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        raise NotImplementedError

    def start(self, tool: Any) -> None:
        """Keep the imported package that is needed."""
        self.tool = tool


def blocks(bits: Bits) -> Iterator[slice]:
    for start in range(0, len(bits), BLOCK):
        yield slice(start, min(start + BLOCK, len(bits)))


class Zstd(Codec):
    def __init__(self, level: int) -> None:
        self.level = level  # 0: see ENTROPY

    def start(self, tool: Any) -> None:
        make = tool.ZstdCompressionParameters.from_level
        parameters = make(1, **ENTROPY) if self.level == 0 else make(self.level)
        self.compressor = tool.ZstdCompressor(compression_params=parameters)
        self.decompressor = tool.ZstdDecompressor()

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        return [self.compressor.compress(bits[part]) for part in blocks(bits)]

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        for piece, part in zip(pieces, blocks(out), strict=True):
            out[part] = np.frombuffer(self.decompressor.decompress(piece), out.dtype)


class Planes(Zstd):
    """Byte planes, then zstd for each; what is done to the bits before is a subclass's.

    A plane on its own: zstd would share one table of codes between two planes' ends.
    """

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        pieces = []
        for part in blocks(bits):
            block = self.before(bits[part], None if base is None else base[part])
            planes = np.ascontiguousarray(block.view(np.uint8).reshape(len(block), -1).T)
            pieces += [self.compressor.compress(plane) for plane in planes]
        return pieces

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        left = iter(pieces)
        for part in blocks(out):
            block = out[part]
            rows = block.view(np.uint8).reshape(-1, out.itemsize)
            for number in range(out.itemsize):
                plane = self.decompressor.decompress(next(left))
                rows[:, number] = np.frombuffer(plane, np.uint8)
            self.after(block, None if base is None else base[part])

    def before(self, bits: Bits, base: Bits | None) -> Bits:
        return bits

    def after(self, bits: Bits, base: Bits | None) -> None:
        """Undo, in place, what `before` did."""


class Rotated(Planes):
    def before(self, bits: Bits, base: Bits | None) -> Bits:
        return (bits << 1) | (bits >> (8 * bits.itemsize - 1))

    def after(self, bits: Bits, base: Bits | None) -> None:
        sign = bits << (8 * bits.itemsize - 1)
        bits >>= 1
        bits |= sign


class Xor(Planes):
    def before(self, bits: Bits, base: Bits | None) -> Bits:
        return bits ^ base

    def after(self, bits: Bits, base: Bits | None) -> None:
        bits ^= base


def signed(bits: Bits) -> Bits:
    return bits.view(np.dtype(f"i{bits.itemsize}"))


class Integer(Planes):
    """The difference as an integer; it wraps around, and so does the sum that undoes it."""

    def before(self, bits: Bits, base: Bits | None) -> Bits:
        difference = bits - base
        sign = signed(difference) >> (8 * bits.itemsize - 1)
        difference <<= 1
        difference ^= sign.view(bits.dtype)
        return difference

    def after(self, bits: Bits, base: Bits | None) -> None:
        sign = bits & 1
        np.negative(sign, out=sign)  # all ones if the lowest bit was set
        bits >>= 1
        bits ^= sign
        bits += base


class Smaller(Integer):
    """The integer difference or the rotated bits themselves, for each array."""

    def start(self, tool: Any) -> None:
        super().start(tool)
        self.alone = Rotated(self.level)
        self.alone.start(tool)

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        both = [[b"0", *self.alone.encode(bits, base)], [b"1", *super().encode(bits, base)]]
        return min(both, key=lambda pieces: sum(map(len, pieces)))

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        decode = super().decode if pieces[0] == b"1" else self.alone.decode
        decode(pieces[1:], base, out)


class Blosc(Codec):
    needs = "blosc2"

    def __init__(self, shuffle: str, codec: str, level: int) -> None:
        self.shuffle, self.codec, self.level = shuffle, codec, level

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        found = self.tool.compress2(
            bits,
            codec=self.tool.Codec[self.codec],
            filters=[self.tool.Filter[self.shuffle]],
            clevel=self.level,
            typesize=bits.itemsize,
            nthreads=1,
        )
        return [found]

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        self.tool.decompress2(pieces[0], dst=out, nthreads=1)


class Pcodec(Codec):
    """Knows no bfloat16: its bits are given as integers."""

    needs = "pcodec"

    @staticmethod
    def numbers(bits: Bits) -> Bits:
        return bits.view(np.float32) if bits.itemsize == 4 else bits

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        config = self.tool.ChunkConfig()
        return [self.tool.standalone.simple_compress(self.numbers(bits), config)]

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        self.tool.standalone.simple_decompress_into(pieces[0], self.numbers(out))


class IntegerPcodec(Pcodec):
    """An integer difference, coded by pcodec, which is given the signed integers."""

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        config = self.tool.ChunkConfig()
        return [self.tool.standalone.simple_compress(signed(bits - base), config)]

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        self.tool.standalone.simple_decompress_into(pieces[0], signed(out))
        out += base


class ZipNN(Codec):
    needs = "zipnn"

    def coder(self, bits: Bits) -> Any:
        kind = "float32" if bits.itemsize == 4 else "bfloat16"
        return self.tool.ZipNN(input_format="byte", bytearray_dtype=kind, threads=1)

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        # It works in the memory that it is given: hence a copy.
        return [self.coder(bits).compress(bytearray(bits.data.cast("B")))]

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        out[:] = np.frombuffer(self.coder(out).decompress(pieces[0]), out.dtype)


class OpenZL(Codec):
    """Its generic graph for numbers; or exponents, and signs with fractions, each on their own."""

    needs = "openzl.ext"

    def __init__(self, apart: bool) -> None:
        self.apart = apart

    def compressor(self, size: int) -> Any:
        tool, compressor = self.tool, self.tool.Compressor()
        compressor.set_parameter(tool.CParam.FormatVersion, tool.MAX_FORMAT_VERSION)
        graph = tool.graphs.Compress()(compressor)
        if self.apart:
            nodes = tool.nodes
            node = nodes.Float32Deconstruct if size == 4 else nodes.BFloat16Deconstruct
            fractions = nodes.TransposeSplit()(compressor, graph)
            graph = node()(compressor, fractions, tool.graphs.Entropy()(compressor))
        compressor.select_starting_graph(graph)
        return compressor

    def encode(self, bits: Bits, base: Bits | None) -> list[bytes]:
        context = self.tool.CCtx()
        compressor = self.compressor(bits.itemsize)
        context.ref_compressor(compressor)
        return [context.compress([self.tool.Input(self.tool.Type.Numeric, bits)])]

    def decode(self, pieces: list[bytes], base: Bits | None, out: Bits) -> None:
        out[:] = self.tool.DCtx().decompress(pieces[0])[0].content.as_nparray()


@dataclass(frozen=True)
class Row:
    """A codec, and to which earlier checkpoint the i-th is a difference: None for to none."""

    title: str
    codec: Codec
    base: Callable[[int], int | None] = lambda i: None
    depth: Callable[[int], int] = lambda count: 1


def back(title: str, codec: Codec, steps: int) -> Row:
    """Differences to so many checkpoints before."""
    return Row(
        title,
        codec,
        lambda i: i - steps if i >= steps else None,
        lambda count: -(-count // steps),
    )


def star(title: str, codec: Codec, every: int) -> Row:
    """Each of so many is whole, and the others are differences to it."""
    return Row(title, codec, lambda i: i - i % every if i % every else None, lambda count: 2)


def differences(level: int) -> list[Row]:
    zstd = f"zstd-{level or 'H'}"
    codec, smaller = Integer(level), Smaller(level)
    return [
        back(f"XOR to 1 before, {zstd}", Xor(level), 1),
        *(
            back(f"integers to {steps} before, {zstd}", codec, steps)
            for steps in (1, 2, 4, LONGEST)
        ),
        *(
            star(f"integers to the first of {every}, {zstd}", codec, every)
            for every in (4, LONGEST)
        ),
        back(f"rotated or integers to 1 before, {zstd}", smaller, 1),
        star(f"rotated or integers to the first of 8, {zstd}", smaller, LONGEST),
    ]


ROWS = [
    Row("zstd-1", Zstd(1)),
    Row("planes, zstd-1", Planes(1)),
    Row("planes, zstd-3", Planes(3)),
    Row("planes, zstd-H", Planes(0)),
    Row("rotated, zstd-1", Rotated(1)),
    Row("rotated, zstd-H", Rotated(0)),
    Row("blosc2 shuffle, zstd-1", Blosc("SHUFFLE", "ZSTD", 1)),
    Row("blosc2 bitshuffle, lz4", Blosc("BITSHUFFLE", "LZ4", 5)),
    Row("pcodec", Pcodec()),
    Row("ZipNN", ZipNN()),
    Row("OpenZL, generic", OpenZL(apart=False)),
    Row("OpenZL, floats apart", OpenZL(apart=True)),
    *differences(1),
    *differences(0),
    back("integers to 1 before, pcodec", IntegerPcodec(), 1),
]
WHOLE = Rotated(0)  # for what is a difference to nothing, in the rows of differences


@dataclass
class Sum:
    before: int = 0
    after: int = 0
    seconds_in: float = 0
    seconds_out: float = 0

    def add(self, other: Sum) -> None:
        self.before += other.before
        self.after += other.after
        self.seconds_in += other.seconds_in
        self.seconds_out += other.seconds_out

    @property
    def ratio(self) -> str:
        return f"{self.after / self.before:.3f}" if self.before else ""

    @property
    def speeds(self) -> list[str]:
        if not self.before:
            return ["", ""]
        return [f"{self.before / s / 1e9:.2f}" for s in (self.seconds_in, self.seconds_out)]


def measure(codec: Codec, bits: Bits, base: Bits | None) -> Sum:
    began = time.process_time()
    pieces = codec.encode(bits, base)
    middle = time.process_time()
    out = np.empty_like(bits)
    codec.decode(pieces, base, out)
    end = time.process_time()
    if not np.array_equal(out, bits):
        raise SystemExit(f"{type(codec).__name__}: what was decoded is not what was encoded")
    return Sum(bits.nbytes, sum(map(len, pieces)), middle - began, end - middle)


@dataclass
class Results:
    """Sums by row; `parts` by run, role and half too, of differences only in their rows."""

    rows: list[Row]
    missing: list[str]
    parts: dict[tuple[str, str, str, str], Sum] = field(default_factory=dict)
    whole: dict[tuple[str, str], Sum] = field(default_factory=dict)

    def add(self, row: Row, part: tuple[str, str, str], found: Sum, counts: bool) -> None:
        self.whole.setdefault((row.title, part[0]), Sum()).add(found)
        if counts:
            self.parts.setdefault((row.title, *part), Sum()).add(found)

    def select(self, row: Row, run: str, role: str = "", half: str = "") -> Sum:
        found = Sum()
        for (title, of, part, when), one in self.parts.items():
            if (title, of) == (row.title, run) and role in ("", part) and half in ("", when):
                found.add(one)
        return found


def start(rows: list[Row]) -> Results:
    """Import what the codecs need; rows whose package is absent go."""
    results = Results([], [])
    for row in rows:
        try:
            row.codec.start(importlib.import_module(row.codec.needs))
            results.rows.append(row)
        except ImportError:
            results.missing.append(row.title)
    WHOLE.start(importlib.import_module(WHOLE.needs))
    return results


def sampled(names: Iterable[str], layers: list[int]) -> list[str]:
    """Everything outside of layers, and these layers."""
    found = []
    for name in names:
        layer = re.search(r"blocks\.(\d+)\.", name)
        if layer is None or int(layer[1]) in layers:
            found.append(name)
    return found


def leaf_bits(snapshot: Any, name: str) -> Bits:
    array = np.ascontiguousarray(snapshot[name]).reshape(-1)
    return array.view(np.dtype(f"u{array.itemsize}"))


def measure_leaf(results: Results, run: str, role: str, history: list[Bits]) -> None:
    count = len(history)
    for i, bits in enumerate(history):
        if i and np.array_equal(bits, history[i - 1]):
            continue
        half = "early" if i < count / 2 else "late"
        for row in results.rows:
            place = row.base(i)
            base = None if place is None else history[place]
            is_plain = row.base(1) is None and row.base(LONGEST) is None
            codec = row.codec if base is not None or is_plain else WHOLE
            found = measure(codec, bits, base)
            results.add(row, (run, role, half), found, codec is row.codec)


def measure_run(results: Results, folder: Path, layers: list[int]) -> int:
    """How many checkpoints there were."""
    paths = sorted(folder.glob("*.safetensors"))
    with ExitStack() as stack:
        opened: list[Any] = [milepost.open(str(path)) for path in paths]
        snapshots = [stack.enter_context(one) for one in opened]
        names = sampled(list(snapshots[-1]), layers)
        for name in names:
            history = [leaf_bits(snapshot, name) for snapshot in snapshots]
            measure_leaf(results, folder.name, name.partition("/")[0], history)
    return len(paths)


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def lines(head: list[str], body: Iterable[list[str]]) -> list[str]:
    rule = line(["---", *["---:"] * (len(head) - 1)])
    return ["", line(head), rule, *map(line, body)]


def parts_table(results: Results, run: str) -> list[str]:
    """Ratios of a run by role and half, and the speeds."""
    roles = sorted({role for _, of, role, _ in results.parts if of == run}, key="wmv".index)
    columns = [(role, half) for role in roles for half in ("early", "late")]
    head = [f"`{run}`", *map(" ".join, columns), "GB/s in", "GB/s out"]
    body = []
    for row in results.rows:
        cells = [results.select(row, run, *column).ratio for column in columns]
        body.append([row.title, *cells, *results.select(row, run).speeds])
    return lines(head, body)


def whole_table(results: Results, counts: dict[str, int]) -> list[str]:
    """Ratios of whole runs, all leaves and all checkpoints together."""
    sizes = {run: results.whole[results.rows[0].title, run].before for run in counts}
    named = [f"{run}, {counts[run]} checkpoints, {sizes[run] / 1e6:.0f} MB" for run in counts]
    body = []
    for row in results.rows:
        ratios = [results.whole[row.title, run].ratio for run in counts]
        body.append([row.title, str(row.depth(max(counts.values()))), *ratios])
    return lines(["whole runs", "depth", *named], body)


def table(results: Results, counts: dict[str, int], layers: list[int]) -> str:
    absent = f" Not installed: {'; '.join(results.missing)}." if results.missing else ""
    text = [
        "Size after / before; GB/s of one core, encoding and decoding. In the rows of differences",
        "`early` and `late` are of the differences alone; whole runs are of everything, and what",
        "is a difference to nothing is `rotated, zstd-H`. Only what changed is counted.",
        f"Layers {', '.join(map(str, layers))} of the transformer, and all else.{absent}",
        machine(PACKAGES),
    ]
    for run in counts:
        text += parts_table(results, run)
    return "\n".join(text + whole_table(results, counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", required=True, help="the folder that `runs.py` wrote")
    parser.add_argument("--only", nargs="+", help="runs; all that there are unless given")
    parser.add_argument("--layers", nargs="+", type=int, default=[0, 3], help="that are coded")
    parser.add_argument("--output", help="a file that the table is written to, too")
    options = parser.parse_args()
    results, counts = start(ROWS), {}
    found = {path.name: path for path in sorted(Path(options.runs).iterdir()) if path.is_dir()}
    for run in options.only or found:
        counts[run] = measure_run(results, found[run], options.layers)
    text = table(results, counts, options.layers)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
