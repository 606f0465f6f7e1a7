"""For whoever adds a storage, a format or a framework: the tests that ours pass.

Subclass, say how to make one, and pytest runs the whole battery:

    class TestMyStorage(StorageTests):
        def make(self, folder):
            return MyStorage(folder)

Needs pytest, which milepost itself does not.
"""

import pytest

for _module in ("format", "framework", "mutation", "storage", "watch"):
    pytest.register_assert_rewrite(f"milepost.testing.{_module}")

from milepost.storage.faults import FaultyFileSystem, PowerFailure, PowerLossDisk  # noqa: E402
from milepost.testing.format import FormatTests, same_value  # noqa: E402
from milepost.testing.framework import FrameworkTests  # noqa: E402
from milepost.testing.storage import StorageTests  # noqa: E402

__all__ = [
    "FaultyFileSystem",
    "FormatTests",
    "FrameworkTests",
    "PowerFailure",
    "PowerLossDisk",
    "StorageTests",
    "same_value",
]
