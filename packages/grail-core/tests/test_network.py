"""Two networks never share a seed, and a network that could not run does not exist."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from grail_core.protocol import canonical_json
from grail_core.protocol.network import LOCALNET, NETWORKS, SUBNET_81, NetworkParameters

GENESIS = bytes(range(32))
LIMITS = dataclasses.asdict(LOCALNET.calibration_limits)

CHANGES: dict[str, Any] = {
    "name": "other",
    "netuid": 82,
    "block_time_ms": 1,
    "seed_beacon_after_T": 2,
    "first_sight_ends_after_D": 3,
    "challenge_after_D": 5,
    "void_after_D": 51,
    "checkpoint_lead": 29,
    "checkpoint_least_distance": 3,
    "weight_interval": 361,
    "weight_mode": "uncapped",
    "burn_share_permille": 899,
    "burn_uid": 1,
    "beacon": dataclasses.replace(SUBNET_81.beacon, period_s=4),
    "beacon_policy": "off",
    "trainer_hotkey": bytes([1]) * 32,
    "proof_classes": SUBNET_81.proof_classes[:1],
    "generation_classes": SUBNET_81.generation_classes[::-1],
    "validator_classes": (*SUBNET_81.validator_classes, "other"),
    "uncalibrated": "reported",
    "bit_equal": SUBNET_81.proof_classes[:1],
    "calibration_limits": dataclasses.replace(SUBNET_81.calibration_limits, sketch_ratio=599),
    "float32_permille": 999,
    "store_hosts": (),
}


def test_every_parameter_is_inside_the_network_id() -> None:
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(NetworkParameters)}
    ids = {dataclasses.replace(SUBNET_81, **{name: value}).network_id(GENESIS) for name, value in CHANGES.items()}
    ids |= {SUBNET_81.network_id(GENESIS), SUBNET_81.network_id(bytes(32)), LOCALNET.network_id(GENESIS)}
    assert len(ids) == len(CHANGES) + 3


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_parameters_travel_as_json(network: NetworkParameters) -> None:
    again = NetworkParameters.from_json(json.loads(canonical_json(network.to_json())))
    assert again == network
    assert again.digest == network.digest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("netuid", -1),
        ("block_time_ms", 0),
        ("seed_beacon_after_T", 30),
        ("first_sight_ends_after_D", 0),
        ("challenge_after_D", 1),  # before first sight is over
        ("void_after_D", 4),
        ("checkpoint_lead", 60),
        ("checkpoint_least_distance", 0),
        ("weight_interval", 0),
        ("weight_mode", "linear"),
        ("burn_share_permille", 1001),
        ("burn_uid", 70_000),
        ("beacon", dataclasses.replace(SUBNET_81.beacon, period_s=0)),
        ("beacon", dataclasses.replace(SUBNET_81.beacon, public_key=b"")),
        ("beacon_policy", "fallback"),
        ("trainer_hotkey", b""),
        ("proof_classes", ()),
        ("generation_classes", ("a", "a")),
        ("generation_classes", ("",)),
        ("validator_classes", ("x" * 65,)),
        ("validator_classes", tuple(str(i) for i in range(65))),
        ("uncalibrated", "ignored"),
        ("bit_equal", ("bf16-flash-cuda-vllm",)),  # no class that may prove
        ("bit_equal", SUBNET_81.proof_classes[:1] * 2),
        ("float32_permille", 1001),
        ("float32_permille", -1),
    ],
)
def test_a_network_that_could_not_run_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        dataclasses.replace(SUBNET_81, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_mode", "linear"),
        ("beacon_policy", 1),
        ("netuid", "81"),
        ("store_hosts", "host"),
        ("proof_classes", "bf16-sdpa-cpu-transformers"),
        ("generation_classes", []),
        ("validator_classes", [81]),
        ("uncalibrated", "ignored"),
        ("bit_equal", "all"),
        ("calibration_limits", {}),
        ("calibration_limits", LIMITS | {"twin_margin": "250"}),
        ("calibration_limits", LIMITS | {"twin_margin": 0}),
        ("calibration_limits", LIMITS | {"energy": 1}),
        ("float32_permille", None),
        ("beacon", {}),
        ("void_after_D", 1),
    ],
)
def test_spoilt_json_is_refused_with_its_path(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^\$network"):
        NetworkParameters.from_json(LOCALNET.to_json() | {name: value})


def test_a_report_names_every_parameter_that_differs_and_no_other() -> None:
    names = [difference.name for difference in LOCALNET.differences(SUBNET_81)]
    assert names[0] == "name"
    assert {"block_time_ms", "weight_mode", "beacon.period_s", "store_hosts"} <= set(names)
    assert "burn_share_permille" not in names
    assert LOCALNET.differences(LOCALNET) == ()


def test_a_genesis_hash_has_32_bytes() -> None:
    with pytest.raises(ValueError):
        SUBNET_81.network_id(b"")
