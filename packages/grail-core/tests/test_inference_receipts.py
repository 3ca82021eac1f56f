"""A receipt reads back to what was written; anything else ends in a ValueError with its path, in bounded memory."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.inference.answers import THINKING_MODES, Answer, Choice, ServedModel, sketched_positions
from grail_core.inference.constants import PERPETUAL
from grail_core.inference.orders import Draw, Order, Subscription, Terms
from grail_core.inference.receipts import LaterReceiptError, Receipt, ServedCheckpoint
from grail_core.inference.typed_data import Domain
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.plain_receipts import NETWORK_ID
from tooling.testing.receipt_documents import (
    ARRAYS,
    GOOD,
    ORDERED,
    UNSIGNED,
    VOCABULARY,
    b64,
    read,
    refusal,
    shown,
    with_member,
)

# Round trip.


def raw(size: int) -> st.SearchStrategy[Any]:
    return st.binary(min_size=size, max_size=size)


def uint(bits: int, least: int = 0) -> st.SearchStrategy[int]:
    return st.integers(least, 2**bits - 1)


decimals = st.sampled_from([0.001, 0.1, 1 / 3, 0.95, 1.0])
names = st.text(st.characters(codec="utf-8"), max_size=20)
policies = st.builds(
    GenerationPolicy,
    st.integers(1, 8_192),
    decimals.map(lambda x: 10 * x),
    decimals,
    st.just(-1) | uint(31, 1),
    decimals.map(lambda x: x + 0.01),
)
models = st.builds(
    ServedModel,
    architecture=names,
    config_digest=raw(32),
    weights_root=raw(32),
    tokenizer_digest=raw(32),
    chat_template_digest=raw(32),
    thinking_mode=st.sampled_from(THINKING_MODES),
    end_token_ids=st.sets(uint(31), min_size=1, max_size=4).map(lambda ids: tuple(sorted(ids))),
    context_length=uint(31, 1),
    vocabulary_size=st.integers(50, 2**31 - 1),
)
terms = st.builds(
    Terms,
    agreement=uint(16),
    draw=st.sampled_from(Draw),
    choices=uint(8),
    answer_seconds=uint(32),
    policy_digest=raw(32),
    features_digest=raw(32),
    node=raw(32),
    hidden=st.booleans(),
)
subscriptions = st.builds(
    Subscription,
    owner=raw(32),
    container_id=raw(32),
    features=st.binary(max_size=20),
    frequency=st.just(PERPETUAL) | uint(53),
    period=uint(32),
    redundancy=uint(16),
    active_at=uint(32),
    max_gas_price=uint(53),
    max_gas_limit=uint(32),
    terms=terms,
)
rounds = st.none() | st.builds(SignedRound, uint(53, 1), raw(48))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    tokens = st.lists(st.integers(0, 49), min_size=1, max_size=40).map(tuple)
    prompt = draw(tokens)
    choices = []
    for completion in draw(st.lists(tokens, min_size=1, max_size=3)):
        sketches = draw(st.binary(min_size=8, max_size=8)) * sketched_positions(len(prompt), len(completion))
        logprobs = draw(st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False))
        claimed = None if logprobs is None else np.full(len(completion), logprobs, dtype="<f4").tobytes()
        choices.append(Choice(completion, sketches, claimed))
    return Answer(prompt, tuple(choices), draw(names), draw(names))


receipts = st.builds(
    Receipt,
    network=names,
    genesis_hash=raw(32),
    domain=st.builds(Domain, uint(53), raw(20)),
    order=st.builds(Order, subscriptions, uint(32), uint(32), st.none() | raw(64) | raw(65)),
    policy=policies,
    salt=raw(32),
    features=st.binary(max_size=40),
    interval=uint(53, 1),
    model=models,
    gas_used=uint(53),
    answer=answers(),
    node=raw(32),
    signature=raw(64),
    checkpoint=st.none() | st.builds(ServedCheckpoint, raw(32), uint(53), uint(53)),
    model_name=names,
    software=st.dictionaries(names, names, max_size=3),
    seed_round=rounds,
    challenge_round=rounds,
)


@given(receipts)
@settings(max_examples=100)
def test_a_receipt_reads_back_to_what_was_written(receipt: Receipt) -> None:
    written = receipt.to_bytes()
    assert Receipt.from_bytes(written) == receipt
    assert Receipt.from_bytes(written).to_bytes() == written


def test_spacing_and_order_of_members_change_nothing() -> None:
    for receipt, document in zip((UNSIGNED, ORDERED), GOOD, strict=True):
        backwards = dict(reversed(document.items()))
        assert Receipt.from_bytes(json.dumps(backwards, indent=3).encode()) == receipt


def test_what_a_receipt_derives_is_a_pure_function_of_it() -> None:
    for receipt in (UNSIGNED, ORDERED):
        again = Receipt.from_bytes(receipt.to_bytes())
        assert again.seeds(NETWORK_ID) == receipt.seeds(NETWORK_ID)
        assert again.answer_digest(again.seeds(NETWORK_ID)) == receipt.answer_digest(receipt.seeds(NETWORK_ID))
        other = bytes(32)
        assert again.answer_digest(again.seeds(other)) != receipt.answer_digest(receipt.seeds(NETWORK_ID))


def test_tokens_sketches_and_logprobs_of_every_choice_are_under_the_answers_digest() -> None:
    seeds = ORDERED.seeds(NETWORK_ID)
    first, second = ORDERED.answer.choices
    assert first.logprobs is not None
    choices = [
        (second, first),
        (dataclasses.replace(first, completion=(*first.completion[:-1], 11)), second),
        (dataclasses.replace(first, sketches=bytes(8) + first.sketches[8:]), second),
        (dataclasses.replace(first, logprobs=None), second),
        (dataclasses.replace(first, logprobs=bytes(4) + first.logprobs[4:]), second),
    ]
    answer = ORDERED.answer
    variants = [
        answer,
        dataclasses.replace(answer, prompt=(9, *answer.prompt[1:])),
        dataclasses.replace(answer, proof_class="a"),
        dataclasses.replace(answer, generation_class="a"),
        *(dataclasses.replace(answer, choices=other) for other in choices),
    ]
    digests = {dataclasses.replace(ORDERED, answer=variant).answer_digest(seeds) for variant in variants}
    assert len(digests) == len(variants)


# Every member.


def objects(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every object of a document that has fixed members, with its path."""
    if isinstance(value, dict):
        if path != ("answer", "software"):
            yield path, value
        for name, item in value.items():
            yield from objects(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from objects(item, (*path, index))


OBJECTS = [(which, path, value) for which, document in enumerate(GOOD) for path, value in objects(document)]
MEMBERS = [(which, (*path, name)) for which, path, value in OBJECTS for name in value]


def test_the_two_receipts_have_every_kind_of_member() -> None:
    assert {path[0] for _, path in MEMBERS} >= {"order", "policy", "model", "answer", "seed_round", "challenge_round"}
    assert (1, ("model", "checkpoint", "sequence")) in MEMBERS
    assert (1, ("answer", "choices", 1, "sketches")) in MEMBERS
    assert len(MEMBERS) > 130


@pytest.mark.parametrize(("which", "path"), MEMBERS, ids=str)
def test_every_member_is_missed(which: int, path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(GOOD[which])
    place = document
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    assert refusal(document).startswith(f"{shown(path[:-1])}: no member '{path[-1]}'")


@pytest.mark.parametrize(("which", "path"), [(which, path) for which, path, _ in OBJECTS], ids=str)
@pytest.mark.parametrize("name", ["url", "", "Version", "é"])
def test_no_member_is_added(which: int, path: tuple[str | int, ...], name: str) -> None:
    assert refusal(with_member(GOOD[which], (*path, name), "x")).startswith(f"{shown(path)}: unknown member ")


FREE_TEXTS = {"name", "architecture", "proof_class", "generation_class", "grail-core", "torch"}
NULLS = {"checkpoint", "seed_round", "challenge_round", "logprobs", "frequency", "coordinator"}


def is_allowed(path: tuple[str | int, ...], value: Any) -> bool:
    """Other values that a member may have as well."""
    if value is None:
        return path[-1] in NULLS or path == ("order", "signature")
    if isinstance(value, str) and value != "\ud800":
        return path[-1] in FREE_TEXTS or (value == "" and path in (("order", "features"), ("features", "body")))
    return (value == {} and path == ("answer", "software")) or (value is True and path[-1] == "hidden")


WRONG_TYPES: list[Any] = [None, True, -2, "", "é", "\ud800", [], [[]], {}, {"a": 1}, 0.5, 2**53, float("nan"), float("inf")]


@pytest.mark.parametrize(("which", "path"), MEMBERS, ids=str)
def test_a_member_of_another_type_is_refused_with_its_path(which: int, path: tuple[str | int, ...]) -> None:
    for value in WRONG_TYPES:
        if is_allowed(path, value):
            continue
        complaint = refusal(with_member(GOOD[which], path, value))
        about_the_whole = ("$receipt: ", "$receipt.answer: ", "$receipt.model.end_token_ids: ")
        assert complaint.startswith((shown(path), *about_the_whole)), (value, complaint)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("domain", "chain_id"), 2**53),
        (("order", "frequency"), 2**53),
        (("order", "period"), 2**32),
        (("order", "redundancy"), 2**16),
        (("order", "active_at"), 2**32),
        (("order", "max_gas_price"), 2**53),
        (("order", "max_gas_limit"), 2**32),
        (("order", "nonce"), 2**32),
        (("order", "expiry"), 2**32),
        (("order", "terms", "agreement"), 2**16),
        (("order", "terms", "draw"), 2),
        (("order", "terms", "choices"), 256),
        (("order", "terms", "answer_seconds"), 2**32),
        (("policy", "max_tokens"), 8_193),
        (("policy", "top_k"), 2**31),
        (("policy", "top_k"), -2),
        (("interval",), 0),
        (("interval",), 2**53),
        (("model", "context_length"), 0),
        (("model", "context_length"), 2**31),
        (("model", "vocabulary_size"), 0),
        (("model", "vocabulary_size"), 2**31),
        (("model", "end_token_ids", 0), -1),
        (("model", "end_token_ids", 0), 2**31),
        (("gas_used",), 2**53),
        (("model", "checkpoint", "sequence"), 2**53),
        (("model", "checkpoint", "valid_from"), -1),
        (("seed_round", "round"), 0),
        (("seed_round", "round"), 2**53),
        (("challenge_round", "round"), 10**300),
    ],
)
def test_an_integer_beyond_its_limit_is_refused(path: tuple[str | int, ...], value: int) -> None:
    assert refusal(with_member(GOOD[1], path, value)).startswith(f"{shown(path)}: ")


