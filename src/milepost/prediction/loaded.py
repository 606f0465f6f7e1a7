"""`load_program`: a model file's program, ready to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from milepost import dtypes, runtimes, tree
from milepost.dtypes import Array
from milepost.errors import DamagedError, UsageError
from milepost.formats.example import INPUTS, OUTPUTS
from milepost.formats.model_file import ModelDocument
from milepost.model.comparison import Replay, is_close
from milepost.model.opened import open_model
from milepost.model.portable import replay
from milepost.opening import Path
from milepost.prediction.fit import fitted
from milepost.program import Program

# By what rows that are computed together may differ from rows computed apart, at the least.
_ALIKE = 1e-4


class LoadedProgram:
    """A model as a program: call it with NumPy arrays, in the order of its inputs or by name.

    Attributes:
        name: the file.
        inputs: the `name`, `dtype` and `shape` of each array that it takes; a size that may
            vary is None.
        outputs: the same of what it makes.
        labels: the names of the classes, in the order of an output's last axis; or none.
    """

    def __init__(
        self, name: str, document: ModelDocument, program: Program, run: runtimes.Run
    ) -> None:
        self.name = name
        self.inputs = _checked(name, document, INPUTS, len(program.inputs))
        self.outputs = _checked(name, document, OUTPUTS, len(program.outputs))
        self.labels: list[str] = [str(label) for label in document.about.get("labels", ())]
        self._document = document
        self._program = program
        self._run = run

    def __repr__(self) -> str:
        return f"<LoadedProgram {self.name}: {self._program.kind}>"

    def __call__(self, /, *arrays: Any, **by_name: Any) -> Any:
        """What the model makes of inputs: NumPy arrays, nested as the model's outputs are.

        Raises:
            UsageError: the inputs are not as the signature says.
        """
        names = [entry["name"] for entry in self.inputs]
        given = dict(zip(names, arrays, strict=False)) | by_name
        if len(arrays) + len(by_name) != len(names) or given.keys() != set(names):
            found = [*(f"input {i + 1}" for i in range(len(arrays))), *by_name]
            raise UsageError(f"{self.name}: expected the inputs {names}, found {found}")
        outputs = self.run([fitted(given[entry["name"]], entry) for entry in self.inputs])
        return self._nested(outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in the order of `outputs`, for arrays that are as `inputs` says."""
        outputs = self._run([np.ascontiguousarray(a).reshape(a.shape) for a in inputs])
        found, expected = [a.ndim for a in outputs], [len(e["shape"]) for e in self.outputs]
        if found != expected:
            raise UsageError(
                f"{self.name}: its program makes outputs of {found} axes of these inputs, "
                f"expected {expected}"
            )
        return outputs

    def predict(
        self,
        inputs: Sequence[Array],
        batch_size: int = 32,
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[Array]:
        """As `run`, but some rows at a time, however many there are; the last may be fewer.

        Arguments:
            progress: is told the number of rows that are done.

        Raises:
            UsageError: the inputs are not as the signature says, or the program's rows are not
                independent of each other, so that it has to compute all in one batch.
        """
        sliced = [entry["shape"][:1] == [None] for entry in self.inputs]
        rows = self._rows(inputs, sliced)
        size = min(batch_size, rows)

        def run(start: int, stop: int) -> list[Array]:
            pairs = zip(inputs, sliced, strict=True)
            return self.run([array[start:stop] if rowed else array for array, rowed in pairs])

        batches = []
        for start in range(0, rows, size):
            batches.append(run(start, start + size))
            if start == 0 and size < rows:
                self._check_independent(run, batches[0] if size > 1 else run(0, 2), size, rows)
            progress(min(start + size, rows))
        return self._joined(batches)

    def _rows(self, inputs: Sequence[Array], sliced: Sequence[bool]) -> int:
        """How many rows there are to predict on; 1 if the program takes exactly one batch."""
        for array, entry in zip(inputs, self.inputs, strict=True):
            fitted(array, entry)
        counts = {len(array) for array, rowed in zip(inputs, sliced, strict=True) if rowed}
        if len(counts) > 1 or counts == {0}:
            raise UsageError(
                f"{self.name}: expected inputs with the same number of rows, at least one, found "
                f"{', '.join(str(list(array.shape)) for array in inputs)}"
            )
        return counts.pop() if counts else 1

    def _check_independent(
        self, run: Callable[[int, int], list[Array]], whole: list[Array], size: int, rows: int
    ) -> None:
        """Make sure that rows may be computed apart: that what is before one does not change it.

        `whole` is what comes of the first `size` rows, or of two, together.
        """
        size = max(size, 2)
        parts = [run(0, size // 2), run(size // 2, size)]
        for entry, expected, found in zip(self.outputs, whole, self._joined(parts), strict=True):
            if not is_close(expected, found, max(self._program.tolerance, _ALIKE)):
                raise UsageError(
                    f"{self.name}: the output {entry['name']!r} of one row depends on the other "
                    f"rows: predict on all {rows} in one batch (--batch-size {rows})"
                )

    def _joined(self, batches: Sequence[list[Array]]) -> list[Array]:
        if len(batches) == 1:
            return batches[0]
        fixed = [entry["name"] for entry in self.outputs if None not in entry["shape"]]
        if fixed:
            raise UsageError(
                f"{self.name}: the output {fixed[0]!r} is one for all rows: predict in one batch "
                "(--batch-size, as many as there are rows)"
            )
        axes = [row_axis(entry) for entry in self.outputs]
        parts = zip(*batches, strict=True)
        return [np.concatenate(b, axis=a) for a, b in zip(axes, parts, strict=True)]

    def replay(self) -> Replay:
        """Predict on the file's example, and tell how far off that is.

        Raises:
            DifferentPredictionError: further than the program's tolerance.
            UsageError: the file has no example.
        """
        if self._document.example is None:
            raise UsageError(f"{self.name} has no example to replay")
        return replay(self._run, self._program, self._document.example, self.name)

    def _nested(self, outputs: Sequence[Array]) -> Any:
        example = self._document.example
        if example is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        made = iter(outputs)
        values = {
            name: next(made) if isinstance(value, np.ndarray) else value
            for name, value in example.arrays(OUTPUTS)
        }
        return tree.build(example.outputs, OUTPUTS, lambda name, _: values[name])


def _checked(name: str, document: ModelDocument, kind: str, count: int) -> list[Mapping[str, Any]]:
    """The arrays that the signature has, which are as many as the program's and the example's.

    Raises:
        DamagedError: they are not, or of no dtype.
    """
    entries = [e for e in document.signature.get(kind, ()) if e["shape"] is not None]
    counts = {count, len(entries)}
    if document.example is not None:
        values = document.example.arrays(kind)
        counts.add(sum(isinstance(value, np.ndarray) for _, value in values))
    if len(counts) > 1:
        raise DamagedError(f"{name} is damaged: its program does not have its signature's {kind}")
    try:
        for entry in entries:
            dtypes.numpy_dtype(entry["dtype"])
    except (KeyError, TypeError):
        raise DamagedError(f"{name} is damaged: {entry['dtype']!r:.40} is no dtype") from None
    return entries


def row_axis(entry: Mapping[str, Any]) -> int:
    """The axis of an output along which its rows lie: the one whose size may vary."""
    shape = entry["shape"]
    return shape.index(None) if None in shape else 0


def load_program(path: Path) -> LoadedProgram:
    """Load the program of a model file that was saved with `save_model(..., program=True)`.

    It predicts without the model's framework, its classes or any of its code: only onnxruntime
    is needed (for the program of a JAX model, jax).

    Raises:
        PathNotFoundError: there is no such file.
        UnknownFormatError: it is something else.
        UsageError: it has no program.
        MissingPackageError: what runs the program is not installed.
        UntrustedError: the program asks for something beside its weights and its inputs.
        DamagedError: its bytes are not what was saved.
    """
    with open_model(path) as snapshot:
        document = snapshot.document
        if document.program is None:
            raise UsageError(
                f"{snapshot.name} has no program: save it with "
                "save_model(..., example=x, program=True), or use load_model"
            )
        weights = {
            name: np.asarray(snapshot.read(leaf)) for name, leaf in document.program.weights.items()
        }
        run = runtimes.load(document.program, weights, snapshot.name)
        return LoadedProgram(snapshot.name, document, document.program, run)
