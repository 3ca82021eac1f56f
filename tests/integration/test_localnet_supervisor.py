"""The supervisor of localnet with real processes: restarts, final errors, groups, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.localnet import supervisor as supervision
from tooling.localnet.supervisor import Death, ProcessSpec, State, Supervisor


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(clock: Clock) -> Iterator[Supervisor]:
    made = Supervisor(clock)
    yield made
    made.stop_all()


def spec(tmp_path: Path, program: str, name: str = "role") -> ProcessSpec:
    return ProcessSpec(name, "miner", (sys.executable, "-c", program), dict(os.environ), tmp_path / f"{name}.log")


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, "the condition never came true"
        time.sleep(0.01)


def first_death(supervisor: Supervisor) -> Death:
    deaths: list[Death] = []

    def died() -> bool:
        deaths.extend(supervisor.poll())
        return bool(deaths)

    until(died)
    return deaths[0]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_process_that_ends_with_0_is_done_and_not_restarted(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "print('hello')"))
    until(lambda: not supervisor.poll() and supervisor.processes["role"].state is State.DONE)
    assert "hello" in (tmp_path / "role.log").read_text()


def test_a_killed_process_is_restarted_and_the_signal_is_told(supervisor: Supervisor, clock: Clock, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "import time; time.sleep(600)"))
    first = supervisor.kill("role")
    death = first_death(supervisor)
    assert death.cause == "killed by SIGKILL"
    assert death.restart_in_s == supervision.FIRST_PAUSE_S
    assert supervisor.processes["role"].state is State.RESTARTING
    clock.now += death.restart_in_s
    supervisor.poll()
    assert supervisor.processes["role"].pid not in (None, first)
    assert supervisor.processes["role"].restarts == 1


def test_quick_deaths_are_restarted_more_and_more_slowly_and_then_given_up(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    supervisor.start(spec(tmp_path, "raise SystemExit(1)"))
    pauses = []
    for _ in range(supervision.MAX_QUICK_DEATHS):
        death = first_death(supervisor)
        pauses.append(death.restart_in_s)
        clock.now += supervision.LONGEST_PAUSE_S
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, None]
    assert supervisor.processes["role"].state is State.FAILED


def test_a_process_that_kills_itself_on_purpose_is_never_given_up_for_it(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    supervisor.start(replace(spec(tmp_path, program), mortal=True))
    for _ in range(supervision.MAX_DEATHS + 1):
        assert first_death(supervisor).restart_in_s == supervision.FIRST_PAUSE_S
        clock.now += supervision.FIRST_PAUSE_S
        supervisor.poll()


def test_a_process_that_lived_long_starts_again_with_the_first_pause(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    supervisor.start(spec(tmp_path, "import time; time.sleep(600)"))
    for _ in range(3):
        clock.now += supervision.HEALTHY_AFTER_S
        supervisor.kill("role")
        assert first_death(supervisor).restart_in_s == supervision.FIRST_PAUSE_S
        clock.now += supervision.FIRST_PAUSE_S
        supervisor.poll()


def test_an_error_that_no_restart_mends_is_final_and_its_last_lines_are_told(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(spec(tmp_path, "import sys; print('error: no such folder', file=sys.stderr); sys.exit(3)"))
    death = first_death(supervisor)
    assert (death.exit_code, death.restart_in_s) == (3, None)
    assert death.last_lines == ("error: no such folder",)


def test_a_command_that_is_not_there_is_reported_by_its_name(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(ProcessSpec("role", "miner", ("/no/such/command",), dict(os.environ), tmp_path / "role.log"))
    assert "/no/such/command" in first_death(supervisor).last_lines[0]


def test_a_retired_process_ends_without_being_waited_for_and_is_not_started_again(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    supervisor.start(spec(tmp_path, "import time; print('here', flush=True); time.sleep(600)"))
    until(lambda: "here" in (tmp_path / "role.log").read_text())
    supervisor.retire("role")
    until(lambda: not supervisor.poll() and supervisor.processes["role"].state is State.STOPPED)
    clock.now += supervision.LONGEST_PAUSE_S
    assert supervisor.poll() == []
    assert supervisor.processes["role"].state is State.STOPPED


def test_a_process_that_is_retired_while_it_waits_for_its_restart_stays_down(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    supervisor.start(spec(tmp_path, "raise SystemExit(1)"))
    first_death(supervisor)
    supervisor.retire("role")
    clock.now += supervision.LONGEST_PAUSE_S
    assert supervisor.poll() == []
    assert supervisor.processes["role"].pid is None


def test_stopping_takes_children_of_a_role_along_even_if_it_ignores_signals(supervisor: Supervisor, tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')\n"
        "time.sleep(600)\n"
    )
    supervisor.start(spec(tmp_path, program))
    until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith(" "))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    supervisor.stop(["role"], interrupt_s=0.1, terminate_s=0.1)
    until(lambda: not any(is_alive(pid) for pid in pids))
    assert supervisor.processes["role"].state is State.STOPPED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_killing_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from tooling.localnet.supervisor import ProcessSpec, Supervisor\n"
        "s = Supervisor()\n"
        f"s.start(ProcessSpec('r', 'miner', (sys.executable, '-c', 'import time; time.sleep(600)'), dict(os.environ), "
        f"Path({str(tmp_path / 'r.log')!r})))\n"
        "print(s.processes['r'].pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = REPOSITORY
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(
            lambda: (
                "sleep" in Path(f"/proc/{child}/cmdline").read_text()
                and "shim" not in Path(f"/proc/{child}/cmdline").read_text()
            )
        )
        parent.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(child))
