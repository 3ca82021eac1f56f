"""First sight reads seals and nothing else; what one store does there costs its own miner's window and nobody else's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import StorageError
from grail_core.keys import ss58
from grail_core.protocol import MinerStatus, SignedVerdict, VerdictBody
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.types import Hotkey
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import seal_key, verdict_key, window_key
from grail_validator import first_sight
from grail_validator.service import ValidatorService
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    """Both miners have mined; first sight is about to begin."""
    network = SmallNetwork(tmp_path, model=model, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    for name in ("miner-0", "miner-1"):
        data = network.mine(network.mining(name), FIRST_WINDOW, range(1))
        upload(network, network.mining(name), name, data, FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 30)
    return network


def own(network: SmallNetwork, name: str) -> str:
    return ss58(network.signers[name].hotkey)


def judged(network: SmallNetwork, validator: ValidatorService) -> VerdictBody:
    network.advance_to(FIRST_WINDOW + 42)
    validator.advance(FIRST_WINDOW, threading.Event())
    raw = validator.participant.own_store.get(verdict_key(FIRST_WINDOW), max_bytes=10**7)
    return SignedVerdict.decode(raw).body


def statuses(network: SmallNetwork, body: VerdictBody) -> list[MinerStatus]:
    found = [body.miner(Hotkey(network.signers[name].hotkey)) for name in ("miner-0", "miner-1")]
    return [miner.status for miner in found if miner is not None]


def reading(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch, victim: Any) -> list[str]:
    """Every key that is read from a bucket while first sight lasts; `victim(call)` is what miner-0's store does first."""
    read, keys, lock = FilesystemStore.read, [], threading.Lock()

    def recorded(store: FilesystemStore, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        with lock:
            keys.append(key)
            calls = keys.count(key)
        if own(network, "miner-0") in key:
            victim(calls)
        return read(store, key, max_bytes=max_bytes)

    monkeypatch.setattr(FilesystemStore, "read", recorded)
    return keys


def test_one_request_a_hotkey_is_made_for_its_seal_and_none_for_anything_else(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = reading(network, monkeypatch, lambda call: None)
    for name in ("head", "get", "list"):

        def touched(*_: object, **__: object) -> None:
            raise AssertionError("a bucket was asked for something else than a seal")

        monkeypatch.setattr(FilesystemStore, name, touched)
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    registered = [ss58(neuron.hotkey) for neuron in validator.participant.miners_at(FIRST_WINDOW)]
    assert sorted(keys) == sorted(seal_key(hotkey, FIRST_WINDOW) for hotkey in registered)


def test_a_store_that_never_answers_costs_its_own_miner_alone(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hangs(call: int) -> None:
        released.wait()

    reading(network, monkeypatch, hangs)
    validator = network.validator("validator-0")
    recorded = validator.ledger.record_sighting

    def then_time_goes_on(window: Any, sighting: Any) -> None:
        recorded(window, sighting)
        if sighting.hotkey == network.signers["miner-1"].hotkey:
            network.advance_to(validator.participant.times(FIRST_WINDOW).first_sight_end_block + 1)

    monkeypatch.setattr(validator.ledger, "record_sighting", then_time_goes_on)
    try:
        validator.first_sight.sight(FIRST_WINDOW)
    finally:
        released.set()
    body = judged(network, validator)
    assert statuses(network, body) == [MinerStatus.ABSENT, MinerStatus.ACCEPTED]
    miner = body.miner(network.signers["miner-0"].hotkey)
    assert miner is not None
    assert miner.reason == first_sight.UNREADABLE


def test_a_store_that_fails_once_is_asked_again(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(call: int) -> None:
        if call == 1:
            raise StorageError("503")

    reading(network, monkeypatch, fails)
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    assert statuses(network, judged(network, validator)) == [MinerStatus.ACCEPTED] * 2


def test_what_nobody_foresaw_in_a_stores_reader_costs_one_miner(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(call: int) -> None:
        raise KeyError("ETag")

    keys = reading(network, monkeypatch, breaks)
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    assert keys.count(seal_key(own(network, "miner-0"), FIRST_WINDOW)) == first_sight.MAX_TRIES
    assert statuses(network, judged(network, validator)) == [MinerStatus.ABSENT, MinerStatus.ACCEPTED]


def test_a_validator_killed_during_first_sight_keeps_what_it_saw_and_asks_the_rest(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(validator.ledger, "record_sightings", killed)
        with pytest.raises(KeyboardInterrupt):
            validator.first_sight.sight(FIRST_WINDOW)
    seen = validator.ledger.sightings_so_far(FIRST_WINDOW)
    assert sum(sighting.seal is not None for sighting in seen) == 2
    upload(  # what is stored now is not what was seen
        network,
        network.mining("miner-0"),
        "miner-0",
        network.mine(network.mining("miner-0"), FIRST_WINDOW, range(2)),
        FIRST_WINDOW,
    )
    again = network.validator("validator-0")
    again.first_sight.sight(FIRST_WINDOW)
    assert again.ledger.sightings(FIRST_WINDOW) == sorted(seen, key=lambda sighting: sighting.hotkey)


def test_an_oversize_seal_is_not_read_and_says_so(network: SmallNetwork) -> None:
    store = network.participant("miner-0").own_store
    store.put(seal_key(own(network, "miner-0"), FIRST_WINDOW), bytes(MAX_SEAL_BYTES + 1))
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    body = judged(network, validator)
    miner = body.miner(network.signers["miner-0"].hotkey)
    assert miner is not None
    assert (miner.status, miner.reason) == (MinerStatus.ABSENT, first_sight.TOO_LARGE)


def test_a_seal_overwritten_after_the_deadline_is_absent(network: SmallNetwork) -> None:
    network.advance_to(FIRST_WINDOW + 31)
    upload(
        network,
        network.mining("miner-0"),
        "miner-0",
        network.mine(network.mining("miner-0"), FIRST_WINDOW, range(2)),
        FIRST_WINDOW,
    )
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    body = judged(network, validator)
    assert statuses(network, body) == [MinerStatus.ABSENT, MinerStatus.ACCEPTED]


def test_a_file_that_is_larger_than_it_was_sealed_is_read_no_further(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = network.participant("miner-0").own_store, window_key(own(network, "miner-0"), FIRST_WINDOW)
    honest = store.get(key, max_bytes=10**8)
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    store.put(key, bytes(50 * 2**20))
    get, read_bytes = FilesystemStore.get, []

    def counted(bucket: FilesystemStore, key: str, **options: Any) -> bytes:
        data = get(bucket, key, **options)
        read_bytes.append((key, len(data)))
        return data

    monkeypatch.setattr(FilesystemStore, "get", counted)
    body = judged(network, validator)
    assert statuses(network, body) == [MinerStatus.FAILED, MinerStatus.ACCEPTED]
    assert max(size for read, size in read_bytes if read == key) == len(honest)
