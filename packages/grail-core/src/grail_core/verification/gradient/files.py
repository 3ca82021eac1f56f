"""Checks 2 to 5 of gradient work: what update and opening say, held against seal, layout, challenge and public weights.

No model runs. All bytes are a stranger's: lengths follow from the layout and are checked before anything is decoded, every
opened number is under a committed root before it is used, and a file is decoded tensor by tensor. Whoever has the bytes gets
the same findings: miner (before its seal), validator, aggregator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from grail_core.gradient.chunk_test import check_chunk
from grail_core.gradient.layout import Layout, StateArrays
from grail_core.gradient.opening import Asked, Committed, Opening, read_opening
from grail_core.gradient.reach import Reach
from grail_core.gradient.roots import ZERO_ROOT, step_root
from grail_core.gradient.update_file import UpdateFile, check_streams, read_front, sketch_rows, split
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.context import Challenge, challenge_seed
from grail_core.protocol.findings import Finding
from grail_core.protocol.gradient import challenge as draws
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.miner_verdicts import REPLAY_CHECK
from grail_core.protocol.gradient.records import UpdateHeader, disagreement, misfit, update_header_digest
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Hotkey, Signature
from grail_core.verification.wording import reject

FILE: Final = "file"
LAYOUT: Final = "layout"
FEEDBACK: Final = "feedback"
CHUNKS: Final = "chunks"


@dataclass(frozen=True)
class StoredObject:
    """What was seen under a key, and when it was stored there by its store's clock. `data` None: nothing, or not readable.

    `reason`: one line on why there is nothing, "" where there was nothing.
    """

    data: bytes | None = None
    stored_at_ms: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Sealer:
    """Who sealed, as of block T. `feedback`: `feedback_after` of its last file that counted; None where that is not known for
    sure, and then nothing rests on it."""

    uid: int
    hotkey: Hotkey
    seal: GradientSeal
    feedback: Digest | None


@dataclass(frozen=True, eq=False)
class Revealed:
    """An update whose bytes hold what checks 2 to 5 ask. `seed`: its challenge; `opening`: verified."""

    sealer: Sealer
    header: UpdateHeader
    file: UpdateFile
    seed: Digest
    asked: Asked
    opening: Opening


@dataclass(frozen=True, eq=False)
class Examined:
    """`revealed` None where a finding rejects. `accepted_layout`: header and streams were in order, whatever else is wrong, so
    the file's feedback is what the next one has to begin with. `withheld`: something that was to be shown was not, or late."""

    findings: tuple[Finding, ...]
    revealed: Revealed | None
    header: UpdateHeader | None = None
    accepted_layout: bool = False
    withheld: bool = False


@dataclass(frozen=True, eq=False)
class Round:
    """What the files of one round are held against.

    `theta`: the checkpoint's weights. `reveal_ms`: the time of block V. `challenge` None: not known yet (a miner's own look).
    """

    context: RoundContext
    challenge: Challenge | None
    layout: Layout
    theta: StateArrays
    reveal_ms: int


def examine_file(round: Round, sealer: Sealer, update: StoredObject, opening: StoredObject) -> Examined:
    """Checks 2 to 5, until one rejects."""
    read = read_update(round, sealer, update)
    if isinstance(read, Examined):
        return read
    header, file = read
    found = check_feedback(header, sealer)
    if found is not None:
        return Examined((found,), None, header, accepted_layout=True)
    if round.challenge is None:
        raise ValueError("chunks are drawn by the challenge, and this round has none yet")
    return _examine_opening(round, round.challenge, sealer, (header, file), opening)


def read_update(round: Round, sealer: Sealer, update: StoredObject) -> Examined | tuple[UpdateHeader, UpdateFile]:
    """Checks 2 and 3: the parts of a file that is the sealed one and keeps every rule of its streams, or why not."""
    seal = sealer.seal
    if update.data is None:
        return _withheld(FILE, update.reason or "the update that was sealed is not in its bucket")
    if update.stored_at_ms > round.reveal_ms:
        late = (update.stored_at_ms - round.reveal_ms) / 1000
        return _withheld(FILE, f"the update was stored {late:.1f} s after it was due")
    if len(update.data) != seal.size or hashlib.sha256(update.data).digest() != seal.content_digest:
        return _withheld(FILE, "other bytes than those that were sealed")
    try:
        raw, signature = read_front(update.data)
        header = UpdateHeader.from_canonical(raw)
    except ValueError as error:
        return Examined((reject(FILE, detail=f"no update: {error}"),), None)
    findings = _wrong_fields(round.context, sealer, header)
    if not findings and not verify(sealer.hotkey, update_header_digest(round.context.network_id, raw), Signature(signature)):
        findings = [reject(FILE, detail="the signature is not the hotkey's over this header")]
    if findings:
        return Examined(tuple(findings), None, header)
    try:
        file = split(update.data, round.layout, round.context.spec, sketch_rows(header.batch))
        if file.body_digest != header.body_digest:
            raise ValueError("$update.body: not what the header names")
        check_streams(file, round.layout)
    except ValueError as error:
        return Examined((reject(LAYOUT, detail=str(error)),), None, header)
    return header, file


def check_feedback(header: UpdateHeader, sealer: Sealer) -> Finding | None:
    """Check 4: zero, or what this hotkey's last file left."""
    before = header.feedback_before
    if before == ZERO_ROOT or sealer.feedback is None or before == sealer.feedback:
        return None
    return reject(
        FEEDBACK,
        value=before.hex(),
        threshold=sealer.feedback.hex(),
        detail="the feedback that went in is not what this hotkey's last file left, nor a new start",
    )


