"""E5, E8, E11: work that is to take long, and classes of numerics that are to be forgiving.

What the model and its float32 reference are made to do is counted, not timed: tokens of forward passes, rows of the head, draws
that are gone over again; apart from it, the passes under named alternatives, which a file costs only if nothing rejects it.
E5 puts stores that never end before a validator as shipped, and the largest file before the checks; E11 one long row among
short ones, and tokens that nobody would draw. A try is accepted if a count lies above what the protocol lets any file ask for,
or if a miner beside it is not judged. E8 is about what a header says of its own arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.files.window_file import read_window_file, write_window_file
from grail_core.generation.base import Completion
from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import Shape, shipped_table
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol import MinerStatus, RolloutRecord, Seal, WindowHeader, header_digest
from grail_core.protocol.constants import (
    ROLLOUTS_PER_PROBLEM,
    UNIQUE_ROLLOUTS_CAP,
)
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore, StoreDirectory
from grail_core.storage.layout import WINDOW_PREFIX
from grail_core.storage.s3 import S3Store
from grail_core.verification.seal import read_seal
from grail_miner.groups import Group
from tooling.adversaries.counted_work import Works, counted
from tooling.adversaries.courtroom import Courtroom
from tooling.adversaries.courtroom import Ruling as Judgement
from tooling.adversaries.crowd import HONEST, Crowd, Liar, Lie, crowd_of, honest, ruling
from tooling.adversaries.deviations.observation import Rollout
from tooling.adversaries.family_x_stores import HOSTILE_STORES
from tooling.adversaries.rows import Row, Try
from tooling.adversaries.tampering import FORGED_SKETCHES, as_tokens, constant_sketches, zero_sketches
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, save_byte_model
from tooling.testing.s3_server import ANYONE, BUCKET
from tooling.testing.scripted_server import ScriptedServer
from tooling.testing.small_network import FIRST_WINDOW

# --- files before the checks ------------------------------------------------------------------------------------------


@contextmanager
def _court(limit: int) -> Iterator[Courtroom]:
    with TemporaryDirectory(prefix="grail-attacks-") as folder:
        model = save_byte_model(Path(folder) / "model")
        (Path(folder) / "network").mkdir()
        yield Courtroom(Path(folder) / "network", model, max_tokens=limit, end=END_TOKEN_ID)


def _judged(court: Courtroom, groups: Sequence[Group]) -> tuple[Judgement, Works]:
    data = court.pack(groups)
    with counted(len(court.alternatives().weights)) as works:
        return court.examine(data), works


def _written(court: Courtroom, groups: Sequence[int], completion: Callable[[int, int], list[int]]) -> list[Group]:
    """Rows that cost nothing to make: the right prompts, the rewards that the texts earn, no model behind any claim."""
    made = []
    for group in groups:
        prompt = court.prompt(group)
        texts = [completion(group, rollout) for rollout in range(ROLLOUTS_PER_PROBLEM)]
        records = [
            RolloutRecord(
                group,
                rollout,
                as_tokens((*prompt, *text)),
                len(prompt),
                np.full(len(text), -1, np.float32),
                constant_sketches(len(text) + 1),
                0.0,
                False,
            )
            for rollout, text in enumerate(texts)
        ]
        made.append(Group(group, tuple(records)))
    return court.graded_again(made)


# --- E5 ---------------------------------------------------------------------------------------------------------------

_SLOW = ("never answers", "drips its body", "sends without end", "announces 50 GB")
_BESIDE = 5
"""Honest miners beside them: with fewer, most files could not be had, and that is the validator's own fault."""
BLOCK_TIME_MS = 150
"""Of the network of slow stores: all times of the protocol are in blocks, so that its budgets are over in a second."""


def e5() -> dict[str, Any]:
    """Stores that take what time they get, and the largest files there are."""
    row = Row("E5", "miners of one window")
    with ExitStack() as servers:
        slow = {name: servers.enter_context(ScriptedServer(HOSTILE_STORES[name])) for name in _SLOW}
        lies: dict[str, Lie] = {name: lambda liar: liar.pack(liar.groups()) for name in (*slow, *_beside())}
        with crowd_of(lies, block_time_ms=BLOCK_TIME_MS) as crowd:
            crowd.mine()
            inner = crowd.network.participant("validator-0").directory
            addresses = {crowd.network.directory(crowd.miner(name)).commitment(): server.url for name, server in slow.items()}
            (body,) = crowd.judge(crowd.validator(directory=_Elsewhere(inner, addresses)))
            for name in slow:
                verdict = crowd.verdict(body, name)
                message = f"{verdict.status.value}: {verdict.reason}"
                row.tries.append(Try(f"its store {name}", verdict.status is not MinerStatus.FAILED, "file", message))
            for name in (HONEST, *_beside()):
                honest(row, crowd.verdict(body, name))
    _largest_files(row)
    return row.to_json()


