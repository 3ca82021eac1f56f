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
    Adopted,
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
from grail_core.protocol.constants import MAX_FILE_ROWS

NETWORK = Digest(bytes(range(32)))
KEY = Keypair.create_from_seed(bytes(range(32)))
D = Digest(bytes([9]) * 32)
WINDOW = Window(300)
MINER = Hotkey(bytes([1]) * 32)
NOTHING = ScoreInputs(0, 0, 0, 0, 0, 0, in_lookback=False)

NUMBERS = st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats().map(decimal)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FINDINGS = st.builds(
    Finding,
    check=st.sampled_from(["file", "proof", "sampling"]),
    outcome=st.sampled_from([Outcome.ACCEPT, Outcome.REJECT, Outcome.INCONCLUSIVE]),
    value=NUMBERS,
    threshold=NUMBERS,
    detail=TEXT,
    group=st.integers(0, 2**31),
    rollout=st.none() | st.integers(0, 15),
)


@st.composite
def miners(draw: st.DrawFn, uid: int) -> MinerVerdict:
    status = draw(st.sampled_from(MinerStatus))
    sealed, drawn = status is not MinerStatus.ABSENT, status not in (MinerStatus.ABSENT, MinerStatus.NOT_SELECTED)
    tossed = drawn or (sealed and draw(st.booleans()))
    nothing_valid = status in (MinerStatus.FAILED, MinerStatus.INCONCLUSIVE)
    return MinerVerdict(
        hotkey=hotkey_of(uid),
        uid=uid,
        status=status,
        reason=draw(TEXT),
        content_digest=D if sealed else None,
        store_time_ms=draw(st.none() | st.integers(0, 2**45)),
        active=sealed and status is not MinerStatus.INCONCLUSIVE,
        declared=draw(st.integers(0, MAX_FILE_ROWS)),
        gaps=draw(st.integers(0, 60)),
        checked=drawn and draw(st.booleans()),
        unique_valid=0 if nothing_valid else draw(st.integers(0, MAX_FILE_ROWS)),
        check_probability=draw(st.fractions(Fraction(1, 10), 1, max_denominator=10**6)) if tossed else None,
        coin=draw(st.integers(0, 2**64 - 1)) if tossed else None,
        sampled=tuple(draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 15)), max_size=5))),
        findings=tuple(draw(st.lists(FINDINGS, max_size=3))),
    )


def hotkey_of(uid: int) -> Hotkey:
    return Hotkey(uid.to_bytes(32, "big"))


@st.composite
def score_inputs_of_a_miner(draw: st.DrawFn) -> ScoreInputs:
    audits = draw(st.integers(0, 72))
    valid, more = draw(st.integers(0, 2**70)), draw(st.integers(0, 2**79))
    supported = draw(st.integers(0, 5000 * audits))
    estimate = draw(st.integers(supported, 10 * supported))
    return ScoreInputs(draw(st.integers(0, 60_000)), supported, estimate, audits, valid, valid + more, draw(st.booleans()))


@st.composite
def bodies(draw: st.DrawFn) -> VerdictBody:
    uids = sorted(draw(st.sets(st.integers(0, 300), max_size=4)))
    without_verdict = draw(st.sets(st.sampled_from(uids))) if uids else set()
    return VerdictBody(
        network_id=NETWORK,
        window=WINDOW,
        status=draw(st.sampled_from(WindowStatus)),
        versions=Versions(draw(TEXT), "1", "sat 1"),
        reason=draw(TEXT),
        inputs=draw(st.sampled_from([WindowInputs(), WindowInputs(D, D, 5, 6, D, D), WindowInputs(block_hash=D)])),
        miners=tuple(draw(miners(uid)) for uid in uids if uid not in without_verdict),
        hotkeys={uid: hotkey_of(uid) for uid in uids},
        score_inputs={uid: draw(score_inputs_of_a_miner()) for uid in uids},
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
        store_time_ms=5,
        active=True,
        declared=64,
        checked=True,
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
        "hotkeys": {4: MINER},
        "score_inputs": {4: ScoreInputs(64, 48, 96, 2, 0, 4096, True)},
        "weights": {0: 65_535, 4: 0},
    }
    return VerdictBody(**(fields | changes))


ADOPTED = Adopted(Hotkey(bytes([5]) * 32), Window(30), Window(270))


def sign(
    body: VerdictBody, key: Keypair = KEY, evidence: Digest | None = D, adopted: Adopted | None = ADOPTED
) -> SignedVerdict:
    signature = key.sign(SignedVerdict.message(body, key.public_key, evidence, adopted))
    return SignedVerdict(body, key.public_key, signature, evidence, adopted)


def test_the_order_in_which_mappings_were_filled_does_not_show() -> None:
    one = full_body(weights={0: 60_000, 10: 5_000, 9: 535})
    two = full_body(weights={9: 535, 0: 60_000, 10: 5_000})
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
        full_body(miners=(), hotkeys={4: Hotkey(bytes([2]) * 32)}),
        full_body(score_inputs={4: ScoreInputs(64, 48, 96, 2, 0, 4097, True)}),
        full_body(weights={0: 65_534, 4: 1}),
    ]
    seen |= {other.digest() for other in changed}
    assert len(seen) == 1 + len(changed) == len(document)


