"""A server of ours is started, watched and ended, and nothing of it is ever left: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, EngineError
from grail_core.generation import server_log
from grail_core.generation.base import ServedWeights
from grail_core.generation.installed import installed_version
from grail_core.generation.options import EngineOptions
from grail_core.generation.server import EngineServer
from grail_core.generation.watcher import descendants
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.stand_in import PROGRAM, StandIn

WEIGHTS = ServedWeights("ab" * 32, Path("/nowhere"), GenerationPolicy(max_tokens=8), frozenset({0}), 320, 512)

Started = Callable[..., EngineServer]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Started]:
    made: list[EngineServer] = []

    def make(*behaviours: str, **limits: float) -> EngineServer:
        options = EngineOptions("sglang", state_dir=tmp_path / "engine")
        launcher = StandIn(behaviours)
        found = EngineServer(options, launcher=launcher, check=lambda _: None, **limits)  # type: ignore[arg-type]
        made.append(found)
        return found

    yield make
    for one in made:
        one.close()


def await_end(pids: set[int]) -> None:
    """Until none of them lives. A test that hangs here has found one that outlives its server."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                ended = select.poll()
                ended.register(descriptor)
                ended.poll()
            finally:
                os.close(descriptor)


def below(server: EngineServer, count: int) -> set[int]:
    """All processes of a server, once there are `count`."""
    pid = server.pid
    assert pid is not None
    while len(found := descendants(pid)) < count:
        threading.Event().wait(0.01)
    return found | {pid}


def test_a_server_answers_and_nothing_is_left_of_it_when_it_is_stopped(server: Started) -> None:
    found = server("serves")
    found.start(WEIGHTS)
    processes = below(found, 1)
    assert found.alive
    assert urllib.request.urlopen(f"{found.url}/health").status == 200
    found.stop()
    await_end(processes)
    assert not found.alive
    found.stop()


def test_each_start_has_a_key_and_a_port_of_its_own(server: Started) -> None:
    found = server("serves")
    found.start(WEIGHTS)
    first = (found.api_key, found.url)
    found.start(WEIGHTS)
    assert len({found.api_key, first[0]}) == 2
    assert len(found.api_key) > 40
    assert found.url.startswith("http://127.0.0.1:")
    assert not list(found.log_file.parent.glob(".start.*"))


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("dies", "ended with code 1.*this cannot be served"),
        ("has no memory", "out of memory.*Tried to allocate"),
    ],
)
def test_a_server_that_dies_at_its_start_says_what_it_printed(server: Started, behaviour: str, said: str) -> None:
    found = server(behaviour)
    with pytest.raises(EngineError, match=f"(?s){said}") as caught:
        found.start(WEIGHTS)
    assert caught.value.where == str(found.log_file)
    assert caught.value.hint
    assert caught.value.exit_code == 16
    assert not found.alive


def test_memory_that_runs_out_names_the_settings_that_help(server: Started) -> None:
    with pytest.raises(EngineError) as caught:
        server("has no memory").start(WEIGHTS)
    assert "GRAIL_PIPELINE_GPU_MEM_UTIL" in caught.value.hint


def test_a_taken_port_is_told_and_another_is_chosen(server: Started) -> None:
    found = server("finds its port taken", "serves")
    found.start(WEIGHTS)
    assert found.alive


def test_a_port_that_stays_taken_ends_the_start(server: Started) -> None:
    with pytest.raises(EngineError, match="taken by another program"):
        server("finds its port taken").start(WEIGHTS)


def test_another_program_on_the_port_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """It answers that it is well while ours is still loading; no prompt and no key may reach it."""
    strangers: list[subprocess.Popen[bytes]] = []

    def launcher(*args: object, **more: object) -> object:
        launch = StandIn(("never answers",))(*args, **more)  # type: ignore[arg-type]
        strangers.append(subprocess.Popen([sys.executable, str(PROGRAM), "serves", str(args[2])], stdout=subprocess.PIPE))
        return launch

    found = EngineServer(EngineOptions("vllm", state_dir=tmp_path), launcher=launcher, check=lambda _: None)  # type: ignore[arg-type]
    try:
        with pytest.raises(EngineError, match="another program listens"):
            found.start(WEIGHTS)
    finally:
        found.close()
        for stranger in strangers:
            stranger.kill()
            stranger.communicate()


def test_a_server_that_never_answers_is_ended(server: Started) -> None:
    found = server("never answers", start_seconds=0.5)
    with pytest.raises(EngineError, match=r"did not answer within .*\n*.*stand-in"):
        found.start(WEIGHTS)
    assert not found.alive


def test_a_death_is_noticed_at_once_and_whatever_it_left_is_ended(server: Started) -> None:
    found = server("has children")
    found.start(WEIGHTS)
    processes = below(found, 4)
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{found.url}/die")
    await_end(processes)
    assert found._ended.wait(60)


