"""Changes to files that seek out new code: coverage-guided fuzzing of every format.

    python -m tests.fuzz [--runs N] [--seed N] [PREFIX ...]

Starts from the files that the formats' tests make, one process for each class of them, named
as `onnx.TestRaw`. Of a folder, one file is changed at a time. Checksums are not compared
meanwhile: what is behind them would never be reached. The process ends with the first error
that is none of ours, and leaves the file that caused it as `fuzz-crash-...`, behind one byte that
says which of the files it is. Needs atheris, which is libFuzzer for Python, and Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEMORY = Path("/dev/shm")  # files in memory are written ten times as fast
SEEDS = ["tests/formats", "-q", "-k", "it_is_sound", "-p", "no:cacheprovider"]
LARGEST = 1 << 18


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--runs", type=int, default=200_000, help="for each class")
    parser.add_argument("--seed", type=int, default=7, help="of the changes that are tried")
    parser.add_argument("--one", type=Path, help="in this process, with the files of this class")
    parser.add_argument("prefixes", nargs="*", default=[""], help="of the classes' names")
    options = parser.parse_args(arguments)
    if options.one:
        fuzz_one(options.one, options.runs, options.seed)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        return fuzz_all(Path(folder), options.runs, options.seed, tuple(options.prefixes))


def fuzz_all(folder: Path, runs: int, seed: int, prefixes: tuple[str, ...]) -> int:
    """Every class's files, each in a process of its own; the number of those that broke."""
    environment = {**os.environ, "MILEPOST_SEEDS": str(folder), "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-m", "pytest", *SEEDS], cwd=ROOT, env=environment, check=True)
    broken = 0
    for kind in sorted(folder.iterdir()):
        if kind.name.startswith(prefixes):
            numbers = [f"--runs={runs}", f"--seed={seed}"]
            command = [sys.executable, "-m", "tests.fuzz", *numbers, f"--one={kind}"]
            done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
            broken += done.returncode != 0
            told = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
            if not done.returncode:
                told = [line for line in told if "DONE" in line or line.startswith("Done")]
            print(f"{kind.name}:", *told[-60:], sep="\n  ", flush=True)
    return broken


def fuzz_one(kind: Path, runs: int, seed: int) -> None:
    """Changes to the files of one class; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["milepost"]):
        import milepost.formats
        from milepost.testing.mutation import mutated, read_through
        from milepost.testing.watch import watched

        list(milepost.formats.formats())  # looks for those of other packages, once
        path = (kind / "opened").resolve()
        assert read_through(path)
    without_checksums()
    files = sorted(f for f in (kind / "made").rglob("*") if f.is_file())
    small = [file for file in files if file.stat().st_size < LARGEST]
    files = small or [min(files, key=lambda file: file.stat().st_size)]
    originals = [file.read_bytes() for file in files]
    seeds = [bytes([number % 256]) + data for number, data in enumerate(originals)]

    def read_changed(data: bytes) -> None:
        number = data[0] % len(files) if data else 0
        files[number].write_bytes(data[1:])
        try:
            with watched(kind):
                read_through(path)
        finally:
            files[number].write_bytes(originals[number])

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """Half of the changes are libFuzzer's; half are ours, and start anew or go on."""
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        if chance.random() < 0.5:
            data = chance.choice(seeds)
        return (data[:1] + mutated(data[1:], chance, originals))[:most]

    (kind / "seeds").mkdir()
    for number, data in enumerate(seeds):
        (kind / "seeds" / str(number)).write_bytes(data)
    options = [
        f"-max_len={max(LARGEST, 1 + max(map(len, originals)))}",
        "-rss_limit_mb=0",
        "-timeout=60",
        "-len_control=0",
        "-mutate_depth=2",
    ]
    options += [f"-runs={runs}", f"-seed={seed}", "-artifact_prefix=fuzz-", str(kind / "seeds")]
    atheris.Setup([sys.argv[0], *options], read_changed, custom_mutator=mutate)
    atheris.Fuzz()


class Same(int):
    """Equal to every number."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def without_checksums() -> None:
    """Let every checksum that a reader computes be the one that the file has."""
    from milepost.encodings import crc32c, zip
    from milepost.encodings.hdf5 import image

    stand_ins: dict[object, object] = {
        crc32c.checksum: lambda: lambda data, before: Same(),
        crc32c.masked: lambda crc: Same(),
        image.lookup3: lambda data: Same(),
    }
    zip.Archive._check_crc = lambda *_: None  # type: ignore[method-assign]
    for module in [m for name, m in sys.modules.items() if name.startswith("milepost.")]:
        for name, value in list(vars(module).items()):
            if callable(value) and value.__hash__ and value in stand_ins:
                setattr(module, name, stand_ins[value])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
