"""E7, E12: two validators of one window, and one that judges nothing, or judges its own miner.

E7 puts one lie a miner before two validators: on the same evidence every byte is the same, on another kind of arithmetic the
first five checks are. E12 copies a verdict in the ways there are, and says which of them anybody can tell from work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import read_evidence
from grail_core.files.shared import get_file
from grail_core.files.verdicts import RefusedVerdictError, read_verdict
from grail_core.participant.windows import open_challenge
from grail_core.protocol import MinerStatus, MinerVerdict, SignedVerdict, VerdictBody
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.types import Digest
from grail_core.storage.layout import evidence_key, file_key, verdict_key
from grail_core.verification.examine import CHECKS, decide
from grail_core.verification.verdict import contradictions, inputs_of
from grail_core.verification.window_file import Submission, check_file
from grail_validator.models import InOneProcess
from grail_validator.service import ValidatorService
from tooling.adversaries.crowd import HONEST, Crowd, Lie, crowd_of, honest, published
from tooling.adversaries.family_d_training import HONEST as HONEST_MINER
from tooling.adversaries.family_d_training import LIAR, SPOILT, VALIDATORS, Pupil, junk, school, spoil
from tooling.adversaries.rows import Row, Try
from tooling.adversaries.tampering import (
    change_rollout,
    end_put_first,
    last_token_cut,
    prompt_changed,
    random_sketches,
    tokens_changed,
    zero_sketches,
)
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID
from tooling.testing.small_network import FIRST_WINDOW

MODELLESS = CHECKS[:5]
"""Checks 1 to 5."""

SPLITTING: dict[str, Lie] = {
    "junk": lambda liar: b"PAR1 nothing of the kind PAR1",
    "another prompt": lambda liar: liar.made(prompt_changed(200)),
    "an early end": lambda liar: liar.made(end_put_first(END_TOKEN_ID)),
    "cut": lambda liar: liar.made(last_token_cut),
    "a false reward": lambda liar: liar.pack(change_rollout(0, 3, reward=1.0, success=True)(liar.groups())),
    "other tokens": lambda liar: liar.made(tokens_changed(200)),
    "no sketches": lambda liar: liar.made(zero_sketches),
    "one rollout's sketches": lambda liar: liar.pack(
        change_rollout(0, 3, sketches=random_sketches(len(liar.groups()[0].rollouts[3].sketches) // 8, 1))(liar.groups())
    ),
    "repeated answers": lambda liar: liar.pack(liar.groups(range(6))),
}
"""What two validators might not judge alike: each by another check, or by none."""


def e7() -> dict[str, Any]:
    """The same arithmetic twice, then two kinds of it, then the first one's evidence decided anew."""
    row = Row("E7", "miners before two validators")
    for kind, attention in {"one kind of arithmetic": "sdpa", "two kinds": "eager"}.items():
        with crowd_of(SPLITTING, validators=2) as crowd:
            crowd.mine()
            validators = [crowd.validator("validator-0"), crowd.validator("validator-1")]
            second = validators[1].participant.checkpoints
            validators[1].checkpoint = InOneProcess(LiveCheckpoint(second, attention=attention, keep=4))  # type: ignore[arg-type]
            bodies = crowd.judge(*validators)
            for name in SPLITTING:
                row.tries.append(
                    _alike(f"{name}, {kind}", [crowd.verdict(body, name) for body in bodies], whole=attention == "sdpa")
                )
            if attention == "sdpa":
                equal = bodies[0].canonical() == bodies[1].canonical()
                row.tries.append(Try(f"the bodies, {kind}", not equal, "same bytes", f"equal: {equal}"))
                row.tries.append(_decided_anew(crowd, validators[0], bodies[0]))
            for body in bodies:
                honest(row, crowd.verdict(body, HONEST))
    return row.to_json()


