"""What several commands take."""

from __future__ import annotations

from typing import Any

import click


class StepType(click.ParamType[int | str]):
    """A step's number, `latest`, or `best:METRIC`."""

    name = "step"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        return int(value) if str(value).isdecimal() else str(value)


STEP = StepType()
STEP_HELP = "Which checkpoint of a store: a number, latest, best:METRIC, min:METRIC, max:METRIC."
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
