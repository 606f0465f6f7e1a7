"""`python -m tests.coverage`: see the package."""

from __future__ import annotations

import json
import sys
import tempfile

from tests.coverage.family import FAMILIES, family, load_all, run, save_all
from tests.coverage.table import write


def main(arguments: list[str]) -> None:
    if len(arguments) == 3:
        verb, name, folder = arguments
        print(json.dumps({"save": save_all, "load": load_all}[verb](name, folder)))
        return
    results = {}
    for name in arguments or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            saved, loaded = results[name] = run(name, folder)
        good = [case for case, problem in saved.items() if not problem and not loaded[case]]
        print(f"{name}: {len(good)} of {len(saved)} cases, {len(family(name).exist())} exist")
        for case in saved:
            problem = saved[case] or loaded[case]
            if problem:
                print(f"  {case}: {problem[:300]}")
    if not arguments:
        write(results)


main(sys.argv[1:])