def test_a_signed_verdict_verifies_and_reads_back() -> None:
    for verdict in (sign(full_body()), sign(full_body(), evidence=None, adopted=None)):
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
        {"adopted": None},
        {"adopted": dataclasses.replace(ADOPTED, validator=MINER)},
        {"adopted": dataclasses.replace(ADOPTED, first=Window(0))},
        {"adopted": dataclasses.replace(ADOPTED, last=Window(240))},
        {"body": full_body(reason="x")},
    )
    for change in changes:
        assert not dataclasses.replace(verdict, **change).verify(NETWORK)


def test_a_miners_line_counts_in_its_score_what_it_says() -> None:
    line = full_body().miner(MINER)
    assert line is not None
    entry = line.miner_window(WINDOW)
    assert (entry.window, entry.declared, entry.active, entry.failed, entry.unique_valid) == (300, 64, True, True, 0)
    assert entry.lookback == 15  # ⌈5 / (1/3)⌉
    assert full_body().miner(Hotkey(bytes(32))) is None


@pytest.mark.parametrize(
    ("probability", "windows"), [(Fraction(1), 14), (Fraction(1, 3), 15), (Fraction(35, 200), 29), (Fraction(1, 10), 36)]
)
def test_a_failure_is_remembered_for_as_long_as_its_check_was_rare(probability: Fraction, windows: int) -> None:
    line = dataclasses.replace(full_body().miners[0], check_probability=probability)
    assert line.miner_window(WINDOW).lookback == windows


@pytest.mark.parametrize("again", [False, True])
def test_an_inconclusive_window_is_not_active_and_counts_as_checked_from_the_second_on(again: bool) -> None:
    line = dataclasses.replace(full_body().miners[0], status=MinerStatus.INCONCLUSIVE, active=False, checked=again, findings=())
    entry = line.miner_window(WINDOW)
    assert (entry.inconclusive, entry.checked, entry.active, entry.lookback, entry.unique_valid) == (True, again, False, 0, 0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"status": MinerStatus.ABSENT}, "active"),
        ({"status": MinerStatus.ABSENT, "active": False}, "active"),
        ({"status": MinerStatus.INCONCLUSIVE}, "active"),
        ({"status": MinerStatus.INCONCLUSIVE, "active": False, "unique_valid": 1}, "active"),
        ({"status": MinerStatus.ACCEPTED, "coin": None, "check_probability": None}, "drawn by its coin"),
        ({"coin": None, "check_probability": None}, "drawn by its coin"),
        ({"check_probability": Fraction(1, 11)}, "check_probability"),
        ({"status": MinerStatus.NOT_SELECTED}, "not checked"),
        ({"declared": MAX_FILE_ROWS + 1}, "declared"),
        ({"unique_valid": 16}, "unique_valid"),
        ({"content_digest": b"short"}, "content_digest"),
        ({"findings": (Finding("sampling", Outcome.UNPROVEN),)}, "accept, reject or inconclusive"),
    ],
)
def test_a_line_that_contradicts_itself_cannot_exist(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(full_body().miners[0], **changes)


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
        (("miners", 0, "findings", 0, "outcome"), "unproven", "verdicts say accept, reject or inconclusive"),
        (("miners", 0, "findings", 0, "outcome"), "perhaps", "none of"),
        (("miners", 0, "findings"), [{}] * 1025, "at most 1024"),
        (("weights",), [[0, 65_535], [0, 0]], "order of UID"),
        (("weights",), [[4, 1], [0, 65_534]], "order of UID"),
        (("weights",), [[0, 65_534]], "sum to 65534"),
        (("hotkeys",), [], "hotkeys"),
        (("hotkeys",), [[4, "02" * 32]], "another hotkey's UID"),
        (("hotkeys",), [[4, "01" * 32], [5, "01" * 32]], "hotkeys"),
        (("hotkeys",), [[4, "01" * 31]], "hex digits"),
        (("score_inputs", 0, "supported"), 10_001, "supported"),
        (("score_inputs", 0, "audits"), 73, "supported"),
        (("score_inputs", 0, "work"), 60_001, "work"),
        (("score_inputs", 0, "product_valid"), "0" * 16 + "1001", "product_valid"),
        (("score_inputs", 0, "product_declared"), 4096, "text is expected"),
        (("score_inputs", 0, "product_declared"), "1000", "hex digits"),
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
    with pytest.raises(ValueError, match="none twice"):
        full_body(hotkeys={4: MINER, 5: MINER}, score_inputs={4: NOTHING, 5: NOTHING})


@pytest.mark.parametrize(("first", "last"), [(60, 30), (31, 60), (30, 61), (-30, 30)])
def test_what_was_adopted_is_a_range_of_windows(first: int, last: int) -> None:
    with pytest.raises(ValueError):
        Adopted(MINER, Window(first), Window(last))


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
