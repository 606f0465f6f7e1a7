"""Promise 7: train 2N steps, or N, be killed, restore, N more, and get the same bits.

Real processes and a real SIGKILL, with dropout and shuffled data, one test a framework.
"""

from __future__ import annotations

import pytest

import milepost

STEPS, KILL_AT = 12, 6

COMMON = """
import os, signal, sys
import numpy as np
import milepost

store, stop, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = np.random.default_rng(0)
X, Y = draw.random((60, 5), "float32"), draw.random((60, 3), "float32")
progress = {"step": 0}

def run(train, checkpoint, result):
    manager = milepost.CheckpointManager(checkpoint, store)
    manager.restore_or_initialize()
    for step in range(progress["step"] + 1, steps + 1):
        train()
        progress["step"] = step
        manager.save(step)
        if step == stop:
            os.kill(os.getpid(), signal.SIGKILL)
    print(result())
"""

TORCH = (
    COMMON
    + """
import torch
from torch import nn
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
order = torch.Generator().manual_seed(3)

def train():
    chosen = torch.randperm(60, generator=order)[:10]
    optimizer.zero_grad()
    (model(torch.tensor(X)[chosen]) - torch.tensor(Y)[chosen]).square().mean().backward()
    optimizer.step()
    scheduler.step()

run(
    train,
    milepost.Checkpoint(
        model=model, optimizer=optimizer, scheduler=scheduler, order=order, progress=progress,
        random=milepost.RandomState(),
    ),
    lambda: [p.detach().numpy().tobytes().hex() for p in model.state_dict().values()],
)
"""
)

JAX = (
    COMMON
    + """
import jax, jax.numpy as jnp, optax
transform = optax.adamw(optax.cosine_decay_schedule(0.1, 12))
params = {"w": jnp.ones((5, 3)) / 5, "b": jnp.zeros(3)}
order = np.random.default_rng(5)
checkpoint = milepost.Checkpoint(
    params=params, optimizer=transform.init(params), key=jax.random.key(2), order=order,
    progress=progress,
)

@jax.jit
def update(params, state, key, x, y):
    def loss(params):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.mean((jnp.where(kept, x, 0) @ params["w"] + params["b"] - y) ** 2)
    updates, state = transform.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

def train():
    chosen = order.permutation(60)[:10]
    checkpoint.key, now = jax.random.split(checkpoint.key)
    checkpoint.params, checkpoint.optimizer = update(
        checkpoint.params, checkpoint.optimizer, now, X[chosen], Y[chosen]
    )

run(train, checkpoint, lambda: [np.asarray(v).tobytes().hex() for v in checkpoint.params.values()])
"""
)

FLAX = (
    COMMON
    + """
import jax, jax.numpy as jnp, optax
from flax import nnx

class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(nnx.relu(self.first(x))))

model = Network(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
order = np.random.default_rng(5)

@nnx.jit
def update(model, optimizer, x, y):
    optimizer.update(model, nnx.grad(lambda m: jnp.mean((m(x) - y) ** 2))(model))

def train():
    chosen = order.permutation(60)[:10]
    update(model, optimizer, X[chosen], Y[chosen])

run(
    train,
    milepost.Checkpoint(model=model, optimizer=optimizer, order=order, progress=progress),
    lambda: [np.asarray(v).tobytes().hex() for v in jax.tree.leaves(nnx.state(model, nnx.Param))],
)
"""
)

TENSORFLOW = (
    COMMON
    + """
import tensorflow as tf
tf.random.set_seed(1)

class Network(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.ones((5, 3)) / 5)
        self.momentum = tf.Variable(tf.zeros((5, 3)))

model, generator = Network(), tf.random.Generator.from_seed(4)
order = np.random.default_rng(5)

def train():
    chosen = order.permutation(60)[:10]
    kept = tf.cast(generator.uniform((10, 5)) > 0.5, tf.float32)
    noise = tf.random.normal((10, 3)) * 0.01
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(((X[chosen] * kept) @ model.w + noise - Y[chosen]) ** 2)
    model.momentum.assign(0.9 * model.momentum + tape.gradient(loss, model.w))
    model.w.assign_sub(0.1 * model.momentum)

run(
    train,
    milepost.Checkpoint(
        model=model, generator=generator, order=order, progress=progress,
        random=milepost.RandomState(),
    ),
    lambda: model.w.numpy().tobytes().hex(),
)
"""
)

KERAS = (
    COMMON
    + """
import keras
keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((5,)), keras.layers.Dense(8, activation="relu"),
    keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(3),
])
model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 12)), "mse")
order = np.random.default_rng(5)

def train():
    chosen = order.permutation(60)[:10]
    model.train_on_batch(X[chosen], Y[chosen])

run(
    train,
    milepost.Checkpoint(model=model, order=order, progress=progress, random=milepost.RandomState()),
    lambda: [w.tobytes().hex() for w in model.get_weights()],
)
"""
)

NUMPY = (
    COMMON
    + """
import random
state = {"w": np.ones((5, 3)), "m": np.zeros((5, 3)), "losses": []}

def train():
    chosen = random.sample(range(60), 10)
    kept = np.random.rand(10, 5) > 0.5
    error = (X[chosen] * kept) @ state["w"] - Y[chosen]
    state["m"] *= 0.9
    state["m"] += (X[chosen] * kept).T @ error
    state["w"] -= 0.01 * state["m"]
    state["losses"].append(float((error**2).mean()))

random.seed(1); np.random.seed(2)
run(
    train,
    milepost.Checkpoint(state=state, progress=progress, random=milepost.RandomState()),
    lambda: [state["w"].tobytes().hex(), state["losses"]],
)
"""
)

PROGRAMS = {
    "numpy": (NUMPY, {}),
    "torch": (TORCH, {}),
    "jax": (JAX, {}),
    "flax": (FLAX, {}),
    "tensorflow": (TENSORFLOW, {}),
    "keras on tensorflow": (KERAS, {"KERAS_BACKEND": "tensorflow"}),
    "keras on jax": (KERAS, {"KERAS_BACKEND": "jax"}),
    "keras on torch": (KERAS, {"KERAS_BACKEND": "torch"}),
}
# What is Keras's own is tested in tests/keras, on every backend; this takes half a minute each.
_SWEPT = ("keras on jax", "keras on torch")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in _SWEPT else []) for name in PROGRAMS],
)
def test_resume_is_exact(tmp_path, run_program, name):
    program, environment = PROGRAMS[name]
    whole = run_program(program, "whole", "0", str(STEPS), **environment).stdout
    run_program(program, "parts", str(KILL_AT), str(STEPS), status=-9, **environment)
    assert milepost.open(tmp_path / "parts").steps == list(range(1, KILL_AT + 1))
    resumed = run_program(program, "parts", "0", str(STEPS), **environment).stdout
    assert len(resumed) > 100
    assert resumed == whole
