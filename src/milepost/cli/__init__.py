"""The command line: one file for each command, on the public API only."""

from __future__ import annotations

import sys

import click

import milepost
from milepost.cli.demo import demo
from milepost.cli.log import log
from milepost.cli.show import show
from milepost.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(milepost.__version__, prog_name="milepost")
def cli() -> None:
    """Save and load neural networks: look at, and check, what milepost saved.

    \b
    Exit status: 0 all is well, 1 unexpected, 2 the call is wrong, 3 not found,
    4 damaged, 5 storage refused, 6 not to be trusted, 7 written by a newer milepost.
    """


for command in (log, show, verify, demo):
    cli.add_command(command)


def main() -> None:
    """Run the command line. Errors of ours are one message and an exit status, no traceback."""
    try:
        cli(prog_name="milepost")
    except milepost.MilepostError as error:
        click.echo(f"milepost: {error}", err=True)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # `milepost show ... | head`: the reader has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        click.echo(f"milepost: {error}", err=True)
        sys.exit(5)
