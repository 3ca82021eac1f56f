"""Read keys: what may be committed, and how one is changed without anybody losing a window."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from grail_core.chain.base import Neuron
from grail_core.chain.development.local import LocalChain
from grail_core.clock import utc_text, wall_clock_ms
from grail_core.errors import ConfigurationError, StorageError
from grail_core.examination.bucket import examine
from grail_core.keys import ss58
from grail_core.participant.bucket_trial import TrialObject
from grail_core.participant.participant import Participant
from grail_core.participant.read_key import OldKeyTerm, old_key_term, with_newest_keys
from grail_core.participant.settings import Settings
from grail_core.protocol import WindowTimes, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.storage import s3_parts, s3_requests
from grail_core.storage.base import AccessDeniedError, NoAnswerError, StoreDirectory
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.layout import PROBE_KEY, seal_key
from grail_core.storage.s3_directory import S3Directory
from tooling import REPOSITORY
from tooling.testing.bucket_owners import READS, Owner, participant, registered_owners, rotated, virtual_chain
from tooling.testing.s3_server import LEAST_PART_BYTES, REGION, S3Server
from tooling.testing.scripted_server import Answer, ScriptedServer


@pytest.fixture
def chain(tmp_path: Path) -> LocalChain:
    return virtual_chain(tmp_path)


@pytest.fixture
def owners(s3: S3Server, chain: LocalChain) -> tuple[Owner, Owner]:
    return registered_owners(s3, chain)


def readable(reader: Participant, window: Window) -> set[Hotkey]:
    """Whose seal of a window can be read, by the commitments that this window's readers go by."""
    found = set()
    for neuron in reader.miners_at(window):
        try:
            reader.directory.open(neuron.commitment or "").read(seal_key(ss58(neuron.hotkey), window), max_bytes=100)
            found.add(neuron.hotkey)
        except AccessDeniedError:
            continue
    return found


def test_whoever_keeps_the_old_key_as_long_as_is_said_loses_no_window_and_who_revokes_early_fails_alone(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner], tmp_path: Path
) -> None:
    adam, bert = owners
    old, new = {one.name: one.key(1) for one in owners}, {one.name: one.key(2) for one in owners}
    with s3.enforcing():
        for one in owners:
            chain.commit(one.signer, one.directory(old[one.name]).commitment())
        reader = participant(adam.directory(old["adam"]), chain, adam.signer, tmp_path, s3.url)
        lost: dict[str, set[Window]] = {"adam": set(), "bert": set()}
        terms: dict[str, OldKeyTerm] = {}
        for block in range(25, 241, 5):
            chain.advance(block - chain.current_block())
            now = window_of(Block(block))
            if block == now + 25:
                for one in owners:
                    one.seal(now)
            if block == 70:
                for one in owners:
                    found = rotated(one, chain, new[one.name])
                    assert found.committed
                    assert found.old_reads
                    assert found.term is not None
                    terms[one.name] = found.term
                s3.revoke(old["bert"])
            if terms and block == -(-terms["adam"].until_block // 5) * 5:
                s3.revoke(old["adam"])
                terms = {}
            for window in map(Window, range(30, now, WINDOW_LENGTH)):
                if block <= WindowTimes(window, reader.params).void_block:
                    there = readable(reader, window)
                    lost["adam"] |= set() if adam.signer.hotkey in there else {window}
                    lost["bert"] |= set() if bert.signer.hotkey in there else {window}
    assert terms == {}  # the old key was revoked when it could be
    assert lost["adam"] == set()
    assert lost["bert"] == {30, 60}  # those that could still be read when it revoked the key; the next ones it has


def test_a_key_that_is_changed_is_tried_first_and_nothing_is_committed_where_it_is_no_good(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner]
) -> None:
    adam, bert = owners
    old, writes, blind = adam.key(1), adam.key(2, *READS, "s3:PutObject"), adam.key(3, "s3:ListBucket")
    of_bert = bert.key(1)
    with s3.enforcing():
        chain.commit(adam.signer, adam.directory(old).commitment())
        chain.advance(5)
        before = chain.metagraph()
        for read, what in ((writes, "can write"), (blind, "cannot read"), (of_bert, "cannot read")):
            with pytest.raises(ConfigurationError, match=what):
                rotated(adam, chain, read)
        moved = dataclasses.replace(bert, signer=adam.signer)
        with pytest.raises(ConfigurationError, match="names another bucket"):
            rotated(moved, chain, of_bert)
        chain.advance(5)
        assert chain.metagraph().neurons == before.neurons
        again = rotated(adam, chain, old)
        assert (again.committed, again.old_reads, again.term) == (False, True, None)
        assert list(s3.store(adam.write, bucket="adam").list("")) == []  # what was tried is gone


