"""Gradient work, sections 2 to 12: every number that a network of pseudo-gradients agrees on.

A `GradientSpec` is the parameters of the manifest's environment spec (`env_id` "gradient"), so `env_digest` binds all of it
into seeds, headers and the checkpoint chain: no such number comes from anywhere else. All are integers and names, since
canonical JSON holds no floats; the unit stands beside each. A spec that could not run raises at construction, and what this
version has not built (other codecs, divisors and outer rules than those listed below) is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, cast

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.reading import Json, Node

GRADIENT: Final = "gradient"
"""`env_id` of gradient work."""
GRADIENT_VERSION: Final = 1
MICRO: Final = 1_000_000
NANO: Final = 1_000_000_000
PERMILLE: Final = 1000

Rates = tuple[tuple[int, int], ...]
"""(sequence number of a checkpoint, rate), in increasing order of the first; linear between entries, rounded down."""

MOST_COMMITTED_STEPS: Final = 192
"""A root of each stands in an update's header, which has 16 KiB."""

_MAX_NAME = 64
_MAX_ENTRIES = 64
_CODECS = ("rice",)
_OPTIMISERS = ("adamw", "sgd")
_PRECISIONS = ("fp32", "bf16")
_COMMITS = ("all", "ends")
_OUTER = ("mean",)
_DIVISORS = ("all",)


