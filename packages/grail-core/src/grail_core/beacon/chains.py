"""drand chains by their public information: what a relay says of its chain, its hash, and rounds of any supported scheme.

A network's parameters pin key, genesis and period of its beacon (`protocol.beacon.BeaconChain`); a relay's `/info` says these
and more, from which the chain's hash is computed here and never taken on trust. It names a relay of another chain, and lets
a person verify rounds of chains that are no network's beacon: window files carry no signature of the round before, so that a
chained chain cannot be one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from grail_core.beacon.bls import Fault, Scheme, fault_of
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.network import QUICKNET
from grail_core.protocol.reading import Node, parse_json

MAX_INFO_BYTES = 8192
_MAX_PERIOD_S = 86_400
_MAX_ROUND_BYTES = 4096


class UnsupportedSchemeError(ValueError):
    """A chain whose scheme this library does not verify."""


class InvalidRoundError(ValueError):
    """A round that its chain's key did not sign, or not as it is presented."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True)
class ChainInfo:
    """What identifies a drand chain."""

    scheme: Scheme
    public_key: bytes
    genesis_time_s: int
    period_s: int
    group_hash: bytes
    beacon_id: str = "default"

    @property
    def hash(self) -> bytes:
        """SHA-256 of period, genesis, key, group hash and, unless it is the default, the chain's name."""
        parts = self.period_s.to_bytes(4, "big") + self.genesis_time_s.to_bytes(8, "big") + self.public_key + self.group_hash
        return hashlib.sha256(parts + (b"" if self.beacon_id in ("", "default") else self.beacon_id.encode())).digest()

    def serves(self, chain: BeaconChain) -> bool:
        """Are the rounds of this chain those of a network's beacon?"""
        mine = (self.scheme, self.public_key, self.genesis_time_s, self.period_s)
        return mine == (Scheme.RFC9380, chain.public_key, chain.genesis_time_s, chain.period_s)

    def to_json(self) -> dict[str, Any]:
        """As a relay's `/info` says it."""
        return {
            "public_key": self.public_key.hex(),
            "period": self.period_s,
            "genesis_time": self.genesis_time_s,
            "hash": self.hash.hex(),
            "groupHash": self.group_hash.hex(),
            "schemeID": self.scheme.value,
            "metadata": {"beaconID": self.beacon_id},
        }


@dataclass(frozen=True)
class PresentedRound:
    """A round as somebody shows it. Nothing of it is believed before `verified`."""

    round: int
    signature: bytes
    previous: bytes | None = None
    randomness: bytes | None = None  # as claimed; it follows from the signature

    def verified(self, info: ChainInfo, *, expected: int | None = None) -> bytes:
        """The round's randomness. Errors: InvalidRoundError, with what is wrong."""
        if expected is not None and self.round != expected:
            raise InvalidRoundError(Fault.UNEXPECTED_ROUND)
        fault = fault_of(info.scheme, info.public_key, self.round, self.signature, self.previous)
        if fault is not None:
            raise InvalidRoundError(fault)
        randomness = hashlib.sha256(self.signature).digest()
        if self.randomness not in (None, randomness):
            raise InvalidRoundError(Fault.RANDOMNESS_MISMATCH)
        return randomness


def read_info(raw: bytes) -> ChainInfo:
    """A relay's answer to `/info`; members that are not needed are ignored.

    Raises:
        UnsupportedSchemeError: a chain of BN254, or of a scheme that nobody knows here.
        ValueError: anything else, and a stated hash that is not the one of what is stated.
    """
    value = _object(raw, MAX_INFO_BYTES)
    try:
        scheme = Scheme(value.get("schemeID", Scheme.CHAINED.value))  # relays before 2022 name none
    except ValueError:
        raise UnsupportedSchemeError(f"scheme {str(value.get('schemeID'))[:64]!r} is not supported") from None
    metadata = value.get("metadata")
    named = metadata.get("beaconID", "default") if isinstance(metadata, dict) else "default"
    info = ChainInfo(
        scheme=scheme,
        public_key=_member(value, "public_key").raw(scheme.key_bytes),
        genesis_time_s=_member(value, "genesis_time").integer(0, 2**40),
        period_s=_member(value, "period").integer(1, _MAX_PERIOD_S),
        group_hash=_member(value, "groupHash").raw(32),
        beacon_id=Node(named, "$.metadata.beaconID").text(64),
    )
    if "hash" in value and _member(value, "hash").raw(32) != info.hash:
        raise ValueError("the chain's hash is not the one of its key, genesis, period and group")
    return info