def _beside() -> list[str]:
    return [f"honest too {number}" for number in range(_BESIDE)]


def _largest_files(row: Row) -> None:
    most = -(-UNIQUE_ROLLOUTS_CAP // ROLLOUTS_PER_PROBLEM)
    with _court(8) as court:
        for count in (most, 4):
            junk = _written(court, range(count), lambda group, rollout: [97 + rollout] * 7 + [END_TOKEN_ID])
            judgement, work = _judged(court, junk)
            above = work.above(max(len(record.tokens) for group in junk for record in group.rollouts))
            wrong = bool(above) or judgement.accepted
            message = f"{16 * count} rollouts: {work}; above what there may be: {', '.join(above) or 'nothing'}"
            row.tries.append(Try(f"a file of {count} groups", wrong, judgement.caught_by, message))


@dataclass
class _Elsewhere:
    """Buckets, the window files of some of which are handed out by real servers that take their time."""

    inner: StoreDirectory
    addresses: dict[str, str]  # by commitment

    def own(self) -> ObjectStore:
        return self.inner.own()

    def commitment(self) -> str:
        return self.inner.commitment()

    def open(self, commitment: str) -> ObjectStore:
        store = self.inner.open(commitment)
        if commitment not in self.addresses:
            return store
        elsewhere: Any = _FilesElsewhere(store, S3Store(self.addresses[commitment], BUCKET, ANYONE, read_only=True))
        return elsewhere  # type: ignore[no-any-return]


class _FilesElsewhere:
    def __init__(self, inner: ObjectStore, files: ObjectStore) -> None:
        self._inner, self._files = inner, files

    def __getattr__(self, name: str) -> Any:
        def call(key: str, *arguments: Any, **options: Any) -> Any:
            store = self._files if key.startswith(WINDOW_PREFIX) else self._inner
            return getattr(store, name)(key, *arguments, **options)

        return call


# --- E11 --------------------------------------------------------------------------------------------------------------

_LONG = 256


def e11() -> dict[str, Any]:
    """Rows that make a batch long, and claims that make a position dear: bounded, and the same as for honest rows so long."""
    row = Row("E11", "files")
    with _court(_LONG) as court:
        short = [97, END_TOKEN_ID]
        long = [98] * (_LONG - 1) + [END_TOKEN_ID]
        shapes = {
            "one long row in every group": lambda group, rollout: long if rollout == 15 else short,
            "one long row in the file": lambda group, rollout: long if (group, rollout) == (0, 0) else short,
            "every row long": lambda group, rollout: long,
        }
        for name, shape in shapes.items():
            groups = _written(court, range(6), shape)
            judgement, work = _judged(court, groups)
            above = work.above(max(len(record.tokens) for group in groups for record in group.rollouts))
            message = f"{work}; above what there may be: {', '.join(above) or 'nothing'}"
            row.tries.append(Try(name, bool(above) or judgement.accepted, judgement.caught_by, message))
    with _court(24) as court:
        made = court.honest(range(2))
        judgement, due = _judged(court, made)
        bounded = not due.above(max(len(record.tokens) for group in made for record in group.rollouts))
        row.honest_tries, row.honest_false_rejects = 1, int(not (judgement.accepted and bounded and due.comparing.rows))
        for name, changed in {
            "tokens that nobody draws": _unlikely(court, made),
            "log-probabilities of -1e30": _sure(made),
        }.items():
            judgement, work = _judged(court, changed)
            longest = max(len(record.tokens) for group in changed for record in group.rollouts)
            dearer = work.measuring.passes != due.measuring.passes or bool(work.above(longest))
            message = f"{work}; honest rows of these lengths: {due}"
            row.tries.append(Try(name, dearer or judgement.accepted, judgement.caught_by, message))
    return row.to_json()


def _unlikely(court: Courtroom, groups: Sequence[Group]) -> list[Group]:
    """In place of each token the one that the model holds for least likely there, with a proof by the right model."""
    rollouts: list[Rollout] = []
    for group in groups:
        for record in group.rollouts:
            (states,) = court.model.hidden_states([record.tokens.tolist()])
            least = court.model.logits(states)[:, :END_TOKEN_ID].argmin(dim=1)
            text = least[record.prompt_length - 1 : -1].tolist()
            last = record.completion.tolist()[-1]
            text = [*text[:-1], last if last == END_TOKEN_ID else text[-1]]
            tokens = (*record.prompt.tolist(), *text)
            rollouts.append(Rollout(group.group, record.rollout, tokens, record.prompt_length))
    claims: list[RolloutProof] = []
    for start in range(0, len(rollouts), ROLLOUTS_PER_PROBLEM):
        batch = rollouts[start : start + ROLLOUTS_PER_PROBLEM]
        prompt = batch[0].tokens[: batch[0].prompt_length]
        answers = [Completion(tuple(one.tokens[one.prompt_length :])) for one in batch]
        claims += court.mining.prove(court.context, court.loaded, prompt, answers)
    return court.groups_of(rollouts, claims)


def _sure(groups: Sequence[Group]) -> list[Group]:
    return [
        Group(
            one.group,
            tuple(replace(record, logprobs=np.full_like(record.logprobs, -1e30)) for record in one.rollouts),
        )
        for one in groups
    ]


# --- E8 ---------------------------------------------------------------------------------------------------------------

SECOND_WINDOW = Window(FIRST_WINDOW + 30)


def e8() -> dict[str, Any]:
    """Either class false: not on the list, not calibrated, another one than in the window before, the widest for a lie."""
    row = Row("E8", "miners of one network")
    with crowd_of({}) as crowd:
        admitted = crowd.network.params.proof_classes
    foreign = {name for name in NUMERICS_CLASSES if name not in admitted} | {"fp64-exact-abacus-none"}
    lies: dict[str, Lie] = {}
    for number, name in enumerate(sorted(foreign)):  # by turns: of both, more than a crowd has room for
        if number % 2:
            lies[f"generation class {name}"] = _classed(generation_class=name)
        else:
            lies[f"proof class {name}"] = _classed(proof_class=name)
    expected = dict.fromkeys(lies, "seal")
    for name in admitted:
        for lie, change in {"no model": zero_sketches, "random sketches": FORGED_SKETCHES["random normal"]}.items():
            lies[f"{lie}, as {name}"] = _classed(change, proof_class=name, generation_class=name)
            expected[f"{lie}, as {name}"] = "proof"
    lies |= {f"first {name}, then {other}": _switching(name, other) for name in admitted for other in admitted if name != other}
    lies["always eager"] = _truly("eager")
    with crowd_of(lies) as crowd:
        crowd.mine()
        (first,) = crowd.judge(crowd.validator())
        crowd.mine(SECOND_WINDOW)
        (second,) = crowd.judge(crowd.validator(), window=SECOND_WINDOW)
        for name in lies:
            if name in expected:
                row.tries.append(ruling(name, crowd.verdict(first, name), expected[name]))
            elif name.startswith("first "):
                honest(row, crowd.verdict(first, name))
                row.tries.append(ruling(name, crowd.verdict(second, name), "seal"))
        for body in (first, second):
            for name in (HONEST, "always eager"):
                honest(row, crowd.verdict(body, name))
        _without_a_table(row, crowd)
    return row.to_json()


def _classed(change: Callable[[RolloutRecord], RolloutRecord] | None = None, **classes: str) -> Lie:
    """Rows as they are, or a lie about them, under a header that says this of its arithmetic."""
    return lambda liar: _resigned(liar, liar.made(change or (lambda record: record)), **classes)


def _switching(first: str, then: str) -> Lie:
    """Truly of one class, and of the other in the next window."""

    def lie(liar: Liar) -> bytes:
        name = first if liar.window == FIRST_WINDOW else then
        return _truly(NUMERICS_CLASSES[name].attention)(liar)

    return lie


def _truly(attention: str) -> Lie:
    """A miner that computes so, and says it."""

    def lie(liar: Liar) -> bytes:
        source = liar.network.participant(liar.name).checkpoints
        liar.mining.checkpoint = LiveCheckpoint(source, attention=attention)  # type: ignore[arg-type]
        return liar.pack(liar.groups())

    return lie


def _resigned(liar: Liar, data: bytes, **classes: str) -> bytes:
    file = read_window_file(data)
    header: WindowHeader = replace(file.header, **classes)  # type: ignore[arg-type]
    signature = liar.mining.signer.sign(header_digest(liar.context.network_id, header))
    return write_window_file(header, signature, list(file.table.records()))


def _without_a_table(row: Row, crowd: Crowd) -> None:
    """An admitted class where the network wants a table, and the model is larger than any: subnet-81's rule."""
    miner = crowd.liar(HONEST)
    data = miner.pack(miner.groups())
    digest = Digest(hashlib.sha256(data).digest())
    seal: Seal = miner.mining.seal(miner.context, data)
    assert seal.content_digest == digest
    strict = replace(miner.context, params=replace(miner.context.params, uncalibrated="refused"))
    for name, shape, refused in (("a model beyond any table", Shape(80, 8192), True), ("this model", Shape(2, 32), False)):
        read = read_seal(seal.encode(), seal.header.hotkey, strict, table=shipped_table(), shape=shape)
        found = "" if isinstance(read, Seal) else read[0].detail
        if refused:
            row.tries.append(Try(name, not found, "seal", found))
        else:
            row.honest_tries += 1
            row.honest_false_rejects += bool(found)


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"E5": e5, "E8": e8, "E11": e11}
