"""The demo's last process: it loads the model and predicts, and knows nothing of its training."""

from __future__ import annotations

import json
import os
import sys


def main(backend: str, model_path: str, images_path: str, output_path: str) -> None:
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np

    import milepost

    model = milepost.load_model(model_path)
    np.save(output_path, model.predict(np.load(images_path), verbose=0))
    print(json.dumps({"event": "done"}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
