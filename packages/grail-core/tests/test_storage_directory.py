"""A directory of strangers' buckets: what they commit, again and again, costs a bounded number of open buckets."""

from __future__ import annotations

import dataclasses
import gc
import os
import weakref
from typing import cast

import pytest

from grail_core.chain.base import Chain
from grail_core.errors import StorageError
from grail_core.participant.deployment import open_reader
from grail_core.participant.settings import load_settings
from grail_core.protocol.network import LOCALNET
from grail_core.storage import s3_directory
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.s3_directory import S3Directory
from tooling.testing.s3_server import BUCKET, REGION, S3Server

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


def test_who_has_no_bucket_of_its_own_reads_what_others_committed_and_writes_nothing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("R2_", "GRAIL_STORAGE"))]:
        monkeypatch.delenv(name)
    s3.store().put("grail/verdicts/30/verdict.json", b"a verdict")
    params = dataclasses.replace(LOCALNET, store_hosts=(s3.url,))
    reader = open_reader(load_settings(r2_region=REGION), params, cast(Chain, None))  # no block is asked for
    key = s3.user("reads", "s3:GetObject", "s3:ListBucket")
    with s3.enforcing():
        store = reader.open(BucketAddress(0, "account", BUCKET, key).to_text())
        assert store.get("grail/verdicts/30/verdict.json", max_bytes=9) == b"a verdict"
        with pytest.raises(StorageError):
            store.put("grail/verdicts/60/verdict.json", b"mine")
    with pytest.raises(StorageError, match="of another kind"):
        reader.open("fs:validator")
    for ask in (reader.own, reader.commitment):
        with pytest.raises(StorageError, match="only reads"):
            ask()
