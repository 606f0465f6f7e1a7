"""`milepost predict`: a model file's program on arrays, tables and images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_columns, echo_json, human_value

if TYPE_CHECKING:
    from milepost.prediction import LoadedProgram, Predictions

# What a terminal has room for.
_COLUMNS = 10


@click.command()
@click.argument("model")
@click.argument("input")
@click.option("-o", "--out", help="Write there: .npy, .npz, .csv, .parquet or .json. [stdout]")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--resize", is_flag=True, help="Give images the size that the model takes.")
@click.option("--scale", default="1", help="Multiply pixels, which are 0 to 255: 1/255, say.")
@as_json
def predict(
    *,
    model: str,
    input: str,
    out: str | None,
    batch_size: int,
    resize: bool,
    scale: str,
    as_json: bool,
) -> None:
    """Predict on INPUT with the program in the file MODEL.

    The file must have been saved with save_model(..., example=x, program=True). Neither the
    model's framework nor its classes are needed. INPUT is a .npy, .npz, .csv or .parquet file,
    an image, or a folder of images.

    \b
    Examples:
      milepost predict digits.safetensors images.npy
      milepost predict digits.safetensors table.csv -o predictions.parquet
      milepost predict digits.safetensors photographs/ --scale 1/255 --json
    """
    from milepost import prediction

    if out is not None:
        prediction.check_out(out)
    program = prediction.load_program(model)
    inputs = prediction.read_inputs(input, program.inputs, resize=resize, scale=_factor(scale))
    outputs = _with_progress(program, inputs.arrays, batch_size)
    predictions = prediction.Predictions(program.outputs, outputs, program.labels, inputs.names)
    if out is not None:
        prediction.write_predictions(predictions, out)
        found = {"rows": len(predictions), "out": out}
        if as_json:
            echo_json(found)
        else:
            echo(f"{len(predictions)} predictions in {out}")
    elif as_json:
        echo_json(predictions.rows())
    else:
        echo_columns(_table(predictions))


def _factor(text: str) -> float:
    above, _, below = text.partition("/")
    try:
        factor = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        factor = math.nan
    if not math.isfinite(factor):
        raise click.UsageError(f"--scale takes a number or a fraction, found {text!r}")
    return factor


def _with_progress(program: LoadedProgram, arrays: list[Any], size: int) -> list[Any]:
    """All outputs; on a terminal with a bar that shows how far it is."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    rows = max(len(array) if array.ndim else 1 for array in arrays)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=rows)

        def progress(done: int) -> None:
            bar.update(task, completed=done)

        return program.predict(arrays, size, progress)


def _table(predictions: Predictions) -> list[list[str]]:
    """The classes, if there are any; else the numbers, as many as a line has room for."""
    columns, classes = predictions.columns(), predictions.classes()
    shown = [name for name in columns if name == "file" or not classes or name in classes]
    header = ["row", *shown[:_COLUMNS], *(["..."] if len(shown) > _COLUMNS else [])]
    rows = zip(*(columns[name] for name in shown[:_COLUMNS]), strict=True)
    more = [""] * (len(header) - 1 - len(shown[:_COLUMNS]))
    return [
        header,
        *([str(index), *map(human_value, row), *more] for index, row in enumerate(rows)),
    ]
