"""What of a completion's text is handed out: up to the earliest stop text, and no stop text is looked for in what the template
wrote."""

from __future__ import annotations

import pytest

from grail_core.environment import Message
from grail_core.inference.answers import ServedModel
from grail_core.inference.features import Features
from grail_core.inference.stops import before_stop, first_match
from grail_core.model.answer_texts import answer_text, ended_by
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.types import Digest
from tooling.testing.reported_cases.opened_thinking import OPENING_TEMPLATE, tokenizer_folder

ANY = Digest(bytes(32))
QUESTION = (Message("user", "7 + 5"),)


@pytest.mark.parametrize(
    ("text", "stops", "place"),
    [
        ("abc", [], None),
        ("abc", ["d", "ca"], None),
        ("abc", ["c", "bc"], 1),
        ("abcabc", ["c"], 2),
        ("abc", ["abc", "c"], 0),
        ("", ["a"], None),
    ],
)
def test_a_text_ends_before_the_earliest_match(text: str, stops: list[str], place: int | None) -> None:
    assert first_match(text, stops) == place
    assert before_stop(text, stops) == text[:place]


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return PromptRenderer(tokenizer_folder(OPENING_TEMPLATE), "native")


def answered(renderer: PromptRenderer, said: str, *stops: str, ends: tuple[int, ...] = ()) -> tuple[str, str]:
    model = ServedModel("Any", ANY, ANY, ANY, ANY, "native", (10**6,), 10, 10**6 + 1)
    completion = (*renderer.encode(said), *ends)
    asked = Features(messages=QUESTION, stop=stops)
    return answer_text(renderer, model, asked, completion), ended_by(renderer, model, asked, completion)


def test_what_the_template_wrote_before_the_answer_ends_nothing_and_stays(renderer: PromptRenderer) -> None:
    assert answered(renderer, "so it is 12", "think") == ("<think>so it is 12", "limit")
    assert answered(renderer, "so it is 12", " is") == ("<think>so it", "stop text")
    assert answered(renderer, "so", "so") == ("<think>", "stop text")


def test_the_token_that_ends_an_answer_is_no_text(renderer: PromptRenderer) -> None:
    assert answered(renderer, "so", "x", ends=(10**6,)) == ("<think>so", "end token")
    assert answered(renderer, "so", "o", ends=(10**6,)) == ("<think>s", "stop text")
