"""Wrong steps that only a process of its own shows: disks and streams that are full, alphabets, signals, two of one."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.wrong_steps.steps import Place, made_network, right_settings
from tooling.testing.network import Network

MAIN = "import importlib, sys; module = sys.argv.pop(1); del sys.argv[0]; importlib.import_module(module).main()"
GRAIL, ENVS = "grail_core.commands.grail", "grail_envs.cli"
MINER, VALIDATOR, TRAINER = "grail_miner.cli", "grail_validator.cli", "grail_trainer.cli"


@dataclass(frozen=True)
class Shell:
    """A line of a shell in which `$RUN` is the command.

    `role`: whose settings of a small network there are; "" for none, which takes no time to make. `small`: cache and state lie
    on a device of 64 KiB.
    """

    name: str
    module: str
    line: str
    code: int
    says: str
    settings: tuple[tuple[str, str], ...] = ()
    role: str = ""
    small: bool = False


SMALL: dict[str, Any] = {"code": 10, "says": "no space is left", "small": True}
SHELLS = (
    Shell("a full disk below a list", ENVS, "$RUN list > /dev/full", 10, "no space is left"),
    Shell("a full disk below what is complained", GRAIL, "$RUN scores --from nothing 2> /dev/full", 3, ""),
    Shell("a full log", GRAIL, "$RUN scores --from nothing", 3, "no such bucket", (("GRAIL_LOG_FILE", "/dev/full"),)),
    Shell("no output at all", GRAIL, "$RUN scores --from nothing >&- 2>&-", 3, ""),
    Shell("a reader that has gone", GRAIL, "set -o pipefail; $RUN storage doctor --show-settings | head -1", 0, "BT_NETWORK"),
    Shell("a pipe of ASCII letters", ENVS, "$RUN list | cat", 0, "sat", (("PYTHONIOENCODING", "ascii"),)),
    Shell("a terminal of Latin letters", ENVS, "$RUN list", 0, "\\u", (("PYTHONIOENCODING", "latin-1"), ("COLUMNS", "60"))),
    Shell("a full disk below what is printed", MINER, "$RUN doctor > /dev/full", 10, "no space is left", role="miner-0"),
    Shell("a miner on a full disk", MINER, "$RUN run", role="miner-0", **SMALL),
    Shell("a validator on a full disk", VALIDATOR, "$RUN run", role="validator-0", **SMALL),
    Shell("a trainer on a full disk", TRAINER, "$RUN run --model model", role="trainer", **SMALL),
    Shell("a model made on a full disk", TRAINER, "$RUN init --out small/model", role="trainer", **SMALL),
)
NAMES = [
    *(shell.name for shell in SHELLS),
    "Ctrl-C before a role has started",
    "Ctrl-C twice while nothing can be printed",
    "a second process of a hotkey",
]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return made_network(tmp_path_factory.mktemp("network"))


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Of a process: what it needs of this one's, and settings."""
    base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return base | {name: value for name, value in settings.items() if value}


@pytest.fixture
def place(network: Network, tmp_path: Path) -> Place:
    return Place(network, tmp_path, right_settings(network, tmp_path))


@pytest.mark.parametrize(
    "shell",
    [pytest.param(shell, id=shell.name.replace(" ", "-"), marks=[pytest.mark.heavy] if shell.role else []) for shell in SHELLS],
)
def test_whatever_the_machine_does_a_command_ends_with_its_own_code_and_no_traceback(
    shell: Shell, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = f"{sys.executable} -c '{MAIN}' {shell.module} {shell.module}"
    line, settings = shell.line.replace("$RUN", run), {"HOME": str(tmp_path)}
    command = ["bash", "-c", line]
    if shell.role:
        place: Place = request.getfixturevalue("place")
        place.of(shell.role)
        settings |= place.settings
        (tmp_path / "model").symlink_to(place.network.root / "model")
    if shell.small:
        (tmp_path / "small").mkdir()
        settings |= {"GRAIL_CACHE_DIR": "small/cache", "GRAIL_STATE_DIR": "small/state"}
        command = ["unshare", "-Urm", "bash", "-c", f"mount -t tmpfs -o size=64k none {tmp_path / 'small'} && {line}"]
    given = environment({**settings, **dict(shell.settings)})
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=given, cwd=tmp_path, timeout=60)
    if shell.small and ("unshare" in ran.stderr or "mount:" in ran.stderr):
        pytest.skip("no user namespaces with mounts here, so no small device can be made")
    assert ran.returncode == shell.code, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert shell.says in ran.stdout + ran.stderr


STOPPED_TWICE = """
import os, signal, sys
from grail_core.commands.options import run_cli, stop_on_signals
import click

@click.command()
def role():
    with stop_on_signals() as stop:
        os.close(2)  # the terminal is gone
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        print("asked", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("not reached", flush=True)

run_cli(role)
"""


def test_two_signals_end_a_role_whose_terminal_is_gone() -> None:
    """Ctrl-C twice while nothing can be printed."""
    command, given = [sys.executable, "-c", STOPPED_TWICE], environment({})
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=given, timeout=60)
    assert (ran.returncode, ran.stdout) == (130, "asked\n")


@pytest.mark.heavy
def test_a_signal_before_a_role_has_started_ends_it_without_a_word_of_python(place: Place) -> None:
    """Ctrl-C before a role has started."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import grail_validator.start as start\n"
        "start.require_start = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['grail-validator', 'run']\nfrom grail_validator.cli import main\nmain()\n"
    )
    place.of("validator-0")
    given = environment(place.settings)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=given, timeout=60)
    assert (ran.returncode, ran.stderr.strip()) == (130, "interrupted")


@pytest.mark.heavy
def test_a_second_process_of_a_hotkey_is_told_which_one_is_the_first(place: Place) -> None:
    """a second process of a hotkey"""
    from grail_core.participant.state import StateFolder, network_state

    participant = place.network.participant("validator-0")
    root = network_state(place.folder / "state", participant.params, participant.network_id)
    with StateFolder(root, participant.signer.hotkey).held():
        run = [sys.executable, "-c", MAIN, VALIDATOR, "grail-validator", "run"]
        place.of("validator-0")
        given = environment(place.settings)
        ran = subprocess.run(run, capture_output=True, text=True, check=False, env=given, cwd=place.folder, timeout=60)
    assert ran.returncode == 18, ran.stderr
    assert f"process {os.getpid()}" in ran.stderr
    assert ran.stderr.count("error: ") == 1


LOST = """
import sys
import grail_trainer.start as start
from grail_trainer.state import LostStateError

def run_trainer(*_, without_state, **__):
    if not without_state:
        raise LostStateError("there is no training state here", where="the folder", hint="--without-state")
    print("went on")

start.run_trainer = run_trainer
sys.argv = ["grail-trainer", "run"]
from grail_trainer.cli import main
main()
"""


@pytest.mark.heavy
@pytest.mark.parametrize(("answer", "code", "says"), [(b"y\n", 0, "went on"), (b"\n", 3, "--without-state")], ids=["yes", "no"])
def test_a_lost_training_state_is_a_question_where_somebody_can_answer(
    answer: bytes, code: int, says: str, tmp_path: Path
) -> None:
    terminal, theirs = pty.openpty()
    command, given = [sys.executable, "-c", LOST], environment({"HOME": str(tmp_path)})
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=given, cwd=tmp_path)
    os.close(theirs)
    os.write(terminal, answer)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
        while part := os.read(terminal, 4096):
            said += part
    assert process.wait(60) == code, said
    assert b"go on from the last checkpoint without it? [y/N]" in said
    assert says.encode() in said
    os.close(terminal)
