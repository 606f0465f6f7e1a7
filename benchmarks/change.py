"""One table: a checkpoint is loaded into a model that has changed since. What happens?

    python benchmarks/change.py --json build/change.json

Two changes: the last layer is wider, so that shapes differ, or there is one layer more, so
that some of its arrays were never saved. Every array of the changed model has values of its
own before, which tells afterwards what the load did to it.

Only what loads into objects that exist: `load_model` of Keras and milepost builds the model
that was saved, and safetensors leaves what to load where to its user.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from typing import Any

import numpy as np

import measuring
import peers

WIDTHS = [64, 32, 16, 8]
CHANGES = {"wider last layer": [64, 32, 16, 12], "one layer more": [64, 32, 16, 8, 8]}


class TensorFlowSilent(peers.TensorFlowCheckpoint):
    """Without the assertion that the documentation makes optional."""

    name, title = "tensorflow-silent", "`tf.train.Checkpoint`, status not asked"

    def load(self, folder: str) -> None:
        self.checkpoint().restore(self.tool.train.latest_checkpoint(folder))


_TORCH = [peers.Milepost, peers.TorchSave, peers.DistributedCheckpoint]
_OTHERS = [peers.TensorFlowCheckpoint, TensorFlowSilent, peers.Orbax]
LOADERS: dict[str, Any] = {kind.name: kind for kind in [*_TORCH, *_OTHERS]}


def outcome(name: str, widths: list[int], folder: str) -> str:
    """What a load does to a model of `widths`, in words."""
    os.mkdir(folder)
    saved = LOADERS[name]()
    saved.prepare(WIDTHS)
    saved.fill(1)
    saved.save(folder)
    changed = LOADERS[name]()
    changed.prepare(widths)
    changed.fill(2)
    try:
        changed.load(folder)
        verdict = "accepted"
    except BaseException as error:  # of which torch's CheckpointException is one
        print(f"{name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        verdict = "refused"
    arrays = changed.arrays()
    touched = sum(not np.array_equal(a, peers.fresh(2, i, a.shape)) for i, a in enumerate(arrays))
    return f"{verdict}, {touched} of {len(arrays)} arrays changed"


def main() -> None:
    parser = measuring.parser(__doc__, rounds=1, megabytes=0)
    parser.add_argument("--one", choices=LOADERS, help="this one only, as JSON")
    options = parser.parse_args()
    if options.one:
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as folder:
            found = [
                outcome(options.one, widths, f"{folder}/{i}")
                for i, widths in enumerate(CHANGES.values())
            ]
        print(json.dumps(found))
        return
    rows = [
        [kind.title, *measuring.in_process(__file__, name, options, options.folder)]
        for name, kind in LOADERS.items()
    ]
    measuring.publish(__file__, options, measuring.markdown(["", *CHANGES], rows))


if __name__ == "__main__":
    main()
