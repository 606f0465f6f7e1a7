"""For whoever adds a storage or a framework: the tests that ours pass, and disks that fail.

Subclass, say how to make one, and pytest runs the whole battery:

    class TestMyStorage(StorageTests):
        def make(self, folder):
            return MyStorage(folder)

Needs pytest, which milepost itself does not.
"""

import pytest

pytest.register_assert_rewrite("milepost.testing.framework", "milepost.testing.storage")

from milepost.storage.faults import FaultyFileSystem, PowerFailure, PowerLossDisk  # noqa: E402
from milepost.testing.framework import FrameworkTests  # noqa: E402
from milepost.testing.storage import StorageTests  # noqa: E402

__all__ = ["FaultyFileSystem", "FrameworkTests", "PowerFailure", "PowerLossDisk", "StorageTests"]
