"""X8: validators that name files to train on. A sliver of stake, half of it, forged coins and chains, objects without end.

Every try is a network of its own with real keys, stake, buckets, verdicts and files, before the trainer's own intake. It is
accepted if a file is wanted that no honest majority accepted, if an honest file is not had, or if more is read of a hostile
bucket than its share. Honest twins go through the same code: all speak, or one of two equal validators is down, missed first
sight, or has lost the file it accepted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from grail_core.chain.base import Chain, Metagraph
from grail_core.protocol import MinerStatus, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.layout import file_key, verdict_key
from grail_trainer.data.intake import PATIENCE_BLOCKS, Intake, VerdictListener
from grail_trainer.data.refusals import MAX_REFUSED
from grail_trainer.data.wanted_files import WantedFiles
from tooling.adversaries.rows import Row, Try
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.speaking import opened, say, scored, unscored
from tooling.testing.watched import WatchedDirectory

HONEST, FORGED = b"the file that honest validators accepted", b"the file that somebody wants learned from"
TOO_LATE = Block(FIRST_WINDOW + 210)
SLIVER, BIG = 1, 10**12  # rao
_POLLS = 12  # of the trainer, before time goes on

YES, NO = MinerStatus.ACCEPTED, MinerStatus.FAILED


class Polls(threading.Event):
    """Nobody sleeps: with each pause something happens, and after a few of them the clock goes to where patience is over."""

    def __init__(self, network: Network, each: Callable[[int], object]) -> None:
        super().__init__()
        self._network, self._each, self._count = network, each, 0

    def wait(self, timeout: float | None = None) -> bool:
        self._count += 1
        self._each(self._count)
        if self._count == _POLLS:
            self._network.advance_to(FIRST_WINDOW + 36 + PATIENCE_BLOCKS)
        elif self._count == 2 * _POLLS:
            self._network.advance_to(TOO_LATE)
        return self.is_set()


class Staked:
    """A chain on which hotkeys hold what a case says; who has a permit stays as it is."""

    def __init__(self, inner: Chain, stake: Mapping[Hotkey, int]) -> None:
        self._inner, self._stake = inner, stake

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def metagraph(self, block: Block | None = None) -> Metagraph:
        there = self._inner.metagraph(block)
        neurons = (dataclasses.replace(one, stake=self._stake.get(one.hotkey, one.stake)) for one in there.neurons)
        return Metagraph(there.block, tuple(neurons))


@dataclass
class Outcome:
    """What the trainer's intake came to. `files` by miner's name, `reads` by validator's name."""

    files: dict[str, bytes]
    reads: dict[str, list[str]]
    reason: str


@dataclass
class Stage:
    """A network in its first window, its validators named by what they hold."""

    network: Network
    stake: Mapping[Hotkey, int]  # by hotkey
    each: Callable[[int], object] = lambda _: None

    def has(self, validator: str, data: bytes, under: bytes | None = None) -> None:
        """Bytes in a validator's bucket, under their own digest or another file's."""
        key = file_key(hashlib.sha256(data if under is None else under).digest())
        self.network.participant(validator).own_store.put(key, data)

    def accepts(self, validator: str, *files: tuple[str, bytes]) -> None:
        """An honest-looking verdict, and the files beside it."""
        for _, data in files:
            self.has(validator, data)
        say(self.network, validator, scored(self.network, {miner: (data, YES) for miner, data in files}))

    def says(self, validator: str, body: VerdictBody) -> None:
        say(self.network, validator, body)

    def outcome(self) -> Outcome:
        """Run the trainer's intake to its end, and read what it wants."""
        opened(self.network)
        participant = self.network.participant("trainer")
        watched = WatchedDirectory(participant.directory)
        chain: Any = Staked(participant.chain, self.stake)
        participant = dataclasses.replace(participant, directory=watched, chain=chain)
        stop = Polls(self.network, self.each)
        intake = VerdictListener(participant, max_windows_old=6).wait(FIRST_WINDOW, stop)
        assert isinstance(intake, Intake)
        files = WantedFiles(participant, FIRST_WINDOW, too_late=TOO_LATE)
        names = {signer.hotkey: name for name, signer in self.network.signers.items()}
        had = {names[wanted.hotkey]: data for wanted, data in files.each(intake, stop)}
        buckets = {self.network.directory(name).commitment(): name for name in self.network.signers}
        reads: dict[str, list[str]] = {}
        for commitment, key in watched.reads:
            reads.setdefault(buckets[commitment], []).append(key)
        return Outcome(had, reads, intake.reason)


@dataclass(frozen=True)
class Case:
    """A try: the stake of validator-0, validator-1, …, what they do, and what has to come of it."""

    name: str
    stake: Sequence[int]
    act: Callable[[Stage], None]
    files: Mapping[str, bytes] = field(default_factory=dict)
    most_reads: int | None = None  # of the last validator's bucket


EQUAL = (BIG, BIG)
ONE_HOLDS_ALL = (BIG, SLIVER)


