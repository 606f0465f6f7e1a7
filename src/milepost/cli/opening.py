"""A path, and which step of it, as a snapshot."""

from __future__ import annotations

import click

import milepost


def open_snapshot(path: str, step: int | str | None, option: str = "--step") -> milepost.Snapshot:
    """What is at a path: of a store the checkpoint that was asked for, else the newest."""
    opened = milepost.open(path)
    if isinstance(opened, milepost.Store):
        return opened.open_step("latest" if step is None else step)
    if step is not None:
        opened.close()
        raise click.UsageError(f"{option} is for stores, and {path} is a file")
    return opened
