"""Opening a file that has to be a model's."""

from __future__ import annotations

from milepost.errors import NotAStoreError, UnknownFormatError
from milepost.formats.safetensors import ModelSnapshot
from milepost.opening import Path
from milepost.opening import open as open_path
from milepost.snapshot import Snapshot


def open_model(path: Path) -> ModelSnapshot:
    """The snapshot of a model file.

    Raises:
        UnknownFormatError: it is something else.
        PathNotFoundError, DamagedError, VersionError: as `milepost.open` raises them.
    """
    try:
        opened = open_path(path)
    except NotAStoreError as error:  # a folder of something else
        raise UnknownFormatError(f"expected what save_model wrote: {error}") from None
    if isinstance(opened, ModelSnapshot):
        return opened
    if isinstance(opened, Snapshot):
        opened.close()
    raise UnknownFormatError(
        f"{opened.name} holds no model's structure: expected what save_model wrote"
    )
