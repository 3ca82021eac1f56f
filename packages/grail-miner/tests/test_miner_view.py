"""What a person sees of a running miner, and that the miner owes it nothing: no picture costs a window."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import ChainError
from grail_core.protocol import Finding, Outcome
from grail_core.storage.retention import Retention
from grail_core.telemetry import configure, get_logger
from grail_core.telemetry.console import PlainConsole
from grail_core.telemetry.logs import take_terminal
from grail_miner.budget import TimeBudget
from grail_miner.live import view as view_module
from grail_miner.live.picture import picture
from grail_miner.live.state import ChainNow, Heard, Rate, Rates, Sample, Scene
from grail_miner.live.view import Eyes, LiveView, live_view
from grail_miner.mining import Mining
from grail_miner.pipeline.progress import Progress
from grail_miner.pipeline.stages import Pipeline, Plan
from grail_miner.service import MinerService
from tooling.testing.mining import mining_of
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.scripted_work import ScriptedWork, clock_of
from tooling.testing.simulated_threads import SimulatedThreads

log = get_logger("grail_miner.test_view")

PROGRESS = Progress(
    window=1230,
    max_groups=64,
    begun=24,
    whole=10,
    dropped=1,
    cancelled=0,
    in_flight=13,
    generated=14,
    judged=13,
    proved=10,
    waiting_to_judge=0,
    waiting_to_prove=2,
    completions=231,
    tokens=70_000,
    reward_sum=69.0,
    rollouts=160,
    no_more=False,
    more_that_fit=6,
    seconds_left=72.4,
    generate_seconds=2.1,
    judge_seconds=0.3,
    prove_seconds=1.9,
    reserve_seconds=2.0,
)


def heard() -> Heard:
    one = Heard()
    one.take(
        "miner_started",
        {"hotkey": "5FHneW46", "uid": 3, "network": "localnet", "backend": "sglang", "proofs": "threads: cuda:1, cuda:1"},
    )
    one.take("engine_started", {})
    one.take("weights_rolled", {"seconds": 1.42})
    one.take("engine_lost", {"reason": "the sglang server died; it printed last:\nout of memory"})
    one.take("engine_started", {})
    one.take("window_skipped", {"window": 1170, "reason": "no valid checkpoint: not there"})
    mined = {"window": 1200, "groups": 12, "reward_mean": 0.41, "seconds_to_spare": 18.2}
    one.take("window_mined", mined | {"bytes": 1_250_000, "seconds_upload": 0.5})
    return one


SCENE = Scene(
    heard=heard(),
    window=1230,
    doing="makes groups",
    serves="ab" * 32,
    progress=PROGRESS,
    rates=Rates(3512.4, 0.48, 0.47, 0.5),
    chain=ChainNow(1247, 1230, 17, 96.0),
    chain_trouble="",
    sample=Sample(1230, 1, ""),
)

DRAWN = """\
╭─ grail-miner  localnet  uid 3  5FHneW46 ─────────────────────────────────────────────────────────╮
│ block 1247  window 1230 ━━━━━━━━━━━━━━━━━───────────── 96 s to the deadline                      │
│ window 1230: makes groups                                                                        │
╰──────────────────────────────────────────────────────────────────────────────────────────────────╯
stage       groups  in front of it  rate
generate  14 of 24               –  3,512 tokens/s, 0.48 groups/s  (2.10 s a group)
judge           13               0  0.47 groups/s  (0.30 s a group)
prove           10               2  0.50 groups/s  (1.90 s a group)
upload           –               –  last: 1.25 MB in 0.50 s, 2.5 MB/s
time       72 s to the upload, of which 2.0 s are kept for it; 6 more groups fit
groups     10 done, 13 under way, 1 dropped, 0 cancelled (at most 64)
reward     mean 0.431 of 160 rollouts
engine     sglang serves abababababababab, restarts 1, last roll 1.4 s, proofs threads: cuda:1, cud…
own check  window 1230: its first 16 rollouts pass what a validator asks of every row
window  ended
1200    mined    12 groups, reward 0.410, 18 s to spare
1170    skipped  no valid checkpoint: not there
"""


def drawn(scene: Scene, width: int = 100) -> str:
    console = PlainConsole(file=io.StringIO(), width=width, force_terminal=False)
    console.print(picture(scene))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_of_a_window_in_the_making() -> None:
    assert stripped(drawn(SCENE)) == stripped(DRAWN)


def test_before_anything_is_known_nothing_is_made_up() -> None:
    text = drawn(Scene(Heard(), None, "", "", None, Rates(), None, "ChainError: no connection", None))
    assert "the chain has not been asked yet" in text
    assert "no answer from the chain: ChainError: no connection" in text
    assert "serves nothing" in text
    assert not any(character.isdigit() for character in text)


def test_a_fault_of_the_own_check_is_told_while_the_window_runs() -> None:
    text = drawn(replace(SCENE, sample=Sample(1230, 2, "termination: no end token")))
    assert "of its first 32 rollouts a validator would say: termination: no end token" in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_picture_is_as_wide_as_the_terminal_whatever_that_is(width: int) -> None:
    assert max(len(line) for line in drawn(SCENE, width).splitlines()) <= width


def test_strangers_text_moves_no_cursor() -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\u202e[bold]:smile:\n\n"
    told = Heard()
    for name in ("miner_started", "engine_lost", "window_skipped", "window_withheld"):
        told.take(name, dict.fromkeys(("hotkey", "network", "backend", "proofs", "reason", "check"), hostile) | {"window": 30})
    text = drawn(replace(SCENE, heard=told, doing=hostile, serves=hostile, chain_trouble=hostile), 400)
    assert not any(character in text for character in "\x1b\x07\u202e")
    assert "[bold]:smile:" in text


def test_events_of_another_shape_are_passed_over() -> None:
    told = Heard()
    for name in ("miner_started", "engine_lost", "weights_rolled", "window_mined", "window_skipped"):
        told.take(name, {})
        told.take(name, {"window": "30", "seconds": "long", "bytes": None, "uid": [], "reward_mean": {}})
    assert drawn(replace(SCENE, heard=told))


def test_a_rate_is_of_the_last_seconds_and_begins_anew_with_a_window() -> None:
    rate = Rate()
    assert rate.look(0.0, 0) is None
    assert rate.look(10.0, 50) == 5.0
    assert rate.look(20.0, 50) == 2.5
    assert rate.look(40.0, 50) == 0.0  # what was before the last twenty seconds does not count
    assert rate.look(41.0, 3) is None
    assert rate.look(42.0, 5) == 2.0


# --- what it looks at -------------------------------------------------------------------------------------------------


def test_progress_counts_every_group_once_at_any_moment() -> None:
    threads, seen = SimulatedThreads(), []
    work = ScriptedWork(sleep=threads.sleep, generate_s=1.0, judge_s=0.1, prove_s=2.0, lost={3: "judge", 5: "assign"})
    work.hook = lambda step, group: seen.append(pipeline.progress())
    with Pipeline(work, Plan(30, 12, 4, 1), TimeBudget(1.0, 0.0, 1.0, 0.1, 2.0), clock_of(threads, 20.0), threads) as pipeline:
        made = pipeline.run(threading.Event())
    seen.append(last := pipeline.progress())
    assert all(one.begun == one.whole + one.dropped + one.cancelled + one.in_flight for one in seen)
    assert [one.begun for one in seen] == sorted(one.begun for one in seen)
    assert (last.begun, last.whole, last.dropped) == (made.begun, len(made.groups), len(made.dropped))
    assert last.cancelled == len(made.cancelled)
    assert any(one.waiting_to_prove for one in seen)
    assert {one.window for one in seen} == {30}


@pytest.fixture
def network(tmp_path: Path) -> Network:
    network = Network(tmp_path, miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def service_of(network: Network, mining: Mining) -> MinerService:
    participant = network.participant("miner-0")
    budget = TimeBudget(1e-3, 1e-3, 1e-3, 1e-3, 1e-3)
    return MinerService(participant, mining, Retention(participant.own_store, []), max_groups=2, safety_blocks=2, budget=budget)


class _Looking(Mining):
    """Looked at while its file is packed: a moment that every window has."""

    look: Any = None
    fault: Finding | None = None

    def pack(self, *args: Any) -> bytes:
        look, self.look = self.look, None
        if look is not None:
            look()
        return super().pack(*args)

    def own_fault(self, *args: Any) -> Finding | None:
        return self.fault or super().own_fault(*args)


def looked_at(network: Network, fault: Finding | None = None) -> list[Scene]:
    mining = mining_of(network, "miner-0", _Looking)
    assert isinstance(mining, _Looking)
    service = service_of(network, mining)
    eyes, scenes, stop = Eyes(service), [], threading.Event()
    mining.fault = fault

    def look() -> None:
        ended = threading.Event()

        def one_look(timeout: float | None = None) -> bool:
            ended.set()
            return True

        ended.wait = one_look  # type: ignore[method-assign]
        eyes.ask_chain(ended)
        scenes.append(eyes.scene(Heard(), 1.0))
        stop.set()  # the clock stands still: the last blocks never come

    mining.look = look
    service.run(stop, 1)
    return scenes


def test_a_real_window_is_seen_with_its_groups_its_rewards_and_its_own_check(network: Network) -> None:
    (scene,) = looked_at(network)
    assert (scene.window, scene.doing) == (FIRST_WINDOW, "packs and checks its file")
    assert scene.serves == network.manifest.digest.hex()
    assert scene.progress is not None
    assert (scene.progress.whole, scene.progress.rollouts, scene.progress.completions) == (2, 32, 32)
    assert scene.progress.tokens >= 32
    assert scene.sample == Sample(FIRST_WINDOW, 2, "")
    assert scene.chain is not None
    assert (scene.chain.block, scene.chain.window_block) == (FIRST_WINDOW + 1, 1)
    blocks = network.participant("miner-0").times(FIRST_WINDOW).deadline_block - (FIRST_WINDOW + 1)
    assert scene.chain.seconds_to_deadline == blocks * network.params.block_time_ms / 1000


def test_a_sample_that_a_validator_would_reject_is_seen(network: Network) -> None:
    (scene,) = looked_at(network, Finding("tokens", Outcome.REJECT, detail="a token is outside the vocabulary"))
    assert scene.sample == Sample(FIRST_WINDOW, 2, "tokens: a token is outside the vocabulary")


def test_a_chain_that_does_not_answer_is_shown_and_asked_again(network: Network) -> None:
    class Silent:
        params = network.params

        class chain:  # noqa: N801
            @staticmethod
            def current_block() -> int:
                raise ChainError("no connection")

    service = service_of(network, mining_of(network, "miner-0"))
    service.participant = Silent()  # type: ignore[assignment]
    eyes, ended = Eyes(service), threading.Event()
    looks: list[str] = []

    def wait(timeout: float | None = None) -> bool:
        looks.append(eyes.chain_trouble)
        if len(looks) == 3:
            ended.set()
        return True

    ended.wait = wait  # type: ignore[method-assign]
    eyes.ask_chain(ended)
    assert looks == ["ChainError: no connection"] * 3


# --- what it costs a miner that it fails ------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    """The log's terminal, as a command sets it up."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    out = io.StringIO()
    configure("miner")
    for handler in root.handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(out)
    yield out
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)


