"""Participants whose buckets on a real S3 server others read, with read keys that are made, changed and revoked."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from grail_core.beacon.base import Beacon
from grail_core.beacon.development import DevelopmentBeacon, DevelopmentKey
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.keys import LocalSigner
from grail_core.participant.participant import Participant
from grail_core.participant.read_key import Rotation, rotate
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Window
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.layout import seal_key
from grail_core.storage.s3_directory import S3Directory
from tooling.testing.s3_server import REGION, S3Server

GENESIS_MS = 1_700_000_000_000
READS = ("s3:GetObject", "s3:ListBucket")


@dataclass
class Owner:
    """A participant whose bucket others read."""

    name: str
    s3: S3Server
    write: Credentials
    signer: LocalSigner

    def key(self, number: int, *actions: str) -> Credentials:
        """A read key of the bucket; made before policies are enforced."""
        return self.s3.user(f"{self.name}-{number}", *(actions or READS), bucket=self.name)

    def directory(self, read: Credentials) -> S3Directory:
        address = BucketAddress(0, "acme", self.name, read)
        return S3Directory((self.s3.url,), address, self.write, region=REGION)

    def seal(self, window: Window) -> None:
        self.s3.store(self.write, bucket=self.name).put(seal_key(self.signer.ss58, window), f"{self.name} {window}".encode())


def owner(s3: S3Server, name: str) -> Owner:
    s3.make_bucket(name)
    write = s3.user(f"{name}-writes", "s3:*", bucket=name)
    return Owner(name, s3, write, LocalSigner.from_seed(hashlib.sha256(name.encode()).digest()))


def virtual_chain(folder: Path) -> LocalChain:
    """A chain that a test moves."""
    return LocalChain.create(
        folder / "chain.sqlite", seed=1, netuid=LOCALNET.netuid, clock=ClockMode.VIRTUAL, genesis_time_ms=GENESIS_MS
    )


def registered_owners(s3: S3Server, chain: LocalChain) -> tuple[Owner, Owner]:
    """Two of them, without a commitment."""
    found = owner(s3, "adam"), owner(s3, "bert")
    for one in found:
        chain.register(one.signer)
    chain.advance(2)
    return found


def participant(directory: S3Directory, chain: LocalChain, signer: LocalSigner, root: Path, url: str) -> Participant:
    key = DevelopmentKey.from_seed(b"read keys")
    params = dataclasses.replace(LOCALNET, store_hosts=(url,), beacon=BeaconChain(key.public_key, GENESIS_MS // 1000, 1))
    beacon: Beacon = DevelopmentBeacon(key, params.beacon)
    return Participant(params, chain, directory, beacon, signer, root / "cache", root / "state")


def rotated(one: Owner, chain: LocalChain, read: Credentials) -> Rotation:
    neuron = chain.metagraph().by_hotkey(one.signer.hotkey)
    assert neuron is not None
    params = dataclasses.replace(LOCALNET, store_hosts=(one.s3.url,))
    return rotate(chain, one.directory(read), params, one.signer, neuron)
