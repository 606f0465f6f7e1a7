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
    for every, interrupt in [("epoch", 8), (3, 5), (3, 6), (1, 7), (1, 8), (1, 1)]
    for use_data in (True, False)
]


@pytest.mark.parametrize(
    ("every", "interrupt", "use_data"),
    [("epoch", 9, True), (3, 6, False), *SLOW],
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


# Batches of 2: an epoch has 6.
SMALL = 2


def dense_model(**options) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dropout(0.3)]
    model = keras.Sequential([*layers, keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    return model


def fit_small(path, model, *more, interrupt=None, epochs=3, **options):
    callbacks = [CheckpointCallback(path, every=1, **options), *more]
    if interrupt:
        callbacks.append(Interrupt(interrupt))
    fixed = {"batch_size": SMALL, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **fixed).history


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch has no steps_per_execution")
class TestStepsPerExecution:
    @pytest.mark.parametrize("interrupt", [1, 2, 3, 4])
    def test_an_epoch_that_it_does_not_divide(self, tmp_path, interrupt):
        whole = dense_model(steps_per_execution=4)
        fit_small(tmp_path / "whole", whole)
        assert milepost.open(tmp_path / "whole").steps == [4, 6, 10, 12, 16, 18]
        with pytest.raises(KeyboardInterrupt):
            fit_small(tmp_path / "parts", dense_model(steps_per_execution=4), interrupt=interrupt)
        resumed = dense_model(steps_per_execution=4)
        fit_small(tmp_path / "parts", resumed)
        assert int(resumed.optimizer.iterations) == 18
        assert values(resumed) == values(whole)
        assert milepost.open(tmp_path / "parts").steps == milepost.open(tmp_path / "whole").steps

    def test_data_that_ends_before_its_steps(self, tmp_path):
        model = dense_model(steps_per_execution=4)
        options = {"batch_size": SMALL, "steps_per_epoch": 10, "verbose": 0}
        with pytest.warns(UserWarning, match="ran out of data"):
            model.fit(X, Y, callbacks=[CheckpointCallback(tmp_path, every=1)], **options)
        assert milepost.open(tmp_path).steps == [4, 6]

    def test_another_one_in_the_midst_of_an_epoch(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            fit_small(tmp_path, dense_model(), interrupt=3)
        with pytest.raises(errors.UsageError, match="batch 3 of an epoch of 6.*divides 3"):
            fit_small(tmp_path, dense_model(steps_per_execution=4))
        resumed = dense_model(steps_per_execution=3)
        fit_small(tmp_path, resumed)
        assert int(resumed.optimizer.iterations) == 18


def test_passing_over_never_reaches_into_the_next_epoch(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit_small(tmp_path, dense_model(), interrupt=5)
    resumed = dense_model()
    fixed = {"batch_size": SMALL, "shuffle": False, "verbose": 0}
    shorter = {"x": X[: 3 * SMALL], "y": Y[: 3 * SMALL], "epochs": 2}
    callback = CheckpointCallback(tmp_path, every=1)
    with pytest.warns(UserWarning, match="ended 2 batches before the place in epoch 0"):
        resumed.fit(**shorter, callbacks=[callback], **fixed)
    assert int(resumed.optimizer.iterations) == 5 + 3


def test_an_interrupted_passing_over_leaves_the_model_able_to_train(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit_small(tmp_path, dense_model(), interrupt=4)
    model = dense_model()
    with pytest.raises(KeyboardInterrupt):
        fit_small(tmp_path, model, interrupt=2)
    before = int(model.optimizer.iterations)
    model.fit(X, Y, batch_size=SMALL, verbose=0)
    assert int(model.optimizer.iterations) == before + 6


@pytest.mark.parametrize("first", ["checkpoint", "schedule"])
def test_other_callbacks_act_once(tmp_path, first):
    class PerBatch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rate = self.model.optimizer.learning_rate
            rate.assign(float(keras.ops.convert_to_numpy(rate)) * 0.9)

    def fit_scheduled(path, model, interrupt=None):
        others = [keras.callbacks.LearningRateScheduler(lambda e, rate: rate * 0.5), PerBatch()]
        callbacks = [CheckpointCallback(path, every=1)]
        callbacks = callbacks + others if first == "checkpoint" else others + callbacks
        callbacks += [Interrupt(interrupt)] if interrupt else []
        model.fit(X, Y, batch_size=SMALL, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)

    whole = dense_model()
    fit_scheduled(tmp_path / "whole", whole)
    # The checkpoint comes after what others did at the end of its batch, or before.
    with pytest.raises(KeyboardInterrupt):
        fit_scheduled(tmp_path / "parts", dense_model(), interrupt=8)
    resumed = dense_model()
    fit_scheduled(tmp_path / "parts", resumed)
    assert values(resumed) == values(whole)


def test_an_interrupt_after_the_last_batch_loses_no_metrics(tmp_path):
    history = fit_small(tmp_path / "whole", dense_model(), epochs=2)
    with pytest.raises(KeyboardInterrupt):
        fit_small(tmp_path / "parts", dense_model(), interrupt=12, epochs=2)
    rest = fit_small(tmp_path / "parts", dense_model(), epochs=2)
    assert rest == {name: losses[1:] for name, losses in history.items()}
    assert milepost.open(tmp_path / "parts")[12].metrics == {k: v[0] for k, v in rest.items()}
    keep = KeepLast(1) | KeepBest("loss")
    fit_small(tmp_path / "parts", dense_model(), epochs=3, keep=keep)
    assert milepost.open(tmp_path / "parts").resolve("best:loss") == 18


@pytest.mark.parametrize(("steps", "warns"), [(4, True), (6, False), (None, False)])
def test_one_iterator_for_all_epochs_is_warned_of(tmp_path, recwarn, steps, warns):
    def fit_steps(interrupt=None):
        callbacks = [CheckpointCallback(tmp_path, every=1)]
        callbacks += [Interrupt(interrupt)] if interrupt else []
        options = {"steps_per_epoch": steps, "batch_size": SMALL, "verbose": 0, "epochs": 2}
        dense_model().fit(X, Y, callbacks=callbacks, **options)

    with pytest.raises(KeyboardInterrupt):
        fit_steps(interrupt=3)
    recwarn.clear()
    fit_steps()
    assert any(f"steps_per_epoch={steps}" in str(w.message) for w in recwarn) == warns
    recwarn.clear()
    fit_steps()  # all epochs are done
    assert not any("steps_per_epoch" in str(w.message) for w in recwarn)