def _forged(change: Callable[[VerdictBody], VerdictBody]) -> Callable[[Stage], None]:
    """validator-0 is honest, validator-1 of equal stake names another file in a verdict with one lie."""

    def act(stage: Stage) -> None:
        stage.accepts("validator-0", ("miner-0", HONEST))
        stage.has("validator-1", FORGED)
        claimed = {"miner-0": (HONEST, NO), "miner-1": (FORGED, YES)}
        stage.says("validator-1", change(scored(stage.network, claimed)))

    return act


def _each_miner(body: VerdictBody, **changes: Any) -> VerdictBody:
    return dataclasses.replace(body, miners=tuple(dataclasses.replace(miner, **changes) for miner in body.miners))


def _below_the_least(body: VerdictBody) -> VerdictBody:
    """No value of ours can say it; a liar's program has no such rule, and signs it."""
    forged = tuple(dataclasses.replace(miner) for miner in body.miners)
    for miner in forged:
        object.__setattr__(miner, "check_probability", Fraction(1, 20))
    return dataclasses.replace(body, miners=forged)


def _with_inputs(body: VerdictBody, **changes: Any) -> VerdictBody:
    return dataclasses.replace(body, inputs=dataclasses.replace(body.inputs, **changes))


def _undrawn(body: VerdictBody) -> VerdictBody:
    """Accepted beside two that fell, though its own coin did not."""
    return _each_miner(body, status=MinerStatus.NOT_SELECTED, checked=False)


def _sliver_names(stage: Stage) -> None:
    stage.accepts("validator-0", ("miner-0", HONEST))
    stage.accepts("validator-1", ("miner-1", FORGED))


def _sliver_alone(other: WindowStatus | None) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.accepts("validator-1", ("miner-1", FORGED))
        if other is not None:
            stage.says("validator-0", unscored(stage.network, other))

    return act


def _half_against_half(stage: Stage) -> None:
    stage.accepts("validator-0", ("miner-0", HONEST))
    stage.has("validator-1", FORGED)
    stage.says("validator-1", scored(stage.network, {"miner-0": (HONEST, YES), "miner-1": (FORGED, YES)}))


def _void_majority(stage: Stage) -> None:
    stage.accepts("validator-1", ("miner-0", HONEST))
    stage.has("validator-0", FORGED)
    named = dataclasses.replace(scored(stage.network, {"miner-1": (FORGED, YES)}), status=WindowStatus.VOID)
    stage.says("validator-0", named)


def _borrowed_voice(stage: Stage) -> None:
    """Somebody else's signed verdict in one's own bucket."""
    stage.accepts("validator-0", ("miner-0", HONEST))
    key = verdict_key(FIRST_WINDOW)
    theirs = stage.network.participant("validator-0").own_store.get(key, max_bytes=MAX_VERDICT_BYTES)
    stage.network.participant("validator-1").own_store.put(key, theirs)


def _other_window(stage: Stage) -> None:
    """A verdict of the right hotkey about another window, under this window's key."""
    stage.accepts("validator-0", ("miner-0", HONEST))
    network, signer = stage.network, stage.network.signers["validator-1"]
    body = dataclasses.replace(scored(network, {"miner-1": (FORGED, YES)}), window=Window(FIRST_WINDOW + 30))
    verdict = SignedVerdict(body, signer.hotkey, signer.sign(SignedVerdict.message(body, signer.hotkey)))
    network.participant("validator-1").own_store.put(verdict_key(FIRST_WINDOW), verdict.encode())


def _oversize_verdict(stage: Stage) -> None:
    stage.accepts("validator-0", ("miner-0", HONEST))
    _sparse(stage, "validator-1", verdict_key(FIRST_WINDOW), MAX_VERDICT_BYTES + 1)


def _new_garbage_at_every_look(stage: Stage) -> None:
    stage.accepts("validator-0", ("miner-0", HONEST))
    store = stage.network.participant("validator-1").own_store
    store.put(verdict_key(FIRST_WINDOW), b"0")
    stage.each = lambda poll: store.put(verdict_key(FIRST_WINDOW), str(poll).encode())


def _other_bytes(stage: Stage) -> None:
    for validator in ("validator-0", "validator-1"):
        stage.accepts(validator, ("miner-0", HONEST))
    stage.has("validator-1", FORGED, under=HONEST)


def _oversize_file(stage: Stage) -> None:
    for validator in ("validator-0", "validator-1"):
        stage.accepts(validator, ("miner-0", HONEST))
    _sparse(stage, "validator-1", file_key(hashlib.sha256(HONEST).digest()), MAX_FILE_BYTES + 1)


def _lost_file(stage: Stage) -> None:
    for validator in ("validator-0", "validator-1"):
        stage.accepts(validator, ("miner-0", HONEST), ("miner-1", b"a file that nobody has any more"))
        stage.network.participant(validator).own_store.delete(
            file_key(hashlib.sha256(b"a file that nobody has any more").digest())
        )


