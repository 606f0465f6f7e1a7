"""What one Keras backend saves, every other restores and loads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

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
milepost.Checkpoint(model=model, progress={"epoch": 3}).save(f"{keras.backend.backend()}/store")
milepost.save_model(model, f"{keras.backend.backend()}/model")
import json
predictions = model.predict(x, verbose=0).tolist()
print(json.dumps([numbers(model), predictions]))
"""
)

READ = (
    SAVE
    + """
import json
found = []
for saved_on in sys.argv[1:]:
    model, progress = make(), {}
    plan = milepost.Checkpoint(model=model, progress=progress).restore(f"{saved_on}/store")
    assert plan.is_exact and progress == {"epoch": 3}
    loaded = milepost.load_model(f"{saved_on}/model")
    assert numbers(loaded) == numbers(model)
    loaded.train_on_batch(x, y)  # and it trains on
    predictions = model.predict(x, verbose=0).tolist()
    found.append([numbers(model), predictions])
print(json.dumps(found))
"""
)

BACKENDS = ("tensorflow", "jax", "torch")


def test_every_backend_restores_what_another_saved(run_program):
    def run(program, backend, *arguments):
        return json.loads(run_program(program, *arguments, KERAS_BACKEND=backend).stdout)

    def read(backend):
        others = [other for other in BACKENDS if other != backend]
        return zip(others, run(READ, backend, *others), strict=True)

    with ThreadPoolExecutor(2) as pool:
        saved = pool.map(lambda backend: run(WRITE, backend), BACKENDS)
        written = dict(zip(BACKENDS, saved, strict=True))
        found = [pair for pairs in pool.map(read, BACKENDS) for pair in pairs]
    assert len(found) == 6
    for other, (values, predictions) in found:
        assert values == written[other][0]
        # Another backend computes a little differently.
        assert predictions == [pytest.approx(row, abs=1e-5) for row in written[other][1]]
