"""The command line as a whole."""

from __future__ import annotations

import pytest

import milepost


def test_version_and_help(cli):
    assert cli("--version").out == f"milepost, version {milepost.__version__}\n"
    out = cli("--help").out
    for command in ("log", "show", "verify", "demo"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", ["log", "show", "verify", "demo"])
def test_every_command_has_json_and_examples(cli, command):
    out = cli(command, "--help").out
    assert "--json" in out
    assert "Examples:" in out
    assert f"milepost {command}" in out


def test_a_wrong_call(cli):
    finished = cli("show")
    assert finished.status == 2
    assert "Missing argument 'PATH'" in finished.err
    assert cli("fly").status == 2


def test_no_framework_is_imported(run_program, store):
    finished = run_program(
        """
        import sys
        from click.testing import CliRunner
        from milepost.cli import cli
        for command in ("show", "log", "verify"):
            assert CliRunner().invoke(cli, [command, sys.argv[1]]).exit_code == 0
        print(sorted({"torch", "tensorflow", "keras", "jax", "rich"} & sys.modules.keys()))
        """,
        str(store),
    )
    assert finished.stdout == "[]\n"
