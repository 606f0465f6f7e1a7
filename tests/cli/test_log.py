"""`milepost log`."""

from __future__ import annotations


def test_newest_first_with_metrics(cli, store):
    lines = cli("log", store).out.splitlines()
    assert lines[0].split() == ["step", "created", "leaves", "size", "metrics"]
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
    assert "4.8 KB" in lines[1]
    assert "epoch 3  loss 0.333333  odd nan" in lines[1]


def test_only_some(cli, store):
    assert [line.split()[0] for line in cli("log", store, "-n", 2).out.splitlines()[1:]] == [
        "3",
        "2",
    ]


def test_json(cli, store):
    entries = cli("log", store, "--json").json
    assert [entry["step"] for entry in entries] == [3, 2, 1]
    assert entries[2]["metrics"] == {"loss": 1.0, "odd": "nan"}
    assert entries[2]["metadata"] == {"epoch": 1}
    assert entries[0]["leaves"] == 4
    assert entries[0]["bytes"] == 4808


def test_an_empty_store(cli, tmp_path):
    from milepost.storage.local import LocalStorage
    from milepost.store import Store

    Store.open_or_create(LocalStorage(tmp_path / "empty"))
    finished = cli("log", "empty")
    assert finished.status == 0
    assert "has no checkpoint yet" in finished.out
    assert cli("log", "empty", "--json").json == []


def test_a_file_is_no_store(cli, tmp_path):
    (tmp_path / "file").write_text("Dear reader, this is a letter.")
    assert cli("log", "file").status == 2


def test_help_has_examples(cli):
    finished = cli("log", "--help")
    assert finished.status == 0
    assert "Examples:\n    milepost log runs/digits\n" in finished.out
