"""The same look serves rounds: seals at the deadline, updates at the reveal, each hotkey's answer recorded as it comes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.errors import StorageError
from grail_core.keys import LocalSigner, ss58
from grail_core.protocol.gradient.rounds import RoundTimes
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemDirectory, FilesystemStore
from grail_core.storage.layout import seal_key, update_key
from grail_validator.bucket_sight import BucketSight, Look, Seen
from grail_validator.ledger import Ledger
from grail_validator.round_cases import ObjectSighting, SightOf
from tooling.testing.gradient_states import SPEC

ROUND = Window(60)
MINERS = [LocalSigner.from_seed(bytes([number]) * 32) for number in (1, 2, 3)]


@pytest.fixture
def chain(tmp_path: Path) -> LocalChain:
    """Three miners with buckets; the first sealed, the second has too large a seal, the third none."""
    chain = LocalChain.create(tmp_path / "chain.db", seed=4, clock=ClockMode.VIRTUAL, genesis_time_ms=1_000_000)
    for number, signer in enumerate(MINERS):
        (tmp_path / "buckets").mkdir(exist_ok=True)
        directory = FilesystemDirectory(tmp_path / "buckets", f"miner-{number}", clock=chain.now_ms)
        chain.register(signer)
        chain.advance(2)
        chain.commit(signer, directory.commitment())
        if number < 2:
            directory.own().put(seal_key(ss58(signer.hotkey), ROUND), b"s" * (10, 2000)[number])
    chain.advance(int(RoundTimes(ROUND, SPEC, LOCALNET).deadline_block) - chain.current_block())
    return chain


def buckets(chain: LocalChain, root: Path) -> BucketSight:
    return BucketSight(chain, FilesystemDirectory(root / "buckets", "validator", clock=chain.now_ms), 2, 5.0)


def look_for(kind: SightOf, last_block: Block) -> Look:
    key, most = (seal_key, 1024) if kind is SightOf.SEAL else (update_key, None)
    return Look(kind.value, ROUND, partial(_key, key), last_block, most, "could not be read", "too large")


def _key(make: object, hotkey: str) -> str:
    return str(make(hotkey, ROUND))  # type: ignore[operator]


def sighting_of(seen: Seen) -> ObjectSighting:
    if seen.info is None:
        return ObjectSighting(seen.hotkey, reason=seen.reason)
    return ObjectSighting(seen.hotkey, seen.info.stored_at_ms, seen.info.size, None, seen.data, seen.reason)


def test_seals_are_read_at_the_deadline_and_updates_only_asked_for_at_the_reveal(
    chain: LocalChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = RoundTimes(ROUND, SPEC, LOCALNET)
    rounds = Ledger(tmp_path / "ledger.sqlite", network_id=bytes(32), hotkey=MINERS[0].hotkey).rounds
    neurons = [neuron for neuron in chain.metagraph().neurons if neuron.commitment]
    look = look_for(SightOf.SEAL, times.first_sight_end_block)
    answered = buckets(chain, tmp_path).look(
        look, neurons, lambda seen: rounds.record_sighting(ROUND, SightOf.SEAL, sighting_of(seen))
    )
    rounds.record_sealed(ROUND, [])
    assert answered == {signer.hotkey for signer in MINERS}
    found = {sighting.hotkey: sighting for sighting in rounds.sightings(ROUND, SightOf.SEAL)}
    first, second, third = (found[signer.hotkey] for signer in MINERS)
    assert (first.data, first.size) == (b"s" * 10, 10)
    assert (second.data, second.reason) == (None, "too large")
    assert (third.stored_at_ms, third.reason) == (None, "")

    own = FilesystemDirectory(tmp_path / "buckets", "miner-0", clock=chain.now_ms).own()
    stored = own.put(update_key(ss58(MINERS[0].hotkey), ROUND), bytes(5000))
    for name in ("read", "get"):
        monkeypatch.setattr(FilesystemStore, name, _touched)
    chain.advance(SPEC.reveal_blocks)
    look = look_for(SightOf.UPDATE, times.second_sight_end_block)
    buckets(chain, tmp_path).look(look, neurons, lambda seen: rounds.record_sighting(ROUND, SightOf.UPDATE, sighting_of(seen)))
    found = {sighting.hotkey: sighting for sighting in rounds.sightings(ROUND, SightOf.UPDATE)}
    assert found[MINERS[0].hotkey] == ObjectSighting(MINERS[0].hotkey, stored.stored_at_ms, 5000)
    assert found[MINERS[1].hotkey] == ObjectSighting(MINERS[1].hotkey)


def test_a_failing_store_is_asked_again_and_an_answer_after_the_look_does_not_count(
    chain: LocalChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, calls = RoundTimes(ROUND, SPEC, LOCALNET), [0]
    neurons = [neuron for neuron in chain.metagraph().neurons if neuron.hotkey == MINERS[0].hotkey]
    read = FilesystemStore.read

    def fails_once(store: FilesystemStore, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        calls[0] += 1
        if calls[0] == 1:
            raise StorageError("503")
        return read(store, key, max_bytes=max_bytes)

    monkeypatch.setattr(FilesystemStore, "read", fails_once)
    seen: list[Seen] = []
    look = look_for(SightOf.SEAL, times.first_sight_end_block)
    assert buckets(chain, tmp_path).look(look, neurons, seen.append) == {MINERS[0].hotkey}
    assert [answer.data for answer in seen] == [b"s" * 10]
    chain.advance(LOCALNET.first_sight_ends_after_D + 1)
    assert buckets(chain, tmp_path).look(look, neurons, seen.append) == set()
    assert len(seen) == 1


def _touched(*_: object, **__: object) -> None:
    raise AssertionError("an update is not read while it is sighted")
