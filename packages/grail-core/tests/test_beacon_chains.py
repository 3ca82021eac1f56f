"""Every recorded round of every drand chain is judged as its record says, and a chain is what its information hashes to."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.beacon.bls import Fault, Scheme, fault_of
from grail_core.beacon.chains import (
    DEFAULT_CHAIN,
    QUICKNET_CHAIN,
    ChainInfo,
    InvalidRoundError,
    PresentedRound,
    UnsupportedSchemeError,
    difference,
    read_info,
    read_round,
)
from grail_core.protocol.network import QUICKNET

BN254 = "bls-bn254-unchained-on-g1"


@pytest.fixture(scope="module")
def chains() -> list[dict[str, Any]]:
    folder = os.environ.get("GRAIL_DATA_DIR")
    path = Path(folder or "", "drand", "vectors.json")
    if not folder or not path.is_file():
        pytest.skip("the recorded drand vectors are in GRAIL_DATA_DIR, which is not set or has no drand/vectors.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())["chains"]
    return found


def info_of(chain: dict[str, Any], scheme: str) -> ChainInfo:
    """Chains of which only the key is recorded are verified by the key."""
    group = bytes.fromhex(chain["group_hash"] or "00" * 32)
    key = bytes.fromhex(chain["public_key"])
    return ChainInfo(
        Scheme(scheme), key, chain["genesis_time"] or 0, chain["period"] or 1, group, chain["beacon_id"] or "default"
    )


def presented(beacon: dict[str, Any]) -> PresentedRound:
    return read_round(json.dumps(beacon).encode())


def as_info(chain: dict[str, Any]) -> bytes:
    """What a relay of this chain answers to /info."""
    members = {"public_key": "public_key", "period": "period", "genesis_time": "genesis_time"}
    members |= {"hash": "hash", "group_hash": "groupHash", "scheme": "schemeID"}
    return json.dumps(
        {theirs: chain[ours] for ours, theirs in members.items()} | {"metadata": {"beaconID": chain["beacon_id"]}}
    ).encode()


def test_every_recorded_valid_round_of_every_supported_scheme_is_accepted_with_its_randomness(
    chains: list[dict[str, Any]],
) -> None:
    accepted = Counter[str]()
    for chain in chains:
        for beacon in chain["beacons"] if chain["scheme"] != BN254 else ():
            randomness = presented(beacon).verified(info_of(chain, chain["scheme"]), expected=beacon["round"])
            assert randomness.hex() == beacon["randomness"], (chain["id"], beacon["round"])
            accepted[chain["scheme"]] += 1
    assert set(accepted) == {scheme.value for scheme in Scheme}
    assert sum(accepted.values()) >= 300


def test_every_recorded_invalid_round_is_refused_for_the_recorded_reason(chains: list[dict[str, Any]]) -> None:
    refused = Counter[str]()
    for chain in chains:
        for beacon in chain["invalid"]:
            info = info_of(chain, beacon.get("scheme", chain["scheme"]))
            with pytest.raises(InvalidRoundError) as caught:
                presented(beacon).verified(info, expected=beacon.get("expected_round"))
            assert caught.value.fault.name.lower() == beacon["fails_with"], (chain["id"], beacon["what"])
            refused[beacon["fails_with"]] += 1
    assert set(refused) == {fault.name.lower() for fault in Fault} - {"bad_key"}


def test_every_recorded_chains_information_hashes_to_its_recorded_hash_and_bn254_is_refused_by_name(
    chains: list[dict[str, Any]],
) -> None:
    whole = [chain for chain in chains if chain["hash_recomputed"]]
    for chain in whole:
        if chain["scheme"] == BN254:
            with pytest.raises(UnsupportedSchemeError, match=BN254):
                read_info(as_info(chain))
        else:
            assert read_info(as_info(chain)).hash.hex() == chain["hash"]
    assert any(chain["scheme"] == BN254 for chain in whole)
    with pytest.raises(ValueError, match="bn254"):
        Scheme(BN254)


def test_the_chains_known_by_name_are_the_published_ones() -> None:
    assert QUICKNET_CHAIN.hash.hex() == "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
    assert DEFAULT_CHAIN.hash.hex() == "8990e7a9aaed2ffed73dbd7092123d6f289930540d7651336225dc172e51b2ce"
    assert QUICKNET_CHAIN.serves(QUICKNET)
    assert not DEFAULT_CHAIN.serves(QUICKNET)
    assert difference(QUICKNET_CHAIN, QUICKNET) is None
    told = difference(DEFAULT_CHAIN, QUICKNET)
    assert told == "relay serves chain 8990e7a9aaed… (pedersen-bls-chained), the network's is 52db9ba70e0c…"


def test_a_relays_information_is_never_taken_on_trust() -> None:
    said = QUICKNET_CHAIN.to_json()
    assert read_info(json.dumps(said).encode()) == QUICKNET_CHAIN
    for name, value in {"period": 30, "genesis_time": 0, "groupHash": "00" * 32, "metadata": {"beaconID": "x"}}.items():
        with pytest.raises(ValueError, match="hash is not the one"):
            read_info(json.dumps({**said, name: value}).encode())
    for name in ("public_key", "period", "genesis_time", "groupHash"):
        for value in (None, "x", -1, "00" * 200, [], True):
            with pytest.raises(ValueError):
                read_info(json.dumps({**said, name: value}).encode())
    moved = {name: value for name, value in said.items() if name != "hash"} | {"period": 30}
    assert "network has genesis 1692803367, period 3 s" in (difference(read_info(json.dumps(moved).encode()), QUICKNET) or "")


def test_a_key_that_signs_everything_is_no_chains_key() -> None:
    for scheme in Scheme:
        identity_key = b"\xc0" + bytes(scheme.key_bytes - 1)
        identity = b"\xc0" + bytes(scheme.signature_bytes - 1)
        assert fault_of(scheme, identity_key, 1, identity, b"x") is Fault.BAD_KEY


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_no_answer_crashes_the_readers(raw: bytes) -> None:
    for read in (read_info, read_round):
        with pytest.raises(ValueError):
            read(raw)
