"""`milepost show`: what is inside a checkpoint, a model file, or any other file of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

import milepost
from milepost.cli.opening import open_snapshot
from milepost.cli.options import STEP, STEP_HELP, as_json
from milepost.cli.output import (
    bars,
    cut_short,
    echo,
    echo_columns,
    echo_json,
    human_plain,
    human_size,
    human_value,
)
from milepost.cli.progress import reading
from milepost.cli.tree import rows, tree

if TYPE_CHECKING:
    from milepost.inspection import LeafStatistics

# Other tools keep whole configurations in one line of text; --json has all of it.
_LONGEST = 300
_STATISTICS = ("min", "max", "mean", "std", "zeros", "NaN", "Inf", "histogram")


@click.command()
@click.argument("path")
@click.argument("name", required=False)
@click.option("--step", type=STEP, help=f"{STEP_HELP} [latest]")
@click.option("--stats", is_flag=True, help="Read the arrays: range, mean, zeros, NaN, histogram.")
@click.option("--dequantise", is_flag=True, help="What is stored in a quantised form as float32.")
@click.option("--card", is_flag=True, help="Print a model card: Markdown for a model's README.")
@as_json
def show(
    *,
    path: str,
    name: str | None,
    step: int | str | None,
    stats: bool,
    dequantise: bool,
    card: bool,
    as_json: bool,
) -> None:
    """Show the leaves of PATH as a tree: dtype, shape, size, share of it all, plain values.

    PATH is a store, or a file of any format that milepost reads. NAME is a leaf, a folder, or
    a glob, in which a * also matches slashes. Only headers are read, unless --stats asks for
    more; no framework is needed, and nothing of the file is run.

    \b
    Examples:
      milepost show runs/digits
      milepost show runs/digits --step best:val_accuracy
      milepost show digits.safetensors '*/kernel' --stats
      milepost show digits.safetensors --json
      milepost show digits.safetensors --card > README.md
    """
    if card:
        for line in milepost.model_card(path).splitlines():
            echo(line)
        return
    from milepost.inspection import matching

    with open_snapshot(path, step) as opened:
        snapshot = opened.dequantised() if dequantise else opened
        names = list(snapshot) if name is None else matching(snapshot, name)
        statistics = _statistics(snapshot, names) if stats else {}
        if as_json:
            leaves = {leaf: _leaf(snapshot, leaf, statistics.get(leaf)) for leaf in names}
            echo_json({"name": snapshot.name, **snapshot.facts(), "leaves": leaves})
            return
        _print_facts(snapshot, names)
        if stats:
            header = ["", "dtype", "shape", *_STATISTICS]
            table = [header, *_rows(snapshot, names, statistics)]
            echo_columns(table, right=range(3, len(header) - 1))
        else:
            echo_columns(list(_rows(snapshot, names)), right=(3, 4))


def _statistics(snapshot: milepost.Snapshot, names: Sequence[str]) -> Mapping[str, LeafStatistics]:
    from milepost.inspection import leaf_statistics

    arrays = [name for name in names if snapshot.spec(name).is_array]
    with reading(sum(_nbytes(snapshot, name) for name in arrays)) as progress:
        return {name: leaf_statistics(snapshot, name, progress=progress) for name in arrays}


def _leaf(
    snapshot: milepost.Snapshot, name: str, statistics: LeafStatistics | None
) -> dict[str, Any]:
    """A leaf as JSON."""
    spec = snapshot.spec(name)
    if spec.shape is None:
        return {"type": spec.dtype, "value": snapshot[name]}
    kind = _kind(snapshot, name)
    return {
        "dtype": spec.dtype,
        "shape": spec.shape,
        "bytes": _nbytes(snapshot, name),
        **({"kind": kind} if kind else {}),
        **({} if statistics is None else {"statistics": dataclasses.asdict(statistics)}),
    }


def _nbytes(snapshot: milepost.Snapshot, name: str) -> int:
    value = snapshot[name]
    return value.nbytes if isinstance(value, milepost.LazyArray) else 0


def _kind(snapshot: milepost.Snapshot, name: str) -> str:
    """What a foreign file calls the type of an array; most have no word of their own."""
    return getattr(snapshot.record(name), "kind", "")


def _print_facts(snapshot: milepost.Snapshot, names: Sequence[str]) -> None:
    echo(snapshot.name)
    facts = snapshot.facts()
    facts["size"] = f"{human_size(facts.pop('bytes'))} in {len(snapshot)} leaves"
    if len(names) < len(snapshot):
        nbytes = sum(_nbytes(snapshot, name) for name in names)
        facts["shown"] = f"{human_size(nbytes)} in {len(names)} of them"
    for key, value in facts.items():
        text = _one_line(value)
        if text:
            echo(f"  {key + ':':<10} {cut_short(text, _LONGEST)}")
    echo()


def _one_line(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, dict):
        told = {name: item for name, item in value.items() if item not in ({}, [], "")}
        return ", ".join(f"{name} {human_value(item)}" for name, item in told.items())
    return ", ".join(map(_item, value)) if isinstance(value, list) else str(value)


def _item(value: Any) -> str:
    """An input or output of a signature, `input float32[?, 4]`, or whatever else is listed."""
    if not isinstance(value, dict):
        return str(value)
    sizes = ", ".join("?" if size is None else str(size) for size in value["shape"] or ())
    return f"{value['name']} {value['dtype']}" + ("" if value["shape"] is None else f"[{sizes}]")


def _rows(
    snapshot: milepost.Snapshot,
    names: Sequence[str],
    statistics: Mapping[str, LeafStatistics] | None = None,
) -> Iterator[list[str]]:
    """A row for each leaf and each folder: its size, or its statistics."""
    root = tree({name: _nbytes(snapshot, name) for name in names})
    for label, node in rows(root):
        leaves = f"{node.count} leaves" if node.count > 1 else ""
        cells = ["", leaves] if node.leaf is None else _cells(snapshot, node.leaf)
        if statistics is None:
            kind = "" if node.leaf is None else _kind(snapshot, node.leaf)
            share = f"{node.nbytes / root.nbytes:.1%}" if node.nbytes else ""
            size = human_size(node.nbytes) if share or _is_array(snapshot, node.leaf) else ""
            yield [label, *cells, size, share, kind]
        else:
            yield [label, *cells, *_statistics_cells(statistics.get(node.leaf or ""))]


def _is_array(snapshot: milepost.Snapshot, leaf: str | None) -> bool:
    return leaf is not None and snapshot.spec(leaf).is_array


def _cells(snapshot: milepost.Snapshot, name: str) -> list[str]:
    """Dtype and shape of an array, type and value of a plain leaf."""
    spec = snapshot.spec(name)
    if spec.shape is not None:
        return [spec.dtype, str(list(spec.shape))]
    return [spec.dtype, human_plain(snapshot[name])]


def _statistics_cells(found: LeafStatistics | None) -> list[str]:
    if found is None:
        return [""] * len(_STATISTICS)
    numbers = (
        *(found.min, found.max, found.mean, found.std),
        *(found.zeros, found.nan, found.infinite),
    )
    shown = ["" if number is None else human_value(number) for number in numbers]
    return [*shown, "" if found.histogram is None else bars(found.histogram.counts)]