def a_view(network: Network) -> tuple[LiveView, io.StringIO]:
    screen = io.StringIO()
    console = PlainConsole(file=screen, force_terminal=True, width=100, height=40, color_system=None)
    view = LiveView(console, service_of(network, mining_of(network, "miner-0")), {"network": "n"}, look_seconds=0.01)
    return view, screen


def test_every_line_is_on_the_terminal_in_the_end_and_the_log_has_it_back(
    network: Network, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "_END_SECONDS", None)  # however long this machine takes
    view, screen = a_view(network)
    assert view.start()
    for number in range(200):
        log.event("said", number=number)
    log.event("batch_generated", groups=1)  # the picture's own
    view.close()
    log.event("afterwards")
    lines = [line.split("said number=")[1].strip() for line in screen.getvalue().splitlines() if "said number=" in line]
    assert lines == [str(number) for number in range(200)]
    assert "batch_generated" not in screen.getvalue()
    assert "said" not in terminal.getvalue()
    assert "afterwards" in terminal.getvalue()


def test_a_picture_that_cannot_be_drawn_is_told_once_and_mining_goes_on(
    network: Network, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(scene: Scene) -> None:
        raise RuntimeError("no such colour")

    monkeypatch.setattr(view_module, "picture", broken)
    view, _ = a_view(network)
    view.start()
    view._thread.join()
    log.event("goes_on")
    view.close()
    assert terminal.getvalue().count("view_lost") == 1
    assert "no such colour" in terminal.getvalue()
    assert "goes_on" in terminal.getvalue()


def test_an_event_that_cannot_be_taken_harms_nobody_who_logs_it(network: Network, terminal: io.StringIO) -> None:
    class Nameless:
        def __str__(self) -> str:
            raise ValueError("no text")

    view, _ = a_view(network)
    view.start()
    log.event("window_skipped", window=30, reason=Nameless())  # type: ignore[arg-type]
    view._thread.join()
    view.close()
    assert "view_lost" in terminal.getvalue()


def test_a_terminal_that_takes_nothing_holds_no_miner_up(network: Network, terminal: io.StringIO) -> None:
    held = threading.Event()

    class Held(io.StringIO):
        def write(self, text: str) -> int:
            held.wait()  # as a terminal after Ctrl-S
            return len(text)

    console = PlainConsole(file=Held(), force_terminal=True, width=100, color_system=None)
    view = LiveView(console, service_of(network, mining_of(network, "miner-0")), {}, look_seconds=0.01)
    view.start()
    for number in range(5_000):
        log.event("said", number=number)  # ends, though nobody reads
    held.set()
    view.close()


def test_json_lines_on_the_terminal_are_left_alone(terminal: io.StringIO) -> None:
    configure("miner", json_to_terminal=True)
    assert take_terminal(logging.NullHandler()) is None


@pytest.mark.parametrize("case", ["pipe", "dumb", "not wanted"])
def test_no_picture_where_none_can_stay_or_nobody_wants_it(
    case: str, network: Network, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: case != "pipe", raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setitem(os.environ, "TERM", "dumb" if case == "dumb" else "xterm")
    with live_view(case != "not wanted", service_of(network, mining_of(network, "miner-0")), {}):
        log.event("said")
    assert screen.getvalue() == ""
    assert "said" in terminal.getvalue()
