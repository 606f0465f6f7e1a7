"""Opening a file that has to be a model's."""

from __future__ import annotations

from milepost.errors import NotAStoreError, UnknownFormatError
from milepost.formats.keras_config import KerasSnapshot
from milepost.formats.safetensors import ModelSnapshot
from milepost.opening import Path
from milepost.opening import open as open_path
from milepost.snapshot import Snapshot


def open_model(path: Path) -> ModelSnapshot:
    """The snapshot of a model file of milepost's.

    Raises:
        UnknownFormatError: it is something else.
        PathNotFoundError, DamagedError, VersionError, UntrustedError: as `milepost.open`
            raises them.
    """
    opened = open_loadable(path)
    if isinstance(opened, ModelSnapshot):
        return opened
    opened.close()
    raise UnknownFormatError(
        f"{opened.name} is Keras's own file, and this needs one of save_model's: load the model "
        "with load_model, and save it with save_model"
    )


def open_loadable(path: Path) -> ModelSnapshot | KerasSnapshot:
    """The snapshot of a file that has a whole model, or of weights that Keras wrote.

    Raises what `open_model` does.
    """
    try:
        opened = open_path(path)
    except NotAStoreError as error:  # a folder of something else
        raise UnknownFormatError(f"expected what save_model wrote: {error}") from None
    if isinstance(opened, ModelSnapshot | KerasSnapshot):
        return opened
    if isinstance(opened, Snapshot):
        opened.close()
    raise UnknownFormatError(
        f"{opened.name} holds no model's structure: expected what save_model wrote, or Keras's "
        "model.save"
    )