@dataclass(frozen=True)
class GradientSpec:
    """The parameters of gradient work. Raises ValueError, naming the parameter, for what could not run.

    Blocks: `tail_blocks`, `reveal_blocks`. Sequences: `sequences` … `batch_most`, `common`, `own`, `guard`. Parts of a million:
    betas, decay, clip, feedback, outer rates. Parts of 10⁹: learning rates. Of a thousand: `replay_permille`, `score_step`.
    """

    corpus: str
    sequence_length: int  # L, tokens
    sequences: int  # N, that can be assigned
    held_out: int  # after them, never assigned
    round_windows: int  # k: a round is so many windows
    tail_blocks: int  # seals are due so many blocks before the round ends
    reveal_blocks: int  # updates and openings are due so many blocks after that
    inner_steps: int  # H
    batch_least: int
    batch_most: int
    optimiser: Literal["adamw", "sgd"]
    beta1: int
    beta2: int
    weight_decay: int
    clip: int  # largest global norm of a gradient
    warmup: int  # steps of a round over which the rate rises
    learning_rates: Rates
    compute: Literal["fp32", "bf16"]
    codec: Literal["rice"]
    chunk: int  # C, elements
    kept: int  # k of C values are sent
    feedback: int  # β
    outer: Literal["mean"]
    outer_rates: Rates
    divisor: Literal["all"]
    peers: int  # most that are merged
    commit: Literal["all", "ends"]
    replay_permille: int
    chunks_drawn: int
    floor: int
    common: int  # n_common
    own: int  # n_own
    guard: int  # n_guard
    score_step: int

    def __post_init__(self) -> None:
        for name, ok in (
            ("corpus", 0 < len(self.corpus) <= _MAX_NAME),
            ("sequence_length", 2 <= self.sequence_length <= 1 << 20),
            ("sequences", 1 < self.sequences < 1 << 48),
            ("held_out", 0 <= self.held_out < 1 << 32),
            ("round_windows", 1 <= self.round_windows <= 1000),
            ("tail_blocks", 0 < self.tail_blocks < WINDOW_LENGTH * self.round_windows - 2),
            ("reveal_blocks", 2 <= self.reveal_blocks < self.tail_blocks - 2),
            ("inner_steps", 1 <= self.inner_steps <= 4096 and self.committed_steps <= MOST_COMMITTED_STEPS),
            ("batch_least", 1 <= self.batch_least <= self.batch_most),
            ("batch_most", self.batch_most <= 1 << 16),
            ("optimiser", self.optimiser in _OPTIMISERS and (self.optimiser == "adamw" or self.inner_steps == 1)),
            ("beta1", 0 <= self.beta1 < MICRO),
            ("beta2", 0 <= self.beta2 < MICRO),
            ("weight_decay", 0 <= self.weight_decay <= MICRO),
            ("clip", 0 < self.clip <= 1000 * MICRO),
            ("warmup", 0 <= self.warmup <= self.inner_steps),
            ("learning_rates", _increasing(self.learning_rates, NANO)),
            ("compute", self.compute in _PRECISIONS),
            ("codec", self.codec in _CODECS),
            ("chunk", 64 <= self.chunk <= 4096 and self.chunk & (self.chunk - 1) == 0),
            ("kept", 1 <= self.kept <= self.chunk // 2),
            ("feedback", 0 <= self.feedback <= MICRO),
            ("outer", self.outer in _OUTER),
            ("outer_rates", _increasing(self.outer_rates, 1000 * MICRO)),
            ("divisor", self.divisor in _DIVISORS),
            ("peers", 1 <= self.peers <= 64),
            ("commit", self.commit in _COMMITS),
            ("replay_permille", 0 <= self.replay_permille <= PERMILLE),
            ("chunks_drawn", 1 <= self.chunks_drawn <= 64),
            ("floor", 0 <= self.floor <= 1000),
            ("common", 2 <= self.common <= 4096),
            ("own", 2 <= self.own <= 4096),
            ("guard", 2 <= self.guard <= self.common),
            ("score_step", 0 < self.score_step <= PERMILLE),
        ):
            if not ok:
                raise ValueError(f"{name}: {getattr(self, name)!r} does not make gradient work")

    @property
    def assigned(self) -> int:
        """A = H · b_most: places of the permutation that each UID owns."""
        return self.inner_steps * self.batch_most

    @property
    def round_blocks(self) -> int:
        """P."""
        return WINDOW_LENGTH * self.round_windows

    @property
    def committed_steps(self) -> int:
        """How many inner states a header has roots of: all, the first, or none where the optimiser has no moments."""
        if self.optimiser == "sgd":
            return 0
        return self.inner_steps if self.commit == "all" else 1

    def declared_sizes(self) -> range:
        """H · b for every allowed b."""
        steps = self.inner_steps
        return range(steps * self.batch_least, steps * self.batch_most + 1, steps)

    def learning_rate(self, sequence: int) -> int:
        """In parts of 10⁹, for the round that trains the checkpoint of this sequence number."""
        return interpolated(self.learning_rates, sequence)

    def outer_rate(self, sequence: int) -> int:
        """In parts of a million, for the merge into that checkpoint's successor."""
        return interpolated(self.outer_rates, sequence)

    def to_json(self) -> dict[str, Json]:
        """The `parameters` of the environment spec."""
        return {f.name: _jsonable(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: object) -> GradientSpec:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$gradient")
        m = node.members(*(f.name for f in dataclasses.fields(cls)))
        read: dict[str, Any] = {}
        for f in dataclasses.fields(cls):
            if f.type == "int":
                read[f.name] = m[f.name].integer()
            elif f.type == "Rates":
                read[f.name] = tuple(_entry(item) for item in m[f.name].items(_MAX_ENTRIES))
            else:
                read[f.name] = m[f.name].text(_MAX_NAME)
        return node.build(lambda: cls(**read))

    def environment(self, corpus_digest: str) -> EnvironmentSpec:
        """What a manifest names. `corpus_digest`: 64 hex digits."""
        return EnvironmentSpec(GRADIENT, GRADIENT_VERSION, self.to_json(), corpus_digest)

    @classmethod
    def of(cls, environment: EnvironmentSpec) -> GradientSpec:
        """The spec that a manifest names.

        Raises:
            ValueError: another kind of work, another version, or parameters that make no gradient work.
        """
        if environment.env_id != GRADIENT:
            raise ValueError(f"$environment.env_id: {environment.env_id!r} is no gradient work")
        if environment.version != GRADIENT_VERSION:
            raise ValueError(
                f"$environment.version: gradient work of version {environment.version}, this software has {GRADIENT_VERSION}"
            )
        Node(environment.data_digest, "$environment.data_digest").raw(32)
        return cls.from_json(Node(cast(Mapping[str, object], environment.parameters), "$environment.parameters"))


def interpolated(rates: Rates, sequence: int) -> int:
    """Linear between entries, rounded down; constant before the first and after the last."""
    if sequence <= rates[0][0]:
        return rates[0][1]
    for (left, low), (right, high) in pairwise(rates):
        if sequence < right:
            return (low * (right - sequence) + high * (sequence - left)) // (right - left)
    return rates[-1][1]


def _increasing(rates: Rates, most: int) -> bool:
    at = [sequence for sequence, _ in rates]
    return 0 < len(rates) <= _MAX_ENTRIES and at == sorted(set(at)) and all(0 < rate <= most for _, rate in rates)


def _entry(node: Node) -> tuple[int, int]:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a pair of sequence number and rate is expected")
    return pair[0].integer(), pair[1].integer(1)


def _jsonable(value: object) -> Json:
    return [list(pair) for pair in value] if isinstance(value, tuple) else cast(Json, value)