def read_round(raw: bytes) -> PresentedRound:
    """A relay's JSON, `{"round": n, "signature": hex, "previous_signature"?: hex, "randomness"?: hex}`.

    Raises:
        ValueError: anything else.
    """
    value = _object(raw, _MAX_ROUND_BYTES)
    return PresentedRound(
        round=_member(value, "round").integer(1, 2**63 - 1),
        signature=_hex(value, "signature") or b"",
        previous=_hex(value, "previous_signature"),
        randomness=_hex(value, "randomness"),
    )


def _object(raw: bytes, most: int) -> dict[str, Any]:
    value = parse_json(raw, most=most, tokens=512, floats=True).value
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")
    return value


def _member(value: dict[str, Any], name: str) -> Node:
    return Node(value.get(name), f"$.{name}")


def _hex(value: dict[str, Any], name: str) -> bytes | None:
    """Hex text of at most 128 bytes; what is too short or too long is no point, which the verification says."""
    text = value.get(name)
    if text is None or text == "":
        return None
    return bytes.fromhex(_member(value, name).text(256))


QUICKNET_CHAIN = ChainInfo(
    scheme=Scheme.RFC9380,
    public_key=QUICKNET.public_key,
    genesis_time_s=QUICKNET.genesis_time_s,
    period_s=QUICKNET.period_s,
    group_hash=bytes.fromhex("f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e"),
    beacon_id="quicknet",
)
DEFAULT_CHAIN = ChainInfo(
    scheme=Scheme.CHAINED,
    public_key=bytes.fromhex(
        "868f005eb8e6e4ca0a47c8a77ceaa5309a47978a7c71bc5cce96366b5d7a569937c529eeda66c7293784a9402801af31"
    ),
    genesis_time_s=1595431050,
    period_s=30,
    group_hash=bytes.fromhex("176f93498eac9ca337150b46d21dd58673ea4e3581185f869672e59fa4cb390a"),
)
KNOWN_CHAINS = {"quicknet": QUICKNET_CHAIN, "default": DEFAULT_CHAIN}
"""The League of Entropy's two chains over this curve, by their names."""

PUBLIC_PATHS = frozenset(f"/{info.hash.hex()}" for info in KNOWN_CHAINS.values())
"""Of relays' URLs: which of several chains is meant."""


def hash_of(chain: BeaconChain) -> str | None:
    """A network's beacon's hash in hexadecimal digits, where that is known: parameters hold its key alone."""
    return next((info.hash.hex() for info in KNOWN_CHAINS.values() if info.serves(chain)), None)


def name_of(chain: BeaconChain) -> str:
    """How to call a network's beacon in an error: by its hash where that is known, else by its key."""
    known = hash_of(chain)
    return f"{known[:12]}…" if known is not None else f"that of key {chain.public_key.hex()[:12]}…"


def difference(info: ChainInfo, chain: BeaconChain) -> str | None:
    """How the chain that a relay serves differs from the network's; None where it is the network's."""
    if info.serves(chain):
        return None
    if info.public_key != chain.public_key:
        return f"relay serves chain {info.hash.hex()[:12]}… ({info.scheme.value}), the network's is {name_of(chain)}"
    told = f"{info.scheme.value}, genesis {info.genesis_time_s}, period {info.period_s} s"
    ours = f"genesis {chain.genesis_time_s}, period {chain.period_s} s"
    return f"relay says of the network's chain: {told}; the network has {ours}"
