"""A full subnet, nearly all of whose stores take a request and never serve it: the honest ones' seals and files come.

Real sockets, a real S3 server for the honest, the shipped first sight and fetch. What is asserted is what came while everybody
else was still being waited for; no limit of time is ever reached, so that nothing here depends on how quick this machine is.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import boto3
import pytest

from grail_core.chain.development.local import LocalChain
from grail_core.keys import LocalSigner, ss58
from grail_core.participant.participant import Participant
from grail_core.protocol import Seal, Selection
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.filesystem import FilesystemDirectory
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.s3_directory import S3Directory
from grail_validator.cases import Announcement, Interrupted, Sealed, Sighting
from grail_validator.first_sight import UNREADABLE, FirstSight
from grail_validator.ledger import Ledger
from grail_validator.sealed_files import WindowFiles
from tooling.testing import plain_window as plain
from tooling.testing.idle_stores import WAYS, IdleStores
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.s3_server import ANYONE, REGION, S3Server, s3_server

pytestmark = pytest.mark.heavy

FULL_SUBNET = 256
HONEST = [f"honest-{number}" for number in range(4)]
HOSTILE = [f"{WAYS[number % len(WAYS)]}-{number:03d}" for number in range(FULL_SUBNET - len(HONEST) - 2)]
MINERS = {name: LocalSigner.from_seed(hashlib.sha256(name.encode()).digest()) for name in (*HOSTILE, *HONEST)}
"""By bucket."""
WAITING = [bucket for bucket in HOSTILE if not bucket.startswith("resetting")]
"""Those that hold whoever asks them."""
LONG_MS = 600_000  # a block: of no limit that is counted in blocks does a test see the end
A_WHILE = 300.0  # seconds after which a test that would hang fails


@dataclass
class Everybody:
    """Opens the network's own buckets as files, miners' as what they committed."""

    own_files: FilesystemDirectory
    remote: S3Directory

    def own(self) -> ObjectStore:
        return self.own_files.own()

    def commitment(self) -> str:
        return self.own_files.commitment()

    def open(self, commitment: str) -> ObjectStore:
        return (self.remote if commitment.startswith("s3:") else self.own_files).open(commitment)


def hotkeys(buckets: Iterable[str]) -> set[Hotkey]:
    return {MINERS[bucket].hotkey for bucket in buckets}


@dataclass
class Subnet:
    network: Network
    validator: Participant
    window: Window
    stores: IdleStores
    s3: S3Server

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.s3.store(ANYONE, bucket=bucket).put(key, data)

    def put_files(self) -> None:
        for bucket in HONEST:
            self.put(bucket, window_key(ss58(MINERS[bucket].hotkey), self.window), file_of(bucket))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The network's own trainer and validator, and miners up to the last UID, the hostile first."""
    network = Network(tmp_path_factory.mktemp("network"), miners=0, validators=1)
    for bucket, signer in MINERS.items():
        host = 0 if bucket.startswith("honest") else 1
        network.chain.register(signer)
        network.chain.commit(signer, BucketAddress(host, "account", bucket, ANYONE).to_text())
    network.advance_to(FIRST_WINDOW)
    assert len(network.chain.metagraph().neurons) == FULL_SUBNET
    return network


