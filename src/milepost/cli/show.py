"""`milepost show`: what is inside a checkpoint, a model file or a safetensors file."""

from __future__ import annotations

from typing import Any

import click

import milepost
from milepost.cli.options import STEP, STEP_HELP, as_json
from milepost.cli.output import echo, echo_columns, echo_json, human_size, human_value


@click.command()
@click.argument("path")
@click.option("--step", type=STEP, help=f"{STEP_HELP} [latest]")
@click.option("--card", is_flag=True, help="Print a model card: Markdown for a model's README.")
@as_json
def show(path: str, step: int | str | None, card: bool, as_json: bool) -> None:
    """Show the leaves of PATH as a tree: dtype, shape, size, plain values.

    PATH is a store, a model file, or any safetensors file. Only headers are read, no framework
    is needed, and nothing of the file is run.

    \b
    Examples:
      milepost show runs/digits
      milepost show runs/digits --step best:val_accuracy
      milepost show digits.safetensors --json
      milepost show digits.safetensors --card > README.md
    """
    if card:
        for line in milepost.model_card(path).splitlines():
            echo(line)
        return
    opened = milepost.open(path)
    if isinstance(opened, milepost.Store):
        snapshot: milepost.Snapshot = opened.open_step("latest" if step is None else step)
    elif step is not None:
        opened.close()
        raise click.UsageError(f"--step is for stores, and {path} is a file")
    else:
        snapshot = opened
    with snapshot:
        if as_json:
            echo_json({"name": snapshot.name, **snapshot.facts(), "leaves": _leaves(snapshot)})
        else:
            _print(snapshot)


def _leaves(snapshot: milepost.Snapshot) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name in snapshot:
        spec = snapshot.spec(name)
        if spec.shape is None:
            leaves[name] = {"type": spec.dtype, "value": snapshot[name]}
        else:
            leaves[name] = {"dtype": spec.dtype, "shape": spec.shape}
    return leaves


def _print(snapshot: milepost.Snapshot) -> None:
    echo(snapshot.name)
    facts = snapshot.facts()
    facts["size"] = f"{human_size(facts.pop('bytes'))} in {len(snapshot)} leaves"
    for key, value in facts.items():
        text = _one_line(value)
        if text:
            echo(f"  {key + ':':<10} {text}")
    echo()
    echo_columns(_tree(snapshot), right=(3,))


def _one_line(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {human_value(item)}" for name, item in value.items())
    return ", ".join(map(_item, value)) if isinstance(value, list) else str(value)


def _item(value: Any) -> str:
    """An input or output of a signature, `input float32[?, 4]`, or whatever else is listed."""
    if not isinstance(value, dict):
        return str(value)
    sizes = ", ".join("?" if size is None else str(size) for size in value["shape"] or ())
    return f"{value['name']} {value['dtype']}" + ("" if value["shape"] is None else f"[{sizes}]")


def _tree(snapshot: milepost.Snapshot) -> list[list[str]]:
    """A row for each leaf, indented under a row for each part of its name."""
    rows: list[list[str]] = []
    above: list[str] = []
    for name in snapshot:
        *folders, leaf = name.split("/")
        common = 0
        while common < min(len(folders), len(above)) and folders[common] == above[common]:
            common += 1
        rows += [["  " * i + folders[i], "", "", ""] for i in range(common, len(folders))]
        above = folders
        rows.append(["  " * len(folders) + leaf, *_cells(snapshot, name)])
    return rows


def _cells(snapshot: milepost.Snapshot, name: str) -> list[str]:
    spec, value = snapshot.spec(name), snapshot[name]
    if isinstance(value, milepost.LazyArray):
        return [spec.dtype, str(list(value.shape)), human_size(value.nbytes)]
    text = human_value(value) if isinstance(value, int) else repr(value)
    return [spec.dtype, text if len(text) <= 60 else text[:57] + "...", ""]
