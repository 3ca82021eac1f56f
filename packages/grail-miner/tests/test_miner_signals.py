"""A signal while a miner is being set up ends the process at once; only a running one is asked to finish its step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SET_UP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
import grail_miner.start as start

def for_ever(settings, **_):
    print("set up", flush=True)
    with open({fifo!r}) as never:  # nobody ever writes to it
        never.read()

start.require_start = lambda *_: None  # it has no settings
start.Participant.from_settings = staticmethod(for_ever)
sys.argv = ["grail-miner", "run"]
from grail_miner.cli import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_signal_during_set_up_ends_the_process_at_once(number: signal.Signals, code: int, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-c", SET_UP.format(fifo=str(fifo))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "set up\n"
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=60)  # far beyond what it takes: a process that waits on would never end
        finally:
            process.kill()
    assert process.returncode == code
    assert "stopping after the current step" not in said
