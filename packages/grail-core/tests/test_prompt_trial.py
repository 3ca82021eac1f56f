"""Tokenizer files are tried out in a child before anybody relies on them: what blows up there blows up nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from grail_core.checkpoints.safety import check_model_files
from grail_core.errors import CheckpointError
from grail_core.model import prompt_trial
from tooling.testing.warm_children import warm_trials

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def files(tokenizer: Tokenizer, config: dict[str, Any] | None = None, **written: Any) -> dict[str, bytes]:
    model = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 256, **(config or {})}
    named = {"tokenizer_config": {"chat_template": TEMPLATE}, **written}
    return {
        "config.json": json.dumps(model).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        **{f"{name}.json": json.dumps(value).encode() for name, value in named.items()},
    }


def of_bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_an_ordinary_tokenizer_passes() -> None:
    check_model_files(files(of_bytes()))


def test_a_regular_expression_that_blows_up_is_refused() -> None:
    tokenizer = of_bytes()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a|aa)+!"), "isolated")
    with pytest.raises(CheckpointError, match=r"gives up on a text: .*retry-limit"):
        check_model_files(files(tokenizer))


def making_gigabytes() -> Tokenizer:
    tokenizer = of_bytes()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("a", "a" * 512) for _ in range(4)])
    return tokenizer


def decoded_by(steps: list[Any]) -> Tokenizer:
    tokenizer = of_bytes()
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


DECODED_TO_GIGABYTES = [decoders.Replace("a", "a" * 1000)] * 3


@pytest.fixture
def less_memory() -> Iterator[None]:
    """Tokenizer files may take an eighth of what they may, which is filled in an eighth of the time."""
    with warm_trials(max_space=prompt_trial.MAX_TOKENIZER_SPACE // 8):
        yield


@pytest.mark.usefixtures("less_memory")
def test_a_normalizer_that_makes_gigabytes_is_refused() -> None:
    with pytest.raises(CheckpointError, match="prompts cannot be made with this tokenizer: "):
        check_model_files(files(making_gigabytes()))


@pytest.mark.usefixtures("less_memory")
@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (DECODED_TO_GIGABYTES, "prompts cannot be made"),
        ([decoders.ByteLevel(), decoders.Fuse(), decoders.Replace(Regex("(a|aa)+$"), "x")], "the decoder gives up"),
        ([decoders.Replace("a", "a" * 1000)], "the decoder makes"),
    ],
)
def test_a_decoder_that_blows_up_is_refused(steps: list[Any], why: str) -> None:
    """Completions are decoded by it, in the process of whoever grades them."""
    with pytest.raises(CheckpointError, match=why):
        check_model_files(files(decoded_by(steps)))


@pytest.mark.heavy
@pytest.mark.parametrize("tokenizer", [making_gigabytes(), decoded_by(DECODED_TO_GIGABYTES)], ids=["normalizer", "decoder"])
def test_what_makes_gigabytes_is_refused_in_a_child_of_its_own_that_may_take_all_it_may(tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="prompts cannot be made with this tokenizer: "):
        check_model_files(files(tokenizer))


def test_thousands_of_special_tokens_cost_little() -> None:
    """As Gemma 3's vocabulary has them: 20,000 took over 20 s of processor time."""
    tokenizer = of_bytes()
    tokenizer.add_special_tokens([AddedToken(f"<|r{number}|>", special=True, normalized=False) for number in range(20_000)])
    check_model_files(files(tokenizer, {"vocab_size": 20_256}))


def test_a_token_of_which_the_model_has_no_embedding_is_refused() -> None:
    added = {"chat_template": "{{ bos_token }}" + TEMPLATE, "bos_token": "<new>"}
    with pytest.raises(CheckpointError, match=r"'<new>' is added to tokenizer\.json, and the model has only 256 tokens"):
        check_model_files(files(of_bytes(), tokenizer_config=added))
    check_model_files(files(of_bytes(), {"vocab_size": 320}, tokenizer_config=added))


@pytest.mark.parametrize("text", ['{"model": {"type": "BPE"}}', "{}", "[]", '{"model": 3}', "[" * 100_000, "\x00"])
def test_a_tokenizer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        check_model_files({**files(of_bytes()), "tokenizer.json": text.encode()})


def test_a_tokenizer_without_a_prompt_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"hello": 0}, unk_token="[UNK]"))  # unknown words have no token
    with pytest.raises(CheckpointError, match="it gives no prompt"):
        check_model_files(files(tokenizer))
