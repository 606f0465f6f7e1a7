"""What several commands take."""

from __future__ import annotations

from typing import Any

import click

# A step has 20 at most; Python refuses to read a number of thousands.
_MOST_DIGITS = 20


class StepType(click.ParamType[int | str]):
    """A step's number, `latest`, or `best:METRIC`."""

    name = "step"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        text = str(value)
        if not text.isdecimal():
            return text
        if len(text) > _MOST_DIGITS:
            self.fail(f"expected a step of {_MOST_DIGITS} digits at most, found {len(text)} digits")
        return int(text)


STEP = StepType()
STEP_HELP = "Which checkpoint of a store: a number, latest, best:METRIC, min:METRIC, max:METRIC."
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
