"""What a number, a shape or a text in a file may be, before anything is made of it."""

from __future__ import annotations

import reprlib
from typing import TypeGuard

# NumPy's own limit; it keeps a hostile shape from becoming a huge product.
MAX_RANK = 64
_MAX_SIZE = 2**63
# Of any dtype: two 80-bit floats in 16 bytes each.
_MAX_ITEMSIZE = 32


def is_size(value: object) -> TypeGuard[int]:
    """Whether a value of JSON can be a size, an offset or an index."""
    return type(value) is int and 0 <= value < _MAX_SIZE


def is_sizes(value: object) -> TypeGuard[list[int]]:
    """Whether a value of JSON is a list of such numbers."""
    return isinstance(value, list) and all(map(is_size, value))


def is_shape(value: object) -> TypeGuard[list[int]]:
    """Whether a value of JSON can be a shape: one whose zeros hide no overflow, either.

    NumPy counts the bytes of an array without its zeros, and refuses those of 2**63 or more.
    """
    if not isinstance(value, list) or len(value) > MAX_RANK:
        return False
    product = _MAX_ITEMSIZE
    for size in value:
        if type(size) is not int or not 0 <= size < _MAX_SIZE:
            return False
        product *= size or 1
    return product < _MAX_SIZE


class _Short(reprlib.Repr):
    """Texts of bounded cost: lists that share their parts may have one without an end."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlist = self.maxtuple = self.maxdict = 20

    def repr_instance(self, x: object, level: int) -> str:
        if isinstance(x, bytes | bytearray):
            return repr(x[:80])
        if x is None or isinstance(x, bool | float | complex):
            return repr(x)
        return f"a value of type {type(x).__name__}"


def shown(value: object) -> str:
    """A value for a message, cut short. An integer of thousands of digits has no repr."""
    try:
        return f"{_Short().repr(value):.80}"
    except ValueError:
        return f"a value of type {type(value).__name__}, too long to show"


def is_writable(text: str) -> bool:
    """Whether a text has a UTF-8 form: one with a lone surrogate has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
