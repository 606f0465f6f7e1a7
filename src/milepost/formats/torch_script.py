"""TorchScript's archives, as far as the weights in them: the code is never parsed or run.

https://github.com/pytorch/pytorch/blob/main/torch/csrc/jit/docs/serialization.md

In the pickle a parameter looks like any other attribute. Which ones are parameters and buffers
is in two lines of each class in the code, and these lines are all that is looked at.
"""

from __future__ import annotations

import re

from milepost.encodings.pickle import Call
from milepost.encodings.zip import Archive
from milepost.errors import DamagedError
from milepost.formats.torch_tree import Budget, Tree, attributes, is_object, key_text
from milepost.formats.torch_values import Tensor

_MAX_CODE, _MAX_ALL_CODE = 16 << 20, 64 << 20
_CLASS = re.compile(
    rb"^class (\w{1,1000})\(Module\):\n"
    rb"  __parameters__ = \[([^\]\n]{0,1000000})\]\n"
    rb"(?:  __buffers__ = \[([^\]\n]{0,1000000})\]\n)?",
    re.MULTILINE,
)
_NAME = re.compile(rb'"([^"\n]{1,10000})"')


def is_script(archive: Archive, root: str) -> bool:
    """Whether an archive is one of TorchScript's."""
    return f"{root}/constants.pkl" in archive.members or any(
        name.startswith(f"{root}/code/") for name in archive.members
    )


def add_script(tree: Tree, value: object, archive: Archive, root: str) -> None:
    """The leaves of a module, by the names that its `state_dict()` has.

    Raises:
        DamagedError: the pickle has no module in it.
        UntrustedError: its modules are nested without end.
    """
    if not is_object(value):
        raise DamagedError(f"{archive.file.name} is a TorchScript archive without a module")
    saved = _saved_names(archive, root)
    work: list[tuple[str, Call, int]] = [("", value, 0)]
    budget = Budget(archive.file.name)
    while work:
        prefix, module, depth = work.pop()
        cls = str(module.function)
        tree.note(cls)
        for key, child in attributes(module).items():
            budget.spend(prefix, depth)
            name = f"{prefix}{key_text(key)}"
            if is_object(child):
                work.append((f"{name}.", child, depth + 1))
            elif key in saved.get(cls, ()):
                if child is not None:
                    tree.add(child, name)
            elif isinstance(child, Tensor):
                tree.leave_out(name, "it is an attribute, neither a parameter nor a buffer")


def _saved_names(archive: Archive, root: str) -> dict[str, frozenset[str]]:
    """The parameters and buffers of each class, by its full name."""
    found: dict[str, frozenset[str]] = {}
    folder, total = f"{root}/code/", 0
    for member in archive.members.values():
        if not member.name.startswith(folder) or not member.name.endswith(".py"):
            continue
        total += member.size
        if total > _MAX_ALL_CODE:
            raise DamagedError(f"{archive.file.name} has too much code for a model")
        module = member.name[len(folder) : -len(".py")].replace("/", ".")
        text = archive.read(member.name, _MAX_CODE)
        for name, parameters, buffers in _CLASS.findall(text):
            names = _NAME.findall(parameters) + _NAME.findall(buffers)
            cls = f"{module}.{name.decode()}"
            found[cls] = frozenset(n.decode("utf-8", "replace") for n in names)
    return found
