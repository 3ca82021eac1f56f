"""`bytes-1`: the same text on every machine, and an entropy that is the text's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grail_core.corpus import Corpus
from grail_envs.corpus import bytes_1, grammar
from grail_envs.corpus.bytes_1 import Bytes1, digest_of, entropy

CORPUS = Bytes1()


def text_of(index: int) -> str:
    return "".join(map(chr, CORPUS.sequence(index).tolist()))


def test_the_digest_is_that_of_the_first_sequences() -> None:
    assert isinstance(CORPUS, Corpus)
    assert digest_of(CORPUS.sequence) == CORPUS.spec.digest == bytes_1.DIGEST


def test_sequences_are_whole_and_none_lies_outside() -> None:
    spec = CORPUS.spec
    for index in (0, 1, spec.sequences - 1, spec.sequences + spec.held_out - 1):
        tokens = CORPUS.sequence(index)
        assert tokens.dtype == np.int32
        assert tokens.shape == (spec.sequence_length,)
        assert set(tokens.tolist()) <= set(range(spec.vocabulary))
    for outside in (-1, spec.sequences + spec.held_out):
        with pytest.raises(IndexError):
            CORPUS.sequence(outside)


def test_what_is_added_up_is_added_up_rightly() -> None:
    texts = [text_of(index) for index in range(300)]
    sums = [text.split("The sum of ")[1].split(".")[0] for text in texts if text.startswith("The sum of ")]
    assert len(sums) > 20
    for sentence in sums:
        first, _, second, _, total = sentence.split()
        assert int(first) + int(second) == int(total)


def test_no_text_of_a_state_begins_another() -> None:
    for state, options in grammar._CHOICES.items():
        texts = {(text, then) for text, then, _ in options}
        for text, then in texts:
            assert not [1 for other, at in texts if (other, at) != (text, then) and other.startswith(text)], (state, text)


def test_the_entropy_is_what_the_text_surprises_its_own_reader_by() -> None:
    """The mean over sequences of −ln p, p read off the grammar token by token, against the sum over its states."""
    surprises = np.array([_surprise(text_of(index)) for index in range(1500)])
    error = surprises.std(ddof=1) / math.sqrt(len(surprises))
    assert abs(surprises.mean() - sum(grammar.entropy_by_position(bytes_1.LENGTH))) < 4 * error
    assert entropy() == pytest.approx(bytes_1.ENTROPY, rel=1e-12)


def _surprise(text: str) -> float:
    """−ln of the chance that a sequence begins so: each choice by how many bytes make one that fits."""
    state, total, numbers = "sentence", 0.0, [0, 0]
    while text:
        options = grammar._CHOICES[state]
        fitting = [one for one in options if one[0].startswith(text) or text.startswith(one[0])]
        total += math.log(len(options) / len(fitting))
        written, state, number = fitting[0]
        text = text[len(written) :]
        if number is not None:
            numbers = [numbers[1], number]
        if state == "sum":
            summed = f"{sum(numbers)}."
            assert summed.startswith(text) or text.startswith(summed)
            text, state = text[len(summed) :], "after"
    return total
