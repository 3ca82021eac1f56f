"""Network parameters: what differs between subnet 81 and a network on one machine.

One frozen value, whose digest is inside the network id: two networks never share a seed, a signature or a file. All
protocol times are in blocks.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from grail_core.beacon.base import BeaconChain
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest, Hotkey

QUICKNET = BeaconChain(
    public_key=bytes.fromhex(
        "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb"
        "5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
    ),
    genesis_time_s=1692803367,
    period_s=3,
)


@dataclass(frozen=True)
class NetworkParameters:
    """Everything two participants must agree on before they agree on anything else.

    Offsets named `*_after_T` count blocks from T, those named `*_after_D` from the deadline block T + 30.
    """

    name: str
    netuid: int
    block_time_ms: int
    seed_beacon_after_T: int
    first_sight_ends_after_D: int
    challenge_after_D: int  # the challenge beacon is the first round at or after the time of this block
    void_after_D: int
    checkpoint_lead: int  # blocks: a manifest must be in the store before block valid_from − lead
    checkpoint_least_distance: int  # windows between a checkpoint's own window and its valid_from
    weight_interval: int  # blocks
    weight_mode: Literal["capped", "uncapped"]
    burn_share_permille: int  # what share of all weight the burn UID gets at least, in capped mode (documents the 0.1 of section 10)
    burn_uid: int
    beacon: BeaconChain
    beacon_policy: Literal["required", "off"]
    trainer_hotkey: Hotkey
    store_hosts: tuple[str, ...]  # allowed hosts of S3-compatible endpoints; empty: only the filesystem store

    def to_json(self) -> dict[str, Any]:
        """Canonical-JSON value: bytes as hex text, tuples as lists."""
        return {f.name: _jsonable(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(canonical_json(self.to_json())).digest())

    def network_id(self, genesis_hash: bytes) -> Digest:
        """SHA-256 of protocol version, chain genesis hash, netuid and the digest of these parameters (each fixed width)."""
        parts = PROTOCOL_VERSION.to_bytes(8, "big") + genesis_hash + self.netuid.to_bytes(8, "big") + self.digest
        if len(genesis_hash) != 32:
            raise ValueError(f"a genesis hash has 32 bytes, not {len(genesis_hash)}")
        return Digest(hashlib.sha256(parts).digest())


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return value


UNSET_HOTKEY = Hotkey(bytes(32))

SUBNET_81 = NetworkParameters(
    name="subnet-81",
    netuid=81,
    block_time_ms=12_000,
    seed_beacon_after_T=1,
    first_sight_ends_after_D=2,
    challenge_after_D=4,
    void_after_D=50,
    checkpoint_lead=30,
    checkpoint_least_distance=2,
    weight_interval=360,
    weight_mode="capped",
    burn_share_permille=900,
    burn_uid=0,
    beacon=QUICKNET,
    beacon_policy="required",
    trainer_hotkey=UNSET_HOTKEY,
    store_hosts=("r2.cloudflarestorage.com",),
)

LOCALNET = NetworkParameters(
    name="localnet",
    netuid=81,
    block_time_ms=1_500,
    seed_beacon_after_T=1,
    first_sight_ends_after_D=4,
    challenge_after_D=6,
    void_after_D=120,
    checkpoint_lead=5,
    checkpoint_least_distance=1,
    weight_interval=30,
    weight_mode="uncapped",
    burn_share_permille=900,
    burn_uid=0,
    beacon=BeaconChain(public_key=bytes(96), genesis_time_s=0, period_s=1),
    beacon_policy="required",
    trainer_hotkey=UNSET_HOTKEY,
    store_hosts=(),
)

NETWORKS = {network.name: network for network in (SUBNET_81, LOCALNET)}
"""Named networks. `trainer_hotkey` (and localnet's beacon key) are filled in by the deployment: `dataclasses.replace`."""
