"""`milepost bench`: how fast a disk is, and how near milepost comes to it."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_columns, echo_json, human_size

if TYPE_CHECKING:
    from milepost.bench import Report

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_LEAST_BYTES = 10**6


class SizeType(click.ParamType[int]):
    """A number of bytes: `256MB`, `1.5 GB`, or plain digits."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = value.strip().upper()
        number, unit = (text[:-2], _UNITS[text[-2:]]) if text[-2:] in _UNITS else (text, 1)
        try:
            nbytes = round(float(number) * unit)
        except (ValueError, OverflowError):
            self.fail(f"expected a size such as 256MB or 2GB, found {value!r}", param, ctx)
        if nbytes < _LEAST_BYTES:
            self.fail(f"expected 1MB or more, found {value!r}", param, ctx)
        return nbytes


@click.command()
@click.argument("path")
@click.option(
    "--size", type=SizeType(), default="256MB", show_default=True, help="Of the state to save."
)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@as_json
def bench(path: str, size: int, rounds: int, as_json: bool) -> None:
    """Measure saves and restores in the folder PATH, beside the limits of its disk.

    A state of NumPy arrays is saved and restored there in every way, and in the same round
    the disk and the memory do the same amount of work without milepost: that is the limit.
    It takes about half a minute, four times the size of free disk, and as much memory. What
    it writes lies in a folder of its own below PATH, and is removed at the end.

    \b
    Examples:
      milepost bench .
      milepost bench /mnt/checkpoints --size 2GB --rounds 5
      milepost bench . --json
    """
    from rich.console import Console
    from rich.progress import Progress

    from milepost.bench import measure

    # As Ctrl-C: through every clean-up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("measuring", total=rounds + 1)
        report = measure(path, size, rounds, lambda: bar.advance(task))
    if as_json:
        echo_json(_document(report))
    else:
        _print(report)


def _print(report: Report) -> None:
    kind = f", {report.filesystem}" if report.filesystem else ""
    echo(f"{report.path}{kind}: a state of {human_size(report.nbytes)}")
    if report.in_memory:
        echo("files are in memory only here: nothing survives a loss of power")
    elif report.direct:
        echo("writes go past the page cache")
    else:
        echo("writes cannot go past the page cache here: they go through it")
    echo()
    rows = [["", "milliseconds", "lowest-highest", "GB/s", "beside its limit"]]
    for name, found in report.measurements.items():
        lowest, highest = min(found.seconds) * 1e3, max(found.seconds) * 1e3
        ratio = report.beside_limit(name)
        rows.append(
            [
                found.title,
                f"{found.median * 1e3:.1f}",
                f"{lowest:.1f}-{highest:.1f}",
                f"{found.nbytes / found.median / 1e9:.1f}",
                "" if ratio is None else f"{ratio:.2f}x as long",
            ]
        )
    echo_columns(rows, right=(1, 2, 3, 4))


def _document(report: Report) -> dict[str, Any]:
    return {
        "path": report.path,
        "filesystem": report.filesystem,
        "past_page_cache": report.direct,
        "in_memory": report.in_memory,
        "bytes": report.nbytes,
        "measurements": {
            name: {
                "title": found.title,
                "seconds": list(found.seconds),
                "median": found.median,
                "limit": found.limit,
                "beside_limit": report.beside_limit(name),
            }
            for name, found in report.measurements.items()
        },
    }
