"""Where `load_model` looks up the names in a file: what was passed, then what was registered.

Only with `trust` does it import: a module that a file names is code like any other.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from milepost import registry
from milepost.errors import UnknownClassError, UntrustedError, UsageError
from milepost.limits import shown


class Names(Mapping[str, Any]):
    """Classes and functions by name.

    Attributes:
        trust: whether the owner of the file vouches for what it names.
    """

    def __init__(self, passed: Mapping[str, Any], *, trust: bool = False) -> None:
        if not isinstance(passed, Mapping):
            raise UsageError(
                f"custom_objects must map names to classes and functions: found {shown(passed)}"
            )
        self._known = {**registry.registered(), **passed}
        self.trust = trust

    def __getitem__(self, name: str) -> Any:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def imported(self, module: str, name: str) -> Any:
        """The class or function `name` (dots for what is inside a class) of a module.

        Raises:
            UntrustedError: nobody said that the file is to be trusted.
        UnknownClassError: there is no such module, or nothing of that name in it.
        """
        if not self.trust:
            raise UntrustedError(
                f"the file names {module}.{name}, which has to be imported: pass trust=True if "
                "the file is yours"
            )
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise UnknownClassError(
                f"the file names {module}.{name}, which cannot be imported: {error}"
            ) from error
        return found
