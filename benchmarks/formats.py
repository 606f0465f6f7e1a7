"""Three tables: who reads which file, what hostile files do to whom, and how long a look takes.

    python -m venv peers && peers/bin/pip install picklescan "modelscan[h5py,tensorflow]" \\
        fickling typing_extensions
    python benchmarks/formats.py --peers peers/bin/python --write docs/peers.md

Sound files, one of each format as its framework writes it, and hostile ones (`formats_files.py`)
go through every reader, and the hostile ones through every scanner (`formats_tools.py`). Each
file is read in a process of its own, forked from one that only imports the reader's framework:

    reads        the arrays come back, with the right sum for a sound file
    refuses      an exception, or no arrays, or others than those of the sound file
    executes     the witness file is there afterwards: the file's code ran
    leaks        the bytes of a file outside of the model's folder came back as an array
    crashes      the process died of a signal
    hangs        more than LIMIT seconds

A scanner flags a file, calls it clean, or cannot tell: an error, or nothing that it would scan.

The third table looks at 2 GB files (`formats_show.py`). Without `--peers`, the scanners' columns
are left out; `--write` puts the tables between the marks of a page. Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable

import formats_show
import measuring
from formats_files import HOSTILE, SECRET, SOUND, STATE, WITNESS, Maker
from formats_tools import READERS, Reader, numbers, scanners

LIMIT = 60  # seconds
MEMORY = 64 << 30  # bytes of addresses: more is refused, before it hurts the machine
NOTABLE = 300_000  # kilobytes of memory beyond the imports' that are worth telling
SUMS = sorted(float(value.sum()) for value in STATE.values())


def make(makers: dict[str, Maker], folder: str, kind: str) -> dict[str, str]:
    """All files of a kind, each in a folder of its own."""
    paths = {}
    for number, (title, maker) in enumerate(makers.items()):
        own = os.path.join(folder, f"{kind}{number}")
        os.makedirs(own)
        paths[title] = maker(own)
        _forget_witness(paths[title])
    return paths


def _witness(path: str) -> str:
    return os.path.join(os.path.dirname(path), WITNESS)


def _forget_witness(path: str) -> None:
    if os.path.exists(_witness(path)):
        os.remove(_witness(path))


def outcome(reader: Reader, path: str) -> str:
    """What one reader makes of one file, in a process of its own."""
    _forget_witness(path)
    start, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(start)
        _read(reader, path, end)
    os.close(end)
    with os.fdopen(start, "rb") as pipe:
        said = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    word = said or ("hangs" if killer == signal.SIGALRM else "crashes" if killer else "refuses")
    if os.path.exists(_witness(path)):
        word = "executes"
    more = usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{word} ({more / 1e6:.1f} GB)" if more > NOTABLE else word


def _read(reader: Reader, path: str, pipe: int) -> None:
    """Read, say what came of it, and end the process."""
    signal.alarm(LIMIT)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        found = list(numbers(reader.read(importlib.import_module(reader.module), path)))
        word = "leaks" if float(SECRET.sum()) in found else "reads" if found else "refuses"
        if "/sound" in path and SUMS[-1] not in found:
            word = "refuses"  # something else than the arrays, such as a zip's members
        os.write(pipe, word.encode())
    except BaseException:  # pyo3's PanicException is none of Exception
        if os.environ.get("FORMATS_VERBOSE"):
            print(reader.title, path, file=sys.stderr)
            traceback.print_exc(limit=-1)
    os._exit(0)


def read_all(files: Iterable[str], folder: str) -> dict[str, dict[str, str]]:
    """Every reader's outcome of every file: a process for each reader, which imports once."""
    listed = list(files)
    results = {}
    for number, reader in enumerate(READERS):
        print(reader.title, file=sys.stderr)
        command = [sys.executable, __file__, "--reader", str(number), *listed]
        environment = os.environ | measuring.ENVIRONMENT
        done = subprocess.run(
            command, stdout=subprocess.PIPE, env=environment, check=True, cwd=folder
        )
        results[reader.title] = json.loads(done.stdout.splitlines()[-1])
    return results


