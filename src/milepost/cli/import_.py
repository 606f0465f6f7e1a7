"""`milepost import`: the checkpoints of another tool's run, into a store."""

from __future__ import annotations

import dataclasses

import click

from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_json, human_size

# What a terminal has room for.
_LINES = 20


@click.command("import")
@click.argument("run")
@click.argument("store")
@click.option("--resume", is_flag=True, help="Pass over steps that STORE has already.")
@click.option("--skip-damaged", is_flag=True, help="Pass over checkpoints that cannot be read.")
@as_json
def import_(*, run: str, store: str, resume: bool, skip_damaged: bool, as_json: bool) -> None:
    """Commit every checkpoint in the folder RUN to STORE, each under its own step.

    RUN is a folder of TensorFlow, Orbax, PyTorch's distributed checkpoints, Lightning or
    Transformers' Trainer, or has files with numbers in their names. It stays as it is, nothing
    of it is run, and no framework is needed. What two checkpoints share is written once.

    \b
    Examples:
      milepost import training_checkpoints runs/digits
      milepost import lightning_logs/version_0 runs/digits --resume
      milepost import output runs/bert --skip-damaged --json
    """
    from rich.console import Console
    from rich.progress import Progress

    from milepost import conversion

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("importing", total=None)
        report = conversion.import_run(
            run,
            store,
            resume=resume,
            skip_damaged=skip_damaged,
            progress=lambda step, done, total: bar.update(
                task, description=f"step {step}", completed=done, total=total
            ),
        )
    if as_json:
        echo_json(dataclasses.asdict(report))
        return
    steps = ", ".join(map(str, report.steps)) or "none"
    echo(f"{report.path}: {len(report.steps)} checkpoints ({steps})")
    echo(f"{human_size(report.nbytes)} in {report.leaves} leaves, {human_size(report.written)} new")
    lines = [f"there already: step {step}" for step in report.present]
    lines += [f"skipped: step {step}: {reason}" for step, reason in report.skipped.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in report.left_out.items()]
    for line in lines[:_LINES]:
        echo(line)
    if len(lines) > _LINES:
        echo(f"... and {len(lines) - _LINES} more: see --json")
