"""Which leaves are converted, and under which names.

A rule `OLD=NEW` is about

- the leaf, or the subtree, of the name OLD, as `rename=` of a restore;
- or every leaf whose whole name OLD matches, if it has a `*` (any text, slashes and dots too),
  a `?` (one character) or a `[...]` (one of these). NEW then has `{1}`, `{2}`, ... for what
  the first of them stood for, the second, ...

Rules are applied in their order, each to the names that those before it made.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from milepost.checkpoint.selection import Renaming, Selection
from milepost.errors import UsageError
from milepost.limits import is_writable

Rules: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]

_WILD = re.compile(r"\*|\?|\[!?[^]]+\]")
_CAPTURE = re.compile(r"\{(\d{1,3})\}")


def new_names(
    names: Iterable[str], rules: Rules, only: Sequence[str], drop: Sequence[str]
) -> dict[str, str]:
    """Old name -> new name, of every leaf that is converted.

    `only` and `drop` are about the old names.

    Raises:
        UsageError: a rule is about nothing, two leaves would get one name, nothing is left.
    """
    every = list(names)
    kept = _chosen(every, only, "only") if only else set(every)
    kept -= _chosen(every, drop, "drop")
    if every and not kept:
        raise UsageError("only and drop together leave nothing to convert")
    result = {name: name for name in every if name in kept}
    for old, new in rules.items() if isinstance(rules, Mapping) else rules:
        result = _applied(result, old, new)
    return result


def _chosen(names: list[str], patterns: Sequence[str], option: str) -> set[str]:
    """The names that patterns are about: names, subtrees, globs; each about one at least."""
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            selection = Selection([pattern], names)
        except UsageError:
            raise UsageError(f"{option} {pattern!r} {_is_about_nothing(pattern, names)}") from None
        chosen.update(name for name in names if name in selection)
    return chosen


def _applied(names: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    """`names`, with one rule applied to the new ones."""
    rule = f"the rule {old!r} = {new!r}"
    current = set(names.values())
    if _WILD.search(old) and old not in current:
        changed = _matched(current, old, new, rule)
    else:
        renaming = Renaming({old: new})
        changed = {name: renaming(name) for name in current if _begins(name, old)}
    if not changed:
        raise UsageError(f"{rule} {_is_about_nothing(old, list(current))}")
    taken: dict[str, str] = {}
    result = {}
    for source, name in names.items():
        target = changed.get(name, name)
        if not target or not is_writable(target):
            raise UsageError(f"{rule} would give leaf {name!r} the name {target!r}, which is none")
        if target in taken:
            raise UsageError(
                f"{rule} would give the name {target!r} to {taken[target]!r} and to {name!r}"
            )
        taken[target] = name
        result[source] = target
    return result


def _begins(name: str, old: str) -> bool:
    """Whether `old` is the name, or that of a subtree around it."""
    if not name.startswith(old):
        return False
    return old in (name, "") or old[-1] in "/." or name[len(old)] in "/."


def _matched(names: Iterable[str], old: str, new: str, rule: str) -> dict[str, str]:
    pattern = re.compile(_translated(old), re.DOTALL)
    for found in _CAPTURE.finditer(new):
        if not 1 <= int(found[1]) <= pattern.groups:
            raise UsageError(f"{rule} has {found[0]}, and {pattern.groups} to choose from")
    matches = {name: pattern.fullmatch(name) for name in names}
    return {name: _filled(new, match) for name, match in matches.items() if match}


def _translated(glob: str) -> str:
    """A glob as a regular expression in which every wildcard is a group."""
    parts, position = [], 0
    for found in _WILD.finditer(glob):
        parts.append(re.escape(glob[position : found.start()]))
        position = found.end()
        if found[0] in "*?":
            parts.append("(.*)" if found[0] == "*" else "(.)")
        else:
            parts.append(_one_of(found[0][1:-1]))
    return "".join(parts) + re.escape(glob[position:])


def _one_of(characters: str) -> str:
    inverted = characters.startswith("!")
    escaped = re.escape(characters.removeprefix("!")).replace(r"\-", "-")
    return f"([{'^' if inverted else ''}{escaped}])"


def _filled(new: str, match: re.Match[str]) -> str:
    return _CAPTURE.sub(lambda found: match[int(found[1])], new)


def _is_about_nothing(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    return f"is about no leaf; there are {', '.join(map(repr, near))}" + (
        f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    )