@pytest.mark.parametrize("text", ["+1", "1e0", "1.0", "-0.0", "NaN", "-Infinity", "01", "0x1", "9" * 5_000])
def test_numbers_are_written_one_way(text: str) -> None:
    written = UNSIGNED.to_bytes().replace(b'"interval":1', b'"interval":' + text.encode())
    with pytest.raises(ValueError, match=r"^\$receipt"):
        Receipt.from_bytes(written)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("network", "genesis_hash"), "AA" * 32),
        (("network", "genesis_hash"), "aa" * 31),
        (("domain", "verifying_contract"), "0x" + "aa" * 19),
        (("node", "hotkey"), "ａ" * 64),
        (("node", "signature"), "aa" * 65),
        (("order", "signature"), "aa" * 63),
        (("order", "signature"), "aa" * 66),
        (("order", "signature"), "a" * 129),
        (("seed_round", "signature"), "aa" * 96),
        (("policy", "temperature"), "1.0"),
        (("policy", "temperature"), "1e0"),
        (("policy", "temperature"), "sNaN"),
        (("policy", "repetition_penalty"), "1.10000000000000000000000000000001"),
        (("policy", "top_p"), " 1"),
        (("model", "thinking_mode"), "native "),
        (("model", "end_token_ids"), [98, 2]),
        (("model", "end_token_ids"), [2, 2]),
        (("model", "end_token_ids"), list(range(65))),
        (("network", "name"), "n" * 65),
        (("model", "name"), "n" * 257),
        (("model", "architecture"), "n" * 129),
        (("answer", "proof_class"), "n" * 129),
        (("answer", "software"), {str(i): "" for i in range(17)}),
        (("answer", "software", "k" * 129), ""),
        (("answer", "software", "torch"), "n" * 257),
    ],
)
def test_a_text_that_is_none_of_the_forms_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    assert refusal(with_member(GOOD[1], path, value)).startswith(shown(path[:-1]))


