"""A model file of milepost's, from a source that holds a whole model.

The one conversion that needs a framework, and builds the model: what `load_model` loads.
"""

from __future__ import annotations

from milepost.conversion.writers import Written
from milepost.errors import UnknownFormatError, UsageError
from milepost.formats.safetensors import ModelSnapshot
from milepost.model import load_model, save_model
from milepost.snapshot import Snapshot


def write(snapshot: Snapshot, source: str, path: str, shard_size: int | None) -> Written:
    """Load the model and save it.

    Raises:
        UsageError: the source holds no structure.
    """
    try:
        model = load_model(source)
    except UnknownFormatError as error:
        raise UsageError(
            f"{source} holds no model's structure, only its arrays ({error}): build the model, "
            "restore the arrays into it with Checkpoint(model=model).restore(...), and save it "
            "with save_model; or convert to another format"
        ) from None
    if not isinstance(snapshot, ModelSnapshot):
        report = save_model(model, path, shard_size=shard_size)
        return Written((report.path,), report.lost)
    document = snapshot.document
    report = save_model(
        model, path, shard_size=shard_size, metadata=document.metadata, **document.about
    )
    gone = {"example": document.example, "program": document.program}
    notes = [f"the {name} of the source is left out" for name, value in gone.items() if value]
    return Written((report.path,), (*report.lost, *notes))
