"""What milepost is to reach, and whether it does: the first table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from measuring import markdown


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that one program measures.

    `goal` is text; `limit` is the number in it, which `value` must not be below if `at_least`,
    and not above if not.
    """

    key: str
    program: str
    what: str
    goal: str
    limit: float
    at_least: bool = True

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _most(key: str, program: str, what: str, goal: str, limit: float) -> Goal:
    return Goal(key, program, what, goal, limit, at_least=False)


GOALS = (
    Goal("save_limit", "saving", "durable save, digested, of the `O_DIRECT` limit", "0.9", 0.9),
    Goal(
        "save_peer",
        "saving",
        "the same, beside the fastest peer made durable by `fsync`",
        "1.2x",
        1.2,
    ),
    Goal("save_dcp", "saving", "the same, beside `torch.distributed.checkpoint`", "2.5x", 2.5),
    Goal(
        "restore_warm",
        "speed",
        "verified restore in place, warm, beside safetensors mapped and copied, unverified",
        "1.0x",
        1.0,
    ),
    Goal("cold_limit", "speed", "verified load, cold, of the two-thread read limit", "0.9", 0.9),
    Goal("cold_runai", "speed", "the same, beside Run:ai's streamer", "1.2x", 1.2),
    Goal("cold_peer", "speed", "the same, beside the fastest peer", "1.2x", 1.2),
    _most("lookup_store", "lookup", "open a 4 GB store, read one 16 MB leaf, cold", "12 ms", 12),
    _most("lookup_model", "lookup", "the same of a 4 GB model file", "12 ms", 12),
    _most("blocked", "saving", "background save: blocked, beside one copy", "1.2x", 1.2),
    _most("blocked_jax", "saving", "background save of JAX arrays: blocked", "5 ms", 5),
    _most("training", "training", "training slowed by background saves", "3 %", 3),
    Goal("unchanged", "saving", "save, nothing changed, beside a peer's full save", "20x", 20),
    Goal("part", "saving", "save, 1 % changed, beside a peer's full save", "15x", 15),
    _most(
        "finetune",
        "finetune",
        "disk for 100 checkpoints, 1 % trainable, in sizes of one",
        "2.1",
        2.1,
    ),
    _most(
        "embedding",
        "compaction",
        "embedding of which 1 % of rows change: bytes kept a save, compacted",
        "5 %",
        5,
    ),
    _most("compact_dense", "compaction", "a dense Adam run of 20, compacted", "0.79", 0.79),
    _most("compact_bf16", "compaction", "its bfloat16 weights alone", "0.45", 0.45),
    Goal("compact_speed", "compaction", "compaction: input, two cores", "1 GB/s", 1),
    Goal("compact_restore", "compaction", "restore of a compacted step, two cores", "2 GB/s", 2),
    _most(
        "compact_ratio",
        "compaction",
        "restore of a compacted step, beside the same uncompacted, cold",
        "2x",
        2,
    ),
    _most(
        "compact_ratio_warm",
        "compaction",
        "the same, warm",
        "2x",
        2,
    ),
    Goal(
        "keras_save",
        "speed",
        "whole compiled Keras model: durable save, beside `.keras`, which is not",
        "5x",
        5,
    ),
    Goal("keras_load", "speed", "whole compiled Keras model: load, beside `.keras`", "5x", 5),
    _most("leaves_save", "leaves", "100,000 leaves of 1 KB: save", "1 s", 1),
    _most("leaves_restore", "leaves", "100,000 leaves of 1 KB: restore", "1 s", 1),
    _most(
        "growth",
        "growth",
        "save, restore, `log`, `latest` from 10 to 10,000 checkpoints",
        "1.1x",
        1.1,
    ),
    _most("memory_save", "speed", "memory above the state: durable save", "64 MB", 64),
    _most("memory_restore", "speed", "memory above the state: restore in place", "64 MB", 64),
    _most("memory_background", "speed", "memory of a background save, in copies", "1.1", 1.1),
)
HEAD = ("what", "goal", "measured", "met", "command")


def table(documents: Iterable[Mapping[str, Any]]) -> str:
    """Every goal, in the order above; then what programs measured beside these."""
    documents = list(documents)
    found = {key: value for d in documents for key, value in d["goals"].items()}
    rows = [_row(goal, found.pop(goal.key, None)) for goal in GOALS]
    programs = {key: d["program"] for d in documents for key in d["goals"]}
    for key, other in found.items():
        met = _word(other["met"])
        rows.append((other["what"], other["goal"], other["measured"], met, _code(programs[key])))
    return markdown(HEAD, rows)


def _row(goal: Goal, found: Mapping[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return goal.what, goal.goal, "not measured", "", _code(goal.program)
    met = _word(goal.is_met(found["value"]))
    return goal.what, goal.goal, found["measured"], met, _code(goal.program)


def _word(met: bool) -> str:
    return "yes" if met else "**no**"


def _code(program: str) -> str:
    return f"`{program}.py`"
