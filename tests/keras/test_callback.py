"""`CheckpointCallback`: `fit` goes on where it was, to the last bit."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import keras
import milepost
from milepost import KeepBest, KeepLast, errors
from milepost.integrations.keras import CheckpointCallback

from .conftest import X, Y, make_model, values

EPOCHS, BATCH = 4, 3  # 4 batches an epoch


class Shuffled(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.order = np.random.default_rng(epoch).permutation(len(X))

    def __len__(self):
        return len(X) // BATCH

    def __getitem__(self, index):
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        return X[chosen], Y[chosen]


class Interrupt(keras.callbacks.Callback):
    def __init__(self, after: int):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def fit(path, model, *, every="epoch", use_data=True, interrupt=None, epochs=EPOCHS, **options):
    data = Shuffled() if use_data else None
    callbacks = [CheckpointCallback(path, every=every, data=data, **options)]
    if interrupt:
        callbacks.append(Interrupt(interrupt))
    inputs = {"x": data} if use_data else {"x": X, "y": Y, "batch_size": BATCH}
    return model.fit(
        **inputs, epochs=epochs, verbose=0, callbacks=callbacks, validation_data=(X, Y)
    ).history


SLOW = [
    pytest.param(every, interrupt, use_data, marks=pytest.mark.slow)
    for every, interrupt in [("epoch", 9), ("epoch", 8), (3, 5), (3, 6), (1, 7), (1, 8), (1, 1)]
    for use_data in (True, False)
]


@pytest.mark.parametrize(
    ("every", "interrupt", "use_data"),
    [("epoch", 9, True), (3, 5, True), (1, 8, True), (3, 6, False), *SLOW],
)
def test_an_interrupted_fit_equals_an_uninterrupted_one(tmp_path, every, interrupt, use_data):
    whole = make_model()
    history = fit(tmp_path / "whole", whole, every=every, use_data=use_data)
    options = {"every": every, "use_data": use_data}
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", make_model(), interrupt=interrupt, **options)
    resumed = make_model()
    rest = fit(tmp_path / "parts", resumed, every=every, use_data=use_data)
    assert values(resumed) == values(whole)
    assert rest["val_loss"][-1] == history["val_loss"][-1]
    # Metrics of an epoch that was continued are those of the whole epoch.
    for name in ("loss", "mae", "val_mae"):
        assert rest[name] == history[name][-len(rest[name]) :]
    assert milepost.open(tmp_path / "parts").steps == milepost.open(tmp_path / "whole").steps


def test_steps_metrics_and_epochs_are_recorded(tmp_path):
    history = fit(tmp_path, make_model())
    store = milepost.open(tmp_path)
    assert store.steps == [4, 8, 12, 16]
    assert [store[s].metadata["epoch"] for s in store.steps] == [1, 2, 3, 4]
    assert [store[s].metrics["val_loss"] for s in store.steps] == history["val_loss"]


def test_a_fit_that_is_done_does_nothing(tmp_path):
    model = make_model()
    fit(tmp_path, model)
    before = values(model)
    again = make_model()
    assert fit(tmp_path, again) == {}
    assert values(again) == before
    assert len(fit(tmp_path, again, epochs=EPOCHS + 2)["loss"]) == 2


def test_a_second_fit_of_the_same_model_starts_where_it_should(tmp_path):
    model = make_model()
    fit(tmp_path, model)
    assert len(model.fit(X, Y, epochs=2, verbose=0).history["loss"]) == 2


def test_the_best_is_kept_across_resumes(tmp_path):
    keep = KeepLast(1) | KeepBest("val_loss", direction="max")  # the first epoch, here
    fit(tmp_path, make_model(), keep=keep, epochs=2)
    best = milepost.open(tmp_path).resolve("max:val_loss")
    fit(tmp_path, make_model(), keep=keep)
    store = milepost.open(tmp_path)
    assert store.steps == [best, 16]


def test_sigterm_ends_fit_after_a_checkpoint(tmp_path):
    class Terminate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = make_model()
    fit(tmp_path / "whole", whole)
    data = Shuffled()
    callbacks = [Terminate(), CheckpointCallback(tmp_path / "parts", data=data)]
    make_model().fit(data, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    assert milepost.open(tmp_path / "parts").steps == [2]
    resumed = make_model()
    fit(tmp_path / "parts", resumed)
    assert values(resumed) == values(whole)


def test_more_objects(tmp_path):
    notes = {"runs": 1}
    fit(tmp_path, make_model(), epochs=1, objects={"notes": notes})
    notes["runs"] = 0
    fit(tmp_path, make_model(), epochs=1, objects={"notes": notes})
    assert notes == {"runs": 1}


def test_a_changed_model_is_refused(tmp_path):
    fit(tmp_path, make_model(), epochs=1)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    other.compile("adam", "mse")
    with pytest.raises(errors.RestoreRefusedError, match="dense/kernel"):
        fit(tmp_path, other)


@pytest.mark.parametrize("every", [0, "batch", 1.5])
def test_every_is_epoch_or_a_number_of_batches(every):
    with pytest.raises(errors.UsageError, match="every"):
        CheckpointCallback("somewhere", every=every)
