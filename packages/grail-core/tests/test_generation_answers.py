"""What engines answer is a stranger's bytes: it becomes the tokens of the row that was asked for, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.generation.answers import Ended, EngineAnswer, UnusableAnswerError, most_bytes, read_sglang, read_vllm
from grail_core.generation.base import GenerationRequest, ServedWeights
from grail_core.generation.http import checked_url
from grail_core.generation.plugin import drawing_keys, signed_seed
from grail_core.generation.rows import EngineLimitError, Row, RowRules, WrongWeightsError, make_rows
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.protocol.policy import GenerationPolicy

MOST = most_bytes(8, 64)
VERSION = "ab" * 32
END = frozenset({3, 5})
ROW = Row(0, (7, 8, 9), seed=1, limit=4, policy=GenerationPolicy(4))
RULES = RowRules(VERSION, END, vocabulary_size=96)

# As SGLang 0.5.23 and vLLM 0.32 wrote them on a CPU, shortened.
SGLANG: dict[str, Any] = {
    "text": "ab�",
    "output_ids": [75, 99, 3],
    "meta_info": {
        "id": "r1",
        "finish_reason": {"type": "stop", "matched": 3},
        "prompt_tokens": 3,
        "weight_version": VERSION,
        "weight_versions": [{"version": VERSION, "start": 0, "end": 3}],
        "num_retractions": 0,
        "completion_tokens": 3,
        "cached_tokens": 0,
        "e2e_latency": 0.031,
        "response_sent_to_client_ts": 1764330000.25,
    },
}
VLLM: dict[str, Any] = {
    "request_id": "generate-tokens-r1",
    "model": "tiny",
    "created": 1764330000,
    "usage": {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3},
    "prompt_logprobs": None,
    "prompt_token_ids": [7, 8, 9],
    "output_mode": "tokens",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "stop_reason": 3,
            "token_ids": [75, 99, 3],
            "routed_experts": None,
            "sampling_mask": None,
            "weight_versions": [{"version": VERSION, "start": 0, "end": 3}],
            "logprobs": None,
        }
    ],
}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def changed(value: dict[str, Any], path: str, new: Any) -> bytes:
    """The body with one member replaced; `...` takes it out."""
    copy: Any = json.loads(json.dumps(value))
    *inner, last = path.split(".")
    at = copy
    for name in inner:
        at = at[int(name)] if isinstance(at, list) else at[name]
    if new is ...:
        del at[last]
    else:
        at[last] = new
    return raw(copy)


def answer(
    *tokens: int, ended: Ended = Ended.TOKEN, prompt_length: int = 3, versions: frozenset[str] | None = None
) -> EngineAnswer:
    return EngineAnswer("r1", None, prompt_length, tokens, ended, versions if versions is not None else frozenset({VERSION}))


def test_recorded_answers_of_both_engines_say_the_same() -> None:
    sglang, vllm = read_sglang(raw(SGLANG), most=MOST), read_vllm(raw(VLLM), most=MOST)
    assert sglang.tokens == vllm.tokens == (75, 99, 3)
    assert sglang.ended is vllm.ended is Ended.TOKEN
    assert sglang.versions == vllm.versions == {VERSION}
    assert (sglang.prompt_length, vllm.prompt_length, vllm.prompt) == (3, 3, (7, 8, 9))
    assert (sglang.request_id, vllm.request_id) == ("r1", "generate-tokens-r1")


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("output_ids", ...),
        ("output_ids", [75, 99, 3.0]),
        ("output_ids", [75, 99, True]),
        ("output_ids", [75, 99, -1]),
        ("output_ids", [75, 99, 2**31]),
        ("output_ids", "75 99 3"),
        ("output_ids", [75, 99]),  # the last token is cut off: neither the count nor the matched token fits
        ("meta_info", ...),
        ("meta_info", []),
        ("meta_info.id", ...),
        ("meta_info.id", 7),
        ("meta_info.weight_version", ...),
        ("meta_info.weight_version", "x" * 300),
        ("meta_info.weight_versions", [{"start": 0, "end": 3}]),
        ("meta_info.weight_versions", [{"version": VERSION}] * 65),
        ("meta_info.completion_tokens", 4),
        ("meta_info.prompt_tokens", -3),
        ("meta_info.finish_reason", None),
        ("meta_info.finish_reason", "stop"),
        ("meta_info.finish_reason", {"type": "repetition"}),
        ("meta_info.finish_reason", {"type": "stop", "matched": "NaN happened"}),  # SGLang's own end token for a NaN
        ("meta_info.finish_reason", {"type": "stop", "matched": 5}),
        ("meta_info.e2e_latency", float("nan")),
        ("meta_info.e2e_latency", float("inf")),
    ],
)
def test_an_answer_that_sglang_would_not_write_is_refused(path: str, new: Any) -> None:
    with pytest.raises(UnusableAnswerError, match="SGLang"):
        read_sglang(changed(SGLANG, path, new), most=MOST)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("choices", ...),
        ("choices", []),
        ("choices", [VLLM["choices"][0]] * 2),
        ("choices.0.index", 1),
        ("choices.0.token_ids", None),
        ("choices.0.token_ids", [75, "99", 3]),
        ("prompt_token_ids", None),
        ("choices.0.weight_versions", None),
        ("choices.0.finish_reason", None),
        ("choices.0.finish_reason", "repetition"),
        ("choices.0.stop_reason", "repetition_detected"),
        ("choices.0.stop_reason", 5),
        ("request_id", ...),
    ],
)
def test_an_answer_that_vllm_would_not_write_is_refused(path: str, new: Any) -> None:
    with pytest.raises(UnusableAnswerError, match="vLLM"):
        read_vllm(changed(VLLM, path, new), most=MOST)


def test_an_answer_is_bounded_before_it_is_decoded() -> None:
    for read in (read_sglang, read_vllm):
        with pytest.raises(UnusableAnswerError, match="at most"):
            read(b" " * (MOST + 1), most=MOST)
        with pytest.raises(UnusableAnswerError, match="nested too deeply"):
            read(b"[" * 1000, most=MOST)
        with pytest.raises(UnusableAnswerError, match="more than"):
            read(b'{"output_ids": [' + b"1," * (1 << 20) + b"1]}", most=1 << 30)


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*SGLANG, *SGLANG["meta_info"], *VLLM]), inner),
    max_leaves=12,
)


@given(st.binary(max_size=200) | Json.map(raw))
def test_anything_else_is_unusable_and_fit_to_be_printed(body: bytes) -> None:
    for read in (read_sglang, read_vllm):
        with pytest.raises(UnusableAnswerError) as refused:
            read(body, most=MOST)
        assert str(refused.value).isprintable()


@given(st.data())
@settings(max_examples=150)
def test_an_answer_changed_anywhere_never_becomes_other_than_what_it_says(data: st.DataObject) -> None:
    value, read = data.draw(st.sampled_from([(SGLANG, read_sglang), (VLLM, read_vllm)]))
    path = data.draw(st.sampled_from([*_paths(value)]))
    new = data.draw(Json)
    try:
        found = read(changed(value, path, new), most=MOST)
    except UnusableAnswerError:
        return
    assert all(type(token) is int and 0 <= token < 2**31 for token in found.tokens)
    assert found.ended is not Ended.TOKEN or found.tokens[-1] == 3 or list(found.tokens) == new
    assert found.versions


def _paths(value: Any, at: str = "") -> list[str]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for name, inner in members:
        here = f"{at}.{name}" if at else str(name)
        found += [here] if isinstance(value, dict) else []
        found += _paths(inner, here)
    return found


def test_a_row_ends_at_an_end_token_or_at_its_limit() -> None:
    assert RULES.extended(ROW, (), answer(75, 3)) == ((75, 3), True)
    assert RULES.extended(ROW, (), answer(75, 76, 77, 78, ended=Ended.LENGTH)) == ((75, 76, 77, 78), True)
    assert RULES.extended(ROW, (), answer(75, 76, 77, 3, ended=Ended.LENGTH)) == ((75, 76, 77, 3), True)


def test_a_row_that_the_engine_ended_at_a_token_of_its_own_goes_on() -> None:
    tokens, finished = RULES.extended(ROW, (), answer(75, 2))
    assert (tokens, finished) == ((75, 2), False)
    assert RULES.extended(ROW, tokens, answer(5, prompt_length=5)) == ((75, 2, 5), True)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (answer(), "no token"),
        (answer(1, 2, 4, 6, 7), "at most 4"),
        (answer(75, 96, 3), "outside the vocabulary"),
        (answer(75, 3, 76), "after an end token"),
        (answer(3, 3), "after an end token"),
        (answer(75, 3, prompt_length=4), "another prompt"),
        (answer(75, ended=Ended.ABORTED), "gave the request up"),
        (EngineAnswer("r1", (7, 8, 8), 3, (75, 3), Ended.TOKEN, frozenset({VERSION})), "another prompt"),
    ],
)
def test_tokens_that_cannot_be_this_rows_are_refused(wrong: EngineAnswer, why: str) -> None:
    with pytest.raises(UnusableAnswerError, match=why):
        RULES.extended(ROW, (), wrong)


@pytest.mark.parametrize("versions", [frozenset(), frozenset({"default"}), frozenset({VERSION, "cd" * 32})])
def test_a_row_of_other_weights_or_of_two_is_never_taken(versions: frozenset[str]) -> None:
    with pytest.raises(WrongWeightsError):
        RULES.extended(ROW, (), answer(75, 3, versions=versions))


def test_a_row_cut_below_the_policys_limit_is_told_apart_from_a_bad_answer() -> None:
    with pytest.raises(EngineLimitError, match="after 2 tokens, where the policy allows 4"):
        RULES.extended(ROW, (), answer(75, 76, ended=Ended.LENGTH))


@given(st.lists(st.integers(0, 120), max_size=6), st.sampled_from(Ended), st.lists(st.integers(0, 95), max_size=3))
def test_what_is_taken_as_a_finished_row_is_one_by_the_protocol(new: list[int], ended: Ended, before: list[int]) -> None:
    so_far = tuple(token for token in before if token not in END)
    try:
        tokens, finished = RULES.extended(ROW, so_far, answer(*new, ended=ended, prompt_length=3 + len(so_far)))
    except (UnusableAnswerError, EngineLimitError):
        return
    assert tokens == (*so_far, *new)
    assert len(so_far) < len(tokens) <= ROW.limit
    assert all(token < 96 for token in tokens)
    assert not END & set(tokens[:-1])
    assert finished == (tokens[-1] in END or len(tokens) == ROW.limit)


def _weights(max_tokens: int = 8, context: int = 40) -> ServedWeights:
    return ServedWeights(VERSION, Path("/nowhere"), GenerationPolicy(max_tokens), END, 96, context)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ((), OverlongSequenceError),
        ((1, 96), OutOfVocabularyError),
        ((1, -1), OutOfVocabularyError),
        ((1,) * 40, ProtocolViolationError),
    ],
)
def test_a_prompt_that_cannot_be_taken_is_refused_before_anything_is_sent(
    prompt: tuple[int, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_rows([GenerationRequest(prompt, 1)], _weights(), 1000, 0)


def test_an_engine_limit_below_the_policys_is_refused_with_the_least_value() -> None:
    asked = [GenerationRequest((1,) * 20, 1)]
    assert make_rows(asked, _weights(), 28, 0)[0].limit == 8
    with pytest.raises(ProtocolViolationError) as refused:
        make_rows(asked, _weights(), 29, 2)
    assert "30 or more" in refused.value.hint


@pytest.mark.parametrize("url", ["http://127.0.0.1:30000", "https://gpu.example:8000/", "http://[::1]:8000"])
def test_an_engines_address_is_scheme_host_and_port(url: str) -> None:
    assert checked_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "127.0.0.1:3000",
            "ftp://h:1",
            "http://",
            "http://h:99999",
            "http://h:0",
            "http://h/v1",
            "http://h?x=1",
            "http://h#f",
        ),
        *("http://user:word@h:1", "http://h:1\n", "http://hé:1", "http://[::1"),
        *(
            "http://h:1/?key=word@",
            "http://h:1/word@",
            "http://user:word@/x@h:1",
            "http://user:word/@h:1",
            "http://h?word@=a@b",
        ),
    ],
)
def test_any_other_address_is_refused_and_no_password_is_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        checked_url(url)
    assert "word" not in str(refused.value).replace("password", "")


@given(st.integers(0, 2**64 - 1))
def test_a_seed_reaches_the_engine_with_all_its_bits(seed: int) -> None:
    assert -(2**63) <= signed_seed(seed) < 2**63
    assert signed_seed(seed) % 2**64 == seed
    assert int(str(drawing_keys(GenerationPolicy(1), seed)["grail_seed"])) == seed
