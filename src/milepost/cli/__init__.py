"""The command line: one file for each command, on the public API only."""

from __future__ import annotations

import io
import sys

import click

import milepost
from milepost.cli.bench import bench
from milepost.cli.compact import compact
from milepost.cli.convert import convert
from milepost.cli.demo import demo
from milepost.cli.diff import diff
from milepost.cli.import_ import import_
from milepost.cli.log import log
from milepost.cli.output import echo
from milepost.cli.predict import predict
from milepost.cli.scan import scan
from milepost.cli.show import show
from milepost.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(milepost.__version__, prog_name="milepost")
def cli() -> None:
    """Save and load neural networks: look at, check, compare and convert what anybody saved.

    \b
    Exit status: 0 all is well, 1 unexpected, 2 the call is wrong, 3 not found,
    4 damaged, 5 storage refused, 6 not to be trusted, 7 written by a newer milepost,
    8 a model predicts differently than when it was saved, 9 `diff` found a difference.
    """


COMMANDS = (log, show, diff, verify, compact, scan, convert, import_, predict, bench, demo)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line. Errors of ours are one message and an exit status, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding does not have is shown all the same.
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="milepost")
    except milepost.MilepostError as error:
        _complain(error)
        sys.exit(error.exit_status)
    except OSError as error:
        _complain(error)
        sys.exit(5)


def _complain(error: Exception) -> None:
    for line in f"milepost: {error}".split("\n"):  # that of a demo's process has several
        echo(line, err=True)
