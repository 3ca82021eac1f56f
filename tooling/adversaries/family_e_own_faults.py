"""E3, E13: what breaks on a validator's side, and what breaks under all of them, while miners do honest work.

Nobody here lies but machine, store, chain and beacon. A try is accepted if a miner is failed, looked back at or unpaid for it,
or, for E3, if a second such window within 72 counts nothing (amendment A7): who finds out how to break us would live by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from grail_core.chain.base import BlockInfo
from grail_core.child_process.memory import available_bytes
from grail_core.environment import Environment, EnvironmentSpec, Grade, GradeOutcome, Message, Problem
from grail_core.errors import BeaconError, ChainError
from grail_core.files.confined import opening
from grail_core.protocol import MinerStatus, VerdictBody, WindowStatus
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import NoAnswerError, ObjectStore, StoreDirectory
from grail_core.storage.layout import WINDOW_PREFIX
from grail_validator.cases import Sighting
from grail_validator.ledger import PublishedFiles
from grail_validator.service import ValidatorService
from tooling.adversaries.crowd import HONEST, Crowd, crowd_of, honest, published
from tooling.adversaries.rows import Row, Try
from tooling.testing.bodies import accepted_body
from tooling.testing.driven_chain import Unhurried
from tooling.testing.faults import faulty
from tooling.testing.small_network import FIRST_WINDOW

OTHER = "another honest miner"
AUDITED = 13
"""Windows in which both miners were found valid before: enough for one window that a fault of ours may cost for nothing."""
FIRST = Window(FIRST_WINDOW + 30 * AUDITED)


@dataclass
class Fault:
    """Something that breaks while `on`."""

    on: bool = False


# --- E3 ---------------------------------------------------------------------------------------------------------------


def e3(*, quick: bool = False) -> dict[str, Any]:
    """Each fault in two windows of two supported miners, and none in a third."""
    row = Row("E3", "windows with a fault of ours")
    for name, breaking in list(FAULTS.items())[:: 2 if quick else 1]:
        with crowd_of({OTHER: lambda liar: liar.pack(liar.groups())}) as crowd:
            with breaking(crowd) as (validator, fault):
                remember(crowd, validator)
                fault.on = True
                first, second = (_judged(crowd, validator, Window(FIRST + 30 * number)) for number in range(2))
                fault.on = False
                third = _judged(crowd, validator, Window(FIRST + 60))
            for miner in (HONEST, OTHER):
                row.tries.append(_spared(f"{name}, the first time", crowd, first, miner, counted=False))
                row.tries.append(_spared(f"{name}, the second", crowd, second, miner, counted=True))
                honest(row, crowd.verdict(third, miner))
    return row.to_json()


def _judged(crowd: Crowd, validator: ValidatorService, window: Window) -> VerdictBody:
    crowd.mine(window)
    (body,) = crowd.judge(validator, window=window)
    return body


def _spared(name: str, crowd: Crowd, body: VerdictBody, miner: str, *, counted: bool) -> Try:
    """Inconclusive, unpunished, still paid for what it did before; counted as an audit from the second time on."""
    if body.status is not WindowStatus.SCORED:
        return Try(name, True, "", f"the window is {body.status.value}: {body.reason}")
    verdict = crowd.verdict(body, miner)
    punished = verdict.status is MinerStatus.FAILED or body.score_inputs[verdict.uid].in_lookback
    unpaid = body.weights[verdict.uid] == 0
    wrong = verdict.status is not MinerStatus.INCONCLUSIVE or punished or unpaid or verdict.checked != counted
    words = "counts as an audit without valid work" if verdict.checked else "counts nothing"
    return Try(name, wrong, verdict.status.value, f"{verdict.status.value}, {words}: {verdict.reason}")


def remember(crowd: Crowd, validator: ValidatorService) -> None:
    """The validator has found both miners valid in all windows before `FIRST`."""
    hotkeys = [crowd.network.signers[crowd.miner(name)].hotkey for name in (HONEST, *crowd.lies)]
    for number in range(AUDITED):
        window = Window(FIRST_WINDOW + 30 * number)
        validator.ledger.record_sightings(window, [Sighting(hotkey) for hotkey in hotkeys])
        body = accepted_body(window, hotkeys, validator.participant.network_id)
        validator.ledger.record_judged(window, body, PublishedFiles(b"", b""), {}, {})
        validator.ledger.record_published(window)


Breaking = Callable[[Crowd], Any]


@contextmanager
def _no_memory(crowd: Crowd) -> Iterator[tuple[ValidatorService, Fault]]:
    """No memory is free for a child that would open a file."""
    fault = Fault()
    with patch.object(opening, "available_bytes", lambda: 0 if fault.on else available_bytes()):
        yield crowd.validator(), fault


class _Grader:
    """The network's environment on a machine that breaks."""

    def __init__(self, inner: Environment, fault: Fault, grade: Callable[[], Grade]) -> None:
        self._inner, self._fault, self._grade = inner, fault, grade

    @property
    def spec(self) -> EnvironmentSpec:
        return self._inner.spec

    def problem(self, seed: int) -> Problem:
        return self._inner.problem(seed)

    def messages(self, problem: Problem) -> list[Message]:
        return self._inner.messages(problem)

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self._grade() if self._fault.on else self._inner.grade(problem, completion)


