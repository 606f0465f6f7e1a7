"""`milepost show`: what is inside a checkpoint, a model file or a safetensors file."""

from __future__ import annotations

from typing import Any

import click

from milepost.cli.output import echo_columns, echo_json, human_number, human_size


@click.command()
@click.argument("path")
@click.option("--step", help="Which checkpoint of a store: a number, latest, best:METRIC. [latest]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(path: str, step: str | None, as_json: bool) -> None:
    """Show the leaves of PATH as a tree: dtype, shape, size, plain values.

    PATH is a store, a model file, or any safetensors file. Only headers are read, no framework
    is needed, and nothing of the file is run.

    \b
    Examples:
      milepost show runs/digits
      milepost show runs/digits --step best:val_accuracy
      milepost show digits.safetensors --json
    """
    from milepost.opening import open_path
    from milepost.snapshot import Snapshot
    from milepost.store import Store

    opened = open_path(path)
    if isinstance(opened, Store):
        number = opened.resolve(int(step) if step and step.isdecimal() else step or "latest")
        snapshot: Snapshot = opened[number]
    elif step is not None:
        raise click.UsageError(f"--step is for stores, and {path} is a file")
    else:
        snapshot = opened
    with snapshot:
        if as_json:
            echo_json(_document(snapshot))
        else:
            _print(snapshot)


def _document(snapshot: Any) -> dict[str, Any]:
    leaves = {}
    for name in snapshot:
        spec = snapshot.spec(name)
        if spec.is_array:
            leaves[name] = {"dtype": spec.dtype, "shape": list(spec.shape)}
        else:
            leaves[name] = {"type": spec.dtype, "value": snapshot[name]}
    return {"name": snapshot.name, **_facts(snapshot), "leaves": leaves}


def _facts(snapshot: Any) -> dict[str, Any]:
    """What there is to say before the leaves, by snapshot's own kind."""
    facts: dict[str, Any] = {"format": snapshot.description.format}
    for attribute in ("step", "created", "metrics"):
        if hasattr(snapshot, attribute):
            value = getattr(snapshot, attribute)
            facts[attribute] = dict(value) if attribute == "metrics" else value
    document = getattr(snapshot, "document", None) or getattr(snapshot, "manifest", None)
    if hasattr(document, "framework"):
        facts["framework"] = document.framework
        facts["needs"] = list(document.structure.get("needs", ()))
    if document is not None:
        facts["versions"] = dict(document.versions)
    facts["metadata"] = dict(snapshot.metadata)
    facts["bytes"] = snapshot.nbytes
    return facts


def _print(snapshot: Any) -> None:
    click.echo(snapshot.name)
    for key, value in _facts(snapshot).items():
        if value in ({}, []):
            continue
        if key == "metrics":
            value = "  ".join(f"{name} {human_number(number)}" for name, number in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        elif key == "bytes":
            key, value = "size", f"{human_size(value)} in {len(snapshot)} leaves"
        elif isinstance(value, list):
            value = ", ".join(value)
        click.echo(f"  {key + ':':<10} {value}")
    click.echo()
    echo_columns(_tree(snapshot), right=(3,))


def _tree(snapshot: Any) -> list[list[str]]:
    """A row for each leaf, under one for each name that several share, indented."""
    rows: list[list[str]] = []
    open_path: list[str] = []
    for name in snapshot:
        *folders, leaf = name.split("/")
        common = 0
        while common < min(len(folders), len(open_path)) and folders[common] == open_path[common]:
            common += 1
        for depth in range(common, len(folders)):
            rows.append(["  " * depth + folders[depth], "", "", ""])
        open_path = folders
        rows.append(["  " * len(folders) + leaf, *_cells(snapshot, name)])
    return rows


def _cells(snapshot: Any, name: str) -> list[str]:
    spec = snapshot.spec(name)
    if spec.is_array:
        return [spec.dtype, str(list(spec.shape)), human_size(snapshot[name].nbytes)]
    text = repr(snapshot[name])
    return [spec.dtype, text if len(text) <= 60 else text[:57] + "...", ""]