# Arrays.

SPELLINGS: dict[str, Callable[[str], str]] = {
    "no padding": lambda text: text.rstrip("="),
    "more padding": lambda text: text + "====",
    "a line break": lambda text: f"{text[:4]}\n{text[4:]}",
    "a blank": lambda text: f" {text}",
    "the URL alphabet": lambda text: f"-_{text[2:]}",
    "no letter of it": lambda text: f"*{text[1:]}",
    "wide letters": lambda text: f"Ａ{text[1:]}",
    "padding inside": lambda text: f"{text}AAAA",
}


@pytest.mark.parametrize("path", ARRAYS, ids=str)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_base64_has_one_spelling(path: tuple[str | int, ...], spelling: str) -> None:
    text = SPELLINGS[spelling](b64(bytes(range(7))))
    assert refusal(with_member(GOOD[1], path, text)).startswith(f"{shown(path)}: ")


@pytest.mark.parametrize("text", ["AAAAAB==", "AAAAAP==", "AAAAAAAAAB=="])
def test_base64_with_unused_bits_set_is_refused(text: str) -> None:
    for path in ARRAYS:
        assert "canonical base64" in refusal(with_member(GOOD[1], path, text))


def int32(*values: int) -> str:
    return b64(np.array(values, dtype="<i4").tobytes())


