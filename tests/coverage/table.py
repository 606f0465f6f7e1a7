"""docs/coverage.md: for every family, how many exist, how many come back, and why not the rest."""

from __future__ import annotations

from pathlib import Path

from tests.coverage.family import ROOT, family

PAGE = ROOT / "docs" / "coverage.md"
Results = dict[str, tuple[dict[str, str], dict[str, str]]]

HEAD = """# Coverage

Made by `python -m tests.coverage`. Every case is saved with an example in one process; a fresh
one loads it and predicts on the example, which has to agree to the last bit.

| family | exist | come back | refused when saved | no model by itself |
| --- | ---: | ---: | ---: | ---: |
"""


def write(results: Results, page: Path = PAGE) -> None:
    rows, sections = [], []
    for name, (saved, loaded) in results.items():
        chosen = family(name)
        exist = sorted(chosen.exist())
        good = covered(saved, loaded)
        rows.append(
            f"| {chosen.title} | {len(exist)} | {len([n for n in exist if n in good])} "
            f"| {len(chosen.refused)} | {len(chosen.left_out)} |\n"
        )
        reasons = {**chosen.refused, **chosen.left_out}
        if reasons:
            lines = [f"| {n} | {reasons[n]} |\n" for n in sorted(reasons)]
            sections.append(
                f"\n## {chosen.title}: what does not come back\n\n| name | why |\n| --- | --- |\n"
                + "".join(lines)
            )
    page.write_text(HEAD + "".join(rows) + "".join(sections))


def covered(saved: dict[str, str], loaded: dict[str, str]) -> set[str]:
    """The names all of whose cases came back."""
    names = {case.partition(" ")[0] for case in saved}
    bad = {c.partition(" ")[0] for c in saved if saved[c] or loaded.get(c, "not loaded")}
    return names - bad
