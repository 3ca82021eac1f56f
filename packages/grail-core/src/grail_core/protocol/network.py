"""Section 1: network parameters, what differs between subnet 81 and a network on one machine.

One frozen value, whose digest is inside the network id: two networks never share a seed, a signature or a file. All
protocol times are in blocks. A deployment fills in what only it knows (trainer hotkey, store hosts, localnet's beacon key)
with `dataclasses.replace`, and hands the result to its processes as JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.constants import PROTOCOL_VERSION, WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.reading import Json, Node
from grail_core.protocol.types import Digest, Hotkey

QUICKNET = BeaconChain(
    public_key=bytes.fromhex(
        "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb"
        "5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
    ),
    genesis_time_s=1692803367,
    period_s=3,
)

MAX_COMMITMENT_BYTES = 128  # of UTF-8: what a chain keeps for each hotkey


@dataclass(frozen=True)
class ParameterDifference:
    """One parameter in which a network differs from another, both values as text."""

    name: str  # dotted for a beacon's own parameters
    value: str
    reference: str


@dataclass(frozen=True)
class CalibrationLimits:
    """How wide a calibration table may be (section 6), in thousandths: a laxer one is refused by every reader.

    The first four bound a statistic's threshold for a sample of 64 rollouts at its own share of the false-reject rate, as the
    table gives it for any pair of an admitted class; the last two what a table may say of honest noise.
    """

    sketch_ratio: int
    twin_margin: int
    logprob_ratio: int
    twin_logprob: int
    logit_variance: int  # how much more honest logits may vary than the validator's own
    sketch_variance: int  # variance proxy of honest noise along an alternative, by the validator's own

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            if not 0 < getattr(self, f.name) <= _MAX_LIMIT:
                raise ValueError(
                    f"calibration_limits: {f.name} is {getattr(self, f.name)!r}, from 1 to {_MAX_LIMIT} is expected"
                )

    @classmethod
    def from_json(cls, node: Node) -> CalibrationLimits:
        m = node.members(*(f.name for f in dataclasses.fields(cls)))
        return cls(**{name: value.integer(1, _MAX_LIMIT) for name, value in m.items()})


_MAX_LIMIT = 1_000_000


@dataclass(frozen=True)
class NetworkParameters:
    """Everything two participants must agree on before they agree on anything else.

    Offsets named `*_after_T` count blocks from T, those named `*_after_D` from the deadline block T + 30. Raises ValueError,
    naming the parameter, for a network that could not run.
    """

    name: str
    netuid: int
    block_time_ms: int
    seed_beacon_after_T: int  # noqa: N815
    first_sight_ends_after_D: int  # noqa: N815
    challenge_after_D: int  # noqa: N815 (the challenge beacon: the first round at or after this block's time)
    void_after_D: int  # noqa: N815
    checkpoint_lead: int  # blocks: a manifest must be in the store before block valid_from − lead
    checkpoint_least_distance: int  # windows between a checkpoint's own window and its valid_from
    weight_interval: int  # blocks
    weight_mode: Literal["capped", "uncapped"]
    burn_share_permille: int  # of all weight, at least, in either mode; 900 is the 0.1 of section 10
    burn_uid: int
    beacon: BeaconChain
    beacon_policy: Literal["required", "off"]
    trainer_hotkey: Hotkey
    proof_classes: tuple[str, ...]  # numerics classes (section 6) that may compute sketches and log-probabilities
    generation_classes: tuple[str, ...]  # that may draw tokens
    validator_classes: tuple[str, ...]  # that validators compute with
    uncalibrated: Literal["refused", "reported"]  # files of admitted classes whose statistics no table enforces
    bit_equal: tuple[str, ...]  # proof classes on one device model with pinned kernels, whose prefill is equal to the bit
    calibration_limits: CalibrationLimits
    float32_permille: int  # chance that a window's file is drawn and held against float32, where it is drawn so often
    store_hosts: tuple[str, ...]  # allowed hosts of S3-compatible endpoints; empty: only the filesystem store

    def __post_init__(self) -> None:
        for name, ok in (
            ("name", len(self.name) <= _MAX_NAME and re.fullmatch(_NAME, self.name) is not None),
            ("netuid", 0 <= self.netuid <= 65_535),
            ("block_time_ms", self.block_time_ms > 0),
            ("seed_beacon_after_T", 0 < self.seed_beacon_after_T < WINDOW_LENGTH),
            ("first_sight_ends_after_D", self.first_sight_ends_after_D > 0),
            # The challenge must not be knowable while first sight lasts.
            ("challenge_after_D", self.challenge_after_D >= self.first_sight_ends_after_D),
            ("void_after_D", self.void_after_D > self.challenge_after_D),
            ("checkpoint_least_distance", self.checkpoint_least_distance > 0),
            ("checkpoint_lead", 0 <= self.checkpoint_lead < WINDOW_LENGTH * self.checkpoint_least_distance),
            ("weight_interval", self.weight_interval > 0),
            ("weight_mode", self.weight_mode in ("capped", "uncapped")),
            ("burn_share_permille", 0 <= self.burn_share_permille <= 1000),
            ("burn_uid", 0 <= self.burn_uid <= 65_535),
            ("beacon", len(self.beacon.public_key) == 96 and self.beacon.period_s > 0 and self.beacon.genesis_time_s >= 0),
            ("beacon_policy", self.beacon_policy in ("required", "off")),
            ("trainer_hotkey", len(self.trainer_hotkey) == 32),
            ("proof_classes", _names(self.proof_classes)),
            ("generation_classes", _names(self.generation_classes)),
            ("validator_classes", _names(self.validator_classes)),
            ("uncalibrated", self.uncalibrated in ("refused", "reported")),
            ("bit_equal", len(set(self.bit_equal)) == len(self.bit_equal) and set(self.bit_equal) <= set(self.proof_classes)),
            ("float32_permille", 0 <= self.float32_permille <= 1000),
        ):
            if not ok:
                raise ValueError(f"{name}: {getattr(self, name)!r} does not make a network")

    def to_json(self) -> dict[str, Json]:
        """Canonical-JSON value: bytes as hex text, tuples as lists."""
        return {f.name: _jsonable(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: object) -> NetworkParameters:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$network")
        m = node.members(*(f.name for f in dataclasses.fields(cls)))
        beacon = m["beacon"].members(*(f.name for f in dataclasses.fields(BeaconChain)))
        mode, policy, uncalibrated = (m[name].text(16) for name in ("weight_mode", "beacon_policy", "uncalibrated"))
        if mode not in ("capped", "uncapped"):
            m["weight_mode"].refuse(f"{mode!r} is neither capped nor uncapped")
        if policy not in ("required", "off"):
            m["beacon_policy"].refuse(f"{policy!r} is neither required nor off")
        if uncalibrated not in ("refused", "reported"):
            m["uncalibrated"].refuse(f"{uncalibrated!r} is neither refused nor reported")
        return node.build(
            lambda: cls(
                name=m["name"].text(_MAX_NAME),
                netuid=m["netuid"].integer(),
                block_time_ms=m["block_time_ms"].integer(),
                seed_beacon_after_T=m["seed_beacon_after_T"].integer(),
                first_sight_ends_after_D=m["first_sight_ends_after_D"].integer(),
                challenge_after_D=m["challenge_after_D"].integer(),
                void_after_D=m["void_after_D"].integer(),
                checkpoint_lead=m["checkpoint_lead"].integer(),
                checkpoint_least_distance=m["checkpoint_least_distance"].integer(),
                weight_interval=m["weight_interval"].integer(),
                weight_mode="capped" if mode == "capped" else "uncapped",
                burn_share_permille=m["burn_share_permille"].integer(),
                burn_uid=m["burn_uid"].integer(),
                beacon=BeaconChain(
                    public_key=beacon["public_key"].raw(96),
                    genesis_time_s=beacon["genesis_time_s"].integer(),
                    period_s=beacon["period_s"].integer(),
                ),
                beacon_policy="required" if policy == "required" else "off",
                trainer_hotkey=Hotkey(m["trainer_hotkey"].raw(32)),
                proof_classes=_read_names(m["proof_classes"]),
                generation_classes=_read_names(m["generation_classes"]),
                validator_classes=_read_names(m["validator_classes"]),
                uncalibrated="refused" if uncalibrated == "refused" else "reported",
                bit_equal=_read_names(m["bit_equal"]),
                calibration_limits=CalibrationLimits.from_json(m["calibration_limits"]),
                float32_permille=m["float32_permille"].integer(),
                store_hosts=tuple(host.text(_MAX_HOST) for host in m["store_hosts"].items(64)),
            )
        )

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON of all parameters."""
        return Digest(hashlib.sha256(canonical_json(self.to_json())).digest())

    def network_id(self, genesis_hash: bytes) -> Digest:
        """SHA-256 of protocol version, chain genesis hash, netuid and the digest of these parameters (each fixed width)."""
        if len(genesis_hash) != 32:
            raise ValueError(f"a genesis hash has 32 bytes, not {len(genesis_hash)}")
        parts = PROTOCOL_VERSION.to_bytes(8, "big") + genesis_hash + self.netuid.to_bytes(8, "big") + self.digest
        return Digest(hashlib.sha256(parts).digest())

    def differences(self, reference: NetworkParameters) -> tuple[ParameterDifference, ...]:
        """Every parameter that differs, in declaration order; reports of a run print them against subnet 81."""
        mine, theirs = _flat(self.to_json()), _flat(reference.to_json())
        return tuple(ParameterDifference(name, mine[name], theirs[name]) for name in mine if mine[name] != theirs[name])


