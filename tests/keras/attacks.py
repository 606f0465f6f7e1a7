"""Run as a process: load each hostile file of a folder, and tell what happened meanwhile.

A JSON object on the last line: file -> the error's class and message, what was imported, what
was opened or run, and by how many MB the process grew.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import json
import os
import resource
import sys
import warnings

FRAMEWORKS = {"jax", "jaxlib", "keras", "milepost", "numpy", "optree", "tensorflow", "torch"}
MODULES = tuple(importlib.machinery.all_suffixes())
RUNS = (
    "marshal.loads",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "socket.",
    "subprocess.",
    "urllib.",
)


def main(folder: str, benign: str) -> None:
    import milepost
    from milepost.testing.watch import importing

    seen: list[str] = []
    milepost.load_model(benign)  # what is imported by the first is not the attacks' doing

    def hook(event: str, arguments: tuple) -> None:
        if event == "marshal.loads" and importing():
            return  # a module's own code: see `_harmless`
        if event.startswith(RUNS):
            seen.append(event)
        elif event == "open" and not _harmless(str(arguments[0]), folder):
            seen.append(f"open {arguments[0]}")

    sys.addaudithook(hook)
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        gc.collect()
        modules, size = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seen.clear()
        error = ["nothing", "it was loaded"]
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            try:
                milepost.load_model(path)
            except BaseException as raised:
                kinds = [kind.__name__ for kind in type(raised).__mro__]
                error = [kinds, str(raised)[:500]]
        # A framework may load a part of itself when it is first used.
        new = {module.partition(".")[0] for module in set(sys.modules) - modules} - FRAMEWORKS
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size) // 1024
        found[name] = {"error": error, "new": sorted(new), "calls": [*seen], "grown": grown}
    print(json.dumps(found))


def _harmless(path: str, folder: str) -> bool:
    """The file itself, and modules, which imports, tracebacks and graph compilers read.

    Which modules may be imported is compared by itself.
    """
    return path.startswith(folder) or path.endswith(MODULES)


if __name__ == "__main__":
    main(*sys.argv[1:])
