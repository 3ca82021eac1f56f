"""What a node keeps: receipts for a week and within its budget, the count of repeated requests, and its keys."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import DamagedStateError
from grail_core.inference.constants import MAX_RECEIPT_BYTES
from grail_core.inference.receipts import Receipt
from grail_miner.serving.receipt_store import KEEP_MS, ReceiptStore
from grail_miner.serving.repeats import KEEP_MS as COUNTED_MS
from grail_miner.serving.repeats import Repeats
from tooling.testing.clock import ManualClock
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, save_served_model

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once", "max_tokens": 3}
DIGESTS = [bytes([number]) * 32 for number in range(4)]


def store_in(folder: Path, clock: ManualClock, **more: Any) -> ReceiptStore:
    return ReceiptStore(folder / "receipts", folder / "receipt-key", clock=clock, **more)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_restart_forgets_neither_receipts_nor_what_was_asked(tmp_path: Path) -> None:
    answering = answering_of(save_served_model(tmp_path / "model"))

    def asked(node: RunningNode) -> tuple[str, int]:
        grail = node.post("/v1/completions", ASKED).json()["grail"]
        path = f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}"
        return path, Receipt.from_bytes(node.get(path).content).order.nonce

    with running_node(answering, tmp_path / "state") as node:
        first, nonce = asked(node)
        kept = node.get(first).content
        assert nonce == 0
    with running_node(answering, tmp_path / "state") as node:
        assert node.get(first).content == kept
        assert asked(node)[1] == 1


def test_what_is_refused_is_not_counted(tmp_path: Path) -> None:
    answering = answering_of(save_served_model(tmp_path / "model"))
    with running_node(answering, tmp_path / "state") as node:
        assert node.post("/v1/completions", {**ASKED, "echo": True}).status_code == 400
        grail = node.post("/v1/completions", ASKED).json()["grail"]
        found = node.get(f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}")
        assert Receipt.from_bytes(found.content).order.nonce == 0


def test_a_receipt_is_read_with_its_own_token_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path, ManualClock())
    tokens = [store.put(digest, digest) for digest in DIGESTS[:2]]
    assert store.get(DIGESTS[0].hex(), tokens[0]) == DIGESTS[0]
    for token in ("", tokens[1], tokens[0].upper(), tokens[0][:-1], "ü", "\ud800"):
        assert store.get(DIGESTS[0].hex(), token) is None
    for digest in ("", "..", "../receipt-key", DIGESTS[0].hex().upper() + "A", DIGESTS[3].hex()):
        assert store.get(digest, tokens[0]) is None


def test_receipts_are_kept_a_week_and_not_longer(tmp_path: Path) -> None:
    clock = ManualClock()
    store = store_in(tmp_path, clock)
    token = store.put(DIGESTS[1], b"receipt")
    clock.now += KEEP_MS
    assert store.get(DIGESTS[1].hex(), token) == b"receipt"
    clock.now += 1
    assert store.get(DIGESTS[1].hex(), token) is None
    assert list((tmp_path / "receipts").iterdir()) == []


def test_the_oldest_receipts_go_when_the_budget_is_used_after_a_restart_too(tmp_path: Path) -> None:
    clock = ManualClock()
    store = store_in(tmp_path, clock, max_bytes=MAX_RECEIPT_BYTES)
    half = bytes(MAX_RECEIPT_BYTES // 2)
    tokens = []
    for digest in DIGESTS[:2]:
        clock.now += 1000
        tokens.append(store.put(digest, half))
    assert all(store.get(digest.hex(), token) for digest, token in zip(DIGESTS[:2], tokens, strict=True))
    clock.now += 1000
    store = store_in(tmp_path, clock, max_bytes=MAX_RECEIPT_BYTES)
    store.put(DIGESTS[2], half)
    assert store.get(DIGESTS[0].hex(), tokens[0]) is None
    assert store.get(DIGESTS[1].hex(), tokens[1]) == half


def test_the_same_receipt_again_counts_once(tmp_path: Path) -> None:
    store = store_in(tmp_path, ManualClock(), max_bytes=MAX_RECEIPT_BYTES)
    half = bytes(MAX_RECEIPT_BYTES // 2)
    other = store.put(DIGESTS[0], half)
    for _ in range(3):
        store.put(DIGESTS[1], half)
    assert store.get(DIGESTS[0].hex(), other) == half


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "receipts" / f".{DIGESTS[0].hex()}.json.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    store_in(tmp_path, ManualClock())
    assert not left.exists()


def test_receipts_and_the_key_of_their_tokens_are_for_this_user_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path, ManualClock())
    store.put(DIGESTS[0], b"receipt")
    assert mode_of(tmp_path / "receipt-key") == 0o600
    assert mode_of(tmp_path / "receipts" / f"{DIGESTS[0].hex()}.json") == 0o600
    assert store_in(tmp_path, ManualClock()).token(DIGESTS[0].hex()) == store.token(DIGESTS[0].hex())


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"\xff" * 64, b"00" * 33])
def test_a_damaged_key_of_tokens_is_said_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "receipt-key").write_bytes(content)
    with pytest.raises(DamagedStateError, match="no key for receipts' tokens"):
        store_in(tmp_path, ManualClock())
    assert (tmp_path / "receipt-key").read_bytes() == content


def test_each_clients_requests_are_counted_apart(tmp_path: Path) -> None:
    repeats = Repeats(tmp_path / "repeats.sqlite")
    assert [repeats.count("one", DIGESTS[0]) for _ in range(3)] == [0, 1, 2]
    assert repeats.count("two", DIGESTS[0]) == 0
    assert repeats.count("one", DIGESTS[1]) == 0


def test_what_was_not_asked_for_a_month_is_counted_anew(tmp_path: Path) -> None:
    clock = ManualClock()
    repeats = Repeats(tmp_path / "repeats.sqlite", clock=clock)
    assert repeats.count("one", DIGESTS[0]) == 0
    clock.now += COUNTED_MS
    assert repeats.count("one", DIGESTS[0]) == 1
    clock.now += COUNTED_MS + 1
    assert repeats.count("one", DIGESTS[0]) == 0


def test_of_too_many_requests_the_oldest_are_forgotten(tmp_path: Path) -> None:
    clock = ManualClock()
    repeats = Repeats(tmp_path / "repeats.sqlite", clock=clock, max_rows=2)
    for digest in DIGESTS[:3]:
        clock.now += 1
        repeats.count("one", digest)
    assert repeats.count("one", DIGESTS[2]) == 1
    assert repeats.count("one", DIGESTS[0]) == 0