_MAX_NAME = 64
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of a network, which folders of its state are called by
_MAX_HOST = 253
_MAX_CLASSES = 64


def _names(names: tuple[str, ...]) -> bool:
    return 0 < len(names) <= _MAX_CLASSES and len(set(names)) == len(names) and all(0 < len(n) <= _MAX_NAME for n in names)


def _read_names(node: Node) -> tuple[str, ...]:
    return tuple(item.text(_MAX_NAME) for item in node.items(_MAX_CLASSES))


def _jsonable(value: object) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, BeaconChain | CalibrationLimits):
        return {f.name: _jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, int | str):
        return value
    raise TypeError(f"{type(value).__name__} is no parameter's type")


def _flat(value: dict[str, Json], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
    return flat


UNSET_HOTKEY = Hotkey(bytes(32))
_CALIBRATED = ("bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers")
"""Every pair of these has a table in the shipped calibration; other classes join when somebody has calibrated them."""
_LIMITS = CalibrationLimits(
    sketch_ratio=800,
    twin_margin=250,
    logprob_ratio=975,
    twin_logprob=1200,
    logit_variance=3000,
    sketch_variance=6000,
)
"""Above the widest pair of the shipped table with its dead zone doubled, below where no value can lie; the sketches' variance
proxy is the test's own constant."""

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
    proof_classes=_CALIBRATED,
    generation_classes=_CALIBRATED,
    validator_classes=_CALIBRATED,
    uncalibrated="refused",
    bit_equal=(),
    calibration_limits=_LIMITS,
    float32_permille=250,
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
    proof_classes=_CALIBRATED,
    generation_classes=_CALIBRATED,
    validator_classes=_CALIBRATED,
    uncalibrated="reported",
    bit_equal=(),
    calibration_limits=_LIMITS,
    float32_permille=1000,
    store_hosts=(),
)

NETWORKS = {network.name: network for network in (SUBNET_81, LOCALNET)}
"""Named networks. `trainer_hotkey` (and localnet's beacon key) are filled in by the deployment: `dataclasses.replace`."""
