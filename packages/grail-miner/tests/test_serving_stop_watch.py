"""Where a completion ends by its text: the watch over a window says what the rule says of the whole, whatever the decoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from grail_core.inference.stops import UNFINISHED, Decode, before_stop, contains_stop
from grail_miner.serving.stop_watch import StopWatch, held_back, stopped_length

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_WORDS = ("the", "end", "Question", ":", "\n", "ab", "a", "b", ".", "user", "<x>", "12")
_MARKED = [*(f"\u2581{word}" for word in _WORDS), *_WORDS, "\u2581", "\u2581\u2581"]


def tokenizer_of(vocabulary: Sequence[str], decoder: decoders.Decoder | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({text: index for index, text in enumerate(dict.fromkeys(vocabulary))}, "a"))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<special>"])
    return tokenizer


def _llama() -> Tokenizer:
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return tokenizer_of([*(f"<0x{byte:02X}>" for byte in range(256)), *_MARKED], decoders.Sequence(steps))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: tokenizer_of(_BYTES, decoders.ByteLevel()),
    "bytes of several characters": lambda: tokenizer_of(
        [*_BYTES, "Ġthe", "end", "ĊĊ", "Question", "åŃ", "Ã", "©a"], decoders.ByteLevel()
    ),
    "byte tokens among words": _llama,
    "blanks before words": lambda: tokenizer_of(_MARKED, decoders.Metaspace()),
    "pieces, cleaned up": lambda: tokenizer_of([*_WORDS, *(f"##{word}" for word in _WORDS)], decoders.WordPiece(cleanup=True)),
    "ends of words": lambda: tokenizer_of([*_WORDS, *(f"{word}</w>" for word in _WORDS)], decoders.BPEDecoder()),
    "none": lambda: tokenizer_of(_WORDS),
}


def decoding(tokenizer: Tokenizer) -> tuple[Decode, int]:
    """As `PromptRenderer.decode` does, and how many tokens there are."""
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True)), tokenizer.get_vocab_size()


DECODES = {kind: decoding(make()) for kind, make in KINDS.items()}


def by_definition(decode: Decode, tokens: Sequence[int], stops: Sequence[str]) -> int | None:
    return next((k for k in range(1, len(tokens) + 1) if contains_stop(decode(tokens[:k]), stops)), None)


@st.composite
def completions(draw: st.DrawFn, kind: str) -> tuple[list[int], tuple[str, ...]]:
    """Tokens, many of them of few kinds, and stop texts, most of them pieces of the text that the tokens make."""
    decode, size = DECODES[kind]
    few = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    tokens = draw(st.lists(st.sampled_from(few) | st.integers(0, size - 1), max_size=40)) * draw(st.integers(1, 5))
    text = decode(tokens).replace(UNFINISHED, "")
    stops = []
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(1, 12))
        stops.append(text[at : at + length] or "the end")
    return tokens, tuple(dict.fromkeys(stops))


@pytest.mark.parametrize("kind", KINDS)
def test_the_watch_ends_a_completion_at_the_first_token_whose_text_has_a_stop_text(kind: str) -> None:
    decode, _ = DECODES[kind]

    @given(completions(kind))
    @settings(max_examples=40)
    def agrees(completion: tuple[list[int], tuple[str, ...]]) -> None:
        tokens, stops = completion
        assert stopped_length(decode, tokens, stops) == by_definition(decode, tokens, stops)

    agrees()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_text_far_behind_is_found_and_no_token_costs_the_whole_text(kind: str) -> None:
    decode, size = DECODES[kind]
    decoded = 0

    def counted(tokens: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(tokens)
        return decode(tokens)

    tokens = [token for token in range(size) if decode([token]) not in ("", UNFINISHED)] * 60
    tokens = tokens[:1500]
    last = decode(tokens[-8:]).strip(UNFINISHED)[-3:]
    marked = [*tokens, *tokens[:3]]
    stops = (decode(marked)[-5:].strip(UNFINISHED) + "never", last + "never")
    assert stopped_length(counted, marked, stops) is None
    assert decoded < 200 * len(marked)


@pytest.mark.parametrize("kind", ["none", "byte tokens among words"])
@pytest.mark.parametrize("length", [17, 64])
def test_a_stop_text_is_found_wherever_a_window_begins(kind: str, length: int) -> None:
    """Stop texts that end at every place around those where a window is made shorter, some in the middle of a run of bytes."""
    decode, _ = DECODES[kind]
    draw = random.Random(1)
    spoken = "".join(draw.choice("aé€😀") for _ in range(90))
    tokens = list(spoken.encode()) if kind != "none" else [draw.randrange(len(_WORDS)) for _ in range(160)]
    for end in range(60, 160):
        stop = decode(tokens[:end])[-length:]
        if UNFINISHED not in stop:
            assert stopped_length(decode, tokens, [stop]) == by_definition(decode, tokens, [stop])


def test_once_a_completion_has_ended_nothing_more_is_told_of_it() -> None:
    decode, _ = DECODES["none"]
    watch = StopWatch(decode, ["end"])
    said = [watch.add(token) for token in (0, 1, 2)]
    assert said == [None, 2, 2]
    assert watch.finish() == watch.length == 2


def test_without_stop_texts_nothing_is_decoded() -> None:
    def never(tokens: Sequence[int]) -> str:
        raise AssertionError("it was decoded")

    assert stopped_length(never, range(100), ()) is None


def test_a_decoder_that_takes_back_what_no_window_shows_still_gives_a_length_that_a_verifier_takes() -> None:
    """It writes a text only once there are a hundred tokens: no window of fewer has it."""

    def late(tokens: Sequence[int]) -> str:
        return "x" * len(tokens) + ("STOP" if len(tokens) >= 100 else "")

    length = stopped_length(late, [0] * 300, ["STOP"])
    assert length is not None
    assert "STOP" in late([0] * length)
    assert "STOP" not in late([0] * (length - 1))


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [
        ("", ["\n"], 0),
        ("abc", [], 0),
        ("abc", ["d"], 0),
        ("abc", ["cd", "bcd"], 2),
        ("Quest", ["Question:"], 5),
        ("aab", ["aaba"], 3),
        ("abab", ["ababc", "abx"], 4),
        ("a\ufffd", ["b"], 1),
        ("\n\ufffd\ufffd", ["\n\n"], 3),
    ],
)
def test_what_may_still_become_a_stop_text_is_held_back(text: str, stops: list[str], held: int) -> None:
    assert held_back(text, stops) == held


@given(st.text("ab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_a_stream_has_shown_is_the_beginning_of_what_the_receipt_shows(text: str, stops: list[str]) -> None:
    shown = ""
    for end in range(len(text) + 1):
        if contains_stop(text[:end], stops):
            break
        now = text[: end - held_back(text[:end], stops)]
        assert now.startswith(shown)
        shown = now
    assert before_stop(text[:end], stops).startswith(shown)