def test_a_store_that_does_not_answer_says_nothing_of_a_key_old_or_new(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    adam, reads, silent = owners[0], TrialObject.reads, set[str]()

    def asked(trial: TrialObject, directory: StoreDirectory, commitment: str) -> bool:
        if commitment in silent:
            raise NoAnswerError("the store is not ready")
        return reads(trial, directory, commitment)

    monkeypatch.setattr(TrialObject, "reads", asked)
    first, second, third = (adam.key(number) for number in (1, 2, 3))
    with s3.enforcing():
        chain.commit(adam.signer, adam.directory(first).commitment())
        chain.advance(5)
        silent.add(adam.directory(first).commitment())
        found = rotated(adam, chain, second)
        assert (found.committed, found.old_reads) == (True, None)  # and not: it does not read any more
        chain.advance(5)
        before = chain.metagraph()
        silent.add(adam.directory(third).commitment())
        with pytest.raises(NoAnswerError):
            rotated(adam, chain, third)
        chain.advance(5)
        assert chain.metagraph().neurons == before.neurons


def test_a_role_that_starts_with_another_key_says_until_when_the_old_one_has_to_live(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adam, _ = owners
    first, second = adam.key(1), adam.key(2)
    caplog.set_level("INFO")
    with s3.enforcing():
        for read in (first, second):
            chain.advance(5)
            participant(adam.directory(read), chain, adam.signer, tmp_path, s3.url).join(Settings())
    events = [record.__dict__ for record in caplog.records if "bucket_committed" in str(record.__dict__)]
    assert len(events) == 2
    term = old_key_term(chain, dataclasses.replace(LOCALNET, store_hosts=(s3.url,)))
    assert f"'old_until_block': {term.until_block}" in str(events[1])
    assert f"'old_until': '{utc_text(term.until_ms)}'" in str(events[1])
    for event in events:
        assert f"'bucket': 'adam', 'host': '{s3.url.removeprefix('http://')}'" in str(event)
        assert second.secret not in str(event)
    assert "old_until_block" not in str(events[0])


@pytest.mark.parametrize("wrong", ["read secret", "read key", "bucket", "no list", "no read"])
def test_a_bucket_that_nobody_can_read_is_never_committed_over_a_good_one_by_a_start(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner], tmp_path: Path, wrong: str
) -> None:
    adam, _ = owners
    good, bad = adam.key(1), adam.key(2)
    if wrong == "read secret":
        bad = Credentials(bad.key_id, "x" * 40)
    elif wrong == "read key":
        bad = Credentials("AKIAWRONG", bad.secret)
    elif wrong.startswith("no "):
        bad = adam.key(3, "s3:GetObject" if wrong == "no list" else "s3:ListBucket")
    other = dataclasses.replace(adam, name="nosuchbucket") if wrong == "bucket" else adam
    with s3.enforcing():
        participant(adam.directory(good), chain, adam.signer, tmp_path, s3.url).join(Settings())
        chain.advance(5)
        before = chain.metagraph().neurons
        with pytest.raises(ConfigurationError, match="the read key cannot read") as caught:
            participant(other.directory(bad), chain, adam.signer, tmp_path, s3.url).join(Settings())
        chain.advance(5)
        assert caught.value.exit_code == 3
        assert "R2_BUCKET_ID" in caught.value.hint
        assert chain.metagraph().neurons == before
        assert list(s3.store(adam.write, bucket="adam").list("")) == []


@pytest.mark.parametrize("on_chain", [False, True])
@pytest.mark.parametrize("wrong", ["write secret", "no delete"])
def test_a_write_key_that_does_not_do_its_work_ends_a_start_and_is_the_one_that_is_named(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner], tmp_path: Path, wrong: str, on_chain: bool
) -> None:
    adam, _ = owners
    read = adam.key(1)
    write = Credentials(adam.write.key_id, "x" * 40)
    if wrong == "no delete":
        write = adam.key(2, *READS, "s3:PutObject")
    with s3.enforcing():
        if on_chain:
            participant(adam.directory(read), chain, adam.signer, tmp_path, s3.url).join(Settings())
            chain.advance(5)
        before = chain.metagraph().neurons
        with pytest.raises(StorageError, match="bucket adam with the write key") as caught:
            participant(dataclasses.replace(adam, write=write).directory(read), chain, adam.signer, tmp_path, s3.url).join(
                Settings()
            )
        chain.advance(5)
        assert caught.value.exit_code == 5
        assert "R2_WRITE_" in caught.value.hint
        assert "R2_READ_" not in caught.value.hint
        assert chain.metagraph().neurons == before