def test_a_server_that_hears_no_signal_is_killed_with_its_children_children(server: Started) -> None:
    for behaviour, count in (("does not hear", 1), ("has children", 4)):
        found = server(behaviour, stop_seconds=0.3)
        found.start(WEIGHTS)
        processes = below(found, count)
        found.stop()
        await_end(processes)
        assert not found.alive


def test_a_watcher_that_is_killed_takes_the_server_with_it(server: Started) -> None:
    found = server("serves")
    found.start(WEIGHTS)
    processes = below(found, 1)
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)
    await_end(processes)
    assert found._ended.wait(60)


PARENT = """
import sys, threading
from pathlib import Path
from grail_core.generation.options import EngineOptions
from grail_core.generation.server import EngineServer
from grail_core.generation.watcher import descendants
from tests_server import WEIGHTS
from tooling.testing.stand_in import StandIn
server = EngineServer(EngineOptions("sglang", state_dir=Path(sys.argv[1])), launcher=StandIn(("has children",)),
    check=lambda _: None)
server.start(WEIGHTS)
while len(found := descendants(server.pid)) < 4:
    threading.Event().wait(0.01)
print(server.pid, *found, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_miner_that_is_killed_leaves_no_process_of_its_server(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "tests_server.py").write_bytes(Path(__file__).read_bytes())
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "engine")], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        processes = set(map(int, parent.stdout.readline().split()))
        assert len(processes) == 5
        parent.send_signal(how)
    await_end(processes)


def test_a_start_ends_when_it_is_stopped_from_another_thread(server: Started) -> None:
    found = server("never answers")
    failed: list[BaseException] = []

    def start() -> None:
        try:
            found.start(WEIGHTS)
        except EngineError as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while found.pid is None:
        threading.Event().wait(0.01)
    found.close()
    thread.join()
    assert "was stopped" in str(failed[0])
    with pytest.raises(EngineError, match="was stopped"):
        found.start(WEIGHTS)  # closed for good


def test_the_log_is_bounded_private_and_kept_for_the_next_start(server: Started) -> None:
    found = server("talks", "dies", log_bytes=100_000)
    found.start(WEIGHTS)
    assert found.last_lines(1) == "enough"
    files = sorted(found.log_file.parent.iterdir())
    assert [file.name for file in files] == ["sglang.log", "sglang.log.1"]
    assert all(file.stat().st_size <= 100_000 and file.stat().st_mode & 0o077 == 0 for file in files)
    with pytest.raises(EngineError) as caught:
        found.start(WEIGHTS)
    assert "enough" not in str(caught.value)  # what an earlier one said is not this one's
    assert "enough" in found.log_file.with_suffix(".log.before").read_text()


def test_a_descendant_that_left_its_session_is_still_ended(server: Started) -> None:
    found = server("leaves a child and dies")
    with pytest.raises(EngineError, match="ended with code 3"):
        found.start(WEIGHTS)
    assert not found.alive


def test_an_engine_that_is_not_there_is_a_setting_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be started") as missing:
        installed_version(EngineOptions("sglang", python=tmp_path / "python"))
    assert "GRAIL_SGLANG_PYTHON" in missing.value.where
    with pytest.raises(ConfigurationError, match="vllm is not installed in") as absent:
        installed_version(EngineOptions("vllm", python=Path(sys.executable)))
    assert "pip install 'vllm>=0.32,<0.34'" in absent.value.hint


def test_a_version_that_was_not_tried_is_refused_with_the_range(tmp_path: Path) -> None:
    python = tmp_path / "python"
    for said, refused in (("0.4.9", True), ("0.6.0rc1", True), ("0.5.23", False), ("0.5.24.post1+cpu", False), ("", True)):
        python.write_text(f"#!/bin/sh\necho '{said}'\n")
        python.chmod(0o755)
        options = EngineOptions("sglang", python=python)
        if refused:
            with pytest.raises(ConfigurationError, match=r">=0\.5\.23,<0\.6"):
                installed_version(options)
        else:
            assert installed_version(options) == said


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", server_log.OUT_OF_MEMORY),
        ("ValueError: Free memory on device (3/80 GiB) is less than desired GPU memory utilization", server_log.OUT_OF_MEMORY),
        ("ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1)", server_log.PORT_TAKEN),
        ("launch_server.py: error: unrecognized arguments: --nonsense", "it does not know one of its flags"),
        ("RuntimeError: No CUDA GPUs are available", "no GPU was found"),
        ("ModuleNotFoundError: No module named 'sgl_kernel'", "one of its modules is missing"),
    ],
)
def test_what_engines_print_is_understood(text: str, cause: str) -> None:
    found = server_log.cause_of(f"noise\n{text}\nnoise")
    assert found is not None
    assert found[0] == cause
