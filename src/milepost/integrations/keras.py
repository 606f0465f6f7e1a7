"""Keras: checkpoints from within `fit`."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import Any, Literal, Protocol

import keras
from milepost.checkpoint import Checkpoint, CheckpointManager, Keep
from milepost.errors import UsageError
from milepost.frameworks.random import RandomState, RememberedRandomness
from milepost.storage.base import Storage


class EpochData(Protocol):
    """Data whose order is a function of the epoch, like PyTorch's samplers have it."""

    def set_epoch(self, epoch: int) -> None: ...


class CheckpointCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves checkpoints during `fit`, and continues from the newest when `fit` is called again.

    Arguments:
        path: the store's folder.
        every: `"epoch"`, or a number of batches; then also at the end of each epoch.
        keep: which checkpoints to keep, as for `CheckpointManager`; all if not given. The
            best is found among all that the store has, those of earlier runs too.
        data: what `fit` is given as `x`, if its order is a function of the epoch: it gets
            `set_epoch(epoch)` before each. With it a resumed run equals an uninterrupted
            one on every backend. Arrays that `fit` shuffles also continue exactly on JAX and
            PyTorch; on TensorFlow they do after `keras.utils.set_random_seed`, and otherwise
            draw from a generator inside of `tf.data` that nobody can save.
        objects: more to save and restore, each under its name, as for `Checkpoint`.
        background: whether saves go on while training does. The next one, and the end of
            `fit`, wait for the last, and raise its error if it failed.
        compression: `"lossless"` encodes older checkpoints against their neighbours meanwhile,
            as for `CheckpointManager`.

    The step of a checkpoint is the number of batches that the model was trained on; its
    metrics are the epoch's logs. A SIGTERM saves after the current batch and ends `fit`.

    Example:

        model.fit(x, y, epochs=10, callbacks=[CheckpointCallback("runs/digits")])
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Storage,
        *,
        every: int | str = "epoch",
        keep: Keep | None = None,
        data: EpochData | None = None,
        objects: dict[str, Any] | None = None,
        background: bool = False,
        compression: Literal["lossless"] | None = None,
    ) -> None:
        super().__init__()
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise UsageError(f"expected every='epoch' or a number of batches, found {every!r}")
        self._path = path
        self._every = every
        self._keep = keep
        self._data = data
        self._more = objects or {}
        self._background, self._compression = background, compression
        self._progress = {"epoch": 0, "batch": 0, "step": 0}
        self._epoch_start = RememberedRandomness()
        self._saved_step: int | None = None
        self._manager: CheckpointManager | None = None
        self._passing: _PassOver | None = None
        self._iterations = 0  # of the optimizer, as last seen

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._close()
        self._progress.update(epoch=0, batch=0, step=0)
        self._epoch_start.remember()
        checkpoint = Checkpoint(
            model=self.model,
            progress=self._progress,
            random=RandomState(),
            epoch_start=self._epoch_start,
            **self._more,
        )
        self._manager = CheckpointManager(
            checkpoint,
            self._path,
            keep=self._keep,
            background=self._background,
            compression=self._compression,
        )
        restored = self._manager.restore_or_initialize()
        self._saved_step = restored.step if restored else None
        self._passing = None
        self._iterations = _iterations(self.model)
        if self._progress["step"] and self._progress["epoch"] < (self.params or {}).get(
            "epochs", 0
        ):
            _warn_of_one_iterator()
        # How Keras's own BackupAndRestore tells `fit` where to start.
        self.model._initial_epoch = self._progress["epoch"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._data is not None:
            self._data.set_epoch(epoch)
        if self._progress["batch"] and epoch == self._progress["epoch"]:
            self._continue_epoch()
        else:
            self._progress.update(epoch=epoch, batch=0)
            self._epoch_start.remember()

    def _continue_epoch(self) -> None:
        """Go to where the checkpoint was, in the middle of this epoch.

        The batches that were trained on are drawn as they were, from the randomness of the
        epoch's start, and passed over. `_end_passing` then restores once more, because since
        `on_train_begin` `fit` has reset the metrics, and other callbacks began the epoch anew.
        """
        batch, steps = self._progress["batch"], (self.params or {}).get("steps")
        if batch % self.model.steps_per_execution and steps and batch < steps:
            raise UsageError(
                f"the checkpoint is at batch {batch} of an epoch of {steps}, where "
                f"steps_per_execution={self.model.steps_per_execution} cannot begin: compile the "
                f"model with a steps_per_execution that divides {batch}, for this epoch at least"
            )
        self._epoch_start.recall()
        self._passing = _PassOver(self.model, batch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._passing is not None:
            self.model.train_function = self._passing  # for this batch

    def _end_passing(self, passing: _PassOver) -> None:
        """Everything is as in the checkpoint again, which was made at this place in the loop."""
        self._passing = None
        self._require_manager().restore_or_initialize()
        # `fit` has hold of these logs, and they are the epoch's if nothing is left of it.
        passing.logs.update(self.model.get_metrics_result())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._passing is not None:
            if not self._passing.left:
                self._end_passing(self._passing)
            return
        trained = self._trained(batch + 1 - self._progress["batch"])
        self._progress["step"] += trained
        self._progress["batch"] += trained
        manager = self._require_manager()
        if isinstance(self._every, int) and self._crosses(self._every):
            self._save(None)
        elif manager.is_due(self._progress["step"]):  # SIGTERM
            self._save(None)
            self.model.stop_training = True

    def _trained(self, told: int) -> int:
        """How many batches the last execution was, of which Keras tells the highest number.

        The last execution of an epoch may have fewer: so much less the optimizer has counted.
        """
        if self.model.steps_per_execution == 1:
            return told
        before, self._iterations = self._iterations, _iterations(self.model)
        counted = self._iterations - before
        steps = (self.params or {}).get("steps")
        most = min(told, steps - self._progress["batch"]) if steps else told
        return counted if 0 < counted < most else most

    def _crosses(self, every: int) -> bool:
        """Whether so many batches have passed since the last checkpoint."""
        return self._progress["step"] - (self._saved_step or 0) >= every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._passing is not None:
            warnings.warn(
                f"the data ended {self._passing.left} batches before the place in epoch {epoch} "
                f"where the checkpoint was made: give fit() the data that it had then",
                stacklevel=2,
            )
            self._end_passing(self._passing)
        steps = (self.params or {}).get("steps")
        if self.model.stop_training and steps and self._progress["batch"] < steps:
            return  # ended in its midst
        self._progress.update(epoch=epoch + 1, batch=0)
        self._save(logs or {})

    def _save(self, logs: dict[str, Any] | None) -> None:
        step = self._progress["step"]
        manager = self._require_manager()
        manager.save(
            step,
            metrics=logs,
            metadata={"epoch": self._progress["epoch"]},
            overwrite=step == self._saved_step,
        )
        self._saved_step = step

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.model._initial_epoch = None
        self._close()

    def _close(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _require_manager(self) -> CheckpointManager:
        if self._manager is None:
            raise UsageError(
                "CheckpointCallback works inside fit(), which calls on_train_begin first"
            )
        return self._manager


class _PassOver:
    """Stands in for a model's train function: batches are drawn, and not trained on."""

    def __init__(self, model: Any, batches: int) -> None:
        self.left = batches
        self.logs: dict[str, Any] = {}
        self._model = model
        self._train = model.train_function

    def __call__(self, *arguments: Any) -> Any:
        # For one call only: whatever ends `fit`, no later one will pass over anything.
        self._model.train_function = self._train
        backend = keras.backend.backend()
        count = min(self.left, self._model.steps_per_execution)
        if backend != "torch":  # whose loop hands over data that is drawn already
            for _ in range(count):
                batch = next(arguments[-1])
                if backend == "tensorflow":
                    _build_metrics(self._model, batch)
        self.left -= count
        return (self.logs, arguments[0]) if backend == "jax" else self.logs


def _warn_of_one_iterator() -> None:
    """Warn if `fit` draws all its epochs from one iterator, which is about to begin anew.

    It does so where `steps_per_epoch` is not the number of batches that the data has. No
    callback is told, so the answer is looked up in the frame of `fit`.
    """
    frame = inspect.currentframe()
    while frame is not None and "epoch_iterator" not in frame.f_locals:
        frame = frame.f_back
    iterator = frame.f_locals["epoch_iterator"] if frame is not None else None
    asked = getattr(iterator, "steps_per_epoch", None)
    if asked and asked != getattr(iterator, "_num_batches", asked):
        warnings.warn(
            f"with steps_per_epoch={asked} Keras draws every epoch from one iterator, whose place "
            "nobody can restore: the data begins anew here, and this run is not the one that was "
            "interrupted. It would be if an epoch were all batches of the data: leave "
            "steps_per_epoch out",
            stacklevel=3,
        )


def _iterations(model: Any) -> int:
    """How often the optimizer was applied."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    counter = getattr(model.optimizer, "_iterations", 0)
    return int(keras.ops.convert_to_numpy(counter))


def _build_metrics(model: Any, batch: Any) -> None:
    """Make the variables of the compiled metrics, which the first batch of training does."""
    metrics = getattr(model, "_compile_metrics", None)
    if metrics is not None and not metrics.built:
        model._symbolic_build(data_batch=batch)
