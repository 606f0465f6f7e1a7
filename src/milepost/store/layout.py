"""Where things lie inside a store.

milepost.json                                marker: format version, store id
checkpoints/00000000000000000007.json        manifest of step 7; its appearance commits it
data/00000000000000000007-k3f9….safetensors  pack: what was new at step 7
partial/                                     what a writer has not finished yet
lock                                         locked by writers, empty
newest.json                                  the newest steps, for whoever finds it still true
"""

from __future__ import annotations

import re
import secrets

from milepost.errors import UsageError
from milepost.limits import shown

MARKER = "milepost.json"
NEWEST = "newest.json"
CHECKPOINTS = "checkpoints"
DATA = "data"

# Steps are zero-padded to 20 digits so that names sort as numbers: 2**64 has 20.
_MANIFEST = re.compile(r"(\d{20})\.json")
_PACK = re.compile(r"(\d{20})-[0-9a-z]+\.safetensors")
MAX_STEP = 10**20 - 1


def check_step(step: object) -> int:
    """`step` if it can be one.

    Raises:
        UsageError: it is no integer from 0 to 10**20 - 1.
    """
    try:
        number = step.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        raise UsageError(f"expected an integer as step, found {shown(step)}") from None
    if isinstance(step, bool) or not 0 <= number <= MAX_STEP:
        raise UsageError(f"expected a step from 0 to {MAX_STEP}, found {shown(step)}")
    return int(number)


def manifest_name(step: int) -> str:
    return f"{CHECKPOINTS}/{step:020d}.json"


def manifest_step(file: str) -> int | None:
    """The step of a file in `checkpoints/`, or None for a file that is no manifest."""
    match = _MANIFEST.fullmatch(file)
    return int(match[1]) if match else None


def new_pack_name(step: int) -> str:
    """A name for a pack of this step that no other writer has."""
    return f"{DATA}/{step:020d}-{secrets.token_hex(6)}.safetensors"


def is_pack_name(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == DATA and _PACK.fullmatch(file) is not None


def pack_step(file: str) -> int | None:
    """The step that wrote a file in `data/`, or None for a file that is no pack."""
    match = _PACK.fullmatch(file)
    return int(match[1]) if match else None
