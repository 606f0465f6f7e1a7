"""`CheckpointManager`: a policy over a checkpoint: when to save, and what to keep."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from milepost.checkpoint.background import BackgroundCompaction, BackgroundSave
from milepost.checkpoint.checkpoint import Checkpoint, Path, as_storage
from milepost.checkpoint.keep import Keep
from milepost.checkpoint.plan import RestorePlan
from milepost.errors import DamagedError, UsageError, VersionError
from milepost.storage.base import Storage
from milepost.store import SaveReport, Store, prune_if_any


class CheckpointManager:
    """Saves a checkpoint when it is due, and removes those that need not be kept.

    Arguments:
        checkpoint: what is saved and restored.
        path: the store's folder.
        keep: a policy (`KeepLast(3) | KeepBest("val_loss")`); all are kept if not given.
            The newest is always kept, and nothing is removed before it is committed.
        every_steps: `save_if_due` saves at the steps that this divides.
        every_seconds: `save_if_due` saves when so much time has passed since the last save.
        background: whether saves go on while training does. `wait`, the next save and the
            end of the block wait for the last one, and raise its error if it failed.
        max_memory: how many bytes the copy of a background save may take.
        compression: `"lossless"` compacts the store now and then, as `milepost.compact` does, in
            a thread of its own: older checkpoints are encoded against their neighbours. It
            pays where most checkpoints are kept. `save` and the end of the block raise its
            error if it failed.
        on_sigterm: after a SIGTERM, which clusters send some time before they end a job,
            `save_if_due` saves at once and `should_stop` turns true. Needs the main thread.

    Example:

        keep = KeepLast(3) | KeepBest("loss")
        with CheckpointManager(checkpoint, "runs/digits", keep=keep, every_steps=100) as manager:
            manager.restore_or_initialize()
            for step in range(progress["step"] + 1, 10_000):
                train(step)
                manager.save_if_due(step)
                if manager.should_stop:
                    break
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: Path | Storage,
        *,
        keep: Keep | None = None,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        background: bool = False,
        max_memory: int | None = None,
        compression: Literal["lossless"] | None = None,
        on_sigterm: bool = True,
    ) -> None:
        if compression not in (None, "lossless"):
            raise UsageError(f"expected compression to be 'lossless', found {compression!r}")
        if every_steps is not None and every_steps < 1:
            raise UsageError(f"expected every_steps to be 1 or more, found {every_steps}")
        self.checkpoint = checkpoint
        self._storage = as_storage(path)
        self._keep = keep
        self._every_steps = every_steps
        self._every_seconds = every_seconds
        self._background, self._max_memory = background, max_memory
        self._compaction = None if compression is None else BackgroundCompaction(self._storage)
        self._last_save = time.monotonic()
        self._terminated = threading.Event()
        self.should_stop = False
        self._previous_handler: Any = None
        self._handles_signals = on_sigterm and threading.current_thread() is threading.main_thread()
        if self._handles_signals:
            self._previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as other:
            if error is None:
                raise
            error.add_note(f"(and what went on in the background failed: {other})")

    def close(self) -> None:
        """Wait for the last save, and give the SIGTERM handler back to who had it before.

        A compaction is left at the step that it is at. Raises what a background save or a
        compaction failed with.
        """
        if self._handles_signals:
            self._handles_signals = False
            signal.signal(signal.SIGTERM, self._previous_handler or signal.SIG_DFL)
        try:
            self.wait()
        finally:
            if self._compaction is not None:
                self._compaction.stop()

    def restore_or_initialize(
        self, step: int | str = "latest", **options: Any
    ) -> RestorePlan | None:
        """Restore a checkpoint if the store has any; otherwise leave everything as it is.

        Takes the options of `Checkpoint.restore`. Returns its plan, or None if there was
        nothing to restore. A checkpoint that is there but cannot be restored is an error.
        """
        if Store.is_absent(self._storage) or Store.open(self._storage).newest_step() is None:
            return None
        return self.checkpoint.restore(self._storage, step, **options)

    def is_due(self, step: int) -> bool:
        """Whether `save_if_due` would save this step now."""
        return (
            self._terminated.is_set()
            or (self._every_steps is not None and step % self._every_steps == 0)
            or (
                self._every_seconds is not None
                and time.monotonic() - self._last_save >= self._every_seconds
            )
        )

    def save_if_due(
        self,
        step: int,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SaveReport | BackgroundSave | None:
        """Save this step if it is due; returns None if it is not."""
        if not self.is_due(step):
            return None
        terminated = self._terminated.is_set()
        report = self.save(step, metrics=metrics, metadata=metadata)
        if terminated:
            self.wait()  # the process may not live much longer
            self.should_stop = True
            self._terminated.clear()
        return report

    def save(
        self,
        step: int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> SaveReport | BackgroundSave:
        """Save now, then remove what the policy does not keep; both in the background, if so."""
        if self._compaction is not None:
            self._compaction.raise_if_failed()
        saved = self.checkpoint._save(
            self._storage,
            step,
            metrics=metrics,
            metadata=metadata,
            overwrite=overwrite,
            background=self._background,
            max_memory=self._max_memory,
            after=self._after,
        )
        self._last_save = time.monotonic()
        return saved

    def wait(self) -> None:
        """Wait for the save that is under way, if there is one; raises its error if it failed."""
        self.checkpoint.wait()

    def _after(self, saved: SaveReport, store: Store) -> None:
        self._prune(saved, store)
        if self._compaction is not None:
            self._compaction.saved()

    def _prune(self, saved: SaveReport, store: Store) -> None:
        keep = self._keep
        if keep is None:
            return
        try:
            report = prune_if_any(store, lambda now: {*keep.steps(now), saved.step})
            unreadable = report.unreadable
        except (DamagedError, VersionError) as error:
            unreadable = str(error)  # which is the best cannot be known: all are kept
        if unreadable is not None:
            warnings.warn(
                f"no data was removed from {store.name}, because a checkpoint cannot be read: "
                f"{unreadable}",
                stacklevel=4,
            )

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._terminated.set()
        if callable(self._previous_handler):
            self._previous_handler(number, frame)
