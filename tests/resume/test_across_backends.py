"""What one Keras backend saves, every other restores and loads."""

from __future__ import annotations

import json

import pytest

SAVE = """
import sys, keras, numpy as np, milepost
keras.utils.set_random_seed(1)
x = np.linspace(-1, 1, 40, dtype="float32").reshape(8, 5)
y = np.ones((8, 3), "float32")

def make():
    model = keras.Sequential([
        keras.Input((5,)), keras.layers.Dense(4, activation="tanh"),
        keras.layers.BatchNormalization(), keras.layers.Dropout(0.3), keras.layers.Dense(3),
    ])
    model.compile(keras.optimizers.AdamW(0.01), "mse", metrics=["mae"])
    return model

def numbers(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v.value).astype("float64").tolist() for v in variables]
"""

WRITE = (
    SAVE
    + """
model = make()
for _ in range(3):
    model.train_on_batch(x, y)
milepost.Checkpoint(model=model, progress={"epoch": 3}).save("store")
milepost.save_model(model, "model")
import json
predictions = model.predict(x, verbose=0).tolist()
print(json.dumps([numbers(model), predictions]))
"""
)

READ = (
    SAVE
    + """
import json
model, progress = make(), {}
plan = milepost.Checkpoint(model=model, progress=progress).restore("store")
assert plan.is_exact and progress == {"epoch": 3}
loaded = milepost.load_model("model")
assert numbers(loaded) == numbers(model)
loaded.train_on_batch(x, y)  # and it trains on
predictions = model.predict(x, verbose=0).tolist()
print(json.dumps([numbers(model), predictions]))
"""
)

BACKENDS = ("tensorflow", "jax", "torch")


@pytest.mark.parametrize("saved_on", BACKENDS)
def test_every_other_backend_restores_it(run_program, saved_on):
    written = json.loads(run_program(WRITE, KERAS_BACKEND=saved_on).stdout)
    for backend in BACKENDS:
        if backend == saved_on:
            continue
        values, predictions = json.loads(run_program(READ, KERAS_BACKEND=backend).stdout)
        assert values == written[0]
        # Another backend computes a little differently.
        assert predictions == [pytest.approx(row, abs=1e-5) for row in written[1]]
