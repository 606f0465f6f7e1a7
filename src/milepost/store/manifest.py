"""Manifests: the JSON file that names a checkpoint's leaves. Its appearance is the commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from milepost import digest, record, sealed
from milepost.errors import DamagedError
from milepost.record import ArrayRecord, Record
from milepost.state import ObjectInfo
from milepost.store import layout

KIND = "manifest"


@dataclass(frozen=True, slots=True)
class PackRef:
    """A pack that a manifest refers to: its name, its size, the digest of its header."""

    name: str
    nbytes: int
    header: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a checkpoint except its bytes.

    Attributes:
        step: the number that names it.
        created: when it was committed, UTC, as `2026-11-23T12:00:00Z`.
        metrics: name -> value.
        metadata: what the caller asked to record: JSON values.
        versions: package -> version that wrote it.
        objects: structure and configuration of each object.
        ties: leaf -> the leaf whose memory it shared.
        packs: the files that the records' chunks refer to by index.
        records: the leaves, in the order in which the objects show them.
    """

    step: int
    created: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, ObjectInfo] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    packs: tuple[PackRef, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest file."""
    return sealed.seal(
        KIND,
        {
            "step": manifest.step,
            "created": manifest.created,
            "metrics": {k: record.encode_plain(v) for k, v in manifest.metrics.items()},
            "metadata": dict(manifest.metadata),
            "versions": dict(manifest.versions),
            "objects": {
                name: {"kind": info.kind, "structure": info.structure, "config": dict(info.config)}
                for name, info in manifest.objects.items()
            },
            "ties": dict(manifest.ties),
            "packs": [
                {"name": pack.name, "bytes": pack.nbytes, "header": pack.header}
                for pack in manifest.packs
            ],
        },
        version=2 if _is_compacted(manifest) else 1,
        leaves=record.encode_all(manifest.records),
    )


def _is_compacted(manifest: Manifest) -> bool:
    return any(
        chunk.encoding is not None
        for item in manifest.records.values()
        if isinstance(item, ArrayRecord)
        for chunk in item.chunks
    )


def decode(data: bytes, name: str, step: int) -> Manifest:
    """The manifest in `data`, which messages call `name`.

    Raises:
        DamagedError: it is not what `encode` wrote for this step.
        VersionError: a newer milepost wrote it.
    """
    body = sealed.unseal(KIND, data, name)
    try:
        if body["step"] != step:
            raise DamagedError(f"{name} should be of step {step}, but is of step {body['step']}")
        packs = tuple(_decode_pack(item) for item in body["packs"])
        sizes = [pack.nbytes for pack in packs]
        return Manifest(
            step=step,
            created=str(body["created"]),
            metrics={k: _metric(v) for k, v in body["metrics"].items()},
            metadata=dict(body["metadata"]),
            versions=dict(body["versions"]),
            objects={k: decode_object(v) for k, v in body["objects"].items()},
            ties=dict(body["ties"]),
            packs=packs,
            records={k: record.decode(v, k, sizes) for k, v in body["leaves"].items()},
        )
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{name} is damaged: {type(error).__name__}: {error}") from None


def decode_object(item: Any) -> ObjectInfo:
    structure = item["structure"]
    if structure is not None and not isinstance(structure, dict):
        raise DamagedError(f"expected a structure, found {structure!r:.80}")
    return ObjectInfo(str(item["kind"]), structure, dict(item["config"]))


def _metric(encoded: Any) -> float:
    value = record.decode_plain(encoded)
    if not isinstance(value, int | float):
        raise DamagedError(f"expected a number as metric, found {value!r:.80}")
    return value


def _decode_pack(item: Any) -> PackRef:
    # The name becomes a path: only a pack's own form of name may.
    if not isinstance(item["name"], str) or not layout.is_pack_name(item["name"]):
        raise DamagedError(f"expected the name of a pack, found {item['name']!r:.80}")
    if type(item["bytes"]) is not int or not digest.is_well_formed(item["header"]):
        raise DamagedError(f"the pack {item['name']} has no size or no digest")
    return PackRef(item["name"], item["bytes"], item["header"])
