"""One question has one form and one digest; what is not in that form is refused with its path."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.environment import Message
from grail_core.inference.constants import MAX_FEATURES_BYTES, MAX_MESSAGES
from grail_core.inference.features import NO_SALT, Features, features_digest

text = st.text(st.characters(codec="utf-8"), max_size=12)
stops = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=64), max_size=4, unique=True
)
asked = st.builds(Features, prompt=text.filter(bool), stop=stops.map(tuple)) | st.builds(
    Features,
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), min_size=1, max_size=4).map(
        tuple
    ),
    seed=st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
    user=st.none() | text.filter(bool),
    stop=stops.map(tuple),
)


@given(asked)
def test_features_read_back_to_the_same_bytes(features: Features) -> None:
    raw = features.to_bytes()
    assert Features.from_bytes(raw) == features
    assert Features.from_bytes(raw).to_bytes() == raw


@given(asked, st.sampled_from([b" ", b"\n", b"\t"]), st.integers(0, 200))
def test_a_blank_anywhere_is_another_text_or_refused(features: Features, blank: bytes, at: int) -> None:
    raw = features.to_bytes()
    spaced = raw[:at] + blank + raw[at:]
    try:
        read = Features.from_bytes(spaced)
    except ValueError:
        return
    assert read != features, "one question has one form"


@given(st.binary(max_size=80))
def test_any_bytes_are_features_or_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\$features"):
        Features.from_bytes(raw)


@given(asked, st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_is_other_features_or_a_value_error(features: Features, at: int, byte: int) -> None:
    raw = bytearray(features.to_bytes())
    raw[at % len(raw)] = byte
    try:
        read = Features.from_bytes(bytes(raw))
    except ValueError:
        return
    assert read.to_bytes() == bytes(raw)


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, "$features"),
        ([], "$features"),
        (None, "$features"),
        ("a", "$features"),
        ({"prompt": "a", "messages": [USER]}, "$features"),
        ({"prompt": ""}, "$features"),
        ({"prompt": 7}, "$features.prompt"),
        ({"prompt": None}, "$features.prompt"),
        ({"messages": []}, "$features"),
        ({"messages": {"role": "user"}}, "$features.messages"),
        ({"messages": ["a"]}, "$features.messages[0]"),
        ({"messages": [USER, {"role": "user"}]}, "$features.messages[1]"),
        ({"messages": [USER | {"name": "b"}]}, "$features.messages[0]"),
        ({"messages": [USER | {"role": "tool"}]}, "$features"),
        ({"messages": [USER | {"role": "User"}]}, "$features"),
        ({"messages": [USER | {"content": None}]}, "$features.messages[0].content"),
        ({"messages": [USER | {"content": [{"type": "text"}]}]}, "$features.messages[0].content"),
        ({"messages": [USER] * (MAX_MESSAGES + 1)}, "$features.messages"),
        ({"prompt": "a", "seed": True}, "$features.seed"),
        ({"prompt": "a", "seed": 1.5}, "$features"),
        ({"prompt": "a", "seed": "1"}, "$features.seed"),
        ({"prompt": "a", "seed": 2**53}, "$features.seed"),
        ({"prompt": "a", "seed": -(2**53)}, "$features.seed"),
        ({"prompt": "a", "seed": None}, "$features.seed"),
        ({"prompt": "a", "user": ""}, "$features"),
        ({"prompt": "a", "user": "u" * 257}, "$features.user"),
        ({"prompt": "a", "url": "http://localhost/"}, "$features"),
        ({"prompt": "a", "temperature": "0.7"}, "$features"),
        ({"prompt": "a", "stop": []}, "$features.stop"),
        ({"prompt": "a", "stop": "a"}, "$features.stop"),
        ({"prompt": "a", "stop": None}, "$features.stop"),
        ({"prompt": "a", "stop": {"0": "a"}}, "$features.stop"),
        ({"prompt": "a", "stop": list("abcde")}, "$features.stop"),
        ({"prompt": "a", "stop": ["a", 7]}, "$features.stop[1]"),
        ({"prompt": "a", "stop": ["a" * 65]}, "$features.stop[0]"),
        ({"prompt": "a", "stop": ["\ud800"]}, "$features.stop[0]"),
        ({"prompt": "a", "stop": [""]}, "$features"),
        ({"prompt": "a", "stop": ["a", "b", "a"]}, "$features"),
        ({"prompt": "a", "stop": ["a\ufffd"]}, "$features"),
        ({"prompt": "a", "b": 1, "c": 2, "d": 3, "e": 4}, "$features"),
        ({"prompt": "\ud800"}, "$features.prompt"),
    ],
)
def test_what_is_no_question_is_refused_with_its_path(value: Any, path: str) -> None:
    raw = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ValueError) as caught:
        Features.from_bytes(raw)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt":"a" }',
        b'{"seed":1,"prompt":"a"}',
        b'{"prompt":"\\u0061"}',
        b'{"prompt":"\\/"}',
        b'{"prompt":"a","seed":-0}',
        b'\xef\xbb\xbf{"prompt":"a"}',
        b'{"prompt":"a","prompt":"a"}',
        b'{"prompt":"a"}\n',
        b'{"prompt":"\xff"}',
        b"",
    ],
)
def test_another_spelling_of_a_question_is_none(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\$features"):
        Features.from_bytes(raw)


def test_a_question_has_at_most_64_kib() -> None:
    most = MAX_FEATURES_BYTES - len(Features(prompt="a").to_bytes()) + 1
    raw = Features(prompt="a" * most).to_bytes()
    assert len(raw) == MAX_FEATURES_BYTES
    assert Features.from_bytes(raw).prompt == "a" * most
    with pytest.raises(ValueError, match="at most 65536"):
        Features(prompt="a" * (most + 1)).to_bytes()
    with pytest.raises(ValueError, match="at most 65536"):
        Features.from_bytes(raw + b" ")


def test_a_conversation_has_at_most_so_many_messages() -> None:
    full = Features(messages=(Message("user", ""),) * MAX_MESSAGES)
    assert Features.from_bytes(full.to_bytes()) == full
    with pytest.raises(ValueError, match="messages"):
        Features(messages=(Message("user", ""),) * (MAX_MESSAGES + 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prompt": "a", "messages": (Message("user", "a"),)},
        {"prompt": ""},
        {"messages": ()},
        {"messages": (Message("tool", "a"),)},
        {"prompt": "a", "seed": 2**53},
        {"prompt": "a", "user": ""},
        {"prompt": "a", "user": "u" * 257},
        {"prompt": "a", "stop": ("",)},
        {"prompt": "a", "stop": ("a", "a")},
        {"prompt": "a", "stop": tuple("abcde")},
        {"prompt": "a", "stop": ("a" * 65,)},
        {"prompt": "a", "stop": ("\ud800",)},
        {"prompt": "a", "stop": ("a\ufffd",)},
    ],
)
def test_features_of_our_own_follow_the_same_rules(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Features(**wrong)


def test_a_question_without_stop_texts_has_the_bytes_that_it_always_had() -> None:
    assert Features(prompt="a", seed=1, user="b").to_bytes() == b'{"prompt":"a","seed":1,"user":"b"}'
    assert Features(prompt="a", stop=("\n", "é")).to_bytes() == '{"prompt":"a","stop":["\\n","é"]}'.encode()


def test_text_without_utf8_has_no_bytes() -> None:
    with pytest.raises(ValueError):
        Features(prompt="\ud800").to_bytes()


def test_network_salt_and_text_are_under_the_digest() -> None:
    body = Features(prompt="a").to_bytes()
    digests = [
        features_digest(bytes(32), NO_SALT, body),
        features_digest(b"\x01" * 32, NO_SALT, body),
        features_digest(bytes(32), b"\x01" * 32, body),
        features_digest(bytes(32), NO_SALT, Features(prompt="a", seed=0).to_bytes()),
        features_digest(bytes(32), NO_SALT, Features(prompt="a", user="b").to_bytes()),
    ]
    assert len(set(digests)) == 5


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_salt_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        features_digest(bytes(32), bytes(size), b"{}")


@given(st.lists(asked, min_size=2, max_size=6, unique_by=lambda features: features.to_bytes()))
@settings(max_examples=30)
def test_two_questions_never_share_a_digest(questions: list[Features]) -> None:
    digests = sorted(features_digest(bytes(32), NO_SALT, features.to_bytes()) for features in questions)
    assert all(a != b for a, b in pairwise(digests))
