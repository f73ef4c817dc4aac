"""Streams that are closed, full or of another encoding: one line, and the exit code of a usage error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.command_line import Cli

A18 = Path(__file__).parents[2] / "dipc" / "hwmodels" / "a18.yaml"
FULL = Path("/dev/full")
CLOSED = "dipc: stdout is closed, and results are printed there; redirect it, if need be to /dev/null\n"


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    dipc = f"{sys.executable} -c 'from dipc.cli import main; raise SystemExit(main())'"
    done = subprocess.run(
        ["sh", "-c", line.replace("dipc ", f"{dipc} ", 1)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_stdout_is_closed() -> None:
    assert shell("dipc hw list >&-") == (2, "", CLOSED)


@pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["--version", "hw show a18 --json"])
def test_stdout_is_full(command: str) -> None:
    said = "dipc: stdout: cannot be written: No space left on device\n"
    assert shell(f"dipc {command} > /dev/full") == (2, "", said)


def test_stdout_is_only_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = "dipc: stdout: cannot be written: Bad file descriptor\n"
    assert shell(f"dipc hw list 1< {tmp_path}/file") == (2, "", said)


def test_stdin_and_stderr_are_closed() -> None:
    assert shell("dipc hw show a19 <&- 2>&-") == (2, "", "")


def test_a_name_that_cannot_be_printed_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "ü.yaml"
    file.write_text(A18.read_text().replace("name: a18", "name: ü"))
    code, out, err = shell(f"dipc hw show {file}", PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "") and "\\xfc" in out


def test_a_file_that_is_printed_to_is_not_replaced(cli: Cli, out: Path, text: Path) -> None:
    """`--timeline /dev/stdout > FILE`: the timeline, then the tables."""
    found = cli("estimate", out, "--hw", "a18", "--context", 0, "--text", text, "--timeline", "/dev/stdout")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith('{"traceEvents": [') and "tokens per second" in found.out.partition("}simulated on")[2]


def test_a_file_that_is_read_is_not_written(cli: Cli, out: Path, text: Path, tmp_path: Path) -> None:
    before, device = text.read_bytes(), tmp_path / "phone.yaml"
    device.write_text(A18.read_text().replace("name: a18", "name: phone"))
    (tmp_path / "link").symlink_to(text)
    cli("estimate", out, "--hw", device, "--text", text, "--timeline", text).fails(2, "--timeline", "is read")
    cli("estimate", out, "--hw", device, "--timeline", device).fails(2, "--timeline", "is read")
    cli("eval", out, "--text", text, "--save-trace", tmp_path / "link").fails(2, "--save-trace", "is read")
    assert text.read_bytes() == before and (tmp_path / "link").is_symlink()