def read_here(reader: Reader, files: list[str]) -> None:
    warnings.simplefilter("ignore")
    importlib.import_module(reader.module)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps({path: outcome(reader, path) for path in files}))


def scan_all(files: dict[str, str], python: str | None, folder: str) -> dict[str, dict[str, str]]:
    """Every scanner's verdict on every file."""
    results: dict[str, dict[str, str]] = {}
    for scanner in scanners(python):
        print(scanner.title, file=sys.stderr)
        verdicts = results.setdefault(scanner.title, {})
        for path in files.values():
            _forget_witness(path)
            command = [*scanner.command, path]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=folder
                )
            except subprocess.TimeoutExpired:
                verdicts[path] = "hangs"
                continue
            text = done.stdout + done.stderr
            flagged = scanner.flagged(done.returncode, text)
            clean = scanner.clean(done.returncode, text)
            verdicts[path] = "flags" if flagged else "**clean**" if clean else "cannot tell"
            if os.path.exists(_witness(path)):
                verdicts[path] = "**executes**"
    return results


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def sound_table(files: dict[str, str], read: dict[str, dict[str, str]]) -> str:
    """Which readers get the numbers back."""
    head = ("a sound file", "milepost", "who else reads it")
    lines = [_row(head), _row(["---"] * len(head))]
    for title, path in files.items():
        verdicts = {name: by_path[path] for name, by_path in read.items()}
        ours = verdicts.pop("milepost")
        unsafe = {n for n in verdicts if "=False" in n or "allow_pickle" in n}
        others = [n for n, word in verdicts.items() if word.startswith("reads") and n not in unsafe]
        lines.append(_row([title, ours, ", ".join(others)]))
    return "\n".join(lines)


def hostile_table(
    files: dict[str, str], read: dict[str, dict[str, str]], scanned: dict[str, dict[str, str]]
) -> str:
    """What the file does to each, of those to which it does anything."""
    head = ("a hostile file", "`milepost.open`", *scanned, "does harm to", "is read by")
    lines = [_row(head), _row(["---"] * len(head))]
    for title, path in files.items():
        verdicts = {name: by_path[path] for name, by_path in read.items()}
        ours = verdicts.pop("milepost")
        harm = [
            f"{name}: {word}" for name, word in verdicts.items() if word not in ("reads", "refuses")
        ]
        readers = [name for name, word in verdicts.items() if word == "reads"]
        said = [by_path[path] for by_path in scanned.values()]
        lines.append(_row([title, ours, *said, "; ".join(harm) or "-", ", ".join(readers) or "-"]))
    return "\n".join(lines)


def publish(name: str, table: str, page: str | None) -> None:
    """Print a table, and put it between its marks in a page."""
    print(f"\n{table}\n")
    if page:
        with open(page, encoding="utf-8") as file:
            before, mark, rest = file.read().partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not end:
            raise SystemExit(f"{page} has no marks for {name!r}")
        with open(page, "w", encoding="utf-8") as file:
            file.write(f"{before}{mark}\n{table}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", help="Python of an environment that has the other scanners")
    parser.add_argument("--write", help="a page that has marks for the tables")
    parser.add_argument("--only", nargs="*", choices=("files", "show"), default=("files", "show"))
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="for about 5 GB of files")
    parser.add_argument("--rounds", type=int, default=5, help="of the looks at large files")
    parser.add_argument("--reader", type=int, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader is not None:
        read_here(READERS[options.reader], options.files)
        return
    os.environ.update(measuring.ENVIRONMENT)
    # First, while this process is small: a child's peak of memory counts from its parent's.
    if "show" in options.only:
        table = formats_show.table(options.folder, options.rounds)
        publish("large files", f"{measuring.machine()}\n\n{table}", options.write)
    if "files" in options.only:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="formats-") as folder:
            sound, hostile = make(SOUND, folder, "sound"), make(HOSTILE, folder, "hostile")
            read = read_all([*sound.values(), *hostile.values()], folder)
            scanned = scan_all(hostile, options.peers, folder)
            publish("sound files", sound_table(sound, read), options.write)
            publish("hostile files", hostile_table(hostile, read, scanned), options.write)


if __name__ == "__main__":
    main()
