"""Every class of every family comes back to the last bit, or is known to be refused, and why."""

from __future__ import annotations

import pytest

from tests.coverage.family import FAMILIES, QUICK, family, run
from tests.coverage.table import covered


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES],
)
def test_every_class_comes_back(name, tmp_path):
    chosen = family(name)
    saved, loaded = run(name, str(tmp_path))
    for case, problem in saved.items():
        if case.partition(" ")[0] in chosen.refused:
            assert problem.startswith(("UnsupportedObjectError", "UntrustedError")), (case, problem)
        else:
            assert not problem, (case, problem)
            assert loaded[case] == "", (case, loaded[case])
    known = covered(saved, loaded) | chosen.refused.keys() | chosen.left_out.keys()
    assert set(chosen.exist()) <= known, sorted(set(chosen.exist()) - known)
