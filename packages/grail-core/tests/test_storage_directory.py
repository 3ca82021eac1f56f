"""A directory of strangers' buckets: what they commit, again and again, costs a bounded number of open buckets."""

from __future__ import annotations

import gc
import weakref

import pytest

from grail_core.storage import s3_directory
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.s3_directory import S3Directory

OWN = BucketAddress(0, "a" * 32, "own-bucket", Credentials("b" * 32, "c" * 64))


def commitment(number: int) -> str:
    return BucketAddress(0, f"{number:032x}", "a-bucket", Credentials("d" * 32, "e" * 64)).to_text()


def test_a_bucket_is_let_go_when_many_others_were_opened_since_and_kept_while_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_directory, "MAX_OPENED", 16)
    directory = S3Directory(("r2.example.com",), OWN, Credentials("f" * 32, "0" * 64))
    unused, used = weakref.ref(directory.open(commitment(0))), directory.open(commitment(1))
    for number in range(2, 2 * 16):
        directory.open(commitment(number))
        assert directory.open(commitment(1)) is used
    gc.collect()
    assert unused() is None
