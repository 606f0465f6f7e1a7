"""Keras: checkpoints from within `fit`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

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
    ) -> None:
        super().__init__()
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise UsageError(f"expected every='epoch' or a number of batches, found {every!r}")
        self._path = path
        self._every = every
        self._keep = keep
        self._data = data
        self._more = objects or {}
        self._progress = {"epoch": 0, "batch": 0, "step": 0}
        self._epoch_start = RememberedRandomness()
        self._saved_step: int | None = None
        self._manager: CheckpointManager | None = None

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
        self._manager = CheckpointManager(checkpoint, self._path, keep=self._keep)
        restored = self._manager.restore_or_initialize()
        self._saved_step = restored.step if restored else None
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
        epoch's start, and passed over. Then everything is as in the checkpoint once more:
        `fit` has reset the metrics meanwhile, and on TensorFlow it makes them only now.
        """
        restore = self._require_manager().restore_or_initialize
        restore()
        at_checkpoint = RememberedRandomness()
        at_checkpoint.remember()
        self._epoch_start.recall()
        if keras.backend.backend() == "tensorflow":
            _pass_over(self.model, self._progress["batch"], then=restore)
        else:
            _pass_over(self.model, self._progress["batch"], then=at_checkpoint.recall)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch < self._progress["batch"]:
            return  # passed over
        self._progress["step"] += batch + 1 - self._progress["batch"]
        self._progress["batch"] = batch + 1
        manager = self._require_manager()
        if isinstance(self._every, int) and self._crosses(self._every):
            self._save(None)
        elif manager.is_due(self._progress["step"]):  # SIGTERM
            self._save(None)
            self.model.stop_training = True

    def _crosses(self, every: int) -> bool:
        """Whether so many batches have passed since the last checkpoint."""
        return self._progress["step"] - (self._saved_step or 0) >= every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
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


def _pass_over(model: Any, batches: int, then: Callable[[], object]) -> None:
    """Make `fit` draw so many batches without training on them, then call `then`."""
    train, backend = model.train_function, keras.backend.backend()
    left = batches

    def drawn(iterator: Any) -> None:
        nonlocal left
        for _ in range(model.steps_per_execution if backend != "torch" else 1):
            if backend != "torch":  # whose loop hands over data that is drawn already
                batch = next(iterator)
                if backend == "tensorflow":
                    _build_metrics(model, batch)
            left -= 1
        if left <= 0:
            model.train_function = train
            then()

    def pass_over_with_state(state: Any, iterator: Any) -> Any:
        drawn(iterator)
        return {}, state

    def pass_over(iterator: Any) -> Any:
        drawn(iterator)
        return {}

    model.train_function = pass_over_with_state if backend == "jax" else pass_over


def _build_metrics(model: Any, batch: Any) -> None:
    """Make the variables of the compiled metrics, which the first batch of training does."""
    metrics = getattr(model, "_compile_metrics", None)
    if metrics is not None and not metrics.built:
        model._symbolic_build(data_batch=batch)
