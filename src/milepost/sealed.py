"""Sealed JSON: a document that carries a digest of itself.

    {"digest":"blake3:<64 hex>","<kind>":<body>}

The digest covers the bytes of the body exactly as they lie there, so a reader needs no
canonical form, any JSON parser reads the file, and one flipped bit anywhere is noticed.
`kind` says what the body is: `manifest`, `store`, `model`.
"""

from __future__ import annotations

import json
from typing import Any

from milepost import digest
from milepost.errors import DamagedError, VersionError
from milepost.jsontext import dumps, quoted

# The version of everything that milepost writes: stores and model files.
#
# Raise it when a reader of the version before would misread, or miss, what is written now.
# To raise it: (1) add the number here; (2) teach the readers the new form and keep the old
# one; (3) describe it in docs/format.md; (4) `python -m tests.old.make tests/old/format-N`,
# which later versions must read for ever; (5) CHANGELOG.
#
# A document has the lowest version whose readers understand it: 2 where chunks are encoded.
FORMAT_VERSION = 2


def seal(kind: str, body: dict[str, Any], version: int = 1, **written: str) -> bytes:
    """`body` as a sealed document of this kind, its format version first.

    Last comes what is `written` as JSON already, by its key.
    """
    members = [dumps({"format": version, **body})[1:-1]]
    members += [f"{quoted(key)}:{text}" for key, text in written.items()]
    text = f"{{{','.join(members)}}}".encode()
    return f'{{"digest":"{digest.digest(text)}","{kind}":'.encode() + text + b"}"


def unseal(kind: str, data: bytes, name: str) -> dict[str, Any]:
    """The body of the sealed document `data`, which messages call `name`.

    Raises:
        DamagedError: it is not one, or not as it was written.
        VersionError: it was written in a newer format.
    """
    prefix = f'","{kind}":'.encode()
    start = data.find(prefix, 0, 160)
    opening = b'{"digest":"'
    if not data.startswith(opening) or start < 0 or not data.endswith(b"}"):
        raise DamagedError(f"{name} is damaged: it is not a {kind} document of milepost")
    claimed = data[len(opening) : start].decode("ascii", "replace")
    body_text = data[start + len(prefix) : -1]
    if digest.is_known(claimed):
        if not digest.matches(claimed, body_text):
            raise DamagedError(
                f"{name} is damaged: expected {claimed}, found {digest.digest(body_text)}"
            )
    elif not digest.is_well_formed(claimed):
        raise DamagedError(f"{name} is damaged: {claimed!r} is no digest")
    body = _load(body_text, name)
    _check_version(body.get("format"), name, known_digest=digest.is_known(claimed))
    return body


def _check_version(version: Any, name: str, *, known_digest: bool) -> None:
    if type(version) is int and 1 <= version <= FORMAT_VERSION and known_digest:
        return
    if type(version) is int and version > FORMAT_VERSION:
        raise VersionError(
            f"{name} has format version {version}; this milepost knows versions up to "
            f"{FORMAT_VERSION}: upgrade with `pip install --upgrade milepost`"
        )
    raise DamagedError(f"{name} is damaged: expected a format version, found {version!r}")


def _load(text: bytes, name: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged: it is not valid JSON ({error})") from None
    if not isinstance(body, dict):
        raise DamagedError(
            f"{name} is damaged: expected a JSON object, found {type(body).__name__}"
        )
    return body
