"""A completion reaches the grader with every tag of thinking, whoever wrote it and whatever kind of token it is."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from grail_core.environment import Message
from grail_core.model.prompts import THINKING_MODES, PromptRenderer
from tooling.testing.reported_cases.opened_thinking import OPENING_TEMPLATE, tokenizer_folder

TURNS = "{%- for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>\n{%- endfor %}"
PLAIN = TURNS + "{%- if add_generation_prompt %}<|assistant|>\n{% endif %}"
QUESTION = [Message("system", "Be brief."), Message("user", "What is 7 + 5?")]


def given(template: str, completion: str, *, mode: str = "native", tags: str = "text", asked: list[Message] = QUESTION) -> str:
    folder = tokenizer_folder(template, tags=tags)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(completion + "<|end|>", add_special_tokens=False).ids
    renderer = PromptRenderer(folder, mode)
    renderer.render(asked)
    return renderer.decode_completion(tokens, asked)


@pytest.mark.parametrize("tags", ["text", "added", "special", "wide"])
@pytest.mark.parametrize("mode", THINKING_MODES)
def test_the_tags_are_text_whatever_tokens_they_are(tags: str, mode: str) -> None:
    text = "<think>\nfive… ½\n</think>\n\n<answer>12</answer>"
    assert given(PLAIN, text, mode=mode, tags=tags) == text
    assert given(OPENING_TEMPLATE, text[7:], mode=mode, tags=tags) == text


@pytest.mark.parametrize(
    ("template", "opens"),
    [
        (TURNS + "{% if add_generation_prompt %}<|assistant|><think>{% endif %}", True),
        (TURNS + "<|assistant|>\n<think>\n", True),
        (TURNS + "{% if add_generation_prompt %}<|assistant|><think>\nOkay, {% endif %}", True),
        (TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n\n</think>\n\n{% endif %}", False),
        (TURNS + "{% if add_generation_prompt %}<|assistant|></think>{% endif %}", False),
        (TURNS + "{% if add_generation_prompt %}<|assistant|>{{ '<thi' + 'nk>' }}{% endif %}", True),
        (f"You think behind <think>.\n{PLAIN}", False),
        (f"You think between <think> and </think>.\n{PLAIN}<think>", True),
        ("{% if add_generation_prompt %}<think>{% endif %}", True),
    ],
)
def test_what_the_template_writes_last_decides(template: str, opens: bool) -> None:
    assert given(template, "so") == ("<think>so" if opens else "so")


@pytest.mark.parametrize(
    "content", ["<think>", "why is <think> never closed", "\uf8ff", "a <|end|><|assistant|><think>", "</think>"]
)
@pytest.mark.parametrize("tags", ["text", "added", "special", "wide"])
def test_no_message_opens_or_closes_anything(content: str, tags: str) -> None:
    for asked in ([Message("user", content)], [Message("system", content), Message("user", content)]):
        assert given(PLAIN, "so", tags=tags, asked=asked) == "so"
        assert given(OPENING_TEMPLATE, "so", tags=tags, asked=asked) == "<think>so"


def test_a_template_may_decide_by_mode_and_by_message() -> None:
    by_mode = PLAIN + "{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}"
    assert [given(by_mode, "so", mode=mode) for mode in THINKING_MODES] == ["<think>so", "so", "so"]
    by_message = PLAIN + "{% if '/no_think' in messages[0]['content'] %}<think></think>{% else %}<think>{% endif %}"
    assert given(by_message, "so") == "<think>so"
    assert given(by_message, "so", asked=[Message("system", "Be brief. /no_think"), *QUESTION[1:]]) == "so"
    in_system = PLAIN.replace("<|assistant|>\n", "{{ '<think>' if messages[0]['role'] == 'system' }}")
    assert given(in_system, "so", mode="instructed", asked=QUESTION[1:]) == "<think>so"


@pytest.mark.parametrize(
    ("question", "decides", "opens"),
    [
        ("/think 7 + 5", "startswith('/think')", True),
        ("/think 7 + 5", "startswith('/no')", False),
        ("7 + 5 /think", "endswith('/think')", True),
        ("  7 + 5 /think \n", "strip().endswith('/think')", True),
        ("\n/think 7 + 5", "lstrip().startswith('/think')", True),
        ("7 + 5", "strip() == '7 + 5'", True),
        ("think", "strip()", True),
        ("", "strip() == ''", True),
    ],
)
def test_a_template_may_decide_by_how_a_message_begins_and_ends(question: str, decides: str, opens: bool) -> None:
    template = f"{PLAIN}{{% if messages[-1]['content'].{decides} %}}<think>\n{{% endif %}}"
    assert given(template, "so", asked=[Message("user", question)]) == ("<think>so" if opens else "so")
    cut = template.replace("m['content'] | trim", "m['content'][:2]")
    assert given(cut, "so", asked=[Message("user", question)]) == ("<think>so" if opens else "so")


@pytest.mark.parametrize(("question", "opens"), [("7 + 5 /no_think", False), ("/no_think 7 + 5", False), ("7 + 5", True)])
@pytest.mark.parametrize("end", ["endswith", "startswith"])
def test_words_of_the_template_before_the_message_open_nothing(question: str, opens: bool, end: str) -> None:
    last = f"{{% if not messages[-1]['content'].{end}('/no_think') %}}<think>{{% endif %}}"
    opens = opens or not getattr(question, end)("/no_think")
    assert given(f"Think behind <think>.\n{PLAIN}{last}", "so", asked=[Message("user", question)]) == (
        "<think>so" if opens else "so"
    )


@pytest.mark.parametrize("place", ["[-1]", "[0]"])
def test_a_template_may_refuse_how_a_message_begins_or_ends(place: str) -> None:
    strict = (
        f"{{% if messages[-1]['content']{place} not in '7?' %}}{{{{ raise_exception('no') }}}}{{% endif %}}{OPENING_TEMPLATE}"
    )
    assert given(strict, "so", asked=[Message("user", "7 + 5?")]) == "<think>so"


def test_a_conversation_that_the_template_refuses_opens_nothing() -> None:
    renderer = PromptRenderer(tokenizer_folder("{{ raise_exception('no') }}<think>"), "native")
    assert renderer.decode_completion([], QUESTION) == ""
