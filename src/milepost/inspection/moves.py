"""Leaves that two snapshots have under different names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from milepost.inspection.content import content_digest, plain_key, recorded
from milepost.inspection.numbers import Progress
from milepost.record import PlainRecord, Record
from milepost.snapshot import Snapshot

_Key = TypeVar("_Key", bound=Hashable)


def find_moves(
    a: Snapshot, only_a: Iterable[str], b: Snapshot, only_b: Iterable[str], progress: Progress
) -> list[tuple[str, str]]:
    """Pairs of equal leaves, one to one. Only leaves whose spec is on both sides are read.

    Of several equal leaves, those go together whose names end in the same part; then one after
    the other. A plain value, which many leaves may have, has moved only if that part is the same.
    """
    pairs: list[tuple[str, str]] = []
    specs_b = _grouped(only_b, b.spec)
    for spec, names_a in _grouped(only_a, a.spec).items():
        names_b = specs_b.get(spec, [])
        if not names_b:
            continue
        records = [*map(a.record, names_a), *map(b.record, names_b)]
        by_record = _cut_alike(records)
        contents_a = _grouped(names_a, partial(_content, a, by_record, progress))
        contents_b = _grouped(names_b, partial(_content, b, by_record, progress))
        for content, equal_a in contents_a.items():
            equal_b = contents_b.get(content, [])
            pairs += _paired(equal_a, equal_b, any_name=spec.is_array)
    return pairs


def _grouped(names: Iterable[str], key: Callable[[str], _Key]) -> dict[_Key, list[str]]:
    groups: dict[_Key, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return groups


def _cut_alike(records: list[Record]) -> bool:
    """Whether all have recorded digests, of chunks in the same places."""
    places = {None if (known := recorded(record)) is None else tuple(known) for record in records}
    return len(places) == 1 and None not in places


def _content(snapshot: Snapshot, by_record: bool, progress: Progress, name: str) -> Hashable:
    record = snapshot.record(name)
    if isinstance(record, PlainRecord):
        return plain_key(record.value)
    known = recorded(record) if by_record else None
    return content_digest(snapshot, name, progress) if known is None else tuple(known.values())


def _paired(names_a: list[str], names_b: list[str], any_name: bool) -> Iterator[tuple[str, str]]:
    left, right = _grouped(names_a, _last_part), _grouped(names_b, _last_part)
    rest_a: list[str] = []
    for part, names in left.items():
        others = right.pop(part, [])
        yield from zip(names, others, strict=False)
        rest_a += names[len(others) :]
        right[part] = others[len(names) :]
    if any_name:
        rest_b = [name for names in right.values() for name in names]
        yield from zip(rest_a, rest_b, strict=False)


def _last_part(name: str) -> str:
    return re.split(r"[/.]", name)[-1]
