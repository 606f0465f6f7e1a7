"""Assets of Keras layers: vocabularies, and whatever a layer's `save_assets` writes.

They are kept by content. A name in a model file never becomes a path: files are written to
an empty temporary folder, under names of letters, digits, dots, dashes and underscores.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from milepost.errors import UntrustedError
from milepost.frameworks.keras.naming import layers_by_path
from milepost.state import join

_VOCABULARY = "vocabulary.json"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def collect(model: keras.Model) -> dict[str, bytes]:
    """The assets of every layer, by `<layer>/<file>`."""
    found: dict[str, bytes] = {}
    for path, layer in _layers(model):
        if _is_lookup(layer):
            tokens = layer.get_vocabulary(include_special_tokens=False)
            if tokens:
                found[join(path, _VOCABULARY)] = _dump_vocabulary(layer, tokens)
            continue
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            for name in sorted(os.listdir(folder)):
                with open(os.path.join(folder, name), "rb") as file:
                    found[join(path, name)] = file.read()
    return found


def restore(model: keras.Model, files: Mapping[str, bytes]) -> None:
    """Give every layer its assets back.

    Raises:
        UntrustedError: a file's name could lead out of its folder.
    """
    for path, layer in _layers(model):
        inside = f"{path}/" if path else ""
        own = {n.removeprefix(inside): data for n, data in files.items() if n.startswith(inside)}
        if not path:  # the files of the layers inside of it are theirs
            own = {name: data for name, data in own.items() if "/" not in name}
        if not own:
            continue
        if _is_lookup(layer) and _VOCABULARY in own:
            _load_vocabulary(layer, own[_VOCABULARY])
            continue
        with tempfile.TemporaryDirectory() as folder:
            for name, data in own.items():
                if not _FILE.fullmatch(name) or ".." in name:
                    raise UntrustedError(
                        f"the asset {name!r} of {path} has a name that could be a path"
                    )
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(data)
            layer.load_assets(folder)


def _layers(model: keras.Model) -> Iterator[tuple[str, Any]]:
    for path, layer in layers_by_path(model):
        # A text vectorisation leaves its vocabulary to the lookup inside of it.
        if hasattr(layer, "save_assets") and not isinstance(layer, keras.layers.TextVectorization):
            yield path, layer


def _is_lookup(layer: Any) -> bool:
    return isinstance(layer, keras.layers.StringLookup | keras.layers.IntegerLookup)


def _dump_vocabulary(layer: Any, tokens: list[Any]) -> bytes:
    # JSON, because a token may hold a line break, which Keras's own text file cannot.
    numbers = isinstance(layer, keras.layers.IntegerLookup)
    document: dict[str, Any] = {"tokens": [int(t) if numbers else str(t) for t in tokens]}
    if layer.output_mode == "tf_idf":
        weights = keras.ops.convert_to_numpy(layer.idf_weights_const).tolist()
        document["idf_weights"] = weights[-len(tokens) :]
    return json.dumps(document).encode()


def _load_vocabulary(layer: Any, data: bytes) -> None:
    document = json.loads(data)
    layer.set_vocabulary(document["tokens"], idf_weights=document.get("idf_weights"))
