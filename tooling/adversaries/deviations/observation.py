"""What a validator sees of a rollout: the miner's claims and its own measurement at the challenged positions.

`Setting` holds the study's public randomness, one invented window of the real derivations, so that seeds, projections and
challenged positions are the protocol's. Observations of one condition are kept in one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.batch import RolloutProof, measure_rollouts
from grail_core.proof.sketches import Projections, parse_sketches, projections, quantise, sketch
from grail_core.proof.work import RolloutTokens
from grail_core.protocol import Randomness, challenged_positions
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, CHALLENGE_K
from grail_core.protocol.policy import GenerationPolicy

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rollout:
    """Prompt and completion of one rollout, as the file would hold them."""

    group: int
    rollout: int
    tokens: tuple[int, ...]
    prompt_length: int

    @property
    def completion(self) -> tuple[int, ...]:
        return self.tokens[self.prompt_length :]


@dataclass(frozen=True)
class Observation:
    """One rollout at its k challenged positions; `alternatives` are float32 z, as evidence has them."""

    group: int
    rollout: int
    positions: npt.NDArray[np.int32]  # [k] completion indices
    claimed: npt.NDArray[np.int16]  # [k, 4]
    z: F32  # [k, 4]
    claimed_logprob: F32  # [k]
    logprob: F32  # [k]
    margin: F32  # [k]
    alternatives: Mapping[str, F32] = field(default_factory=dict)  # [m, 4] each
    other_positions: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))  # [m] completion indices
    other_claimed: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 4), np.int16))  # [m, 4]


@dataclass(frozen=True)
class Setting:
    """Public randomness of the study. Another `label` is another window with other seeds, projections and challenge."""

    label: str
    policy: GenerationPolicy

    @cached_property
    def randomness(self) -> Randomness:
        return Randomness(_digest("network"))

    @cached_property
    def window_seed(self) -> bytes:
        return self.randomness.window_seed(_digest(self.label), _digest("beacon"))

    def sampling_seed(self, group: int, rollout: int, hotkey: str = "miner") -> int:
        parts = (self.window_seed, _digest(hotkey), _digest("checkpoint"), _digest("environment"))
        return self.randomness.sampling_seed(*parts, group, rollout)

    def projections(self, hidden: int) -> Projections:
        return projections(self.randomness, self.window_seed, hidden)

    def positions(self, rollout: Rollout, count: int = CHALLENGE_K) -> list[int]:
        row = hashlib.sha256(np.asarray(rollout.tokens, "<i4").tobytes()).digest()
        return challenged_positions(_digest("challenge" + self.label), row, len(rollout.completion), count)


def claim_of(model: PolicyModel, setting: Setting, rollout: Rollout, hidden: Tensor) -> RolloutProof:
    """Sketches and log-probabilities from hidden states [completion + 1, d], with `model`'s head."""
    data = quantise(sketch(hidden.contiguous(), setting.projections(model.hidden_size)))
    with torch.inference_mode():
        logits = model.logits(hidden[:-1].to(model.dtype))
        ids = torch.as_tensor(rollout.completion)[:, None]
        values = logits.gather(1, ids).squeeze(1) - logits.logsumexp(dim=1)
    return RolloutProof(data, values.numpy().astype(np.float32))


def observe(
    setting: Setting,
    model: PolicyModel,
    alternatives: Alternatives | None,
    rollouts: Sequence[Rollout],
    claims: Sequence[RolloutProof],
) -> list[Observation]:
    """Measure rollouts as section 5 says: one group a batch. `rollouts` are whole groups (a batch each), in order."""
    observations = []
    signs = setting.projections(model.hidden_size)
    for start, stop in _batches(rollouts):
        batch, said = rollouts[start:stop], claims[start:stop]
        rows = [list(r.tokens) for r in batch]
        lengths = [r.prompt_length for r in batch]
        positions = [setting.positions(r) for r in batch]
        seeds = [setting.sampling_seed(r.group, r.rollout) for r in batch]
        measured = measure_rollouts(model, rows, lengths, positions, signs, setting.policy, seeds)
        more = [setting.positions(r, ALTERNATIVE_POSITIONS) if alternatives else [] for r in batch]
        others = alternatives.sketches(RolloutTokens(rows, lengths, more), signs) if alternatives else [{} for _ in rows]
        for i, rollout in enumerate(batch):
            at = np.asarray(positions[i])
            words = parse_sketches(said[i].sketches, len(rollout.completion) + 1)
            observations.append(
                Observation(
                    group=rollout.group,
                    rollout=rollout.rollout,
                    positions=at.astype(np.int32),
                    claimed=words[at + 1],
                    z=measured[i].z,
                    claimed_logprob=said[i].logprobs[at],
                    logprob=measured[i].logprobs,
                    margin=measured[i].margins.astype(np.float32),
                    alternatives=others[i],
                    other_positions=np.asarray(more[i], np.int32),
                    other_claimed=words[1:][more[i]],
                )
            )
    return observations


def save(path: Path, observations: Sequence[Observation]) -> None:
    """One npz: per-rollout counts, and everything else laid end to end."""
    columns = {
        "count": np.array([len(o.positions) for o in observations], np.int64),
        "group": np.array([o.group for o in observations], np.int64),
        "rollout": np.array([o.rollout for o in observations], np.int64),
        "other_count": np.array([len(o.other_positions) for o in observations], np.int64),
    }
    for name in ("positions", "claimed", "z", "claimed_logprob", "logprob", "margin", "other_positions", "other_claimed"):
        columns[name] = np.concatenate([getattr(o, name) for o in observations])
    for name in observations[0].alternatives:
        columns["z of " + name] = np.concatenate([o.alternatives[name] for o in observations])
    np.savez_compressed(path, **columns)  # type: ignore[arg-type]


def load(path: Path) -> list[Observation]:
    with np.load(path) as data:
        columns = {name: data[name] for name in data.files}
    ends, other_ends = np.cumsum(columns["count"]), np.cumsum(columns["other_count"])
    alternatives = [name for name in columns if name.startswith("z of ")]
    observations = []
    for i, (end, count) in enumerate(zip(ends, columns["count"], strict=True)):
        at = slice(end - count, end)
        other = slice(other_ends[i] - columns["other_count"][i], other_ends[i])
        observations.append(
            Observation(
                group=int(columns["group"][i]),
                rollout=int(columns["rollout"][i]),
                positions=columns["positions"][at],
                claimed=columns["claimed"][at],
                z=columns["z"][at],
                claimed_logprob=columns["claimed_logprob"][at],
                logprob=columns["logprob"][at],
                margin=columns["margin"][at],
                alternatives={name.removeprefix("z of "): columns[name][other] for name in alternatives},
                other_positions=columns["other_positions"][other],
                other_claimed=columns["other_claimed"][other],
            )
        )
    return observations


def _batches(rollouts: Sequence[Rollout]) -> list[tuple[int, int]]:
    edges = [0]
    for index in range(1, len(rollouts)):
        if rollouts[index].group != rollouts[index - 1].group:
            edges.append(index)
    edges.append(len(rollouts))
    return list(pairwise(edges))


def _digest(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()
