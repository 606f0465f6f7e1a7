"""Texts beside a model, or in it: source code, and configurations that name code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from milepost.scanning.keras_config import scan_config
from milepost.scanning.report import Finding, Severity

_SOURCES = (".py", ".sh", ".bat", ".ps1", ".cmd")
# Tags of YAML by which Python's objects are made, and what may hide one.
_YAML_TAG = re.compile(
    r"!\w*!?python/(object|name|module)|2002:python|^%TAG|(^|\s)!\S*%", re.MULTILINE
)


def scan_text(text: str, where: str) -> Iterator[Finding]:
    """What a text could do, if it is one that something runs or obeys."""
    file, colon, member = where.rpartition(":")
    name = where.rpartition("/")[2]
    if name.endswith(_SOURCES) or text.startswith("#!"):
        # TorchScript keeps its own language in such members; torch reads it, Python never does.
        own = bool(colon and file) and "/code/" in f"/{member}" and name.endswith(".py")
        severity = Severity.NOTE if own else Severity.SUSPICIOUS
        yield Finding(severity, where, name, "source code, which a loader may run")
    elif name.endswith((".yaml", ".yml")):
        if found := _YAML_TAG.search(text):
            why = "makes Python call what it names, where YAML is loaded without care"
            yield Finding(Severity.DANGEROUS, where, found[0].strip(), why)
    elif text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        yield from _scan_json(text.lstrip("\ufeff"), where, name)


def _scan_json(text: str, where: str, name: str) -> Iterator[Finding]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if name.endswith(".json"):
            yield Finding(Severity.UNREADABLE, where, "a configuration", f"is no JSON: {error}")
        return  # a text that only begins like it
    yield from scan_config(document, where)
    if isinstance(document, dict):
        for key, target in _imports(document):
            why = "Transformers imports this file with trust_remote_code=True"
            yield Finding(Severity.SUSPICIOUS, where, f"{key}: {target}", why)


def _imports(document: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Files of Python code that a configuration names."""
    for name in ("auto_map", "custom_pipelines"):
        found = document.get(name)
        if isinstance(found, dict):
            yield from found.items()
        elif found:
            yield name, found