def _grading(grade: Callable[[], Grade]) -> Breaking:
    @contextmanager
    def breaking(crowd: Crowd) -> Iterator[tuple[ValidatorService, Fault]]:
        fault, validator = Fault(), crowd.validator()
        grader = _Grader(crowd.network.environment, fault, grade)
        validator.environment_of = lambda manifest: grader
        yield validator, fault

    return breaking


def _raises(error: Exception) -> Callable[[], Grade]:
    def grade() -> Grade:
        raise error

    return grade


@dataclass
class _Silent:
    """Buckets of which no window file comes while the fault is on."""

    inner: StoreDirectory
    fault: Fault = field(default_factory=Fault)

    def own(self) -> ObjectStore:
        return self.inner.own()

    def commitment(self) -> str:
        return self.inner.commitment()

    def open(self, commitment: str) -> ObjectStore:
        store: Any = _SilentStore(self.inner.open(commitment), self.fault)
        return store  # type: ignore[no-any-return]


class _SilentStore:
    def __init__(self, inner: ObjectStore, fault: Fault) -> None:
        self._inner, self._fault = inner, fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            if self._fault.on and arguments and str(arguments[0]).startswith(WINDOW_PREFIX):
                raise NoAnswerError("no answer in time", where=str(arguments[0]))
            return found(*arguments, **options)

        return call


@contextmanager
def _no_store(crowd: Crowd) -> Iterator[tuple[ValidatorService, Fault]]:
    directory = _Silent(crowd.network.participant("validator-0").directory)
    yield crowd.validator(directory=directory), directory.fault


FAULTS: dict[str, Breaking] = {
    "no memory to open a file": _no_memory,
    "every worker of the sandbox is lost": _grading(lambda: Grade(0.0, False, False, outcome=GradeOutcome.INCONCLUSIVE)),
    "the grader's machine is out of memory": _grading(_raises(MemoryError())),
    "the grader's machine has no more processes": _grading(_raises(OSError(11, "no processes"))),
    "no store answers in time": _no_store,
}


# --- E13 --------------------------------------------------------------------------------------------------------------


def e13() -> dict[str, Any]:
    """A beacon that is late, a chain that stalls or goes back: void for everybody, or as if nothing had happened."""
    row = Row("E13", "windows of two validators")
    for name, outage in {"the beacon is late": _beacon, "the chain answers with its best block alone": _blocks}.items():
        with crowd_of({}, validators=2) as crowd:
            before = _both(crowd, FIRST_WINDOW, None)
            void = _both(crowd, Window(FIRST_WINDOW + 30), outage)
            after = crowd.next_window(after=crowd.network.chain.current_block())
            crowd.mine(after)
            row.tries.append(_void_for_all(name, crowd, before, void))
            for body in crowd.judge(*(crowd.validator(f"validator-{number}") for number in range(2)), window=after):
                honest(row, crowd.verdict(body, HONEST))
        with crowd_of({}, validators=2) as crowd:
            bodies = _both(crowd, FIRST_WINDOW, outage, heals=True)
            alike = bodies[0].canonical() == bodies[1].canonical() and bodies[0].status is WindowStatus.SCORED
            row.tries.append(
                Try(f"{name}, and heals", not alike, "waited for", f"{bodies[0].status.value} by both, alike: {alike}")
            )
    _orphaned(row)
    return row.to_json()


