"""The model file: a safetensors file that is a whole model.

Its `__metadata__` holds the key `milepost`: a sealed JSON document with the structure, the
leaves' records and digests, ties, versions, and what else there is to know. Plain values are
in the document; arrays are the file's tensors, under the leaves' own names; assets (a
vocabulary) are `U8` tensors whose names begin with `assets/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from milepost import dtypes, program, record, sealed
from milepost.container import Header
from milepost.errors import DamagedError
from milepost.formats import example
from milepost.formats.example import Example
from milepost.program import Program
from milepost.record import ArrayRecord, PlainRecord, Record
from milepost.source import ByteSource

KEY = "milepost"
KIND = "model"
ASSETS = "assets/"


@dataclass(frozen=True, slots=True)
class ModelDocument:
    """What a model file says of itself.

    Attributes:
        framework: which of ours rebuilds it (`"keras"`, `"torch"`).
        structure: what that framework needs to rebuild it (JSON).
        records: the leaves.
        ties: leaf -> the leaf whose memory it shares, and whose tensor it is.
        metadata: what the caller asked to record: JSON values.
        versions: package -> version that wrote it.
        about: what the caller told of the model: `labels`, `metrics`, `step`, `license`, `notes`.
        signature: `inputs` and `outputs`, each a list of `name`, `dtype`, `shape`, in which a
            size that may vary is None.
        lost: what the live model had and the file has not, a sentence each.
        example: inputs and outputs.
        program: the model as a portable program.
    """

    framework: str
    structure: Mapping[str, Any]
    records: Mapping[str, Record]
    ties: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    signature: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    example: Example | None = None
    program: Program | None = None


def encode(document: ModelDocument) -> dict[str, str]:
    """The `__metadata__` of a model file."""
    leaves = {
        name: {"tied": document.ties[name]}
        if name in document.ties
        else record.encode(item, places=False)
        for name, item in document.records.items()
    }
    body = {
        "framework": document.framework,
        "structure": dict(document.structure),
        "leaves": leaves,
        "metadata": dict(document.metadata),
        "versions": dict(document.versions),
    }
    optional: dict[str, Any] = {
        "about": dict(document.about),
        "signature": dict(document.signature),
        "lost": list(document.lost),
        "example": example.encode(document.example) if document.example else None,
        "program": program.encode(document.program) if document.program else None,
    }
    body |= {key: value for key, value in optional.items() if value}
    return {KEY: sealed.seal(KIND, body).decode()}


def decode(header: Header, source: ByteSource) -> ModelDocument:
    """The document in a header, checked against the tensors beside it.

    Raises:
        DamagedError: they do not agree, or it is no document.
        VersionError: a newer milepost wrote it.
    """
    body = sealed.unseal(KIND, header.metadata[KEY].encode("utf-8", "surrogatepass"), source.name)
    try:
        leaves = dict(body["leaves"])
        ties = {name: item["tied"] for name, item in leaves.items() if "tied" in item}
        records = {
            name: _decode_leaf(header, source, name, item)
            for name, item in leaves.items()
            if name not in ties
        }
        _check_complete(header, records)
        everything = {name: records[ties.get(name, name)] for name in leaves}
        stored, portable = body.get("example"), body.get("program")
        return ModelDocument(
            str(body["framework"]),
            dict(body["structure"]),
            everything,
            ties,
            dict(body["metadata"]),
            dict(body["versions"]),
            about=dict(body.get("about", {})),
            signature=dict(body.get("signature", {})),
            lost=tuple(map(str, body.get("lost", ()))),
            example=example.decode(stored) if stored else None,
            program=_program(portable, everything) if portable else None,
        )
    except DamagedError as error:
        raise DamagedError(f"{source.name} is damaged: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{source.name} is damaged: {type(error).__name__}: {error}") from None


def _program(encoded: Mapping[str, Any], records: Mapping[str, Record]) -> Program:
    decoded = program.decode(encoded)
    strangers = set(decoded.weights.values()) - records.keys()
    if strangers:
        raise DamagedError(f"its program needs the leaf {min(strangers)!r}, which it has not")
    return decoded


def _decode_leaf(header: Header, source: ByteSource, name: str, item: Any) -> Record:
    entry = header.tensors.get(name)
    decoded = record.decode(item, name, [source.size], start=entry.offset if entry else 0)
    if isinstance(decoded, ArrayRecord):
        if entry is None:
            raise DamagedError(f"the tensor of leaf {name!r} is missing")
        if (entry.code, entry.shape) != dtypes.container_type(decoded.dtype, decoded.shape):
            raise DamagedError(f"leaf {name!r} should be {decoded.spec}, its tensor is not")
    return decoded


def _check_complete(header: Header, records: Mapping[str, Record]) -> None:
    arrays = {name for name, item in records.items() if not isinstance(item, PlainRecord)}
    strangers = header.tensors.keys() - arrays
    if strangers:
        raise DamagedError(
            f"it has the tensor {min(strangers)!r}, which its document does not know"
        )
