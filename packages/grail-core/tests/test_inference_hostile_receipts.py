"""Receipts that are made to hurt a reader: bounded memory, before anything is decoded, and never another error than its own."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.inference.constants import MAX_FEATURES_BYTES, MAX_RECEIPT_BYTES, MAX_RECEIPT_TOKENS
from grail_core.inference.receipts import Receipt
from tooling.testing.receipt_documents import (
    ARRAYS,
    GOOD,
    ORDERED,
    UNSIGNED,
    b64,
    read,
    refusal,
    shown,
    with_member,
)


def complaint_of(raw_receipt: bytes) -> str:
    """What is said of it; the path alone where it is read."""
    try:
        Receipt.from_bytes(raw_receipt)
    except ValueError as error:
        return str(error)
    return "$receipt"


def peak_of(raw_receipt: bytes) -> int:
    """Bytes that reading takes at most beyond those given; the outcome is a receipt or a ValueError."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert complaint_of(raw_receipt).startswith("$receipt")
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


MIB = 1 << 20
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "arrays": b"[" + b"[]," * (MAX_RECEIPT_BYTES // 3 - 1),
    "objects": b"[" + b"{}," * (MAX_RECEIPT_BYTES // 3 - 1),
    "deep arrays": b"[" * MAX_RECEIPT_BYTES,
    "deep objects": b'{"a":' * 100_000,
    "deep, closed first": b"]" * 40 + b"[" * 100_000,
    "a number": b"9" * MAX_RECEIPT_BYTES,
    "many numbers": b"[" + b"1," * (MAX_RECEIPT_BYTES // 2 - 1),
    "blanks": b" " * MAX_RECEIPT_BYTES,
    "quotes": b'"' * MAX_RECEIPT_BYTES,
    "backslashes": b'"' + b"\\" * (MAX_RECEIPT_BYTES - 2) + b'"',
    "one long text": b'"' + b"a" * (MAX_RECEIPT_BYTES - 2) + b'"',
    "a long text with a wide character": b'"' + "😀".encode() + b"a" * (MAX_RECEIPT_BYTES - 6) + b'"',
    "no UTF-8": b"\xff" * MAX_RECEIPT_BYTES,
    "too long": b" " * (MAX_RECEIPT_BYTES + 1),
    "empty object": b"{}",
    "null": b"null",
    "twice the same member": b'{"version":1,"version":1}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_eight_mib_of_anything_are_refused_in_bounded_memory(name: str) -> None:
    with pytest.raises(ValueError, match=r"^\$receipt"):
        Receipt.from_bytes(HOSTILE[name])
    # 12 bytes a byte: the text, with 4 bytes a character where one of them is wide, its copy in the value, and the message.
    assert peak_of(HOSTILE[name]) < 12 * len(HOSTILE[name]) + MIB


def test_shapes_are_refused_before_anything_is_decoded() -> None:
    for name in ("arrays", "objects", "deep arrays", "many numbers"):
        assert peak_of(HOSTILE[name]) < MIB


def test_an_honest_receipt_of_sixteen_choices_is_far_from_the_limit_of_tokens() -> None:
    written = json.dumps(with_member(GOOD[1], ("answer", "choices"), GOOD[1]["answer"]["choices"] * 8), indent=1)
    assert sum(written.count(mark) for mark in '{["},:]') < MAX_RECEIPT_TOKENS / 3


@pytest.mark.parametrize("path", ARRAYS, ids=str)
def test_an_array_that_says_it_is_huge_costs_what_its_text_costs(path: tuple[str | int, ...]) -> None:
    text = "A" * (6 * MIB)
    document = json.dumps(with_member(GOOD[1], path, text)).encode()
    with pytest.raises(ValueError) as caught:
        Receipt.from_bytes(document)
    assert str(caught.value).startswith(f"{shown(path)}: {len(text)} characters")
    assert peak_of(document) < 3 * len(document) + MIB, "the array is not decoded"


@pytest.mark.parametrize("count", [10**9, 2**31, 2**53 - 1])
def test_a_claim_of_a_thousand_million_tokens_allocates_nothing(count: int) -> None:
    """Lengths follow from the bytes that are there; what is claimed in numbers alone is read as a number."""
    document = GOOD[0] | {"gas_used": count}
    document = with_member(document, ("policy", "max_tokens"), min(count, 8_192))
    document = with_member(document, ("model", "vocabulary_size"), 2**31 - 1)
    document = with_member(document, ("model", "context_length"), 2**31 - 1)
    written = json.dumps(document).encode()
    assert Receipt.from_bytes(written).answer.lengths == [4]
    assert peak_of(written) < MIB


def test_features_have_at_most_64_kib() -> None:
    full = b64(bytes(MAX_FEATURES_BYTES))
    assert len(read(with_member(GOOD[0], ("features", "body"), full)).features) == MAX_FEATURES_BYTES
    for path in (("features", "body"), ("order", "features")):
        for more in (1, 3, 5):
            assert "at most" in refusal(with_member(GOOD[0], path, b64(bytes(MAX_FEATURES_BYTES + more))))


edits = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(["put", "cut", "add", "repeat"]), st.binary(min_size=1, max_size=3)),
    min_size=1,
    max_size=6,
)


@given(st.sampled_from([UNSIGNED.to_bytes(), ORDERED.to_bytes()]), edits)
@settings(max_examples=400)
def test_any_damage_to_a_good_receipt_is_a_receipt_or_a_value_error(
    written: bytes, damage: list[tuple[int, str, bytes]]
) -> None:
    data = bytearray(written)
    for place, kind, put in damage:
        at = place % (len(data) or 1)
        if kind == "put":
            data[at : at + len(put)] = put
        elif kind == "cut":
            del data[at : at + 1 + place % 50]
        elif kind == "add":
            data[at:at] = put
        else:
            data[at:at] = data[at : at + 1 + place % 200]
    assert peak_of(bytes(data)) < MIB


STEPS = ['"', "{", "}", "[", "]", ",", ":", "0", "9", "-", "e", ".", "\\", "=", "/", " ", "\x00", "é", "null", "true", '"":']


@given(st.sampled_from([UNSIGNED.to_bytes(), ORDERED.to_bytes()]), st.integers(0, 10**6), st.sampled_from(STEPS))
@settings(max_examples=300)
def test_any_mark_put_anywhere_is_a_receipt_or_a_value_error(written: bytes, place: int, mark: str) -> None:
    at = place % len(written)
    for data in (written[:at] + mark.encode() + written[at:], written[:at] + mark.encode() + written[at + 1 :]):
        assert complaint_of(data).startswith("$receipt")