def _sparse(stage: Stage, validator: str, key: str, size: int) -> None:
    """An object that is large and costs its owner nothing."""
    stage.network.participant(validator).own_store.put(key, b"")
    os.truncate(stage.network.root / "buckets" / f"bucket-{validator}" / key, size)


WANTED = {"miner-0": HONEST}
CASES = (
    Case("a sliver of stake names a file", ONE_HOLDS_ALL, _sliver_names, WANTED, most_reads=0),
    Case("a sliver of stake, all others silent", ONE_HOLDS_ALL, _sliver_alone(None)),
    Case("a sliver of stake, all others void", ONE_HOLDS_ALL, _sliver_alone(WindowStatus.VOID)),
    Case("a sliver of stake, all others inconclusive", ONE_HOLDS_ALL, _sliver_alone(WindowStatus.INCONCLUSIVE)),
    Case("half of the stake names a file that the other half did not draw", EQUAL, _half_against_half, WANTED),
    Case("half of the stake with forged coins", EQUAL, _forged(lambda body: _each_miner(body, coin=7)), WANTED),
    Case("half of the stake, not drawn against its coin", EQUAL, _forged(_undrawn), WANTED),
    Case("half of the stake, drawn with less than any miner is", EQUAL, _forged(_below_the_least), WANTED),
    Case("half of the stake on another chain", EQUAL, _forged(lambda body: _with_inputs(body, block_hash=b"x" * 32)), WANTED),
    Case(
        "half of the stake with another beacon round",
        EQUAL,
        _forged(lambda body: _with_inputs(body, challenge_round=1)),
        WANTED,
    ),
    Case(
        "half of the stake with another checkpoint",
        EQUAL,
        _forged(lambda body: _with_inputs(body, checkpoint_digest=Digest(b"x" * 32))),
        WANTED,
    ),
    Case("half of the stake without inputs", EQUAL, _forged(lambda body: _with_inputs(body, block_hash=None)), WANTED),
    Case("a void verdict that names a file, with half of the stake", EQUAL, _void_majority, WANTED),
    Case("another validator's verdict", EQUAL, _borrowed_voice, WANTED, most_reads=1),
    Case("a verdict of another window", EQUAL, _other_window, WANTED, most_reads=1),
    Case("an oversize verdict", EQUAL, _oversize_verdict, WANTED, most_reads=0),
    Case("new garbage in place of a verdict at every look", EQUAL, _new_garbage_at_every_look, WANTED, most_reads=MAX_REFUSED),
    Case("other bytes under the digest", (BIG, 2 * BIG), _other_bytes, WANTED, most_reads=2),
    Case("an oversize file under the digest", (BIG, 2 * BIG), _oversize_file, WANTED, most_reads=1),
)


def _both(stage: Stage) -> None:
    for validator in ("validator-0", "validator-1"):
        stage.accepts(validator, ("miner-0", HONEST))


def _one(other: WindowStatus | None) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.accepts("validator-0", ("miner-0", HONEST))
        if other is not None:
            stage.says("validator-1", unscored(stage.network, other))

    return act


TWINS = (
    Case("all validators speak", EQUAL, _both, WANTED),
    Case("one of two equal validators is down", EQUAL, _one(None), WANTED),
    Case("one of two equal validators missed first sight", EQUAL, _one(WindowStatus.INCONCLUSIVE), WANTED),
    Case("one of two equal validators found the window void", EQUAL, _one(WindowStatus.VOID), WANTED),
    Case("a sliver of stake is down", ONE_HOLDS_ALL, _one(None), WANTED),
    Case("of two accepted files one is lost", EQUAL, _lost_file, WANTED),
)


def run_x8() -> dict[str, Any]:
    """Every case once, each in a network of its own."""
    row = Row("X8", "window")
    with tempfile.TemporaryDirectory() as folder:
        model = save_byte_model(Path(folder) / "model")
        for number, case in enumerate((*CASES, *TWINS)):
            wrong = play(case, Path(folder) / str(number), model)
            if case in CASES:
                row.tries.append(Try(case.name, bool(wrong), "" if wrong else "quorum", wrong))
            else:
                row.honest_tries += 1
                row.honest_false_rejects += bool(wrong)
    return row.to_json()


def play(case: Case, folder: Path, model: Path) -> str:
    """What went wrong for the network, "" where nothing did."""
    folder.mkdir()
    network = Network(folder, miners=2, validators=len(case.stake), model=model)
    stake = {network.signers[f"validator-{number}"].hotkey: amount for number, amount in enumerate(case.stake)}
    stage = Stage(network, stake)
    network.advance_to(FIRST_WINDOW + 1)
    case.act(stage)
    outcome = stage.outcome()
    if outcome.files != case.files:
        return f"files had: {outcome.files or outcome.reason}"
    last = f"validator-{len(case.stake) - 1}"
    read = outcome.reads.get(last, [])
    if case.most_reads is not None and len(read) > case.most_reads:
        return f"{len(read)} objects of {last} were read: {read}"
    return ""


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"X8": run_x8}
