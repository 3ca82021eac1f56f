"""What one miner does with seal, file or store costs no other miner and no validator its window: copied digests among it."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grail_core.chain.base import seconds_of
from grail_core.disk import remove_any
from grail_core.errors import GrailError, StorageError
from grail_core.keys import ss58
from grail_core.protocol import MinerStatus, Seal, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Hotkey
from grail_core.storage import time_limits
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import file_key, seal_key, verdict_key, window_key
from grail_core.verification.window_file import Submission, check_file
from grail_validator import arrivals, judging, sealed_files
from grail_validator.sealed_files import MAX_ELSEWHERE_BLOCKS, MAX_ONCE_MORE_BLOCKS, MAX_ROUNDS_BLOCKS, WindowFiles
from grail_validator.service import ValidatorService
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

COPYIST, HONEST = "miner-0", "miner-1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    """Two miners have sealed; the copyist its own header with the honest miner's digest and size."""
    network = SmallNetwork(tmp_path, model=model)
    network.advance_to(FIRST_WINDOW + 1)
    seals = {}
    for name in (COPYIST, HONEST):
        data = network.mine(network.mining(name), FIRST_WINDOW, range(1))
        seals[name] = upload(network, network.mining(name), name, data, FIRST_WINDOW)
    copyist, own, others = network.participant(COPYIST), seals[COPYIST], seals[HONEST]
    message = Seal.message(copyist.network_id, own.kind, own.header, others.content_digest, others.size)
    copied = dataclasses.replace(
        own, content_digest=others.content_digest, size=others.size, signature=copyist.signer.sign(message)
    )
    copyist.own_store.put(seal_key(ss58(copyist.signer.hotkey), FIRST_WINDOW), copied.encode())
    network.advance_to(FIRST_WINDOW + 30)
    return network


def judged(network: SmallNetwork, validator: ValidatorService) -> VerdictBody:
    validator.first_sight.sight(FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 42)
    validator.advance(FIRST_WINDOW, threading.Event())
    return SignedVerdict.decode(validator.participant.own_store.get(verdict_key(FIRST_WINDOW), max_bytes=10**7)).body


def status(network: SmallNetwork, body: VerdictBody, name: str) -> MinerStatus:
    miner = body.miner(network.signers[name].hotkey)
    assert miner is not None
    return miner.status


def window_key_of(network: SmallNetwork, name: str) -> str:
    return window_key(ss58(network.signers[name].hotkey), FIRST_WINDOW)


