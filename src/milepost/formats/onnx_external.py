"""Files beside an ONNX model that hold its larger tensors.

https://github.com/onnx/onnx/blob/main/docs/ExternalData.md. Whoever wrote the model may be
hostile: the files that it names lie in its own folder, or nothing is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from milepost.errors import DamagedError, PathNotFoundError, UntrustedError
from milepost.limits import shown
from milepost.source import ByteSource
from milepost.storage.local import open_file

_NUMBER = re.compile("[0-9]{1,19}")
_FORBIDDEN = re.compile(r"[\x00-\x1f\\:]")


class ExternalFiles:
    """The files that a model's tensors have been found in. The model itself is file 0."""

    def __init__(self, model: ByteSource) -> None:
        self.sources: list[ByteSource] = [model]
        self._model = model.name
        self._numbers: dict[str, int] = {}  # by location

    def place(
        self, tensor: str, entries: Mapping[str, str], nbytes: int
    ) -> tuple[int, ByteSource, int]:
        """The number of the file in which a tensor lies, the file, and the position in it.

        Raises:
            DamagedError: there is no such file, or it has other than `nbytes` there.
            UntrustedError: it is not in the model's folder.
        """
        location = entries.get("location", "")
        number = self._numbers.get(location)
        if number is None:
            number = self._numbers[location] = len(self.sources)
            self.sources.append(_ReopenedFile(self._real_path(tensor, location)))
        source = self.sources[number]
        offset = self._number(tensor, entries, "offset", 0)
        length = self._number(tensor, entries, "length", source.size - offset)
        if length != nbytes or offset + length > source.size:
            raise DamagedError(
                f"{self._model}: the tensor {tensor!r} needs {nbytes} bytes, and is said to have "
                f"{length} at {offset} of {location!r:.80}, which has {source.size}: put back the "
                "files that were saved together"
            )
        return number, source, offset

    def _number(self, tensor: str, entries: Mapping[str, str], key: str, default: int) -> int:
        text = entries.get(key)
        if text is None:
            return default
        if not _NUMBER.fullmatch(text):
            raise DamagedError(
                f"{self._model}: the tensor {tensor!r} has {shown(text)} for its {key}"
            )
        return int(text)

    def _real_path(self, tensor: str, location: str) -> str:
        """The path of a file that surely lies in the model's folder.

        A hub's cache has links instead of files, which lie together elsewhere: so the folder
        may be that where the model itself really lies.
        """
        parts = location.split("/")
        if not location or _FORBIDDEN.search(location) or {"", ".", ".."} & set(parts):
            raise UntrustedError(
                f"{self._model}: the tensor {tensor!r} asks for the file {location!r:.80}, and "
                "only files in the model's own folder are read: do not trust this model"
            )
        here = os.path.dirname(self._model)
        real = os.path.realpath(os.path.join(here, *parts))
        allowed = {os.path.realpath(here), os.path.dirname(os.path.realpath(self._model))}
        if not any(real.startswith(os.path.join(folder, "")) for folder in allowed):
            raise UntrustedError(
                f"{self._model}: the tensor {tensor!r} asks for {location!r:.80}, a link to "
                f"{real}, which is outside of the model's own folder: do not trust this model"
            )
        return real


class _ReopenedFile:
    """A file that is open only while it is read: some models have thousands."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._closed = False
        self._size = 0
        try:
            source = open_file(path)
        except PathNotFoundError:
            raise DamagedError(
                f"{path} is not there, and the model needs it: put back the files that were saved "
                "together"
            ) from None
        self._size = source.size
        source.close()

    @property
    def name(self) -> str:
        return self._path

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        source = open_file(self._path)
        try:
            return source.read_into(offset, buffer)
        finally:
            source.close()

    def close(self) -> None:
        self._closed = True
