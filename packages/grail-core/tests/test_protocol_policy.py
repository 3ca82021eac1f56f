"""A policy has one form, whoever reads it: a manifest's reader or a receipt's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.policy import GenerationPolicy, decimal_text, policy_json, read_policy
from grail_core.protocol.reading import Node

POLICY = policy_json(GenerationPolicy(64, 0.7, 0.95, 40, 1.1))


def read(value: Any) -> GenerationPolicy:
    return read_policy(Node(value, "$.policy").members(*GenerationPolicy.__dataclass_fields__))


@given(
    st.builds(
        GenerationPolicy,
        st.integers(1, MAX_NEW_TOKENS_PROTOCOL_CAP),
        st.floats(1e-3, 100.0),
        st.floats(1e-3, 1.0),
        st.just(-1) | st.integers(1, 2**31 - 1),
        st.floats(0.01, 100.0),
    )
)
@example(GenerationPolicy(1, 1e-3, 1e-3, 1, 0.01))
@example(GenerationPolicy(8_192, 100.0, 1.0, -1, 100.0))
@example(GenerationPolicy(8_192, math.nextafter(1e-3, 1), math.nextafter(1, 0), 2**31 - 1, 1 / 3))
def test_a_policy_reads_back_to_the_same_numbers(policy: GenerationPolicy) -> None:
    assert read(policy_json(policy)) == policy


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "+1", "-1", "01", ".5", "1.", "1.0", "0.50", "1e0", "1E-1", "1_0", "0x1", "1,5", "one"),
        *("nan", "NaN", "sNaN", "NaN7", "inf", "Infinity", "-Infinity", "-0", "0", "1e999999999999999999999", "1e-9999"),
        *("\uff11", "\u0661", "\ud800", "0.3333333333333333333", "1" * 33, "101"),
    ],
)
def test_a_number_is_the_shortest_plain_decimal_within_bounds(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^\$\.policy\.{name}: "):
        read(POLICY | {name: text})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", MAX_NEW_TOKENS_PROTOCOL_CAP + 1),
        ("max_tokens", "64"),
        ("max_tokens", True),
        ("temperature", 1),
        ("temperature", 0.7),
        ("temperature", "0.00099"),
        ("temperature", "100.1"),
        ("top_p", "0.0009"),
        ("top_p", "1.1"),
        ("top_p", None),
        ("top_k", 0),
        ("top_k", -2),
        ("top_k", 2**31),
        ("top_k", "40"),
        ("repetition_penalty", "0.009"),
        ("repetition_penalty", "100.01"),
    ],
)
def test_a_parameter_out_of_range_or_of_another_type_is_refused_with_its_path(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^\$\.policy\.{name}: "):
        read(POLICY | {name: value})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_text_reads_back_and_has_no_exponent(value: float) -> None:
    text = decimal_text(value)
    assert float(text) == value
    assert not set(text) & set("eE")
