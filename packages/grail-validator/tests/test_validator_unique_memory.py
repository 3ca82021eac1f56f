"""What a hotkey had counted is remembered for twelve windows and no longer, in rows and bytes that have a bound; and rollouts
that two hotkeys share, or that one repeats, cost nobody anything but the repetition."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from grail_core.protocol import VerdictBody, Versions, WindowStatus
from grail_core.protocol.constants import MAX_FILE_ROWS, UNIQUE_HISTORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.examine import examine
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.testing import plain_window as plain

NETWORK = bytes(32)
SELF = Hotkey(b"\xaa" * 32)
HOTKEYS = tuple(Hotkey(bytes([number]) * 32) for number in range(256))
ROLLOUTS = 8
BYTES_A_ROLLOUT = 256
"""In the file: hotkey, identity and window, once in the table and once in its index, with SQLite's half-full pages."""
KEPT = UNIQUE_HISTORY_WINDOWS
"""Windows whose rollouts a ledger holds after one was judged."""


def identity(window: int, hotkey: Hotkey, number: int) -> Digest:
    return Digest(hashlib.sha256(b"%d %d " % (window, number) + hotkey).digest())


def judge(ledger: Ledger, number: int) -> Window:
    """A window in which every hotkey has ROLLOUTS rollouts counted that it never had before."""
    window = Window(number * WINDOW_LENGTH)
    body = VerdictBody(Digest(NETWORK), window, WindowStatus.VOID, Versions("a", "b", "c"), miners=(), reason="no beacon")
    counted = {hotkey: [identity(window, hotkey, at) for at in range(ROLLOUTS)] for hotkey in HOTKEYS}
    ledger.record_judged(window, body, PublishedFiles(b"", b""), counted, {})
    return window


def rows_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM counted").fetchone()[0])


def bytes_of(path: Path) -> int:
    """Of the table and its index."""
    with closing(sqlite3.connect(path)) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0] - db.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages * db.execute("PRAGMA page_size").fetchone()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_what_all_hotkeys_had_counted_is_bounded_in_rows_and_bytes_however_many_windows_pass(path: Path) -> None:
    ledger = Ledger(path, network_id=NETWORK, hotkey=SELF)
    sizes = []
    for number in range(1, 2 * KEPT + 3):
        judge(ledger, number)
        assert rows_of(path) == min(number, KEPT) * len(HOTKEYS) * ROLLOUTS
        sizes.append(bytes_of(path))
    most = KEPT * len(HOTKEYS) * ROLLOUTS
    assert max(sizes) <= most * BYTES_A_ROLLOUT + (1 << 20)
    assert most * MAX_FILE_ROWS // ROLLOUTS * BYTES_A_ROLLOUT < 5 << 30  # every file of every hotkey the largest, all drawn


def test_what_was_counted_survives_a_restart_and_is_forgotten_after_twelve_windows_all_the_same(path: Path) -> None:
    first = judge(Ledger(path, network_id=NETWORK, hotkey=SELF), 1)
    for number in range(2, KEPT + 2):
        ledger = Ledger(path, network_id=NETWORK, hotkey=SELF)  # another process, as far as the file knows
        next_window = Window(number * WINDOW_LENGTH)
        remembered = ledger.counted(HOTKEYS[3], next_window)
        assert {identity(first, HOTKEYS[3], at) for at in range(ROLLOUTS)} <= set(remembered)
        assert identity(first, HOTKEYS[4], 0) not in remembered  # another hotkey's costs it nothing
        judge(ledger, number)
    ledger = Ledger(path, network_id=NETWORK, hotkey=SELF)
    assert not {identity(first, HOTKEYS[3], at) for at in range(ROLLOUTS)} & set(
        ledger.counted(HOTKEYS[3], Window((KEPT + 2) * WINDOW_LENGTH))
    )


def test_honest_equal_short_answers_cost_themselves_and_nothing_else() -> None:
    context, miner = plain.window_context(), plain.MINERS[0]
    records = plain.rollouts(context, miner, range(2))
    twin = records[0]
    records[6] = replace(records[6], tokens=twin.tokens, logprobs=twin.logprobs, sketches=twin.sketches)
    data = plain.window_file(context, miner, records)
    found = examine(data, plain.check_context(context, miner.hotkey), content_digest=plain.digest_of(data))
    assert found.reject is None
    assert len(found.identities) == len(records) - 1
    again = replace(plain.check_context(context, miner.hotkey), history=frozenset(found.identities))
    repeated = examine(data, again, content_digest=plain.digest_of(data))
    assert repeated.reject is None
    assert repeated.identities == ()