@pytest.mark.parametrize("path", [("answer", "prompt"), ("answer", "choices", 0, "completion")], ids=str)
@pytest.mark.parametrize("token", [-1, -(2**31), VOCABULARY, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_refused_with_its_place(path: tuple[str | int, ...], token: int) -> None:
    complaint = refusal(with_member(GOOD[1], path, int32(5, 0, token, 6)))
    assert complaint == f"{shown(path)}: token id {token} at 2 is outside the vocabulary of {VOCABULARY}"


def test_a_smaller_vocabulary_shuts_tokens_out() -> None:
    assert "outside the vocabulary of 50" in refusal(with_member(GOOD[0], ("model", "vocabulary_size"), 50))


@pytest.mark.parametrize("path", [("answer", "prompt"), ("answer", "choices", 0, "completion")], ids=str)
def test_no_tokens_and_parts_of_one_are_refused(path: tuple[str | int, ...]) -> None:
    assert refusal(with_member(GOOD[0], path, "")).startswith("$receipt.answer: ")
    for size in (1, 2, 3, 5, 7):
        assert "no int32 array" in refusal(with_member(GOOD[0], path, b64(bytes(size))))


def test_a_prompt_and_a_completion_have_the_protocols_limits() -> None:
    assert refusal(with_member(GOOD[0], ("answer", "prompt"), int32(*[1] * 4_097))).startswith("$receipt.answer.prompt: ")
    path = ("answer", "choices", 0, "completion")
    assert refusal(with_member(GOOD[0], path, int32(*[1] * 8_193))).startswith(f"{shown(path)}: ")


@pytest.mark.parametrize("count", [0, 17])
def test_an_answer_has_one_to_sixteen_choices(count: int) -> None:
    document = with_member(GOOD[0], ("answer", "choices"), GOOD[0]["answer"]["choices"] * count)
    assert refusal(document).startswith("$receipt.answer")


def test_sixteen_choices_are_read() -> None:
    assert len(read(with_member(GOOD[0], ("answer", "choices"), GOOD[0]["answer"]["choices"] * 16)).answer.choices) == 16


@pytest.mark.parametrize("change", [-8, -1, 1, 8])
def test_sketches_are_eight_bytes_for_each_of_the_last_positions(change: int) -> None:
    for document, positions in ((GOOD[0], 5 + 4), (GOOD[1], 32 + 6)):
        right = bytes(8 * positions)
        path = ("answer", "choices", 0, "sketches")
        assert read(with_member(document, path, b64(right)))
        wrong = refusal(with_member(document, path, b64((right + bytes(8))[: len(right) + change])))
        assert wrong.startswith("$receipt.answer: choices[0].sketches: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 5])
def test_a_log_probability_is_a_finite_number(value: float, at: int) -> None:
    claimed = np.zeros(6, dtype="<f4")
    claimed[at] = value
    path = ("answer", "choices", 0, "logprobs")
    assert "finite float32" in refusal(with_member(GOOD[1], path, b64(claimed.tobytes())))


@pytest.mark.parametrize("size", [0, 4, 20, 23, 28])
def test_log_probabilities_are_as_many_as_tokens_or_null(size: int) -> None:
    assert refusal(with_member(GOOD[1], ("answer", "choices", 0, "logprobs"), b64(bytes(size)))).startswith("$receipt.answer")


# What is not read by this release.


@pytest.mark.parametrize("version", [2, 3, 2**53 - 1])
def test_a_later_version_is_told_from_a_malformed_receipt(version: int) -> None:
    later = GOOD[0] | {"version": version} | {f"new_{i}": [] for i in range(40)}
    with pytest.raises(LaterReceiptError, match=r"^\$receipt\.version"):
        read(later)
    with pytest.raises(LaterReceiptError):
        read({"version": version})


@pytest.mark.parametrize("version", [True, 0, -1, "1", "2", None, [], 2**53])
def test_what_is_no_version_is_malformed(version: Any) -> None:
    with pytest.raises(ValueError, match=r"^\$receipt\.version") as caught:
        read(GOOD[0] | {"version": version})
    assert not isinstance(caught.value, LaterReceiptError)


def test_a_coordinators_receipt_is_told_from_a_malformed_one() -> None:
    with pytest.raises(LaterReceiptError, match=r"^\$receipt\.coordinator"):
        read(GOOD[0] | {"coordinator": {"operator": "00" * 32, "entries": [], "verdicts": []}})
