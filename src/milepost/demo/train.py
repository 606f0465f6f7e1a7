"""One training process of the demo. Run by `milepost demo`, once for each part of it."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

EPOCHS = 8
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--run", required=True, help="the name of the run, and of its store")
    parser.add_argument("--die-in-epoch", type=int, help="be killed in the midst of its save")
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    train(options.folder, options.run, options.die_in_epoch)


def report(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def train(folder: str, run: str, die_in_epoch: int | None) -> None:
    import numpy as np

    import keras
    import milepost
    from milepost.demo.data import Digits
    from milepost.demo.images import load_digits
    from milepost.integrations.keras import CheckpointCallback
    from milepost.storage.faults import FaultyFileSystem, kill_process
    from milepost.storage.local import LocalStorage

    keras.utils.set_random_seed(7)
    (x, y), (x_test, y_test) = load_digits()
    model = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    digits = Digits(x, y, BATCH)
    filesystem = FaultyFileSystem(fault=kill_process)

    class Reporter(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            report("epoch", epoch=epoch + 1, batches=len(digits))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            report("batch")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            report(
                "end of epoch", epoch=epoch + 1, **{k: float(v) for k, v in (logs or {}).items()}
            )
            if epoch + 1 == die_in_epoch:
                filesystem.fail_after(3)  # calls into the save that follows: amid its data

    storage = LocalStorage(os.path.join(folder, run), filesystem)
    model.fit(
        digits,
        epochs=EPOCHS,
        verbose=0,
        validation_data=(x_test, y_test),
        callbacks=[Reporter(), CheckpointCallback(storage, data=digits)],
    )
    milepost.save_model(model, os.path.join(folder, f"{run}-model"), metadata={"classes": 10})
    np.save(os.path.join(folder, f"{run}-predictions.npy"), model.predict(x_test, verbose=0))
    report("done")


if __name__ == "__main__":
    main()
