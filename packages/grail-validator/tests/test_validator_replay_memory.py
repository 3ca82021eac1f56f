"""What a validator remembered is made again from its verdicts and the files they accept; what cannot be is named."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest

from grail_core.keys import LocalSigner
from grail_core.protocol import (
    Adopted,
    MinerStatus,
    MinerVerdict,
    SignedVerdict,
    VerdictBody,
    Versions,
    WindowStatus,
    score_inputs,
)
from grail_core.protocol.constants import UNIQUE_HISTORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import file_key, verdict_key
from grail_core.verification.window_file import in_this_process
from grail_validator.published import BucketVerdicts, Published
from grail_validator.replay_memory import ReplayMemory
from tooling.testing import plain_window as plain

MINER = plain.MINERS[0]
VALIDATOR, OTHER = plain.MINERS[2], plain.MINERS[3]


@dataclass(frozen=True)
class Buckets:
    """A validator's bucket, and another's beside it."""

    own: FilesystemStore
    other: FilesystemStore

    def judged(self, window: int, groups: range, valid: int, *, adopted: Adopted | None = None) -> bytes:
        """The validator accepts a file of these groups; returns its key."""
        context = plain.window_context()
        data = plain.window_file(context, MINER, plain.rollouts(context, MINER, groups))
        self.own.put(file_key(plain.digest_of(data)), data)
        self._say(self.own, VALIDATOR, window, data, valid, adopted)
        return data

    def judged_elsewhere(self, window: int) -> None:
        self._say(self.other, OTHER, window, b"a file", 16, None)

    @staticmethod
    def _say(
        store: FilesystemStore, signer: LocalSigner, window: int, data: bytes, valid: int, adopted: Adopted | None
    ) -> None:
        miner = MinerVerdict(
            hotkey=MINER.hotkey,
            uid=0,
            status=MinerStatus.ACCEPTED,
            content_digest=plain.digest_of(data),
            active=True,
            declared=16,
            checked=True,
            unique_valid=valid,
            check_probability=Fraction(1),
            coin=0,
        )
        body = VerdictBody(
            plain.window_context().network_id,
            Window(window),
            WindowStatus.SCORED,
            Versions("a", "b", "c"),
            miners=(miner,),
            hotkeys={0: MINER.hotkey},
            score_inputs={0: score_inputs([miner.miner_window(Window(window))], Window(window))},
        )
        message = SignedVerdict.message(body, signer.hotkey, None, adopted)
        store.put(verdict_key(Window(window)), SignedVerdict(body, signer.hotkey, signer.sign(message), None, adopted).encode())

    def memory(self) -> ReplayMemory:
        """One that has read nothing yet."""
        published = Published(BucketVerdicts(self.own), self.own, [self.other])
        return ReplayMemory(published, in_this_process, VALIDATOR.hotkey, plain.window_context().network_id)


@pytest.fixture
def buckets(tmp_path: Path) -> Buckets:
    return Buckets(FilesystemStore(tmp_path, "validator-0"), FilesystemStore(tmp_path, "validator-1"))


def distinct(buckets: Buckets, groups: range) -> int:
    """Rollouts of a file of these groups that are not each other's repetition."""
    buckets.judged(30, groups, 0)
    counted = buckets.memory().counted(MINER.hotkey, Window(60))
    return len(counted.identities)


def test_rollouts_that_counted_once_are_counted_in_the_window_that_had_them_first(buckets: Buckets) -> None:
    one, two = distinct(buckets, range(1)), distinct(buckets, range(2))
    assert 0 < one < two
    buckets.judged(30, range(1), one)
    buckets.judged(60, range(2), two - one)  # what it brought again counted no second time
    counted = buckets.memory().counted(MINER.hotkey, Window(90))
    assert (len(counted.identities), counted.missing) == (two, "")


def test_what_counted_twelve_windows_ago_is_still_known_and_what_is_older_is_not(buckets: Buckets) -> None:
    one = distinct(buckets, range(1))
    buckets.judged(30, range(1), one)
    last = Window(30 + UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH)
    assert len(buckets.memory().counted(MINER.hotkey, last).identities) == one
    assert not buckets.memory().counted(MINER.hotkey, Window(last + WINDOW_LENGTH)).identities


def test_a_file_that_is_gone_or_a_count_that_no_file_gives_is_named(buckets: Buckets) -> None:
    one = distinct(buckets, range(1))
    data = buckets.judged(30, range(1), one - 1)
    assert "which is not known" in buckets.memory().counted(MINER.hotkey, Window(60)).missing
    buckets.own.delete(file_key(plain.digest_of(data)))
    assert "nowhere any more" in buckets.memory().counted(MINER.hotkey, Window(60)).missing


def test_scores_are_the_validators_own_and_of_whom_it_said_it_adopted(buckets: Buckets) -> None:
    buckets.judged_elsewhere(30)
    buckets.judged(60, range(1), 16)
    alone, _ = buckets.memory().history(Window(90))
    assert [one.window for one in alone[MINER.hotkey]] == [60]
    buckets.judged(60, range(1), 16, adopted=Adopted(OTHER.hotkey, Window(30), Window(30)))
    history, missing = buckets.memory().history(Window(90))
    assert [one.window for one in history[MINER.hotkey]] == [30, 60]
    assert missing == []
    buckets.other.delete(verdict_key(Window(30)))
    _, missing = buckets.memory().history(Window(90))
    assert "was adopted from" in missing[0]


def test_a_verdict_that_another_signed_is_no_memory_of_this_validators(buckets: Buckets) -> None:
    buckets.judged_elsewhere(30)
    buckets.own.put(verdict_key(Window(30)), buckets.other.get(verdict_key(Window(30)), max_bytes=1 << 20))
    assert buckets.memory().history(Window(60))[0] == {}
