"""`milepost import`."""

from __future__ import annotations

import numpy as np


def test_a_run(cli, tmp_path):
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        np.savez(tmp_path / f"run/model_{step}.npz", same=np.ones(100), x=np.full(2, step))
    (tmp_path / "run/notes.txt").write_text("mine")
    done = cli("import", "run", "new")
    assert done.status == 0
    assert done.out.splitlines() == [
        f"{tmp_path}/new: 2 checkpoints (1, 2)",
        "1.6 KB in 4 leaves, 832 B new",
        "left out: notes.txt: it is no checkpoint",
    ]
    assert cli("import", "run", "new").status == 2
    assert cli("import", "run", "new", "--resume", "--json").json["present"] == [1, 2]


def test_damage(cli, tmp_path):
    (tmp_path / "run").mkdir()
    np.savez(tmp_path / "run/model_1.npz", x=np.ones(2))
    (tmp_path / "run/model_2.npz").write_bytes((tmp_path / "run/model_1.npz").read_bytes()[:-9])
    done = cli("import", "run", "new")
    assert done.status == 4
    assert "step 2" in done.err
    report = cli("import", "run", "new", "--resume", "--skip-damaged", "--json").json
    assert (report["steps"], list(report["skipped"])) == ([], ["2"])
    assert cli("import", "none", "other").status == 3