def _alike(name: str, verdicts: list[MinerVerdict], *, whole: bool) -> Try:
    first, second = verdicts
    if whole:
        equal = first.to_json() == second.to_json()
    else:
        early = [[one.to_json() for one in verdict.findings if one.check in MODELLESS] for verdict in verdicts]
        equal = early[0] == early[1] and first.status is second.status
    message = f"{first.status.value} and {second.status.value}: {first.reason}"
    return Try(name, not equal, "same bytes" if whole else "checks 1 to 5", message)


def _decided_anew(crowd: Crowd, validator: ValidatorService, body: VerdictBody) -> Try:
    """What is published says why: the accepted files and the evidence give the findings again."""
    store = validator.participant.own_store
    context = validator.participant.open_window(FIRST_WINDOW)
    evidence = {one.hotkey: one for one in read_evidence(store.get(evidence_key(FIRST_WINDOW), max_bytes=10**8))}
    table = validator.participant.checkpoints.table(context.manifest).table
    other, tried = [], 0
    for miner in body.miners:
        if miner.status is not MinerStatus.ACCEPTED or miner.content_digest is None:
            continue
        data = get_file(store, file_key(miner.content_digest), miner.content_digest, size=MAX_FILE_BYTES)
        submission = check_file(data, miner.content_digest, miner.hotkey, context) if data is not None else None
        assert isinstance(submission, Submission)
        late = [finding for finding in miner.findings if finding.check not in MODELLESS]
        tried += 1
        if list(decide(submission, evidence[miner.hotkey], table, context.params)) != late:
            other.append(miner.uid)
    return Try(
        "decided anew from what is published", bool(other) or not tried, "same bytes", f"{tried} files, {len(other)} other"
    )


# --- E12 --------------------------------------------------------------------------------------------------------------

NOT_TOLD = "its body and evidence, signed anew"
"""On one machine class evidence is the same bytes, so that whoever copies all of it looks like one that has worked."""


def e12() -> dict[str, Any]:
    """A validator that copies, before a reader who has chain, beacon and the two buckets; one that pays its own miner, before
    the trainer."""
    row = Row("E12", "verdicts of a validator that did not judge")
    row.undecided = {NOT_TOLD}
    with crowd_of({}, validators=2) as crowd:
        crowd.mine()
        worker = crowd.validator("validator-0")
        (body,) = crowd.judge(worker)
        honest(row, crowd.verdict(body, HONEST))
        seen = _seen_through(crowd, worker, "validator-0")
        row.honest_tries += 1
        row.honest_false_rejects += seen != ""
        for name, copied in COPIES.items():
            lazy = crowd.network.participant("validator-1").own_store
            for key in (verdict_key(FIRST_WINDOW), evidence_key(FIRST_WINDOW)):
                lazy.delete(key)
            copied(crowd, worker)
            seen = _seen_through(crowd, worker, "validator-1")
            row.tries.append(Try(name, not seen, seen.partition(":")[0], seen or "taken for work"))
    _own_miner(row)
    return row.to_json()


def _seen_through(crowd: Crowd, worker: ValidatorService, name: str) -> str:
    """Why a reader does not take what lies in a validator's bucket for its work; "" where it does."""
    participant = crowd.network.participant(name)
    store = participant.own_store
    try:
        verdict = read_verdict(store, FIRST_WINDOW, participant.signer.hotkey, participant.network_id)
    except RefusedVerdictError as error:
        return f"signature: {error.what}"
    assert verdict is not None
    context = participant.open_window(FIRST_WINDOW)
    challenge = open_challenge(participant.chain, participant.beacon, context)
    found = contradictions(verdict.body, inputs_of(context, challenge), challenge.select_seed)
    if found:
        return f"{found[0].rule}: {found[0]}"
    info = store.head(evidence_key(FIRST_WINDOW))
    if info is None:
        return "evidence: there is none"
    data = store.get(evidence_key(FIRST_WINDOW), max_bytes=10**8)
    if hashlib.sha256(data).digest() != verdict.evidence_digest:
        return "evidence: it is not what was signed"
    try:
        measured = {one.hotkey: len(one.rollouts) for one in read_evidence(data)}
    except ProtocolViolationError as error:
        return f"evidence: {error.what}"
    named = {miner.hotkey: len(miner.sampled) for miner in verdict.body.miners if miner.sampled}
    return "" if measured == named else "evidence: it is of other rollouts than the verdict names"