def test_a_copied_digest_whose_bytes_break_off_beside_the_honest_ones_costs_the_copyist_alone(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, over = threading.Event(), threading.Event()
    get = FilesystemStore.get

    def slow_or_gone(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if key == window_key_of(network, COPYIST):
            assert began.wait(20)
            raise StorageError("no such object", where=key)
        data = get(store, key, **options)
        if key == window_key_of(network, HONEST):
            began.set()
            assert over.wait(20)  # the copyist's download has ended, and what it began was cleared away
        return data

    def watched(path: Path) -> None:
        remove_any(path)
        if began.is_set():
            over.set()

    monkeypatch.setattr(FilesystemStore, "get", slow_or_gone)
    monkeypatch.setattr("grail_validator.sealed_files.remove_any", watched)
    body = judged(network, network.validator("validator-0"))
    assert status(network, body, HONEST) is MinerStatus.ACCEPTED
    assert status(network, body, COPYIST) is MinerStatus.FAILED


def test_what_a_killed_process_had_begun_to_fetch_leaves_the_disk(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    begun = validator.participant.files.root / "fetching" / f"{validator.participant.signer.hotkey.hex()}-begun"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"half of a file")
    others = begun.with_name(f"{network.signers['validator-1'].hotkey.hex()}-begun")
    others.write_bytes(b"of another validator on this machine")
    judged(network, validator)
    assert list(begun.parent.iterdir()) == [others]


def test_a_bucket_that_does_what_nobody_thought_of_costs_its_miner_alone(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = FilesystemStore.get

    def strange(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if key == window_key_of(network, COPYIST):
            raise RuntimeError("no store ever said this")
        return get(store, key, **options)

    monkeypatch.setattr(FilesystemStore, "get", strange)
    body = judged(network, network.validator("validator-0"))
    assert status(network, body, HONEST) is MinerStatus.ACCEPTED
    assert status(network, body, COPYIST) is MinerStatus.FAILED


def test_one_file_is_open_at_a_time(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(
        network, network.mining(COPYIST), COPYIST, network.mine(network.mining(COPYIST), FIRST_WINDOW, range(2)), FIRST_WINDOW
    )
    opened: list[weakref.ref[Submission]] = []

    def watched(*args: Any, **options: Any) -> Any:
        gc.collect()
        assert not [one for one in opened if one() is not None]
        found = check_file(*args, **options)
        assert isinstance(found, Submission)
        opened.append(weakref.ref(found))
        return found

    monkeypatch.setattr("grail_core.verification.examine.check_file", watched)
    body = judged(network, network.validator("validator-0"))
    assert len(opened) == 2
    assert {status(network, body, name) for name in (HONEST, COPYIST)} == {MinerStatus.ACCEPTED}


def test_what_goes_wrong_while_a_file_is_read_costs_its_miners_verdict_alone(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = WindowFiles.of
    honest = network.signers[HONEST].hotkey

    def failing(files: WindowFiles, hotkey: Hotkey, seal: Seal) -> bytes | None:
        if hotkey != honest:
            raise MemoryError
        return of(files, hotkey, seal)

    monkeypatch.setattr(WindowFiles, "of", failing)
    body = judged(network, network.validator("validator-0"))
    assert status(network, body, HONEST) is MinerStatus.ACCEPTED
    assert status(network, body, COPYIST) is MinerStatus.INCONCLUSIVE


def test_a_file_that_the_cache_lost_and_that_is_gone_since_is_nobodys_failure(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    cleared: list[bool] = []
    of = WindowFiles.of

    def after_it_was_fetched(files: WindowFiles, hotkey: Hotkey, seal: Seal) -> bytes | None:
        if not cleared:
            cleared.append(True)
            validator.participant.files.forget(str(FIRST_WINDOW))
            miner = network.participant(HONEST)
            miner.own_store.delete(window_key_of(network, HONEST))
        return of(files, hotkey, seal)

    monkeypatch.setattr(WindowFiles, "of", after_it_was_fetched)
    body = judged(network, validator)
    assert status(network, body, HONEST) is MinerStatus.INCONCLUSIVE


def test_files_and_validators_that_drip_take_less_than_a_window_together(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "MOST_AT_ONCE", 1)  # more are drawn than are fetched at once
    now = [0.0]
    other = network.participant("validator-1").own_store
    honest = Seal.decode(
        network.participant(HONEST).own_store.get(seal_key(ss58(network.signers[HONEST].hotkey), FIRST_WINDOW), max_bytes=10**6)
    )
    other.put(file_key(honest.content_digest), bytes(honest.size))
    asked: list[str] = []

    def dripping(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if not key.startswith(("grail/windows/", "grail/files/")):
            return get(store, key, **options)
        asked.append(key)
        now[0] += max(0.0, time_limits.seconds_left())
        raise StorageError("a few bytes came")

    get = FilesystemStore.get
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 42)
    monkeypatch.setattr(FilesystemStore, "get", dripping)
    for module in (sealed_files, time_limits):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    validator.advance(FIRST_WINDOW, threading.Event())
    blocks = MAX_ROUNDS_BLOCKS + MAX_ELSEWHERE_BLOCKS + MAX_ONCE_MORE_BLOCKS
    seconds = seconds_of(blocks, network.params.block_time_ms)
    assert any(key.startswith("grail/files/") for key in asked)
    assert 0 < now[0] <= seconds < seconds_of(WINDOW_LENGTH, network.params.block_time_ms)


def test_one_that_drips_costs_another_no_second_try(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, refused = threading.local(), threading.Event()  # each thread waits by itself
    get = FilesystemStore.get

    def dripping(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if key == window_key_of(network, COPYIST):
            assert refused.wait(20)
            waited.seconds = time_limits.seconds_left()
            raise StorageError("a few bytes came")
        if key == window_key_of(network, HONEST) and not refused.is_set():
            refused.set()
            raise StorageError("503: slow down")
        return get(store, key, **options)

    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 42)  # all tries are due
    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, "get", dripping)
        for module in (sealed_files, time_limits):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: getattr(waited, "seconds", 0.0)))
        validator.advance(FIRST_WINDOW, threading.Event())
    body = SignedVerdict.decode(validator.participant.own_store.get(verdict_key(FIRST_WINDOW), max_bytes=10**7)).body
    assert status(network, body, HONEST) is MinerStatus.ACCEPTED
    assert status(network, body, COPYIST) is MinerStatus.FAILED


def test_a_reason_of_any_length_ends_no_window(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise GrailError("a worker said " + "\x1b\ud800 so much\n" * 500)

    monkeypatch.setattr(judging, "_examine", failing)
    body = judged(network, network.validator("validator-0"))
    assert status(network, body, HONEST) is MinerStatus.INCONCLUSIVE
    assert status(network, body, COPYIST) is MinerStatus.FAILED  # its own bucket never had what it sealed


def test_a_reason_of_any_length_stands_in_a_window_that_is_not_scored(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    validator.checkpoint = Failing()  # type: ignore[assignment]
    assert judged(network, validator).status is WindowStatus.INCONCLUSIVE


class Failing:
    def at(self, *_: Any) -> None:
        raise GrailError("no model: " + "\x1b\ud800 so much\n" * 500)
