"""Bytes that two values never share, and JSON that says where it is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from grail_core.protocol.encoding import canonical_json, encode_part, message
from grail_core.protocol.reading import Json, Node, parse_json

PARTS = st.one_of(st.binary(max_size=12), st.integers(-(2**63), 2**63 - 1), st.text(max_size=6))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def as_bytes(part: bytes | int | str) -> bytes:
    return encode_part(part)[4:]


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_messages_are_equal_only_if_their_parts_are(left: list[bytes | int | str], right: list[bytes | int | str]) -> None:
    equal = message(bytes(32), "grail/test", *left) == message(bytes(32), "grail/test", *right)
    assert equal == ([as_bytes(part) for part in left] == [as_bytes(part) for part in right])


def test_network_tag_and_part_cannot_flow_into_each_other() -> None:
    assert message(b"ab", "c") != message(b"a", "bc")
    assert message(b"", "tag", "ab", "") != message(b"", "tag", "a", "b") != message(b"", "tag", "", "ab")


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_an_integer_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(OverflowError):
        encode_part(value)


def test_a_truth_value_is_no_part() -> None:
    with pytest.raises(TypeError):
        encode_part(True)


@given(JSON)
def test_canonical_json_reads_back_and_has_one_form(value: Json) -> None:
    raw = canonical_json(value)
    node = parse_json(raw, most=10_000)
    assert node.value == value == json.loads(raw)
    assert canonical_json(node.value) == raw


@given(JSON)
@example({"".join(map(chr, range(128))): "".join(map(chr, range(0x500))) + "\u2028\ufeff\U0001f600"})
def test_canonical_json_is_rfc_8785_whichever_encoder_writes_it(value: Json) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [1.0, {"a": [0.5]}, float("nan"), 2**53, -(2**53), {1: 2}, b"x", "\ud800", {"\udfff": 1}])
def test_what_has_no_canonical_json_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"\xff\xfe", "no valid JSON"),
        (b"1.5", "no integer"),
        (b"1e3", "no integer"),
        (b"NaN", "no integer"),
        (b"-Infinity", "no integer"),
        (b'{"a":1,"a":2}', "twice"),
        (b"[" * 90_000, "nested too deeply"),
        (b'{"a":' * 19_000, "nested too deeply"),
        (b"1" * 5_000, "no valid JSON"),
        (b" " * 100_001, "at most 100000"),
    ],
)
def test_hostile_json_ends_in_a_value_error(raw: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_json(raw, most=100_000)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_raise_a_value_error(raw: bytes) -> None:
    complaint = "$"
    try:
        parse_json(raw, most=100)
    except ValueError as error:
        complaint = str(error)
    assert complaint.startswith("$")


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (Node.flag, 1),
        (Node.integer, True),
        (Node.integer, -1),
        (Node.integer, 2**53),
        (Node.integer, 10**4000),
        (Node.integer, "1"),
        (lambda n: n.text(2), "abc"),
        (lambda n: n.text(2), "\ud800"),
        (lambda n: n.text(2), None),
        (lambda n: n.raw(1), "0g"),
        (lambda n: n.raw(1), "0A"),
        (lambda n: n.raw(1), "000"),
        (lambda n: n.raw(1), "²²"),
        (lambda n: n.base64(1), None),
        (lambda n: n.base64(1), "AAA="),
        (lambda n: n.base64(1), "AAAA"),
        (lambda n: n.base64(1), "AAAAAAAA"),
        (lambda n: n.base64(0), "AA=="),
        (lambda n: n.base64(4), "AA"),
        (lambda n: n.base64(4), "AA="),
        (lambda n: n.base64(4), "A==="),
        (lambda n: n.base64(4), "AA==AA=="),
        (lambda n: n.base64(4), "AB=="),
        (lambda n: n.base64(4), "AAB="),
        (lambda n: n.base64(4), "AA==\n"),
        (lambda n: n.base64(4), " AA=="),
        (lambda n: n.base64(4), "A-_="),
        (lambda n: n.base64(4), "Ａ==="),
        (lambda n: n.base64(4), "\ud800"),
        (lambda n: n.items(1), [1, 2]),
        (lambda n: n.items(1), {"a": 1}),
        (lambda n: n.members("a"), {"a": 1, "b": 2}),
        (lambda n: n.members("a", "b"), {"a": 1}),
        (lambda n: n.members("a"), {1: 1}),
        (lambda n: n.members("a"), []),
        (lambda n: n.entries(0), {"a": 1}),
        (lambda n: n.entries(5), {1: 1}),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(read: Callable[[Node], object], value: object) -> None:
    with pytest.raises(ValueError, match=r"^\$\.here"):
        read(Node(value, "$.here"))


@given(st.binary(max_size=40))
def test_base64_reads_back_and_has_one_spelling(raw: bytes) -> None:
    text = base64.b64encode(raw).decode()
    assert Node(text).base64(len(raw)) == Node(text).base64(40) == raw
    for other in {text.rstrip("="), f"{text}\n", f"{text}====", text.replace("=", "==", 1)} - {text}:
        with pytest.raises(ValueError, match=r"^\$: "):
            Node(other).base64(40)


@given(st.text("ABQgwx/+=-_ \n", max_size=12))
def test_what_base64_reads_is_what_it_writes(text: str) -> None:
    try:
        raw = Node(text).base64(9)
    except ValueError:
        return
    assert base64.b64encode(raw).decode() == text
    assert len(raw) <= 9
