"""The plots of docs/benchmarks.md: medians as bars, lowest to highest as a line across each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import saving
import speed
from peers import PEERS

# Text stays text, and nothing in a file depends on when it was made.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "milepost", "font.size": 9}
OURS, THEIRS, LIMIT = "#1f6fb2", "#b9b9b9", "#444444"
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    seconds: Sequence[float]
    is_ours: bool

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def durable_saves(document: Document) -> tuple[list[Bar], dict[str, float]]:
    bars = _speed_bars(document, "durable", lambda peer: peer.saves)
    return bars, _limits(document, {"direct": "limit of the disk"})


def warm_loads(document: Document) -> tuple[list[Bar], dict[str, float]]:
    bars = _speed_bars(document, "load", lambda peer: True)
    return bars, _limits(document, {"warm_read": "limit of the page cache"})


def cold_loads(document: Document) -> tuple[list[Bar], dict[str, float]]:
    bars = _speed_bars(document, "cold", lambda peer: True)
    return bars, _limits(document, {"cold_read": "limit of the disk"})


def blocked(document: Document) -> tuple[list[Bar], dict[str, float]]:
    samples = document["samples"]
    copy = statistics.median(samples["torch.limit_copy"]["durable"])
    bars = []
    for row, found in samples.items():
        if "limit" not in row:
            title, changed = saving.title(row)
            title = _plain(title)
            label = title if changed == saving.CHANGED else f"{title}, {changed}"
            bars.append(Bar(label, found["blocked"], "milepost" in row))
    return bars, {"one copy of the state": copy}


# name -> program, heading, what it shows
Shown = Callable[[Document], tuple[list[Bar], dict[str, float]]]
PLOTS: dict[str, tuple[str, str, Shown]] = {
    "durable-saves": ("speed", "Durable save, milliseconds", durable_saves),
    "warm-loads": ("speed", "Load from the page cache, milliseconds", warm_loads),
    "cold-loads": ("speed", "Load from the disk, milliseconds", cold_loads),
    "blocked": ("saving", "How long a save makes the training loop wait, milliseconds", blocked),
}


def draw(name: str, document: Document, path: Path) -> None:
    """Write one plot as SVG."""
    with mpl.rc_context(STYLE):
        _draw(name, document, path)


def _draw(name: str, document: Document, path: Path) -> None:
    _, heading, shown = PLOTS[name]
    bars, lines = shown(document)
    bars.sort(key=lambda bar: bar.median, reverse=True)  # the lowest bar is drawn first
    figure = Figure(figsize=(7.5, 0.9 + 0.27 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for place, bar in enumerate(bars):
        low, middle, high = (1e3 * f(bar.seconds) for f in (min, statistics.median, max))
        axes.barh(place, middle, color=OURS if bar.is_ours else THEIRS, height=0.7)
        axes.plot([low, high], [place, place], color=LIMIT, linewidth=1)
        axes.annotate(f" {middle:.3g}", (max(middle, high), place), va="center")
    for label, seconds in lines.items():
        axes.axvline(1e3 * seconds, color=LIMIT, linestyle="--", linewidth=1, label=label)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    figure.suptitle(heading, x=0.01, ha="left")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    # Matplotlib ends lines with blanks, which no file here does.
    text = "\n".join(line.rstrip() for line in path.read_text().splitlines())
    path.write_text(text + "\n", encoding="utf-8")


def _speed_bars(document: Document, column: str, fits: Callable[[Any], bool]) -> list[Bar]:
    return [
        Bar(_plain(PEERS[name].title), found[column], "milepost" in name)
        for name, found in document["samples"].items()
        if name in PEERS and fits(PEERS[name])
    ]


def _limits(document: Document, wanted: Mapping[str, str]) -> dict[str, float]:
    found = document["samples"].get(speed.LIMITS, {})
    return {title: statistics.median(found[key]) for key, title in wanted.items() if key in found}


def _plain(title: str) -> str:
    return title.replace("`", "")