def test_a_role_starts_while_its_store_is_away_unless_there_is_something_to_commit(
    s3: S3Server,
    chain: LocalChain,
    owners: tuple[Owner, Owner],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_requests, "_FIRST_PAUSE_S", 0.001)
    adam, _ = owners
    first, second = adam.key(1), adam.key(2)
    caplog.set_level("INFO")
    with ScriptedServer(Answer(200)) as server:
        gone = server.url  # nobody listens there afterwards
    with s3.enforcing():
        participant(adam.directory(first), chain, adam.signer, tmp_path, s3.url).join(Settings())
    chain.advance(5)
    before = chain.metagraph().neurons

    def away(read: Credentials) -> Participant:
        address = BucketAddress(0, "acme", "adam", read)
        return participant(S3Directory((gone,), address, adam.write, region=REGION), chain, adam.signer, tmp_path, gone)

    assert away(first).join(Settings()).hotkey == adam.signer.hotkey
    assert [record.message for record in caplog.records][-1] == "bucket_not_tried"
    with pytest.raises(NoAnswerError):
        away(second).join(Settings())
    chain.advance(5)
    assert chain.metagraph().neurons == before


def test_who_looks_back_reads_by_the_key_that_the_same_bucket_has_now() -> None:
    def neuron(name: bytes, commitment: str | None) -> Neuron:
        return Neuron(0, Hotkey(name * 32), 0, True, Block(0), commitment, None, Block(0))

    params = dataclasses.replace(LOCALNET, store_hosts=("r2.example.com",))
    old, new = (BucketAddress(0, "acme", "adam", Credentials(key, "secret")).to_text() for key in ("old", "new"))
    moved = BucketAddress(0, "acme", "elsewhere", Credentials("new", "secret")).to_text()
    then = [neuron(b"a", old), neuron(b"b", old), neuron(b"c", old), neuron(b"d", None), neuron(b"e", "fs:folder")]
    now = [neuron(b"a", new), neuron(b"b", moved), neuron(b"d", new), neuron(b"e", new)]
    found = [one.commitment for one in with_newest_keys(then, now, params)]
    assert found == [new, old, old, None, "fs:folder"]


@pytest.mark.parametrize(
    ("action", "said"),
    [("s3:PutObject", "put, upload in parts"), ("s3:DeleteObject", "delete"), ("s3:*", "put, delete, upload in parts")],
)
def test_a_read_key_that_may_write_in_any_way_is_never_committed_and_leaves_nothing(
    s3: S3Server, owners: tuple[Owner, Owner], action: str, said: str
) -> None:
    adam, _ = owners
    read = adam.key(1, *READS, action)
    with s3.enforcing():
        with pytest.raises(ConfigurationError, match="can write") as caught:
            adam.directory(read).commitment()
        assert f"({said})" in caught.value.what
        own = s3.store(adam.write, bucket="adam")
        assert own.head(PROBE_KEY) is None
        assert own.abandon_uploads("") == 0


def test_the_policies_of_the_page_are_enough_and_no_more(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```json\n")[1:]]
    read, write = (block.replace("BUCKET", "adam") for block in blocks if '"Statement"' in block)
    for one in ("adam", "bert"):
        s3.make_bucket(one)
    reads, writes = s3.user_with("reads", read), s3.user_with("writes", write)
    monkeypatch.setattr(s3_parts, "ONE_PUT_BYTES", LEAST_PART_BYTES)
    monkeypatch.setattr(s3_parts, "PART_BYTES", LEAST_PART_BYTES)
    with s3.enforcing():
        directory = S3Directory((s3.url,), BucketAddress(0, "acme", "adam", reads), writes, region=REGION)
        own, other = directory.own(), directory.open(directory.commitment())
        assert [finding.ok for finding in examine(directory, wall_clock_ms)] == [True] * 6
        for clock, said in ((lambda: wall_clock_ms() + 3_600_000, "behind"), (lambda: wall_clock_ms() - 3_600_000, "ahead of")):
            broken = [one for one in examine(directory, clock) if not one.ok]
            assert [(one.name, one.cause) for one in broken] == [("store clock", "clock")]
            assert f" s {said} the network's" in broken[0].detail
            assert "NTP" in broken[0].detail
        info = own.put_large("grail/objects/x", bytes(3 * LEAST_PART_BYTES), if_absent=True)
        assert "-" in info.etag
        assert list(other.list("grail/")) == [info]
        s3_parts._begin(s3.store(writes, bucket="adam")._requests, "grail/objects/left")
        s3_parts._IN_HAND.clear()
        assert own.abandon_uploads("grail/objects/") == 1
        own.delete("grail/objects/x")
        for key in (reads, writes):
            with pytest.raises(AccessDeniedError):
                s3.store(key, bucket="bert").get("x", max_bytes=1)
