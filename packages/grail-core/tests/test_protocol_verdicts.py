"""Equal bodies have equal bytes; a verdict says who stands by it; foreign ones are read strictly."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from bittensor_core import Keypair
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import (
    Digest,
    Finding,
    Hotkey,
    MinerStatus,
    MinerVerdict,
    Outcome,
    ScoreInputs,
    SignedVerdict,
    VerdictBody,
    Versions,
    Window,
    WindowInputs,
    WindowStatus,
    canonical_json,
    decimal,
)

NETWORK = Digest(bytes(range(32)))
KEY = Keypair.create_from_seed(bytes(range(32)))
D = Digest(bytes([9]) * 32)
WINDOW = Window(300)
MINER = Hotkey(bytes([1]) * 32)

NUMBERS = st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats().map(decimal)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FINDINGS = st.builds(
    Finding,
    check=st.sampled_from(["file", "proof", "sampling"]),
    outcome=st.sampled_from(Outcome),
    value=NUMBERS,
    threshold=NUMBERS,
    detail=TEXT,
    group=st.integers(0, 2**31),
    rollout=st.none() | st.integers(0, 15),
)


@st.composite
def miners(draw: st.DrawFn, uid: int) -> MinerVerdict:
    announced = draw(st.booleans())
    status = draw(st.sampled_from(list(MinerStatus) if announced else [MinerStatus.ABSENT, MinerStatus.FAILED]))
    counts = status not in (MinerStatus.ABSENT, MinerStatus.INCONCLUSIVE)
    tossed = announced and draw(st.booleans())
    return MinerVerdict(
        hotkey=Hotkey(uid.to_bytes(32, "big")),
        uid=uid,
        status=status,
        reason=draw(TEXT),
        content_digest=D if announced else None,
        etag=draw(TEXT) if announced else None,
        store_time_ms=draw(st.integers(0, 2**45)) if announced else None,
        active=announced and counts,
        declared=draw(st.integers(0, 20_000)),
        gaps=draw(st.integers(0, 60)),
        checked=counts and draw(st.booleans()),
        unique_valid=0 if status is MinerStatus.FAILED else draw(st.integers(0, 20_000)),
        check_probability=draw(st.fractions(0, 1, max_denominator=10**6)) if tossed else None,
        coin=draw(st.integers(0, 2**64 - 1)) if tossed else None,
        sampled=tuple(draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 15)), max_size=5))),
        findings=tuple(draw(st.lists(FINDINGS, max_size=3))),
    )


@st.composite
def bodies(draw: st.DrawFn) -> VerdictBody:
    uids = sorted(draw(st.sets(st.integers(0, 300), max_size=4)))
    return VerdictBody(
        network_id=NETWORK,
        window=WINDOW,
        status=draw(st.sampled_from(WindowStatus)),
        versions=Versions(draw(TEXT), "1", "sat 1"),
        reason=draw(TEXT),
        inputs=draw(st.sampled_from([WindowInputs(), WindowInputs(D, D, 5, 6, D, D), WindowInputs(block_hash=D)])),
        miners=tuple(draw(miners(uid)) for uid in uids),
        score_inputs={uid: ScoreInputs(uid, uid, uid + 1, uid % 2 == 0) for uid in uids},
        weights={0: 65_535} | {uid: 0 for uid in uids if uid},
    )


@given(bodies())
@settings(max_examples=60)
def test_a_body_reads_back_to_the_same_bytes(body: VerdictBody) -> None:
    again = VerdictBody.from_json(json.loads(body.canonical()))
    assert again == body
    assert again.canonical() == body.canonical()
    assert again.digest() == body.digest()


def full_body(**changes: Any) -> VerdictBody:
    miner = MinerVerdict(
        hotkey=MINER,
        uid=4,
        status=MinerStatus.FAILED,
        reason="proof",
        content_digest=D,
        etag="abc",
        store_time_ms=5,
        active=True,
        declared=64,
        check_probability=Fraction(1, 3),
        coin=7,
        sampled=((0, 3),),
        findings=(Finding("proof", Outcome.REJECT, "0.9", "0.3", "position error", 0, 3),),
    )
    fields: dict[str, Any] = {
        "network_id": NETWORK,
        "window": WINDOW,
        "status": WindowStatus.SCORED,
        "versions": Versions("1", "2", "3"),
        "inputs": WindowInputs(D, D, 5, 6, D, D),
        "miners": (miner,),
        "score_inputs": {4: ScoreInputs(64, 0, 64, True)},
        "weights": {0: 65_535, 4: 0},
    }
    return VerdictBody(**(fields | changes))


def sign(body: VerdictBody, key: Keypair = KEY, evidence: Digest | None = D, rollouts: Digest | None = None) -> SignedVerdict:
    signature = key.sign(SignedVerdict.message(body, key.public_key, evidence, rollouts))
    return SignedVerdict(body, key.public_key, signature, evidence, rollouts)


def test_the_order_in_which_mappings_were_filled_does_not_show() -> None:
    one = full_body(weights={0: 60_000, 10: 5_000, 9: 535}, score_inputs={})
    two = full_body(weights={9: 535, 0: 60_000, 10: 5_000}, score_inputs={})
    assert one.canonical() == two.canonical()


def test_every_member_is_inside_the_digest() -> None:
    body = full_body()
    document = body.to_json()
    seen = {body.digest()}
    changed = [
        full_body(network_id=bytes(32)),
        full_body(window=330),
        full_body(status=WindowStatus.VOID),
        full_body(reason="x"),
        full_body(versions=Versions("1", "2", "4")),
        full_body(inputs=WindowInputs(D, D, 5, 7, D, D)),
        full_body(miners=()),
        full_body(score_inputs={}),
        full_body(weights={0: 65_534, 4: 1}),
    ]
    seen |= {other.digest() for other in changed}
    assert len(seen) == 1 + len(changed) == len(document)


def test_a_signed_verdict_verifies_and_reads_back() -> None:
    verdict = sign(full_body())
    assert verdict.verify(NETWORK)
    again = SignedVerdict.decode(verdict.encode())
    assert again == verdict
    assert again.verify(NETWORK)


def test_a_verdict_of_another_network_key_evidence_or_body_does_not_verify() -> None:
    verdict = sign(full_body())
    other = Keypair.create_from_seed(bytes(31) + b"\x01").public_key
    assert not verdict.verify(bytes(32))
    changes: tuple[dict[str, Any], ...] = (
        {"validator": other},
        {"evidence_digest": bytes(32)},
        {"evidence_digest": None},
        {"evidence_digest": None, "rollouts_digest": D},
        {"rollouts_digest": D},
        {"body": full_body(reason="x")},
    )
    for change in changes:
        assert not dataclasses.replace(verdict, **change).verify(NETWORK)


def test_a_miners_line_counts_in_its_score_what_it_says() -> None:
    line = full_body().miner(MINER)
    assert line is not None
    entry = line.miner_window(WINDOW)
    assert (entry.window, entry.declared, entry.active, entry.failed, entry.unique_valid) == (300, 64, True, True, 0)
    assert full_body().miner(Hotkey(bytes(32))) is None


def edits(document: Any) -> Iterator[Any]:
    """Every way to spoil one place of a JSON value: remove, add, retype."""
    if isinstance(document, dict):
        for key in document:
            yield {k: v for k, v in document.items() if k != key}
            for inner in edits(document[key]):
                yield document | {key: inner}
        yield document | {"surplus": 0}
    elif isinstance(document, list):
        yield [*document, "surplus"]
        for i, item in enumerate(document):
            for inner in edits(item):
                yield [*document[:i], inner, *document[i + 1 :]]
    yield 0.5
    yield {"weights": []}
    yield 2**60


def test_every_spoilt_verdict_is_refused_with_a_path() -> None:
    document = sign(full_body()).to_json()
    assert SignedVerdict.from_json(copy.deepcopy(document))
    count = 0
    for spoilt in edits(document):
        with pytest.raises(ValueError, match=r"^\$"):
            SignedVerdict.from_json(spoilt)
        count += 1
    assert count > 200


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("protocol_version",), 2, "version 2 is unknown"),
        (("status",), "perfect", "none of"),
        (("window",), 301, "no window"),
        (("miners", 0, "uid"), 65_536, "outside"),
        (("miners", 0, "reason"), "x" * 513, "at most 512"),
        (("miners", 0, "check_probability"), [2, 6], "lowest terms"),
        (("miners", 0, "check_probability"), [4, 3], "check_probability"),
        (("miners", 0, "check_probability"), [1, 0], "outside"),
        (("miners", 0, "check_probability"), None, "coin"),
        (("miners", 0, "coin"), "7", "hex digits"),
        (("miners", 0, "sampled"), [[0, 16]], "outside"),
        (("miners", 0, "sampled"), [[0, 1]] * 129, "at most 128"),
        (("miners", 0, "unique_valid"), 5, "failed window"),
        (("miners", 0, "findings", 0, "value"), 0.9, "integer is expected"),
        (("miners", 0, "findings"), [{}] * 1025, "at most 1024"),
        (("weights",), [[0, 65_535], [0, 0]], "order of UID"),
        (("weights",), [[4, 1], [0, 65_534]], "order of UID"),
        (("weights",), [[0, 65_534]], "sum to 65534"),
        (("score_inputs", 0, "valid"), 65, "audited"),
    ],
)
def test_a_spoilt_body_names_what_is_wrong(path: tuple[str | int, ...], value: object, complaint: str) -> None:
    document = json.loads(full_body().canonical())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=complaint) as caught:
        VerdictBody.from_json(document)
    assert str(caught.value).startswith("$body")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_verdict_or_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\$verdict"):
        SignedVerdict.decode(raw)


def test_a_hotkey_or_uid_stands_once() -> None:
    one = full_body().miners[0]
    with pytest.raises(ValueError, match="order of UID"):
        full_body(miners=(one, one))
    with pytest.raises(ValueError, match="stands twice"):
        full_body(miners=(one, dataclasses.replace(one, uid=5)))


@pytest.mark.parametrize("value", [0.5, True, 2**53])
def test_a_finding_holds_no_float(value: Any) -> None:
    with pytest.raises(ValueError):
        Finding("proof", Outcome.REJECT, value)


@given(st.floats(allow_nan=False))
def test_decimal_text_reads_back_to_the_same_number(value: float) -> None:
    text = decimal(value)
    assert float(text) == value
    assert text != "-0.0"
    assert canonical_json(text)
