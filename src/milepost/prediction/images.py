"""Images as inputs of a program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost.dtypes import Array, numpy_dtype
from milepost.errors import MissingPackageError, UnknownFormatError, UsageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# By these names only: others run programs to read a file.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an input holds an image; a size that may vary is None."""

    height: int | None
    width: int | None
    mode: str
    axes: str  # "HWC", "CHW" or "HW"


def read(
    path: str, signature: Sequence[Mapping[str, Any]], *, resize: bool, scale: float
) -> tuple[Array, list[str]]:
    """An image, or all of a folder, as the program's only input; and their names.

    Raises:
        UsageError: the program takes no images, or not of this size.
        UnknownFormatError: a file is no image.
        MissingPackageError: pillow is missing.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise MissingPackageError(
            f'images need pillow ({error}): pip install "milepost[predict]"'
        ) from error
    if len(signature) != 1:
        raise UsageError(f"{path}: the program takes {len(signature)} inputs, and no images")
    layout, dtype = _layout(path, signature[0]), numpy_dtype(signature[0]["dtype"])
    if dtype.kind in "biu" and scale != 1:
        raise UsageError(f"the program takes pixels as {dtype}: --scale is for floats")
    files = _files(path)
    pixels = [_pixels(PIL, file, layout, resize) for file in files]
    if len({image.shape for image in pixels}) > 1:
        raise UsageError(f"{path} has images of different sizes: --resize, or one at a time")
    stacked = np.stack(pixels)
    scaled = stacked if scale == 1 else (stacked * scale).astype(dtype)
    return scaled, [os.path.basename(file) for file in files]


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    names = [n for n in sorted(os.listdir(path)) if os.path.splitext(n)[1].lower() in EXTENSIONS]
    if not names:
        raise UsageError(f"{path} has no images: expected files that end in {EXTENSIONS}")
    return [os.path.join(path, name) for name in names]


def _layout(path: str, entry: Mapping[str, Any]) -> _Layout:
    shape = entry["shape"]
    if len(shape) == 4 and shape[3] in _MODES:
        return _Layout(shape[1], shape[2], _MODES[shape[3]], "HWC")
    if len(shape) == 4 and shape[1] in _MODES:
        return _Layout(shape[2], shape[3], _MODES[shape[1]], "CHW")
    if len(shape) == 3:
        return _Layout(shape[1], shape[2], "L", "HW")
    raise UsageError(f"{path}: the program takes {entry['dtype']}{shape}, which is no image")


def _pixels(pillow: Any, file: str, layout: _Layout, resize: bool) -> Array:
    try:
        with pillow.Image.open(file, formats=_FORMATS) as opened:
            mode = opened.mode
            image = pillow.ImageOps.exif_transpose(opened).convert(layout.mode)
    except Exception as error:  # of what damage does to each of its readers
        raise UnknownFormatError(f"{file} cannot be read as an image: {error}") from None
    if mode.startswith(("I", "F")):
        raise UsageError(f"{file}: expected pixels of 8 bits, found the mode {mode}: convert it")
    width, height = image.size
    wanted = (layout.width or width, layout.height or height)
    if image.size != wanted:
        if not resize:
            raise UsageError(
                f"{file}: expected {wanted[0]} x {wanted[1]} pixels, found {width} x {height}: "
                "--resize changes its size"
            )
        image = image.resize(wanted)
    pixels: Array = np.asarray(image)
    if layout.axes == "HW":
        return pixels
    pixels = pixels.reshape(pixels.shape[0], pixels.shape[1], -1)
    return pixels if layout.axes == "HWC" else np.moveaxis(pixels, -1, 0)
