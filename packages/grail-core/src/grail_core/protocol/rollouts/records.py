"""Section 8: a rollout's record, a file's signed header, and the digests of both.

A rollout has one token array: it is proved, graded, deduplicated, archived and trained on. Both types check themselves when
made, so what exists is well formed; whether it is true is decided by the checks of section 9. How rollouts lie in Parquet is
`grail_core.files.window_file`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from grail_core.protocol.constants import (
    MAX_FILE_ROWS,
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    PROTOCOL_VERSION,
    ROLLOUTS_PER_PROBLEM,
    SKETCH_BYTES_PER_POSITION,
)
from grail_core.protocol.encoding import canonical_json, message, tagged_hash
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.rollouts.groups import declared_rollouts
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.windows import require_window

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]

MAX_GROUP_ID = 2**31 - 1
RESERVED_SKETCH_VALUE = -32768
MAX_HEADER_BYTES = 16_384
MAX_SOFTWARE_ENTRIES = 32
MAX_NAME_LENGTH = 128


@dataclass(frozen=True, eq=False)
class RolloutRecord:
    """One rollout. Raises ValueError, naming the field, when a value breaks a limit of sections 1 and 8.

    The arrays are one-dimensional, C-contiguous and of exactly these types; they are not copied: do not write to them.
    """

    group: int  # g, 0 … 2³¹ − 1
    rollout: int  # r, 0 … 15
    tokens: Int32Array  # prompt + completion
    prompt_length: int  # 1 … MAX_PROMPT_TOKENS
    logprobs: Float32Array  # of the completion's tokens under the unwarped model
    sketches: bytes | memoryview  # little-endian int16[completion_length + 1, 4], input positions prompt_length − 1 … last
    reward: float
    success: bool

    def __post_init__(self) -> None:
        if not 0 <= self.group <= MAX_GROUP_ID:
            raise ValueError(f"group: {self.group} is outside 0 … {MAX_GROUP_ID}")
        if not 0 <= self.rollout < ROLLOUTS_PER_PROBLEM:
            raise ValueError(f"rollout: {self.rollout} is outside 0 … {ROLLOUTS_PER_PROBLEM - 1}")
        _require_array("tokens", self.tokens, np.dtype(np.int32))
        _require_array("logprobs", self.logprobs, np.dtype(np.float32))
        if not 1 <= self.prompt_length <= MAX_PROMPT_TOKENS:
            raise ValueError(f"prompt_length: {self.prompt_length} is outside 1 … {MAX_PROMPT_TOKENS}")
        length = self.completion_length
        if not 1 <= length <= MAX_NEW_TOKENS_PROTOCOL_CAP:
            raise ValueError(f"tokens: {length} of completion, 1 … {MAX_NEW_TOKENS_PROTOCOL_CAP} are allowed")
        if int(self.tokens.min()) < 0:
            raise ValueError("tokens: a negative token id")
        if len(self.logprobs) != length:
            raise ValueError(f"logprobs: {len(self.logprobs)} values for {length} completion tokens")
        if not is_canonical_float32(self.logprobs):
            raise ValueError("logprobs: NaN, infinity or −0.0")
        if not isinstance(self.sketches, bytes | memoryview) or len(self.sketches) != SKETCH_BYTES_PER_POSITION * (length + 1):
            raise ValueError(f"sketches: {SKETCH_BYTES_PER_POSITION * (length + 1)} bytes are expected")
        if (self.sketch_values() == RESERVED_SKETCH_VALUE).any():
            raise ValueError(f"sketches: the reserved value {RESERVED_SKETCH_VALUE}")
        if not isinstance(self.reward, float) or not np.isfinite(self.reward) or _is_negative_zero(self.reward):
            raise ValueError(f"reward: {self.reward!r} is no finite float, or −0.0")
        if not isinstance(self.success, bool):
            raise ValueError(f"success: a truth value is expected, not {self.success!r}")

    @property
    def completion_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def prompt(self) -> Int32Array:
        return self.tokens[: self.prompt_length]

    @property
    def completion(self) -> Int32Array:
        return self.tokens[self.prompt_length :]

    def sketch_values(self) -> npt.NDArray[np.int16]:
        """The sketches as int16[completion_length + 1, 4]; a view."""
        return np.frombuffer(self.sketches, dtype="<i2").reshape(-1, 4)


def without_negative_zero(values: npt.ArrayLike) -> Float32Array:
    """float32 copy in which −0.0 is 0.0, contiguous: how a writer prepares `logprobs`."""
    return np.ascontiguousarray(np.asarray(values, dtype=np.float32) + np.float32(0.0))


def is_canonical_float32(values: Float32Array) -> bool:
    """Finite everywhere, and no −0.0."""
    bits = values.view(np.uint32)
    return bool(np.isfinite(values).all()) and not bool((bits == 0x80000000).any())


def rollout_message(network_id: bytes, record: RolloutRecord) -> bytes:
    """The canonical bytes: network id, "grail/row", and every field in the order of `RolloutRecord`, each with its length.

    Integers are 8 bytes big-endian; tokens little-endian int32, logprobs little-endian float32, reward little-endian
    float64; success one byte.
    """
    return message(network_id, "grail/row") + b"".join(bytes(piece) for piece in _pieces(record))


def rollout_digest(network_id: bytes, record: RolloutRecord) -> Digest:
    """`H("grail/row", …)`: SHA-256 of `rollout_message`."""
    return rollout_digests(network_id, (record,))[0]


def rollout_digests(network_id: bytes, records: Iterable[RolloutRecord]) -> list[Digest]:
    """`rollout_digest` of many rollouts. The arrays are hashed where they lie."""
    return _digests(network_id, map(_pieces, records))


@dataclass(frozen=True)
class RolloutBytes:
    """Many rollouts by column, as a file holds them: numbers a row, and bytes, `*_ends[i - 1]` … `*_ends[i]` those of row i.

    The bytes are little-endian, as in the canonical message.
    """

    groups: Sequence[int]
    rollouts: Sequence[int]
    prompt_lengths: Sequence[int]
    rewards: Sequence[float]
    successes: Sequence[bool]
    tokens: memoryview
    token_ends: Sequence[int]
    logprobs: memoryview
    logprob_ends: Sequence[int]
    sketches: memoryview
    sketch_ends: Sequence[int]


def column_digests(network_id: bytes, rows: RolloutBytes) -> list[Digest]:
    """`rollout_digests` of well-formed rollouts that lie in columns, without making records of them."""
    return _digests(network_id, _column_pieces(rows))


def _column_pieces(rows: RolloutBytes) -> Iterator[tuple[bytes | memoryview, ...]]:
    token = logprob = sketch = 0
    for group, rollout, prompt_length, reward, success, token_end, logprob_end, sketch_end in zip(
        rows.groups,
        rows.rollouts,
        rows.prompt_lengths,
        rows.rewards,
        rows.successes,
        rows.token_ends,
        rows.logprob_ends,
        rows.sketch_ends,
        strict=True,
    ):
        yield _framed(
            group,
            rollout,
            rows.tokens[token:token_end],
            prompt_length,
            rows.logprobs[logprob:logprob_end],
            rows.sketches[sketch:sketch_end],
            reward,
            success,
        )
        token, logprob, sketch = token_end, logprob_end, sketch_end


def _digests(network_id: bytes, rollouts: Iterable[tuple[bytes | memoryview, ...]]) -> list[Digest]:
    prefix = hashlib.sha256(message(network_id, "grail/row"))
    digests = []
    for pieces in rollouts:
        state = prefix.copy()
        for piece in pieces:
            state.update(piece)
        digests.append(Digest(state.digest()))
    return digests


_HEAD = struct.Struct(">IqIqI")  # group, rollout, each with its length; then the length of tokens
_MIDDLE = struct.Struct(">IqI")  # prompt_length with its length; then the length of logprobs
_REWARD = struct.Struct("<d")
_ONE, _EIGHT = (1).to_bytes(4, "big"), (8).to_bytes(4, "big")
_SUCCESS = (_ONE + b"\0", _ONE + b"\1")


def _pieces(record: RolloutRecord) -> tuple[bytes | memoryview, ...]:
    tokens, logprobs = record.tokens.astype("<i4", copy=False), record.logprobs.astype("<f4", copy=False)
    return _framed(
        record.group,
        record.rollout,
        tokens.data.cast("B"),
        record.prompt_length,
        logprobs.data.cast("B"),
        record.sketches,
        record.reward,
        record.success,
    )


def _framed(
    group: int,
    rollout: int,
    tokens: memoryview,
    prompt_length: int,
    logprobs: memoryview,
    sketches: bytes | memoryview,
    reward: float,
    success: bool,
) -> tuple[bytes | memoryview, ...]:
    """Every field with its length in front; the long ones are not copied."""
    return (
        _HEAD.pack(8, group, 8, rollout, len(tokens)),
        tokens,
        _MIDDLE.pack(8, prompt_length, len(logprobs)),
        logprobs,
        len(sketches).to_bytes(4, "big"),
        sketches,
        _EIGHT + _REWARD.pack(reward) + _SUCCESS[success],
    )


@dataclass(frozen=True)
class WindowHeader:
    """What a miner signs: which work this file is, and the Merkle root over its rollouts.

    Raises ValueError, naming the field, when a value is malformed. That it is the *right* window, block, beacon and
    checkpoint, and that the counts are those of the rollouts, is check 1.
    """

    protocol_version: int
    window: Window
    block_hash: bytes  # of block T
    beacon_round: int  # 0 where the beacon policy is `off`
    beacon_signature: bytes | None  # 48 bytes; None where the beacon policy is `off`
    hotkey: Hotkey
    checkpoint_digest: Digest
    env_digest: Digest
    policy_digest: Digest
    groups: int  # n
    gaps: int
    declared: int
    merkle_root: Digest
    proof_class: str  # numerics class of what computed sketches and log-probabilities
    generation_class: str  # of what drew the tokens; the same where one process did both
    software: Mapping[str, str] = field(default_factory=dict)  # versions by package name; information only

    def __post_init__(self) -> None:
        if self.protocol_version != PROTOCOL_VERSION:
            raise ValueError(f"protocol_version: {self.protocol_version} is unknown, this is version {PROTOCOL_VERSION}")
        require_window(self.window)
        for name in ("block_hash", "hotkey", "checkpoint_digest", "env_digest", "policy_digest", "merkle_root"):
            if len(getattr(self, name)) != 32:
                raise ValueError(f"{name}: 32 bytes are expected")
        if (self.beacon_round == 0) != (self.beacon_signature is None) or self.beacon_round < 0:
            raise ValueError("beacon_round: a round above 0 comes with its signature, and none without")
        if self.beacon_signature is not None and len(self.beacon_signature) != 48:
            raise ValueError("beacon_signature: 48 bytes are expected")
        if not 1 <= self.groups <= MAX_FILE_ROWS // ROLLOUTS_PER_PROBLEM:
            raise ValueError(f"groups: {self.groups} is outside 1 … {MAX_FILE_ROWS // ROLLOUTS_PER_PROBLEM}")
        if self.gaps < 0 or self.declared != declared_rollouts(self.groups, self.gaps):
            raise ValueError(f"declared: {self.declared} does not follow from {self.groups} groups and {self.gaps} gaps")
        for name in ("proof_class", "generation_class"):
            if not 0 < len(getattr(self, name)) <= MAX_NAME_LENGTH:
                raise ValueError(f"{name}: 1 … {MAX_NAME_LENGTH} characters are expected")
        if len(self.software) > MAX_SOFTWARE_ENTRIES or any(
            len(text) > MAX_NAME_LENGTH for entry in self.software.items() for text in entry
        ):
            raise ValueError(f"software: at most {MAX_SOFTWARE_ENTRIES} entries of {MAX_NAME_LENGTH} characters are allowed")

    @property
    def classes(self) -> tuple[str, str]:
        """Proof class and generation class."""
        return self.proof_class, self.generation_class

    def to_json(self) -> dict[str, Json]:
        """Canonical-JSON value: bytes as lower-case hex."""
        return {
            "protocol_version": self.protocol_version,
            "window": self.window,
            "block_hash": self.block_hash.hex(),
            "beacon_round": self.beacon_round,
            "beacon_signature": None if self.beacon_signature is None else self.beacon_signature.hex(),
            "hotkey": self.hotkey.hex(),
            "checkpoint_digest": self.checkpoint_digest.hex(),
            "env_digest": self.env_digest.hex(),
            "policy_digest": self.policy_digest.hex(),
            "groups": self.groups,
            "gaps": self.gaps,
            "declared": self.declared,
            "merkle_root": self.merkle_root.hex(),
            "proof_class": self.proof_class,
            "generation_class": self.generation_class,
            "software": dict(self.software),
        }

    @classmethod
    def from_json(cls, value: object) -> WindowHeader:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$header")
        m = node.members(*cls.__dataclass_fields__)
        software = {key: item.text(MAX_NAME_LENGTH) for key, item in m["software"].entries(MAX_SOFTWARE_ENTRIES).items()}
        return node.build(
            lambda: cls(
                protocol_version=m["protocol_version"].integer(),
                window=Window(m["window"].integer()),
                block_hash=m["block_hash"].raw(32),
                beacon_round=m["beacon_round"].integer(),
                beacon_signature=m["beacon_signature"].optional(lambda item: item.raw(48)),
                hotkey=Hotkey(m["hotkey"].raw(32)),
                checkpoint_digest=Digest(m["checkpoint_digest"].raw(32)),
                env_digest=Digest(m["env_digest"].raw(32)),
                policy_digest=Digest(m["policy_digest"].raw(32)),
                groups=m["groups"].integer(),
                gaps=m["gaps"].integer(),
                declared=m["declared"].integer(),
                merkle_root=Digest(m["merkle_root"].raw(32)),
                proof_class=m["proof_class"].text(MAX_NAME_LENGTH),
                generation_class=m["generation_class"].text(MAX_NAME_LENGTH),
                software=software,
            )
        )

    def canonical(self) -> bytes:
        """The bytes that stand in the file and are hashed."""
        return canonical_json(self.to_json())

    @classmethod
    def from_canonical(cls, raw: bytes) -> WindowHeader:
        """Read header bytes from a file: at most MAX_HEADER_BYTES, and exactly the canonical ones."""
        header = cls.from_json(parse_json(raw, most=MAX_HEADER_BYTES, path="$header"))
        if header.canonical() != raw:
            raise ValueError("$header: not in canonical form (RFC 8785)")
        return header


def header_digest(network_id: bytes, header: WindowHeader) -> Digest:
    """`H("grail/header", header)`: what the miner's hotkey signs."""
    return tagged_hash(network_id, "grail/header", header.canonical())


def _require_array(name: str, array: object, dtype: np.dtype[np.generic]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(f"{name}: a contiguous one-dimensional {dtype} array is expected")


def _is_negative_zero(value: float) -> bool:
    return value == 0.0 and bool(np.signbit(value))
