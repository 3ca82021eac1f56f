"""Others' verdicts are read with a bound on what a bad one costs, and a bad one costs it once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import StorageError
from grail_core.files import verdicts
from grail_core.files.verdicts import MAX_REFUSALS, RefusedVerdictError, VerdictReader, read_verdict
from grail_core.keys import LocalSigner
from grail_core.protocol import SignedVerdict, VerdictBody, Versions, WindowStatus
from grail_core.protocol.reading import MAX_DEPTH, MAX_TOKENS, parse_json
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Digest, Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import verdict_key
from tooling.testing.faults import always, faulty

NETWORK = Digest(bytes(32))
WINDOW = Window(60)
KEY = verdict_key(WINDOW)
ALICE, BOB = (LocalSigner.from_seed(bytes([number]) * 32) for number in (1, 2))


def verdict_of(signer: LocalSigner, window: Window = WINDOW) -> bytes:
    body = VerdictBody(NETWORK, window, WindowStatus.VOID, Versions("a", "b", "c"), reason="no round")
    return SignedVerdict(
        body, signer.hotkey, signer.sign(SignedVerdict.message(body, signer.hotkey, None, None)), None, None
    ).encode()


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A bucket that counts what it is asked (`calls`); `inner` is asked uncounted."""
    return faulty(FilesystemStore(tmp_path, "alice"))


REFUSED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no JSON": lambda: b"\xff",
    "another validator's": lambda: verdict_of(BOB),
    "of another window": lambda: verdict_of(ALICE, Window(90)),
    "empty arrays": lambda: b"[" + b"[]," * MAX_TOKENS + b"[]]",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_verdict_is_read_once_until_it_is_replaced(store: Any, what: str) -> None:
    reader = VerdictReader(NETWORK)
    assert reader.read(store, WINDOW, ALICE.hotkey) is None
    store.inner.put(KEY, REFUSED[what]())
    for _ in range(3):
        with pytest.raises(RefusedVerdictError) as caught:
            reader.read(store, WINDOW, ALICE.hotkey)
        assert caught.value.where == KEY
    assert store.calls["get"] == 1
    store.inner.put(KEY, verdict_of(ALICE))
    read = reader.read(store, WINDOW, ALICE.hotkey)
    assert read is not None
    assert read == read_verdict(store, WINDOW, ALICE.hotkey, NETWORK)


def test_an_oversize_verdict_is_not_read_at_all(store: Any, tmp_path: Path) -> None:
    store.inner.put(KEY, b"")
    with (tmp_path / "alice" / KEY).open("wb") as file:
        file.truncate(MAX_VERDICT_BYTES + 1)
    reader = VerdictReader(NETWORK)
    for _ in range(2):
        with pytest.raises(RefusedVerdictError, match="bytes, at most"):
            reader.read(store, WINDOW, ALICE.hotkey)
    assert store.calls["get"] == 0


def test_who_replaces_one_bad_verdict_by_another_is_not_looked_at_for_ever(store: Any) -> None:
    reader = VerdictReader(NETWORK)
    for turn in range(10):
        store.inner.put(KEY, bytes([turn]))
        with pytest.raises(RefusedVerdictError):
            reader.read(store, WINDOW, ALICE.hotkey)
    assert store.calls["get"] == store.calls["head"] == MAX_REFUSALS
    assert reader.read(store, Window(WINDOW + 30), ALICE.hotkey) is None


def test_a_store_that_does_not_answer_is_no_refusal(store: Any) -> None:
    store.inner.put(KEY, verdict_of(ALICE))
    store.outcomes["get"] = always(StorageError("down"))
    reader = VerdictReader(NETWORK)
    for _ in range(5):
        with pytest.raises(StorageError):
            reader.read(store, WINDOW, ALICE.hotkey)
    del store.outcomes["get"]
    assert reader.read(store, WINDOW, ALICE.hotkey) is not None


def test_refusals_are_forgotten_oldest_first(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "MAX_REMEMBERED", 2)
    reader = VerdictReader(NETWORK)
    windows = [Window(30 * n) for n in range(1, 5)]
    for window in windows:
        store.inner.put(verdict_key(window), b"x")
        with pytest.raises(RefusedVerdictError):
            reader.read(store, window, ALICE.hotkey)
    for window in (windows[-1], windows[0]):
        with pytest.raises(RefusedVerdictError):
            reader.read(store, window, ALICE.hotkey)
    assert store.calls["get"] == 5  # the first again, the last not


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * (MAX_DEPTH + 1) + b"0" + b"}" * (MAX_DEPTH + 1),
        b"[" * 10**6,
        b"[" + b"1," * MAX_TOKENS + b"1]",
        b'"a"' * (MAX_TOKENS + 1),
        b'"' + b'\\"' * 10**6,  # a text without an end is gone over once
        b'"\\',
    ],
)
def test_json_is_refused_by_its_shape_before_it_is_decoded(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\$: "):
        parse_json(raw, most=32 * 2**20)


def test_brackets_and_commas_inside_a_text_are_text() -> None:
    assert parse_json(b'["' + b'[{,\\"' * 1000 + b'"]', most=10**5, tokens=3).items(1)[0].text(10**4) == '[{,"' * 1000
    nested = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(nested, most=100).items(1)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), lambda s: st.lists(s, max_size=4)))
def test_what_is_small_is_read_as_before(value: object) -> None:
    assert parse_json(json.dumps(value).encode(), most=10**5).value == value
