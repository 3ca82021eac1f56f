"""A whole subnet in one process: what is promised of verdicts holds whatever goes wrong, and a seed is a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grail_core.proof.calibration import shipped_table
from grail_core.protocol import MinerStatus
from grail_core.verification.examine import Examination
from grail_core.verification.wording import accept
from grail_validator import judging
from grail_validator.cases import Sighting
from grail_validator.simulation.command import simulate
from grail_validator.simulation.subnet import validator
from grail_validator.simulation.subnet.faults import Fault, Faults
from grail_validator.simulation.subnet.made_up_files import MadeUpFile
from grail_validator.simulation.subnet.memory_ledger import MemoryLedger
from grail_validator.simulation.subnet.run import Plan, live
from tooling.testing import plain_case as kit
from tooling.testing import plain_window as plain

ALL = tuple(fault.value for fault in Fault)


def test_validators_that_nothing_befalls_say_the_same_in_every_window() -> None:
    outcome = live(Plan(1, 12, 16, 3))
    assert outcome.broken == ()
    assert outcome.counts["scored"] == 36
    assert outcome.counts["equal"] == outcome.counts["judged by two"] == 36
    assert outcome.counts["failed miners"] > 0
    assert outcome.pay["Honest(groups=12)"] == 1.0
    assert outcome.counts["had to be equal"] == 36
    for caught in ("Junk(share=0.8, groups=12, junk=12)", "Unreadable(share=0.2)", "Withholding(share=0.2)"):
        assert outcome.pay[caught] < 0.1


@pytest.mark.parametrize("kind", ALL)
def test_every_promise_holds_under_each_kind_of_fault(kind: str) -> None:
    outcome = live(Plan(2, 16, 8, 2, (kind,), faulty=14))
    assert outcome.broken == ()
    assert outcome.counts["judged by two"] > 0


def test_a_seed_is_a_run() -> None:
    plan = Plan(7, 12, 8, 2, ALL, faulty=10)
    first: list[str] = []
    again: list[str] = []
    outcome = live(plan, first.append)
    assert live(plan, again.append) == outcome
    assert first == again
    assert any("killed at write" in line for line in first)
    assert live(replace(plan, seed=8)).digest != outcome.digest


@pytest.mark.heavy
def test_the_real_ledger_gives_the_same_run(tmp_path: Path) -> None:
    plan = Plan(6, 5, 8, 2, ("restart", "machine", "partition"))
    lines: list[str] = []
    assert live(plan, lines.append) == replace(live(replace(plan, ledgers=tmp_path)), plan=plan)
    assert any("killed at write" in line for line in lines)


def _accepts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(file: bytes, *_: Any, **__: Any) -> Examination:
        return Examination((accept("file"),), None, MadeUpFile.decode(file).identities())

    monkeypatch.setattr(validator, "Examiner", lambda _: examine)


def _forgets_what_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryLedger, "counted", lambda *_: frozenset())


def _blames_the_miner_for_a_lost_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    real = judging._verdict

    def verdict(one: Any, status: MinerStatus, **options: Any) -> Any:
        return real(one, MinerStatus.FAILED if status is MinerStatus.INCONCLUSIVE else status, **options)

    monkeypatch.setattr(judging, "_verdict", verdict)


def _pays_whoever_holds_the_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "weights_now", lambda weights, *_: dict(weights))


def _counts_no_second_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "counts_inconclusive", lambda *_: False)


def _often(faults: Faults, index: int, window: int, uid: int) -> bool:
    return Fault.MACHINE in faults.kinds and faults.chance("often", index, window, uid) < 0.2


@pytest.mark.parametrize(
    ("breaks", "kinds", "said", "windows"),
    [
        (_accepts_everything, (), "accepted, though", 6),
        (_forgets_what_was_counted, (), "rollouts counted", 10),
        (_blames_the_miner_for_a_lost_worker, ("machine",), "failed without a fault", 4),
        (_counts_no_second_fault, ("machine",), "otherwise than A7 says", 8),
        (_pays_whoever_holds_the_uid, ("recycle",), "weights of others", 24),
    ],
)
def test_a_validator_that_breaks_a_promise_is_seen(
    breaks: Callable[[pytest.MonkeyPatch], None], kinds: tuple[str, ...], said: str, windows: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        breaks(monkeypatch)
        monkeypatch.setattr(Faults, "machine_fails", _often)
        broken = live(Plan(3, windows, 24, 1, kinds)).broken
    assert any(said in line for line in broken), broken[:3]


def test_the_command_prints_the_log_of_a_seed_and_names_its_faults() -> None:
    arguments = ["--faults", "restart,lag", "--seed", "4", "--windows", "20", "--miners", "8"]
    first, again = (CliRunner().invoke(simulate, arguments) for _ in range(2))
    assert first.exit_code == 0
    assert first.output == again.output
    assert "window 0: scored" in first.output
    assert "0 promises broken" in first.output
    told = json.loads(CliRunner().invoke(simulate, [*arguments, "--json"]).output)
    assert told["digest"] in first.output
    refused = CliRunner().invoke(simulate, ["--faults", "weather"])
    assert refused.exit_code == 2
    assert "partition" in refused.output
    every = [CliRunner().invoke(simulate, ["--faults", kinds, *arguments[2:]]).output for kinds in ("all", "rpc, all")]
    assert every[0] == every[1]


def test_a_seal_that_came_too_late_is_told_as_none_at_all_whoever_has_seen_it() -> None:
    late = kit.stored(0, kit.honest()).announcement
    seen = replace(late, in_time=False)
    unseen = replace(seen, sighting=Sighting(late.neuron.hotkey))
    told = [
        judging.open_docket(
            kit.CONTEXT, plain.challenge(kit.CONTEXT), [one], kit.STANDING.memory, kit.SHAPE, shipped_table()
        ).refused
        for one in (seen, unseen)
    ]
    assert told[0] == told[1]
    assert told[0][0].status is MinerStatus.ABSENT


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(10, 22))
def test_every_promise_holds_under_all_faults_at_once(seed: int) -> None:
    assert live(Plan(seed, 160, 24, 3, ALL, faulty=120)).broken == ()


@pytest.mark.heavy
def test_validators_say_the_same_again_once_memory_has_passed() -> None:
    lines: list[str] = []
    outcome = live(Plan(5, 260, 16, 2, ALL, faulty=60), lines.append)
    assert outcome.broken == ()
    last = [line.split("body ")[1] for line in lines if "window 7770: scored" in line]
    assert len(last) == 2
    assert last[0] == last[1]
