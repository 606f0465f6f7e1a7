"""Which checkpoint is the best by a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from milepost.errors import StepNotFoundError, UsageError

# Parts of metrics' names that say what is good. Anything else has to be said.
_LOW = {
    *("loss", "error", "err", "mse", "rmse", "mae", "mape", "msle", "nll", "perplexity", "ppl"),
    *("wer", "cer", "fid", "bpb", "bpc", "divergence", "entropy", "crossentropy"),
}
_HIGH = {
    *("acc", "accuracy", "auc", "auroc", "f1", "precision", "recall", "iou", "miou", "dice"),
    *("map", "bleu", "rouge", "r2", "reward", "return", "psnr", "ssim", "win", "top1", "top5"),
}


def direction_of(metric: str) -> str:
    """`"min"` or `"max"`: which of them is good for a metric of this name.

    Raises:
        UsageError: the name does not tell.
    """
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    low, high = bool(words & _LOW), bool(words & _HIGH)
    if low == high:
        raise UsageError(
            f"whether a low or a high {metric!r} is good cannot be told from its name: "
            f"say 'min:{metric}' or 'max:{metric}'"
        )
    return "min" if low else "max"


def ranked(
    metrics: Mapping[int, Mapping[str, float]], metric: str, direction: str = "best"
) -> list[int]:
    """The steps that have this metric, best first; of equals the newer first.

    `direction` is `"min"`, `"max"`, or `"best"` to tell it from the name. NaN is never good.
    """
    if direction == "best":
        direction = direction_of(metric)
    sign = 1 if direction == "min" else -1
    scored = [
        (sign * value, -step)
        for step, values in metrics.items()
        if (value := values.get(metric)) is not None and not _is_nan(value)
    ]
    return [-negative for _, negative in sorted(scored)]


def _is_nan(value: float) -> bool:
    # math.isnan would make a float of a whole number, which may be too large for one.
    return type(value) is float and math.isnan(value)


def best_step(
    metrics: Mapping[int, Mapping[str, float]], metric: str, direction: str, store: str
) -> int:
    """The step of the best checkpoint by a metric. `store` is its name, for the message.

    Raises:
        StepNotFoundError: no checkpoint has that metric; the message says which there are.
    """
    steps = ranked(metrics, metric, direction)
    if not steps:
        known = sorted({name for values in metrics.values() for name in values})
        has = f"its metrics are {', '.join(known)}" if known else "its checkpoints have no metrics"
        raise StepNotFoundError(f"{store} has no step with the metric {metric!r}; {has}")
    return steps[0]
