"""The command line as a whole."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

import milepost


def test_version_and_help(cli):
    assert cli("--version").out == f"milepost, version {milepost.__version__}\n"
    out = cli("--help").out
    for command in ("log", "show", "diff", "verify", "scan", "convert", "import", "bench", "demo"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    "command", ["log", "show", "diff", "verify", "scan", "convert", "import", "bench", "demo"]
)
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


def through(tmp_path, arguments: str, reader: str) -> tuple[str, int, str]:
    """What a reader in a pipe shows, the status of the command before it, and its errors."""
    command = f"{shlex.quote(sys.executable)} -m milepost {arguments}"
    script = f"{command} | {reader}; echo ${{PIPESTATUS[0]}}"
    finished = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    out, status = finished.stdout.removesuffix("\n").rsplit("\n", 1)
    return out, int(status), finished.stderr


@pytest.mark.parametrize("options", ["", "--json"])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, options):
    leaves = {f"leaf-{number:05}": number for number in range(3000)}
    milepost.Checkpoint(**leaves).save(tmp_path / "store")
    out, status, errors = through(tmp_path, f"show store {options}", "head -n 1")
    assert (status, errors) == (0, "")
    assert out in (f"{tmp_path / 'store'}, step 1", "{")


def test_damage_has_its_exit_status_though_nobody_reads(tmp_path):
    milepost.Checkpoint(a=1).save(tmp_path / "store")
    (tmp_path / "store" / "checkpoints" / f"{1:020d}.json").write_bytes(b"{}")
    for options in ("--json", "2>&1"):
        _, status, errors = through(tmp_path, f"verify store {options}", "echo")
        assert (status, errors) == (4, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["show", "verify", "log"])
def test_what_is_no_regular_file_is_refused_at_once(cli, tmp_path, command):
    os.mkfifo(tmp_path / "fifo")
    finished = cli(command, "fifo")
    assert finished.status == 5
    assert "it is no regular file" in finished.err


def header(path, document) -> None:
    """A safetensors file without data."""
    text = json.dumps(document).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_lone_surrogates_are_shown_as_escapes(cli, tmp_path):
    header(tmp_path / "foreign", {"__metadata__": {"by \ud801": "\ud800"}})
    milepost.Checkpoint(note="\ud800").save(tmp_path / "store")
    assert "by \\ud801 \\ud800\n" in cli("show", "foreign").out
    assert cli("show", "foreign", "--json").json["metadata"] == {"by \ud801": "\ud800"}
    assert "'\\ud800'" in cli("show", "store").out
    leaves = cli("show", "store", "--json").json["leaves"]
    assert leaves == {"note": {"type": "str", "value": "\ud800"}}


def test_what_a_terminal_would_obey_is_escaped(cli, tmp_path):
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    name = "\x1b[2Jgone\nintact: all\u202e"
    header(tmp_path / "foreign", {name: empty, "__metadata__": {"by\x07": "\x1b]0;title\x07"}})
    out = cli("show", "foreign").out
    assert "\\x1b[2Jgone\\nintact: all\\u202e  uint8  [0]" in out
    assert "by\\x07 \\x1b]0;title\\x07" in out
    milepost.Checkpoint(**{"a\x1b": 1}).save(tmp_path / "store\x1b[1m", metadata={"b\n": "c\r"})
    (tmp_path / "store\x1b[1m" / "checkpoints" / f"{2:020d}.json").write_bytes(b"{}")
    for command in ("show", "log", "verify"):
        finished = cli(command, "store\x1b[1m")
        assert not {"\x1b", "\x07", "\r"} & {*finished.out, *finished.err}
        assert "store\\x1b[1m" in finished.err
    out = cli("show", "store\x1b[1m", "--step", 1).out
    assert "b\\n c\\r" in out
    assert "a\\x1b  int  1" in out


def test_names_in_other_scripts_are_shown_as_they_are(cli, tmp_path):
    milepost.Checkpoint(**{"模型": {"naïve 😀": 1}}).save(tmp_path / "store")
    assert cli("show", "store").out.endswith("模型\n  naïve 😀  int  1\n")


def test_an_integer_of_thousands_of_digits_is_shown(cli, tmp_path):
    milepost.Checkpoint(n=10**5000).save(tmp_path / "store")
    assert "0x" in cli("show", "store").out
    assert cli("show", "store", "--json").json["leaves"]["n"]["value"] == hex(10**5000)
