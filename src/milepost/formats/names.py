"""Names that stand in other people's files, and what a leaf may be called."""

from __future__ import annotations

import re

from milepost.errors import DamagedError

MAX_NAME_BYTES = 1 << 14
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def leaf_name(raw: bytes, file: str) -> str:
    """The text of a name.

    Raises:
        DamagedError: it is empty, or has characters that cannot be shown.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise DamagedError(
            f"{file} is damaged: the name {raw!r:.80} is no text ({error})"
        ) from None
    if not name or _CONTROL.search(name):
        raise DamagedError(f"{file} is damaged: {name!r:.80} cannot be the name of a tensor")
    return name


class Unique:
    """Makes names unique: `name`, `name#2`, `name#3`, ..."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        result, number = name, self._numbers.get(name, 0) + 1
        while number > 1 and (result := f"{name}#{number}") in self._numbers:
            number += 1
        self._numbers[name] = number
        self._numbers.setdefault(result, 1)
        return result


def text(raw: bytes, longest: int = MAX_NAME_BYTES) -> str:
    """A text for people to read: what is no UTF-8 is escaped, and what is too long is cut."""
    shown = raw[:longest].decode(errors="backslashreplace")
    return shown if len(raw) <= longest else shown + "..."