def _sign(crowd: Crowd, body: VerdictBody, evidence: bytes | None, digest: Digest | None = None) -> None:
    """What the lazy one publishes."""
    signer, store = crowd.network.signers["validator-1"], crowd.network.participant("validator-1").own_store
    digest = digest or Digest(hashlib.sha256(evidence or b"").digest())
    message = SignedVerdict.message(body, signer.hotkey, digest)
    store.put(verdict_key(FIRST_WINDOW), SignedVerdict(body, signer.hotkey, signer.sign(message), digest).encode())
    if evidence is not None:
        store.put(evidence_key(FIRST_WINDOW), evidence)


def _bytes_whole(crowd: Crowd, worker: ValidatorService) -> None:
    store = crowd.network.participant("validator-1").own_store
    for key in (verdict_key(FIRST_WINDOW), evidence_key(FIRST_WINDOW)):
        store.put(key, worker.participant.own_store.get(key, max_bytes=10**8))


def _evidence_of(worker: ValidatorService) -> bytes:
    return worker.participant.own_store.get(evidence_key(FIRST_WINDOW), max_bytes=10**8)


def _accepts_unseen(crowd: Crowd, worker: ValidatorService) -> None:
    """Every miner accepted, without a look at a file: the coins are the last window's."""
    body = published(worker)
    miners = tuple(replace(one, coin=(one.coin or 0) ^ 1) if one.coin is not None else one for one in body.miners)
    _sign(crowd, replace(body, miners=miners), _evidence_of(worker))


def _of_another_window(crowd: Crowd, worker: ValidatorService) -> None:
    body = published(worker)
    _sign(crowd, replace(body, inputs=replace(body.inputs, select_block_hash=bytes(32))), _evidence_of(worker))


COPIES: dict[str, Callable[[Crowd, ValidatorService], None]] = {
    "its bytes as they are": _bytes_whole,
    "its body, signed anew, no evidence": lambda crowd, worker: _sign(crowd, published(worker), None, Digest(bytes([1]) * 32)),
    "its body, signed anew, evidence of nothing": lambda crowd, worker: _sign(crowd, published(worker), b""),
    "its body, its evidence under another digest": lambda crowd, worker: _sign(
        crowd, published(worker), _evidence_of(worker), Digest(bytes([1]) * 32)
    ),
    "coins made up": _accepts_unseen,
    "written before the challenge": _of_another_window,
    NOT_TOLD: lambda crowd, worker: _sign(crowd, published(worker), _evidence_of(worker)),
}


def _own_miner(row: Row) -> None:
    """A file that only its owner's validator accepts, with half of the stake and with most of it."""
    with school() as there:
        for name, more in {"half of the stake for its own miner": 0, "most of it": 3}.items():
            pupil = there.pupil(name)
            learned = _favoured(pupil, more)
            through = SPOILT in learned.of(LIAR)
            why = learned.dropped_by(LIAR, SPOILT) or "quorum"
            row.tries.append(Try(name, through, why, f"learned from {sorted(learned.of(LIAR))} of its own miner's groups"))
            row.honest_tries += 1
            row.honest_false_rejects += not learned.of(HONEST_MINER)


def _favoured(pupil: Pupil, more: int) -> Any:
    network = pupil.network
    own = pupil.pack(LIAR, spoil(pupil, [SPOILT], junk))
    other = pupil.pack(HONEST_MINER, pupil.made[HONEST_MINER])
    network.claim(VALIDATORS[0], {LIAR: own, HONEST_MINER: other})
    network.claim(VALIDATORS[1], {HONEST_MINER: other})
    return pupil.learned(stake=dict(zip(VALIDATORS, (1 + more, 1), strict=True)))


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"E7": e7, "E12": e12}
