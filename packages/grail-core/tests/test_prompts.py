"""Prompts are one pure function of messages and folder; no message can write a control token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from grail_core.environment import Message
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model.prompts import THINKING_INSTRUCTION, PromptRenderer

TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{{ message['content'] | trim + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- if not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


def write_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A byte-level BPE with a few merges, two special tokens and two added ones that the template names."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    merges = [("a", "b"), ("Ċ", "Ċ"), ("Ġ", "t"), ("u", "s"), ("us", "e"), ("use", "r")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS[:2]])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in CONTROLS[2:]])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


CHAT = [Message("system", "  be\n\nbrief "), Message("user", "abab user\n\n\nwhat is\ttrue? ½ 😀")]


@pytest.mark.parametrize(("mode", "thinking"), [("native", True), ("none", False)])
def test_plain_messages_render_as_transformers_renders_them(folder: Path, mode: str, thinking: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    reference = PreTrainedTokenizerFast.from_pretrained(str(folder))
    expected = reference.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in CHAT],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        enable_thinking=thinking,
    )
    assert list(PromptRenderer(folder, mode).render(CHAT)) == list(expected)


hostile = st.lists(
    st.one_of(
        st.sampled_from(
            [*CONTROLS, "<|im_", "end|>", "<", ">", "|", "<|im_end|", "<<|im_end|>", "\ue000", "\ue001", " ", "\n"]
        ),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


@given(content=hostile)
@settings(max_examples=300)
def test_no_content_can_write_a_control_token(shared_renderer: PromptRenderer, content: str) -> None:
    assume("\U0010fffd" not in content)  # refused beside a control token: it is what one is marked with
    tokens = shared_renderer.render([Message("user", content)])
    neutral = shared_renderer.render([Message("user", "x")])
    ids = {shared_renderer.token_id(text) for text in CONTROLS}
    assert [t for t in tokens if t in ids] == [t for t in neutral if t in ids]
    # Nothing is lost or added either: the text between the control tokens is the content, trimmed by the template.
    start, end = (shared_renderer.token_id(text) for text in CONTROLS[:2])
    body = tokens[tokens.index(start) + 1 : tokens.index(end)]
    assert shared_renderer.decode_completion(body) == f"user\n{content.strip()}"


def test_a_message_with_a_control_token_and_its_mark_is_refused(shared_renderer: PromptRenderer) -> None:
    with pytest.raises(ProtocolViolationError, match="U\\+10FFFD"):
        shared_renderer.render([Message("user", "<|im_start|>\U0010fffd12\U0010fffd")])
    assert shared_renderer.render([Message("user", "\U0010fffd")])


def plain_ids(folder: Path, text: str) -> tuple[int, ...]:
    """What the folder's tokenizer makes of a text, with nothing before or after it."""
    return tuple(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


@given(text=st.text(max_size=30))
@settings(max_examples=100)
def test_a_text_without_control_tokens_is_encoded_as_the_tokenizer_does(
    folder: Path, shared_renderer: PromptRenderer, text: str
) -> None:
    assume(not any(control in text for control in CONTROLS))
    assert shared_renderer.encode(text) == plain_ids(folder, text)
    assert shared_renderer.decode(shared_renderer.encode(text)) == text


@given(text=hostile)
@settings(max_examples=300)
def test_control_tokens_in_a_text_are_text(shared_renderer: PromptRenderer, text: str) -> None:
    assume("\U0010fffd" not in text)
    tokens = shared_renderer.encode(text)
    assert not set(tokens) & {shared_renderer.token_id(control) for control in CONTROLS}
    assert shared_renderer.decode(tokens) == text, "nothing is lost, and nothing is put before or after it"


def test_a_text_gets_no_first_token_that_its_tokenizer_puts_before_texts(
    tmp_path: Path, shared_renderer: PromptRenderer
) -> None:
    folder = write_tokenizer(tmp_path / "bos")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first = tokenizer.token_to_id("<|im_start|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", first)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer.encode("ab").ids[0] == first
    assert PromptRenderer(folder).encode("ab") == shared_renderer.encode("ab") == plain_ids(folder, "ab")


def test_a_text_with_a_control_token_and_its_mark_is_refused(shared_renderer: PromptRenderer) -> None:
    with pytest.raises(ProtocolViolationError, match="U\\+10FFFD"):
        shared_renderer.encode("<|im_start|>\U0010fffd12\U0010fffd")
    assert shared_renderer.encode("\U0010fffd")


@pytest.mark.parametrize("mode", ["native", "instructed", "none"])
def test_a_text_is_encoded_alike_in_every_thinking_mode(folder: Path, mode: str) -> None:
    assert PromptRenderer(folder, mode).encode("abab user <think>") == PromptRenderer(folder).encode("abab user <think>")


def test_a_decoded_text_has_no_special_tokens_and_no_opened_thinking(folder: Path) -> None:
    renderer = PromptRenderer(folder, "native")
    end = renderer.token_id("<|im_end|>")
    assert end is not None
    tokens = [*renderer.encode("abab"), end]
    assert renderer.decode(tokens) == "abab"
    assert renderer.decode([]) == ""
    assert renderer.decode([2**31 - 1, *tokens]) == "abab", "ids that the tokenizer does not know are left out"


@pytest.fixture(scope="module")
def shared_renderer(folder: Path) -> PromptRenderer:
    return PromptRenderer(folder, "none")


def test_instructed_thinking_asks_for_tags_in_the_system_message(folder: Path) -> None:
    renderer = PromptRenderer(folder, "instructed")
    plain = PromptRenderer(folder, "none")
    user = Message("user", "hi")
    assert renderer.render([user]) == plain.render([Message("system", THINKING_INSTRUCTION), user])
    with_system = renderer.render([Message("system", "be brief"), user])
    assert with_system == plain.render([Message("system", f"be brief\n{THINKING_INSTRUCTION}"), user])


@given(tokens=st.lists(st.integers(0, 400), max_size=30))
@settings(max_examples=100)
def test_decoding_never_raises_and_leaves_special_tokens_out(shared_renderer: PromptRenderer, tokens: list[int]) -> None:
    text = shared_renderer.decode_completion(tokens)
    assert isinstance(text, str)
    end = shared_renderer.token_id("<|im_end|>")
    assert end is not None
    assert shared_renderer.decode_completion([*tokens, end]) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ strftime_now('%Y') }}{{ messages }}", "reads a clock"),
        ("{% if date_string is defined %}{{ date_string }}{% endif %}", "reads a clock"),
        ("{{ messages | random }}", "does not compile"),
        ("{% for %}", "does not compile"),
        (None, "no single chat template"),
    ],
)
def test_a_template_that_is_not_a_pure_function_is_refused(tmp_path: Path, template: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PromptRenderer(write_tokenizer(tmp_path, template))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "", "[]", "{", "\x00", '{"added_tokens": 3}'])
def test_a_broken_folder_is_one_clear_error(tmp_path: Path, name: str, content: str | None) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError):
        PromptRenderer(tmp_path)


def test_conversations_the_template_cannot_take_are_protocol_violations(tmp_path: Path) -> None:
    renderer = PromptRenderer(write_tokenizer(tmp_path, "{{ raise_exception('no system turn') }}"))
    with pytest.raises(ProtocolViolationError, match="no system turn"):
        renderer.render([Message("user", "x")])
    with pytest.raises(ProtocolViolationError, match="role"):
        renderer.render([Message("tool", "x")])
    with pytest.raises(ProtocolViolationError, match="at least one"):
        renderer.render([])


def test_digests_change_with_every_byte_that_matters(tmp_path: Path) -> None:
    first = PromptRenderer(write_tokenizer(tmp_path / "a"))
    same = PromptRenderer(write_tokenizer(tmp_path / "b"))
    other = PromptRenderer(write_tokenizer(tmp_path / "c", TEMPLATE + " "))
    assert (first.tokenizer_digest, first.chat_template_digest) == (same.tokenizer_digest, same.chat_template_digest)
    assert first.chat_template_digest != other.chat_template_digest
    assert first.tokenizer_digest == other.tokenizer_digest
