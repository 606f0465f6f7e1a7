"""The public names: exported, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import milepost

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "README.md").read_text() + "".join(
    p.read_text() for p in (ROOT / "docs").glob("*.md")
)


@pytest.mark.parametrize("name", [n for n in milepost.__all__ if n != "__version__"])
def test_every_public_name_exists_is_documented_and_has_a_docstring(name):
    value = getattr(milepost, name)
    assert inspect.getdoc(value)
    found = re.search(rf"(`|milepost\.){name}\b", DOCS)
    assert found, f"{name} is on no page of docs/"


def test_every_public_name_is_known_to_type_checkers():
    tree = ast.parse(inspect.getsource(milepost))
    [block] = [
        n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    imported = {alias.asname or alias.name for node in block.body for alias in node.names}
    assert imported == set(milepost.__all__) - {"__version__"}


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'checkpoints'"):
        _ = milepost.checkpoints


def test_public_methods_have_docstrings():
    for name in (
        "Checkpoint",
        "CheckpointManager",
        "Snapshot",
        "Store",
        "RestorePlan",
        "LazyArray",
    ):
        for key, value in vars(getattr(milepost, name)).items():
            if not key.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                assert inspect.getdoc(getattr(getattr(milepost, name), key)), f"{name}.{key}"


def test_importing_milepost_imports_nothing_heavy():
    code = "import milepost, sys; print(*{'numpy', 'torch', 'click', 'rich'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "\n"


def test_every_module_imports_by_itself():
    """No import cycle, and nothing that only works after something else."""
    modules = sorted(
        ".".join(("milepost", *p.relative_to(ROOT / "src/milepost").with_suffix("").parts))
        for p in (ROOT / "src/milepost").rglob("*.py")
        if p.name not in ("__init__.py", "__main__.py")
    )
    ground = [m for m in modules if ".frameworks." not in m and ".integrations" not in m]
    ground = [m for m in ground if ".demo." not in m and ".testing" not in m]
    assert len(ground) > 30
    program = "import importlib, sys\nfor m in sys.argv[1:]:\n    importlib.import_module(m)\n"
    program += (
        "    for k in [k for k in sys.modules if k.startswith('milepost')]: del sys.modules[k]"
    )
    subprocess.run([sys.executable, "-c", program, *ground], check=True)
    importlib.import_module("milepost")


def test_another_package_adds_a_framework(tmp_path, run_program):
    """By an entry point whose name is the module that must be imported already."""
    package = tmp_path / "addon-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: addon\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[milepost.frameworks]\nthing = thing_milepost\n")
    (tmp_path / "thing.py").write_text("class Thing:\n    def __init__(self, n): self.n = n\n")
    (tmp_path / "thing_milepost.py").write_text(
        "import thing\n"
        "def handles(value): return isinstance(value, thing.Thing)\n"
        "def capture(value, name, capture): capture.leaf(f'{name}/n', value.n)\n"
        "def apply(value, name, node, saved):\n"
        "    value.n = saved.leaves.get(f'{name}/n', value.n)\n"
        "    return value\n"
    )
    run_program(
        """
        import sys
        sys.path.insert(0, ".")
        import milepost
        milepost.Checkpoint(n=1).save("other")
        assert "thing_milepost" not in sys.modules  # its framework is not in use
        import thing
        one, two = thing.Thing(7), thing.Thing(0)
        milepost.Checkpoint(one=one).save("store")
        milepost.Checkpoint(one=two).restore("store")
        assert two.n == 7
        """
    )