def _both(crowd: Crowd, window: Window, outage: Callable[..., Any] | None, *, heals: bool = False) -> list[VerdictBody]:
    """One window by both validators; `outage` hits the first, or, where it does not heal, both, until it is too late."""
    crowd.mine(window)
    network = crowd.network
    too_late = network.participant("validator-0").times(window).void_block + 1
    network.advance_to(window + 30)
    bodies = []
    validators, faults = [], []
    for number in range(2):
        fault = Fault()
        broken = {} if outage is None or (heals and number) else outage(crowd, fault)
        validators.append(crowd.validator(f"validator-{number}", **broken))
        faults.append(fault)
        validators[-1].first_sight.sight(window)
    network.advance_to(window + 42)
    for validator, fault in zip(validators, faults, strict=True):
        fault.on = outage is not None

        def passing(count: int, fault: Fault = fault) -> None:
            if heals and count == 2:
                fault.on = False
            elif not heals:
                network.advance_to(too_late)

        validator.advance(window, Unhurried(passing))
        bodies.append(published(validator, window))
    return bodies


def _beacon(crowd: Crowd, fault: Fault) -> dict[str, Any]:
    late = BeaconError("no relay has it")
    return {"beacon": faulty(crowd.network.beacon, get=lambda call: late if fault.on else None)}


def _blocks(crowd: Crowd, fault: Fault) -> dict[str, Any]:
    return {"chain": _Forgetful(crowd.network.chain, fault)}


def _void_for_all(name: str, crowd: Crowd, before: list[VerdictBody], bodies: list[VerdictBody]) -> Try:
    """The same bytes by both; no miner is named, and scores go on from what was."""
    first, second = bodies
    void = first.status is WindowStatus.VOID and not first.miners and first.canonical() == second.canonical()
    uid = crowd.verdict(before[0], HONEST).uid
    paid = first.weights[uid] == before[0].weights[uid] > 0 and not first.score_inputs[uid].in_lookback
    message = f"{first.status.value} and {second.status.value}: {first.reason}; paid as before: {paid}"
    return Try(name, not (void and paid), "void", message)


class _Forgetful:
    """A chain that shows its best block alone. One that shows none is waited for: nothing is said without it."""

    def __init__(self, inner: Any, fault: Fault) -> None:
        self._inner, self._fault = inner, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def block(self, number: Block) -> BlockInfo:
        if self._fault.on and number < self._inner.current_block():
            raise ChainError("no answer")
        info: BlockInfo = self._inner.block(number)
        return info


class _Forked:
    """A chain seen from a fork: the window's first block is another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def block(self, number: Block) -> BlockInfo:
        info: BlockInfo = self._inner.block(number)
        return replace(info, hash=bytes(32)) if number == Block(FIRST_WINDOW) else info


def _orphaned(row: Row) -> None:
    """Work for a block that a reorganisation took back: absent, and no more than that."""
    with crowd_of({OTHER: lambda liar: liar.pack(liar.groups())}) as crowd:
        network = crowd.network
        network.advance_to(FIRST_WINDOW + 1)
        finalised, network.chain = network.chain, _Forked(network.chain)  # type: ignore[assignment]
        orphan = crowd.liar(OTHER)
        orphan.seal(orphan.pack(orphan.groups()))
        network.chain = finalised
        twin = crowd.liar(HONEST)
        twin.seal(twin.pack(twin.groups()))
        network.advance_to(FIRST_WINDOW + 30)
        validator = crowd.validator()
        (body,) = crowd.judge(validator)
        verdict = crowd.verdict(body, OTHER)
        fair = verdict.status is MinerStatus.ABSENT and not verdict.active and not body.score_inputs[verdict.uid].in_lookback
        row.tries.append(Try("work for an orphaned block", not fair, "seal", f"{verdict.status.value}: {verdict.reason}"))
        honest(row, crowd.verdict(body, HONEST))
        following = _judged(crowd, validator, Window(FIRST_WINDOW + 30))
        honest(row, crowd.verdict(following, OTHER))


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"E3": e3, "E13": e13}