def _examine_opening(
    round: Round,
    challenge: Challenge,
    sealer: Sealer,
    update: tuple[UpdateHeader, UpdateFile],
    opening: StoredObject,
) -> Examined:
    """Check 5."""
    header, file = update
    spec = round.context.spec
    seed = challenge_seed(round.context.window, challenge, sealer.seal.content_digest)
    drawn = draws.opened(spec, seed, round.layout.chunks)
    asked = Asked(round.context.round, sealer.hotkey, sealer.seal.content_digest, drawn.chunks, drawn.step)
    if opening.data is None or opening.stored_at_ms > round.reveal_ms:
        late = opening.data is not None
        reason = "the opening came after it was due" if late else opening.reason or "the opening is not in its bucket"
        return Examined((reject(CHUNKS, detail=reason),), None, header, accepted_layout=True, withheld=True)
    committed = committed_of(header)
    try:
        shown = read_opening(opening.data, asked, committed, round.layout, spec)
    except ValueError as error:  # what does not hold was not shown
        return Examined((reject(CHUNKS, detail=str(error)),), None, header, accepted_layout=True, withheld=True)
    try:
        for i, one in enumerate(shown.chunks):
            start = round.layout.chunk_of(round.theta, one.number)
            tensor, chunk = round.layout.tensor_of(one.number), round.layout.place(one.number)[1]
            sent = file.decode(round.layout, tensor).chunk(chunk)
            check_chunk(one, start, sent, committed, round.layout, spec, f"$opening.chunks[{i}]")
        _require_reachable(round, shown)
    except ValueError as error:
        return Examined((reject(CHUNKS, detail=str(error)),), None, header, accepted_layout=True)
    unreachable = _unreachable(round, shown, drawn.step)
    if unreachable:
        return Examined((reject(REPLAY_CHECK, detail=unreachable),), None, header, accepted_layout=True)
    return Examined((), Revealed(sealer, header, file, seed, asked, shown), header, accepted_layout=True)


def _require_reachable(round: Round, shown: Opening) -> None:
    """Is Δ no further than H steps take a weight? Errors: ValueError naming the chunk that is."""
    spec = round.context.spec
    reach = Reach.of(spec, round.context.sequence, spec.inner_steps)
    for i, one in enumerate(shown.chunks):
        start = round.layout.chunk_of(round.theta, one.number)
        if not reach.covers(start, start - one.delta):
            raise ValueError(f"$opening.chunks[{i}].delta: further than {spec.inner_steps} steps take a weight")


def _unreachable(round: Round, shown: Opening, step: int | None) -> str:
    """What of the states around a replayed step is further than the steps before take a weight; empty where nothing is. Only
    who is replayed shows them, so that it counts as what a replay shows."""
    if step is None:
        return ""
    spec, sequence = round.context.spec, round.context.sequence
    before, after = (Reach.of(spec, sequence, steps) for steps in (step, step + 1))
    if shown.theta is not None and not all(before.covers(round.theta[name], value) for name, value in shown.theta.items()):
        return f"step {step}, reach: the weights before it are further from the checkpoint than the steps to there take any"
    for one in shown.chunks:
        start = round.layout.chunk_of(round.theta, one.number)
        if one.step is not None and not after.covers(start, one.step.theta_after):
            return f"step {step}, reach: the weights after it are further from the checkpoint than the steps to there take any"
    return ""


def committed_of(header: UpdateHeader) -> Committed:
    """The roots that an opening is held against."""
    return Committed(header.delta_root, header.theta_end_root, header.feedback_before, header.feedback_after, header.step_roots)


def _wrong_fields(context: RoundContext, sealer: Sealer, header: UpdateHeader) -> list[Finding]:
    beacon = context.window.beacon
    expected: Mapping[str, tuple[object, object]] = {
        "protocol version": (header.protocol_version, PROTOCOL_VERSION),
        "UID": (header.uid, sealer.uid),
        "checkpoint digest": (header.checkpoint_digest.hex(), context.window.checkpoint_digest.hex()),
        "environment digest": (header.env_digest.hex(), context.window.env_digest.hex()),
        "beacon round": (header.beacon_round, beacon.round if beacon else 0),
        "beacon signature": (header.beacon_signature, beacon.signature if beacon else None),
    }
    findings = [
        reject(FILE, value=_text(found), threshold=_text(wanted), detail=f"wrong {name}")
        for name, (found, wanted) in expected.items()
        if found != wanted
    ]
    broken = disagreement(header, sealer.seal.header)
    if broken is not None:
        findings.append(reject(FILE, detail=f"{broken}: another than the seal's"))
    unfit = misfit(header, context.spec)
    if unfit is not None:
        findings.append(reject(FILE, detail=unfit))
    elif _ends_elsewhere(header, context):
        detail = (
            "step_roots: the last is not made of theta_end_root and moment_end_roots: the steps end elsewhere than the file"
        )
        findings.append(reject(FILE, detail=detail))
    return findings


def _ends_elsewhere(header: UpdateHeader, context: RoundContext) -> bool:
    """An honest path could stand beside an invented end, and no replay would see it."""
    spec = context.spec
    if header.moment_end_roots is None or spec.committed_steps < spec.inner_steps:
        return False
    return step_root(header.theta_end_root, *header.moment_end_roots) != header.step_roots[-1]


def _withheld(check: str, detail: str) -> Examined:
    return Examined((reject(check, detail=detail),), None, withheld=True)


def _text(value: object) -> str | int | None:
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, int) or value is None else str(value)
