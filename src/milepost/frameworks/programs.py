"""What the frameworks share when they make a portable program of a model."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost import digest, dtypes, frameworks, tree
from milepost.dtypes import Array
from milepost.errors import MilepostError, MissingPackageError, UnsupportedObjectError
from milepost.frameworks.base import capture_objects
from milepost.state import Leaf, Plain, is_array
from milepost.tree import Structure

# Smaller integers are shapes and axes, which a graph has to know before it runs.
_LARGE = 1024


@dataclass(frozen=True, slots=True)
class Interface:
    """How a model's inputs and outputs nest, and which of them are arrays.

    Attributes:
        before, after: the structure of inputs and outputs.
        given: what the inputs are, by leaf.
        made: the same of the outputs.
    """

    before: Structure
    after: Structure
    given: Mapping[str, Plain | Array]
    made: Mapping[str, Plain | Array]

    @classmethod
    def of(cls, inputs: Any, outputs: Any) -> Interface:
        state = capture_objects({"inputs": inputs, "outputs": outputs}, frameworks.finder())
        values: dict[str, Any] = {
            name: np.asarray(leaf) if is_array(leaf) else leaf
            for name, leaf in state.leaves.items()
        }
        nodes = [state.objects[kind].structure for kind in ("inputs", "outputs")]
        leaves = [
            {name: values[name] for name in tree.leaf_names(node, kind)}
            for node, kind in zip(nodes, ("inputs", "outputs"), strict=True)
        ]
        interface = cls(nodes[0], nodes[1], leaves[0], leaves[1])
        if not interface.input_names() or not interface.output_names():
            raise UnsupportedObjectError(
                "a program takes arrays and makes arrays, and this model does not: save it "
                "without program=True"
            )
        return interface

    def traced(self, signature: Mapping[str, Any]) -> list[Array]:
        """The inputs that are arrays.

        A single row that might be more is there twice: a tracer would make a constant of its size.
        """
        found = [value for value in self.given.values() if isinstance(value, np.ndarray)]
        shapes = [entry["shape"] for entry in signature["inputs"] if entry["shape"] is not None]
        return [
            np.concatenate([value, value]) if shape[:1] == [None] and len(value) == 1 else value
            for value, shape in zip(found, shapes, strict=True)
        ]

    def nested(self, arrays: Sequence[Any]) -> Any:
        """The inputs as the model takes them, with these arrays in them."""
        names = [n for n, value in self.given.items() if isinstance(value, np.ndarray)]
        values = {**self.given, **dict(zip(names, arrays, strict=True))}
        return tree.build(self.before, "inputs", lambda name, _: values[name])

    def flat(self, outputs: Any) -> tuple[Any, ...]:
        """The arrays among the outputs, in the order of the signature."""
        found = zip(_leaves(self.after, outputs), self.made.values(), strict=True)
        return tuple(leaf for leaf, value in found if isinstance(value, np.ndarray))

    def input_names(self) -> tuple[str, ...]:
        return _names("input", self.given)

    def output_names(self) -> tuple[str, ...]:
        return _names("output", self.made)


def _names(kind: str, leaves: Mapping[str, Any]) -> tuple[str, ...]:
    count = sum(isinstance(value, np.ndarray) for value in leaves.values())
    return tuple(f"{kind}_{index}" for index in range(count))


def _leaves(node: Structure, value: Any) -> Iterator[Any]:
    kind = tree.kind_of(node)
    if kind == "leaf":
        yield value
    for key, child in tree.children(node):
        named = kind not in tree.SEQUENCES and kind not in tree.MAPPINGS
        yield from _leaves(child, getattr(value, str(key)) if named else value[key])


class Leaves:
    """The leaves of a model, to be found by their bytes."""

    def __init__(self, model: Any) -> None:
        state = capture_objects({"": model}, frameworks.finder())
        self.by_name: dict[str, Leaf] = {
            name: leaf
            for name, leaf in state.leaves.items()
            if is_array(leaf) and name not in state.ties
        }
        self._ties = dict(state.ties)
        self._contents = {name: _content(np.asarray(leaf)) for name, leaf in self.by_name.items()}
        self._by_content = {content: name for name, content in reversed(self._contents.items())}

    def find(self, name: str, array: Array) -> str | None:
        """The leaf that has these bytes, that of this name first."""
        own, content = self._ties.get(name, name), _content(array)
        if self._contents.get(own) == content:
            return own
        if array.dtype.kind in "biu" and array.nbytes < _LARGE:
            return None
        return self._by_content.get(content)


def _content(array: Array) -> tuple[str, tuple[int, ...], str]:
    stored = dtypes.to_stored(array)
    return dtypes.dtype_name(stored.dtype), stored.shape, digest.digest(dtypes.byte_view(stored))


@contextlib.contextmanager
def exporting(*loggers: str) -> Iterator[None]:
    """Errors of an exporter as ours, and what it says to developers not said.

    Raises:
        MissingPackageError: it is not installed.
        UnsupportedObjectError: it cannot export the model.
    """
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MilepostError:
        raise
    except ImportError as error:
        raise MissingPackageError(
            f"program=True needs a package that cannot be imported ({error}): "
            'pip install "milepost[onnx,predict]"'
        ) from error
    except Exception as error:  # exporters raise whatever the code that they follow raises
        raise UnsupportedObjectError(
            f"the model cannot be made a program, because its exporter cannot follow it: "
            f"{_reason(error)}\nSave it without program=True, or change what is named here"
        ) from error
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _reason(error: Exception) -> str:
    """The first cause of an error, in a few lines."""
    found: BaseException = error
    while found.__cause__ is not None:
        found = found.__cause__
    lines = [line for line in str(found).splitlines() if line.strip()][:4]
    return f"{type(found).__name__}: " + "\n".join(lines)[:600]
