"""However a command ends, a person gets one message and an exit code, and nobody a raw traceback."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from grail_core.errors import OutOfMemoryError, is_out_of_memory

ROLE = """
import os, resource, sys, threading, time
import click
from grail_core.commands.options import run_cli
from grail_core.errors import DiskFullError, GrailError
from grail_core.telemetry import configure, get_logger

@click.command()
def role():
    configure("tester", log_file={log_file})
{work}

run_cli(role)
"""


def role(work: str, *, log_file: Path | None = None, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, whose temporary folder is `folder`."""
    lines = "\n".join(f"    {line}" for line in work.splitlines())
    place = f"__import__('pathlib').Path({str(log_file)!r})" if log_file else "None"
    return subprocess.run(
        [sys.executable, "-c", ROLE.format(work=lines, log_file=place)],
        capture_output=True,
        text=True,
        check=False,
        env={"TMPDIR": str(folder), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        timeout=60,
    )


def said(ran: subprocess.CompletedProcess[str]) -> str:
    """The one message, with what, where and what to try."""
    assert "Traceback" not in ran.stderr
    assert "Exception in thread" not in ran.stderr
    assert ran.stderr.count("error: ") == 1, ran.stderr
    assert "\n  where: " in ran.stderr
    assert "\n  try:   " in ran.stderr
    return ran.stderr


def test_an_error_that_nobody_foresaw_is_put_aside_for_this_user_alone(tmp_path: Path) -> None:
    ran = role("{'a secret': 1}['hunter2']", folder=tmp_path)
    text = said(ran)
    assert ran.returncode == 19
    assert "KeyError" in text
    assert "hunter2" not in text
    (kept,) = tmp_path.glob("grail-error-*.txt")
    assert str(kept) in text
    assert "hunter2" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_with_a_log_file_its_traceback_is_there(tmp_path: Path) -> None:
    ran = role("raise ZeroDivisionError('by zero')", log_file=tmp_path / "log.jsonl", folder=tmp_path)
    assert (ran.returncode, str(tmp_path / "log.jsonl") in said(ran)) == (19, True)
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (line["event"], line["level"]) == ("program_failed", "error")
    assert "by zero" in line["exception"]
    assert not list(tmp_path.glob("grail-error-*"))


@pytest.mark.parametrize(
    "work",
    [
        "raise MemoryError",
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\nbytearray(8 << 30)",
        "raise RuntimeError('[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can\\'t allocate memory: you tried ...')",
        "raise OSError(12, 'Cannot allocate memory')",
        "raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory. Tried to allocate 2 GiB')",
    ],
    ids=["by the interpreter", "by a real limit", "by torch", "by the system", "by a device"],
)
def test_memory_that_runs_out_has_its_own_code_and_no_traceback(tmp_path: Path, work: str) -> None:
    ran = role(work, folder=tmp_path)
    assert "memory" in said(ran)
    assert ran.returncode == OutOfMemoryError.exit_code == 20


def test_a_recursion_is_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RecursionError("maximum recursion depth exceeded"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("open('/dev/full', 'wb', buffering=0).write(b'x')", 10),
        ("open('/nowhere/at/all')", 5),
        ("os.mkdir('/proc/x')", 5),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\nwith open('%s/file', 'wb') as file: file.write(bytes(100))", 5),
    ],
)
def test_a_device_that_refuses_keeps_its_exit_code(tmp_path: Path, work: str, code: int) -> None:
    ran = role(work.replace("%s", str(tmp_path)), folder=tmp_path)
    said(ran)
    assert ran.returncode == code


def test_a_thread_that_dies_says_why_once_and_decides_the_exit_code(tmp_path: Path) -> None:
    work = (
        "def full():\n    raise DiskFullError('no space is left', where='/ledger', hint='free some')\n"
        "thread = threading.Thread(target=full, name='first-sight')\nthread.start()\nthread.join()\n"
        "raise GrailError('the first-sight thread has died', hint='see above')"
    )
    ran = role(work, folder=tmp_path)
    assert "first-sight: no space is left" in said(ran)
    assert ran.returncode == 10


def test_a_broken_pipe_that_is_not_the_readers_is_no_success(tmp_path: Path) -> None:
    ran = role("a, b = os.pipe()\nos.close(a)\nos.write(b, b'x')", folder=tmp_path)
    said(ran)
    assert ran.returncode == 19


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    code = ROLE.format(work="    for _ in range(100000): click.echo('y' * 100)", log_file="None")
    command = f'"{sys.executable}" -c "$CODE" | head -1; exit ${{PIPESTATUS[0]}}'
    environment = {"CODE": code, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr, len(ran.stdout)) == (0, "", 101)


def test_a_full_disk_below_the_log_costs_lines_and_not_the_role(tmp_path: Path) -> None:
    work = (
        "log = get_logger('grail_core.x')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))\n"
        "for n in range(9):\n    log.event('seen', number=n)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "log.event('again', number=9)"
    )
    ran = role(work, log_file=tmp_path / "log.jsonl", folder=tmp_path)
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert "Logging error" not in ran.stderr
    assert len(re.findall("log lines are lost", ran.stderr)) == 1
    assert "lines were lost" in ran.stderr
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])  # on a line of its own, whole
    assert (last["event"], last["number"]) == ("again", 9)
