"""docs/benchmarks.md: the page in page.md, with the results of every program put in.

    python benchmarks/report.py build/bench/full --output docs/benchmarks.md

The folder holds what the programs wrote with `--json`. A line of page.md that is a comment says
what takes its place: `<!-- goals -->` the table of goals.py, `<!-- machine -->` where it was
measured, `<!-- table NAME -->` a program's table, `<!-- plot NAME -->` a plot of plots.py, which
is written beside the page. What was not measured says so.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import goals
import plots

PAGE = Path(__file__).with_name("page.md")
PLACE = re.compile(r"^<!-- (goals|machine|table|plot)(?: ([\w-]+))? -->$", re.MULTILINE)


def page(documents: Mapping[str, Mapping[str, Any]], output: Path, note: str = "") -> str:
    """The whole page. Plots are written into a folder of the page's name."""
    folder = output.with_suffix("")

    def filled(place: re.Match[str]) -> str:
        kind, name = place.groups()
        if kind == "goals":
            return goals.table(documents.values())
        if kind == "machine":
            # One line, unless the documents come from different machines or versions.
            lines = [d["machine"] for d in documents.values() if "machine" in d]
            return "\n\n".join(filter(None, [*dict.fromkeys(lines), note]))
        if kind == "table":
            return documents[name]["table"] if name in documents else "Not measured in this run."
        program, heading, _ = plots.PLOTS[name]
        if program not in documents:
            return ""
        plots.draw(name, documents[program], folder / f"{name}.svg")
        return f"![{heading}]({folder.name}/{name}.svg)"

    return PLACE.sub(filled, PAGE.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="a folder of JSON files")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--note", default="", help="a line below the machine's")
    options = parser.parse_args()
    paths = sorted(options.results.glob("*.json"))
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page(documents, options.output, options.note), encoding="utf-8")
    print(f"{options.output}: {', '.join(documents)}")


if __name__ == "__main__":
    main()