@pytest.fixture
def subnet(tmp_path: Path, network: Network, s3: S3Server) -> Iterator[Subnet]:
    """Each test has a window of its own, stores of its own, and a validator that knows of nothing before."""
    client: Any = boto3.client("s3", endpoint_url=s3.url, aws_access_key_id="a", aws_secret_access_key="b", region_name=REGION)
    for bucket in HONEST:
        client.create_bucket(Bucket=bucket)
    own = BucketAddress(0, "account", "own-bucket", Credentials("reads", "a-secret"))
    with IdleStores() as stores:
        remote = S3Directory((s3.url, stores.url), own, Credentials("writes", "another"), region=REGION)
        validator = replace(
            network.participant("validator-0"),
            directory=Everybody(network.directory("validator-0"), remote),
            params=replace(network.params, block_time_ms=LONG_MS),
            cache_dir=tmp_path / "cache",
            state_dir=tmp_path / "state",
        )
        window = Window(network.chain.current_block() // WINDOW_LENGTH * WINDOW_LENGTH)
        network.advance_to(window + WINDOW_LENGTH)
        yield Subnet(network, validator, window, stores, s3)


def test_a_full_subnet_of_stores_that_never_serve_costs_no_honest_miner_its_first_sight(
    subnet: Subnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bucket in HONEST:
        subnet.put(bucket, seal_key(ss58(MINERS[bucket].hotkey), subnet.window), f"the seal of {bucket}".encode())
    participant = subnet.validator
    ledger = Ledger(participant.state.ledger, network_id=participant.network_id, hotkey=participant.signer.hotkey)
    seen, recorded = set[Hotkey](), ledger.record_sighting
    honest_seen = threading.Event()

    def watched(window: Any, sighting: Sighting) -> None:
        recorded(window, sighting)
        seen.add(sighting.hotkey)
        if hotkeys(HONEST) <= seen:
            honest_seen.set()

    monkeypatch.setattr(ledger, "record_sighting", watched)
    looking = threading.Thread(target=FirstSight(participant, ledger).sight, args=(subnet.window,))
    looking.start()
    try:
        assert subnet.stores.until_all_held(WAITING, A_WHILE)  # everybody is asked at once: no limit on how many
        assert honest_seen.wait(A_WHILE)
        assert not seen & hotkeys(WAITING)
    finally:
        subnet.network.advance_to(participant.times(subnet.window).first_sight_end_block + 1)
        looking.join(A_WHILE)
    assert not looking.is_alive()
    found = {sighting.hotkey: sighting for sighting in ledger.sightings(subnet.window) or ()}
    assert {found[one].seal for one in hotkeys(HONEST)} == {f"the seal of {b}".encode() for b in HONEST}
    assert {found[one].reason for one in hotkeys(WAITING)} == {UNREADABLE}


def sealed(subnet: Subnet, chain: LocalChain) -> list[Sealed]:
    """Everybody is drawn; the hostile say that they have larger files and smaller ones."""
    neurons = {neuron.hotkey: neuron for neuron in chain.metagraph().neurons}
    context, miner = plain.window_context(), plain.MINERS[0]
    header = plain.seal(context, miner, plain.window_file(context, miner, plain.rollouts(context, miner, range(1)))).header
    drawn = []
    for number, (bucket, signer) in enumerate(MINERS.items()):
        data = file_of(bucket)
        size = len(data) if bucket.startswith("honest") else 1 + number * 10_000
        seal = Seal("rollouts", header, Digest(hashlib.sha256(data).digest()), size, Signature(bytes(64)))
        entry = Announcement(neurons[signer.hotkey], Sighting(signer.hotkey, b"", 1), True)
        drawn.append(Sealed(entry, seal, Selection(signer.hotkey, Fraction(1), 0, True)))
    return drawn


def file_of(bucket: str) -> bytes:
    return bucket.encode() * 200_000  # some chunks


def test_a_full_subnet_of_stores_that_never_serve_keeps_no_honest_file_from_being_judged(subnet: Subnet) -> None:
    subnet.put_files()
    subnet.network.advance_to(subnet.validator.times(subnet.window).challenge_block)
    files, stop = WindowFiles(subnet.validator, subnet.window), threading.Event()
    drawn = {one.entry.neuron.hotkey: one for one in sealed(subnet, subnet.network.chain)}
    arriving = files.arriving(list(drawn.values()), stop)
    came: dict[Hotkey, bytes | None] = {}
    for _ in HONEST:
        one = next(arriving)
        came[one.entry.neuron.hotkey] = files.of(one.entry.neuron.hotkey, one.seal)
    assert came == {MINERS[bucket].hotkey: file_of(bucket) for bucket in HONEST}
    assert subnet.stores.until_all_held(WAITING, A_WHILE)  # everybody is being asked at one moment
    stop.set()
    with pytest.raises(Interrupted):
        next(arriving)
    assert subnet.stores.until_none_held(A_WHILE)
    for thread in threading.enumerate():
        if thread.name.startswith("file-"):
            thread.join(A_WHILE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("file-")]
    assert list((subnet.validator.files.root / "fetching").iterdir()) == []


def test_stores_that_never_serve_and_fill_the_disk_give_way_to_who_serves(
    subnet: Subnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one file, and the hostile, a byte smaller each, stand before the honest."""
    subnet.put_files()
    subnet.network.advance_to(subnet.validator.times(subnet.window).challenge_block)
    honest, hostile = hotkeys(HONEST), hotkeys(WAITING[:12])
    size = len(file_of(HONEST[0]))
    drawn = [one for one in sealed(subnet, subnet.network.chain) if one.entry.neuron.hotkey in honest | hostile]
    drawn = [one if one.entry.neuron.hotkey in honest else replace(one, seal=replace(one.seal, size=size - 1)) for one in drawn]
    slow, while_even = {window_key(ss58(hotkey), subnet.window) for hotkey in hostile}, WindowFiles._while_even

    def soon_late(files: WindowFiles, store: ObjectStore, key: str, offset: int, length: int, until: float) -> bytes | None:
        return while_even(files, store, key, offset, length, time.monotonic() + 0.1 if key in slow else until)

    monkeypatch.setattr(WindowFiles, "_while_even", soon_late)
    files = WindowFiles(replace(subnet.validator, file_cache_bytes=size), subnet.window)
    came: dict[Hotkey, bytes | None] = {}
    with closing(files.arriving(drawn, threading.Event())) as arriving:
        for _ in HONEST:
            one = next(arriving)
            came[one.entry.neuron.hotkey] = files.of(one.entry.neuron.hotkey, one.seal)
    assert came == {MINERS[bucket].hotkey: file_of(bucket) for bucket in HONEST}
    assert subnet.stores.requests.total() >= 12  # each had its turn, and gave way
