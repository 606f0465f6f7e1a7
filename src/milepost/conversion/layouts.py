"""Folders of checkpoints as other tools leave them: which file is which step.

    ckpt-7.index, ckpt-7.data-00000-of-00001     TensorFlow
    7/                                           Orbax
    step-7/.metadata                             PyTorch's distributed checkpoints
    checkpoints/epoch=1-step=7.ckpt, last.ckpt   Lightning
    checkpoint-7/trainer_state.json              Transformers' Trainer
    model_7.pt, optimizer_7.pt                   anything with a number in its name

Steps are told by names alone; which format a file is of is told by its content.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from milepost.errors import PathNotFoundError, UsageError

TRAINER_STATE = "trainer_state.json"
_INDEX = ".index"
_NUMBER = re.compile(r"\d+")
_DECIMAL = re.compile(r"\d+\.\d+")  # a loss, never a step
# What names the number that counts, the best first.
_WORDS = ("step", "iteration", "iter", "checkpoint", "ckpt", "epoch")
_NO_CHECKPOINT = re.compile(
    r"\..*|checkpoint|events\.out\..*|.*\.(json|jsonl|ya?ml|txt|csv|log|md|py|png|lock|index\.json)"
    r"|.*\.data-\d+-of-\d+|.*\.partial"
)
_LIGHTNING = ("checkpoints", "lightning_logs")
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Run:
    """The checkpoints of a folder.

    Attributes:
        steps: step -> prefix of its leaves -> path; one path has the prefix "".
        unnumbered: paths whose step is not in their names.
        ignored: names of what is no checkpoint.
    """

    folder: str
    steps: Mapping[int, Mapping[str, str]]
    unnumbered: Sequence[str] = ()
    ignored: Sequence[str] = field(default_factory=tuple)


def find_run(folder: str) -> Run:
    """The checkpoints of a folder, by their names.

    Raises:
        PathNotFoundError: there is no such folder.
        UsageError: there is no checkpoint in it, or it cannot be told which step is which.
    """
    if not os.path.isdir(folder):
        raise PathNotFoundError(f"{folder} is no folder")
    names = sorted(os.listdir(folder))
    inner = [name for name in names if name in _LIGHTNING]
    if inner:
        return find_run(_only_version(os.path.join(folder, inner[0])))
    candidates = [name for name in names if not _NO_CHECKPOINT.fullmatch(name)]
    series: dict[str, dict[str, list[int]]] = defaultdict(dict)
    unnumbered = []
    for name in candidates:
        stem = name.removesuffix(_INDEX) if name.endswith(_INDEX) else name
        text = _DECIMAL.sub("~", _stem(stem))
        numbers = _NUMBER.findall(text)
        if numbers and all(len(number) <= _MOST_DIGITS for number in numbers):
            series[_NUMBER.sub("#", text)][stem] = list(map(int, numbers))
        elif stem.startswith("last."):
            unnumbered.append(os.path.join(folder, stem))
    steps = _steps(folder, series)
    if not steps and not unnumbered:
        raise UsageError(
            f"{folder} has no checkpoint with a number in its name: expected ckpt-7.index, 7/, "
            "step-7/, checkpoint-7/, epoch=1-step=7.ckpt, model_7.pt or the like"
        )
    taken = {os.path.basename(path) for parts in steps.values() for path in parts.values()}
    taken |= {os.path.basename(path) for path in unnumbered}
    ignored = [n for n in names if n not in taken and not _belongs(n, taken)]
    return Run(folder, dict(sorted(steps.items())), unnumbered, ignored)


def _belongs(name: str, taken: set[str]) -> bool:
    """Whether a file is part of a TensorFlow checkpoint, or the list of them."""
    prefix = re.sub(r"(\.index|\.data-\d+-of-\d+)$", "", name)
    return name == "checkpoint" or (prefix != name and prefix in taken)


def _only_version(folder: str) -> str:
    """Inside `lightning_logs`, the one version that there is."""
    if os.path.basename(folder) != "lightning_logs":
        return folder
    versions = sorted(n for n in os.listdir(folder) if os.path.isdir(os.path.join(folder, n)))
    if len(versions) != 1:
        raise UsageError(
            f"{folder} has {len(versions)} runs ({', '.join(versions[:5])}): give the folder of one"
        )
    return os.path.join(folder, versions[0])


def _stem(name: str) -> str:
    """A name without its extension, if that has no number that may be a step."""
    stem, extension = os.path.splitext(name)
    if extension.lower() in (".h5", ".hdf5"):
        return stem.removesuffix(".weights")
    return name if _NUMBER.fullmatch(extension[1:]) else stem


def _steps(folder: str, series: Mapping[str, Mapping[str, list[int]]]) -> dict[int, dict[str, str]]:
    steps: dict[int, dict[str, str]] = defaultdict(dict)
    for template, files in series.items():
        place = _place(template, list(files.values()))
        # Several files a step, `model_7.pt` and `optimizer_7.pt`: their leaves need a prefix.
        prefix = re.sub(r"[^A-Za-z]*#.*", "", template) if len(series) > 1 else ""
        for name, numbers in files.items():
            parts = steps[numbers[place]]
            if prefix in parts:
                raise UsageError(
                    f"{folder} has two files for step {numbers[place]}: "
                    f"{os.path.basename(parts[prefix])} and {name}"
                )
            parts[prefix] = os.path.join(folder, name)
    for number, parts in steps.items():
        if len(parts) == 1:
            steps[number] = {"": next(iter(parts.values()))}
    return steps


def _place(template: str, numbers: list[list[int]]) -> int:
    """Which of the numbers in a series of names is the step.

    The one that a word names; else the first that no two files share; of one file the last.
    """
    before = template.lower().split("#")
    for word in _WORDS:
        for place, text in enumerate(before[:-1]):
            if text.rstrip("-_=. ").endswith(word) and _differ(numbers, place):
                return place
    places = range(len(numbers[0]))
    if len(numbers) == 1:
        return places[-1]
    return next((place for place in places if _differ(numbers, place)), places[-1])


def _differ(numbers: list[list[int]], place: int) -> bool:
    return len({row[place] for row in numbers}) == len(numbers)
