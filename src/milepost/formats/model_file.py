"""The model file: a safetensors file that is a whole model.

Its `__metadata__` holds the key `milepost`: a sealed JSON document with the structure, the
leaves' records and digests, ties, versions, and what else there is to know. Plain values are
in the document; arrays are the file's tensors, under the leaves' own names; assets (a
vocabulary) are `U8` tensors whose names begin with `assets/`.

A model may lie in several such files, shards. The document is in the first; each other has a
sealed `{"number": 2, "of": "<digest of the document>"}` under the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from milepost import digest, dtypes, program, record, sealed
from milepost.container import Header, TensorEntry
from milepost.errors import DamagedError
from milepost.formats import example
from milepost.formats.about import checked_signature, decode_about, encode_about
from milepost.formats.example import Example
from milepost.program import Program
from milepost.record import ArrayRecord, PlainRecord, Record
from milepost.source import ByteSource

KEY = "milepost"
KIND, SHARD = "model", "shard"
ASSETS = "assets/"
# The frameworks whose leaves have the names and shapes of PyTorch's state_dict.
_PYTORCH = ("torch", "transformers")
# A file: its header, and what to read it from.
Part: TypeAlias = tuple[Header, ByteSource]


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
        shards: how many files its tensors lie in; this document is in the first.
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
    shards: int = 1


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
        "about": encode_about(document.about),
        "signature": dict(document.signature),
        "lost": list(document.lost),
        "example": example.encode(document.example) if document.example else None,
        "program": program.encode(document.program) if document.program else None,
        "shards": document.shards if document.shards > 1 else None,
    }
    body |= {key: value for key, value in optional.items() if value}
    return _labelled(document.framework) | {KEY: sealed.seal(KIND, body).decode()}


def encode_shard(first: Mapping[str, str], number: int) -> dict[str, str]:
    """The `__metadata__` of a shard that is not the first, whose `__metadata__` is given."""
    label = {key: value for key, value in first.items() if key != KEY}
    return label | {KEY: sealed.seal(SHARD, {"number": number, "of": _identity(first)}).decode()}


def _identity(first: Mapping[str, str]) -> str:
    """What tells shards of one save from those of another."""
    return digest.digest(first[KEY].encode("utf-8", "surrogatepass"))


def _labelled(framework: str) -> dict[str, str]:
    """What the loaders of Transformers and Diffusers want to see in a file of PyTorch's tensors."""
    return {"format": "pt"} if framework in _PYTORCH else {}


def decode(*parts: Part) -> ModelDocument:
    """The document in the first of these files, checked against the tensors in all of them.

    Raises:
        DamagedError: they do not agree, or it is no document.
        VersionError: a newer milepost wrote it.
    """
    header, source = parts[0]
    body = sealed.unseal(KIND, header.metadata[KEY].encode("utf-8", "surrogatepass"), source.name)
    _check_parts(body, parts)
    tensors = {
        name: (number, entry)
        for number, (part, _) in enumerate(parts)
        for name, entry in part.tensors.items()
    }
    try:
        leaves = dict(body["leaves"])
        ties = {name: item["tied"] for name, item in leaves.items() if "tied" in item}
        records = {
            name: _decode_leaf(tensors, parts, name, item)
            for name, item in leaves.items()
            if name not in ties
        }
        _check_complete(tensors, records)
        everything = {name: records[ties.get(name, name)] for name in leaves}
        stored, portable = body.get("example"), body.get("program")
        return ModelDocument(
            str(body["framework"]),
            dict(body["structure"]),
            everything,
            ties,
            dict(body["metadata"]),
            dict(body["versions"]),
            about=decode_about(body.get("about", {})),
            signature=checked_signature(body.get("signature", {})),
            lost=tuple(map(str, body.get("lost", ()))),
            example=example.decode(stored) if stored else None,
            program=_program(portable, everything) if portable else None,
            shards=len(parts),
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


def _check_parts(body: Mapping[str, Any], parts: tuple[Part, ...]) -> None:
    """Whether these are all files of one save, in order, with no `__metadata__` but milepost's."""
    first, source = parts[0]
    count = body.get("shards", 1)
    if len(parts) != count:
        raise DamagedError(
            f"{source.name} is the first of {count} files of a model, and {len(parts)} are here: "
            "open the folder that holds them all, as it was saved"
        )
    label = _labelled(str(body.get("framework")))
    for number, (header, file) in enumerate(parts, 1):
        # A file of before had no label. Nothing else is beside the document, so that no flipped
        # bit goes unnoticed.
        more = {key: value for key, value in header.metadata.items() if key != KEY}
        if more not in ({}, label):
            raise DamagedError(f"{file.name} is damaged: its __metadata__ holds {more!r:.200}")
        if number == 1:
            continue
        text = header.metadata.get(KEY, "").encode("utf-8", "surrogatepass")
        shard = sealed.unseal(SHARD, text, file.name)
        if shard.get("of") != _identity(first.metadata) or shard.get("number") != number:
            raise DamagedError(
                f"{file.name} belongs to another save than {source.name}: put back the files "
                "that were saved together"
            )


def _decode_leaf(
    tensors: Mapping[str, tuple[int, TensorEntry]], parts: tuple[Part, ...], name: str, item: Any
) -> Record:
    number, entry = tensors.get(name, (0, None))
    size = parts[number][1].size
    decoded = record.decode(item, name, [size], start=entry.offset if entry else 0)
    if isinstance(decoded, ArrayRecord):
        if entry is None:
            raise DamagedError(f"the tensor of leaf {name!r} is missing")
        if (entry.code, entry.shape) != dtypes.container_type(decoded.dtype, decoded.shape):
            raise DamagedError(f"leaf {name!r} should be {decoded.spec}, its tensor is not")
        if number:  # of the first file, they say so already
            chunks = tuple(replace(chunk, file=number) for chunk in decoded.chunks)
            decoded = ArrayRecord(decoded.dtype, decoded.shape, chunks)
    return decoded


def _check_complete(tensors: Iterable[str], records: Mapping[str, Record]) -> None:
    arrays = {name for name, item in records.items() if not isinstance(item, PlainRecord)}
    strangers = set(tensors) - arrays
    if strangers:
        raise DamagedError(
            f"it has the tensor {min(strangers)!r}, which its document does not know"
        )
