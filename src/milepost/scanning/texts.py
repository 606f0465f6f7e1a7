"""Texts beside a model, or in it: source code, and configurations that name code."""

from __future__ import annotations

import json
from collections.abc import Iterator

from milepost.scanning.keras_config import scan_config
from milepost.scanning.report import Finding, Severity

_SOURCES = (".py", ".sh", ".bat", ".ps1", ".cmd")


def scan_text(text: str, where: str) -> Iterator[Finding]:
    """What a text could do, if it is one that something runs or obeys."""
    file, colon, member = where.rpartition(":")
    name = where.rpartition("/")[2]
    if name.endswith(_SOURCES) or text.startswith("#!"):
        # TorchScript keeps its own language in such members; torch reads it, Python never does.
        own = bool(colon and file) and "/code/" in f"/{member}" and name.endswith(".py")
        severity = Severity.NOTE if own else Severity.SUSPICIOUS
        yield Finding(severity, where, name, "source code, which a loader may run")
    elif text.lstrip()[:1] in ("{", "["):
        yield from _scan_json(text, where)


def _scan_json(text: str, where: str) -> Iterator[Finding]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return  # a text that only begins like it
    yield from scan_config(document, where)
    if isinstance(document, dict) and isinstance(document.get("auto_map"), dict):
        for key, target in document["auto_map"].items():
            why = "Transformers imports this file with trust_remote_code=True"
            yield Finding(Severity.SUSPICIOUS, where, f"{key}: {target}", why)
