"""The files that the formats' tests make, kept as seeds for `python -m tests.fuzz`."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _kept_as_a_seed(request):
    yield
    kept = os.environ.get("MILEPOST_SEEDS")
    if kept and request.node.originalname == "test_it_is_sound":
        path = request.node.funcargs["made"][0]
        module = request.module.__name__.rpartition("test_")[2]
        to = Path(kept, f"{module}.{request.cls.__name__}")
        shutil.copytree(path.parent, to / "made")
        (to / "opened").symlink_to(to / "made" / path.name)
