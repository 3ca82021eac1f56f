"""The text of the tiny language models without a data set: fixed by the interpreter, long enough, held-out parts unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tooling.adversaries.deviations.workbench import PROMPT_TOKENS
from tooling.studies.power_sizes.sizes import SIZES
from tooling.testing.models import corpus, language_model
from tooling.testing.models.artefacts import Artefacts


@pytest.fixture(autouse=True)
def no_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAIL_DATA_DIR", raising=False)


def test_without_a_data_set_the_text_is_the_language_reference_and_the_same_every_time() -> None:
    first, second = corpus.load_corpus(), corpus.load_corpus()
    assert first.name == "the Python language reference as CPython ships it"
    assert first == second


def test_no_line_block_is_both_trained_on_and_held_out() -> None:
    text = corpus.load_corpus()
    trained = {part for document in text.training for part in (document.prompt, document.continuation)}
    assert not trained & {part for document in text.held_out for part in (document.prompt, document.continuation)}


def test_there_are_prompts_enough_for_the_full_study_and_a_brief_model_has_them_held_out(tmp_path: Path) -> None:
    text = corpus.load_corpus()
    counts = {}
    for shape in (language_model.BRIEF, language_model.STUDY):
        words = language_model.encoder(language_model.tokenizer(Artefacts(tmp_path), text, shape.vocabulary).folder)
        for part in (text.held_out, text.training):
            enough = [len(words.encode(document.prompt).ids) >= PROMPT_TOKENS - 2 for document in part]
            counts[shape.vocabulary, part is text.held_out] = sum(enough), len(enough)
    brief, study = language_model.BRIEF.vocabulary, language_model.STUDY.vocabulary
    assert counts[brief, True][0] == counts[brief, True][1] >= 32
    most = max(max(size.held_out_groups, size.fitted_groups, size.deviation_groups) for size in SIZES.values())
    assert counts[study, True][0] + counts[study, False][0] >= most + 16
