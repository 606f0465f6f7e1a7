"""Model cards: what a model file says of itself, as Markdown with Hugging Face's front matter.

Source of the front matter's keys: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from milepost.formats.safetensors import ModelSnapshot
from milepost.model.opened import open_model
from milepost.snapshot import Snapshot

# What the hub calls the library of each of our frameworks, where it has a name of its own.
_LIBRARIES = {"torch": "pytorch", "transformers": "transformers", "keras": "keras", "flax": "flax"}
# Leaves of a model that training needs, and predicting does not.
_TRAINING = ("optimizer/", "metrics/", "assets/")
# Characters that would make of a text from a file something else than text.
_ESCAPED = {ord(c): f"\\{c}" for c in "\\`*_[]<>|#"}


def model_card(path: str | os.PathLike[str]) -> str:
    """The model card of a model file: Markdown, ready to be the README of a model repository.

    Raises:
        PathNotFoundError, DamagedError: there is no such file, or it is not what was saved.
        UnknownFormatError: it is no model file.
    """
    with open_model(path) as snapshot:
        name = os.path.splitext(os.path.basename(os.path.normpath(os.fspath(path))))[0]
        return "\n".join([*_front_matter(snapshot), "", *_body(name, snapshot)]) + "\n"


def _front_matter(snapshot: ModelSnapshot) -> Iterator[str]:
    about = snapshot.document.about
    framework = snapshot.document.framework
    yield "---"
    if "license" in about:
        yield f"license: {_quoted(about['license'])}"
    yield f"library_name: {_quoted(_LIBRARIES.get(framework, framework))}"
    yield 'tags: ["milepost", "safetensors"]'
    if about.get("metrics"):
        yield f"metrics: [{', '.join(map(_quoted, about['metrics']))}]"
    yield "---"


def _quoted(text: object) -> str:
    """A text as YAML and JSON both write it."""
    return json.dumps(str(text), ensure_ascii=False)


def _body(name: str, snapshot: ModelSnapshot) -> Iterator[str]:
    document = snapshot.document
    about = document.about
    yield f"# {_text(name)}"
    if about.get("notes"):
        yield from ("", str(about["notes"]))
    yield from ("", *_facts(snapshot))
    for kind in ("inputs", "outputs"):
        if document.signature.get(kind):
            yield from (
                "",
                f"## {kind.title()}",
                "",
                "| name | dtype | shape |",
                "| --- | --- | --- |",
            )
            yield from (_signature_row(item) for item in document.signature[kind])
    if about.get("labels"):
        yield from ("", "## Labels", "")
        yield from (f"{i}. {_text(label)}" for i, label in enumerate(about["labels"]))
    if about.get("metrics"):
        yield from ("", "## Metrics", "", "| metric | value |", "| --- | ---: |")
        yield from (f"| {_text(key)} | {value:.6g} |" for key, value in about["metrics"].items())
    yield from ("", "## Use", "", *_use(name, snapshot))
    if document.lost:
        yield from ("", "## Not in the file", "")
        yield from (f"- {_text(sentence)}" for sentence in document.lost)


def _facts(snapshot: ModelSnapshot) -> Iterator[str]:
    document = snapshot.document
    versions = ", ".join(f"{key} {value}" for key, value in document.versions.items())
    yield "| | |"
    yield "| --- | --- |"
    yield f"| framework | {_text(document.framework)} |"
    yield f"| parameters | {parameters(snapshot):,} |"
    if "step" in document.about:
        yield f"| trained for | {document.about['step']} steps |"
    if document.program is not None:
        yield f"| portable program | {_text(document.program.kind)} |"
    yield f"| saved with | {_text(versions)} |"
    for key, value in document.metadata.items():
        yield f"| {_text(key)} | {_text(value)} |"


def parameters(snapshot: Snapshot) -> int:
    """How many numbers a model predicts with: of all arrays, those of its training aside."""
    shapes = (snapshot.spec(n).shape for n in snapshot if not n.startswith(_TRAINING))
    return sum(math.prod(shape) for shape in shapes if shape is not None)


def _signature_row(item: Mapping[str, Any]) -> str:
    shape = "a value" if item["shape"] is None else f"`{_shape_text(item['shape'])}`"
    return f"| {_text(item['name'])} | {_text(item['dtype'])} | {shape} |"


def _shape_text(shape: Sequence[int | None]) -> str:
    """`[?, 28, 28]`: a size that may vary is a question mark."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _use(name: str, snapshot: ModelSnapshot) -> Iterator[str]:
    needs = snapshot.document.structure.get("needs", ())
    yield "```python"
    yield "import milepost"
    yield ""
    if needs:
        yield f"# Register first, or pass in custom_objects: {', '.join(map(_one_line, needs))}"
    replay = ", replay=True" if snapshot.document.example is not None else ""
    yield f"model = milepost.load_model({os.path.basename(snapshot.name)!r}{replay})"
    yield "```"


def _text(value: object) -> str:
    return _one_line(value).translate(_ESCAPED)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
