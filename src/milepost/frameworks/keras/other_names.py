"""What Keras and TensorFlow call the variables of a model in their own files.

_functional/_operations/1/_kernel   the way there in TensorFlow's object graph
dense/kernel                        the variable's own path, without the model's name
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
from milepost.frameworks.keras.files import variable_paths
from milepost.state import join


def graph_paths(root: Any) -> dict[int, list[str]]:
    """The id of every variable -> the ways to it in the graph of objects that TensorFlow tracks.

    One way for each object that holds it, the shortest first; none on other backends.
    """
    if keras.backend.backend() != "tensorflow":
        return {}
    found: dict[int, list[str]] = {}
    for path, node in _tracked(root):
        if isinstance(node, keras.Variable):
            found.setdefault(id(node), []).append(path)
    return found


def _tracked(root: Any) -> Iterator[tuple[str, Any]]:
    """Every tracked object with the way there, breadth first; a variable once for each holder."""
    import tensorflow as tf

    view = tf.train.TrackableView(root)
    queue: list[tuple[str, Any]] = [("", root)]
    seen = {id(root)}
    for path, node in queue:
        yield path, node
        for name, child in view.children(node).items():
            if isinstance(child, keras.Variable) or id(child) not in seen:
                seen.add(id(child))
                queue.append((join(path, name), child))


def file_paths(value: Any) -> dict[int, list[str]]:
    """The id of every variable of a model -> where Keras's own files have it."""
    if not isinstance(value, keras.Model):
        return {}
    found = {key: [path] for key, path in variable_paths(value).items()}
    for layer in value.layers:
        for variable in layer.weights:
            for top in ("model_weights/", ""):  # a whole model's file, and one of weights alone
                found.setdefault(id(variable), []).append(f"{top}{layer.name}/{variable.path}")
    return found


def own_paths(variables: Mapping[str, keras.Variable]) -> dict[int, list[str]]:
    """The id of every variable -> its path, whole and without the first part."""
    return {
        id(variable): [variable.path, variable.path.partition("/")[2] or variable.path]
        for variable in variables.values()
    }
