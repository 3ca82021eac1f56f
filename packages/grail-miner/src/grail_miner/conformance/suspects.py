"""Ways in which an engine may draw other tokens than the protocol asks for, each as a rule that says which tokens those are.

A rule is given the same logits, seeds and positions as a verifier has and answers with the token that an engine with this fault
draws. Whether a fault is there is then a count: how many of the tokens that lose their draw are the rule's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from grail_core.model.sampling import Floats, SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import gumbel_noise

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """Some positions of all answers, n of them."""

    logits: Floats  # [n, vocabulary] float32
    seeds: npt.NDArray[np.uint64]  # [n]
    first_seeds: npt.NDArray[np.uint64]  # [n], of the first rollout of the same group
    positions: npt.NDArray[np.uint32]  # [n], index of the last input token
    prompt_lengths: npt.NDArray[np.int64]  # [n]
    histories: Sequence[Sequence[int]]  # prompt and completion so far


@dataclass(frozen=True)
class Suspect:
    """`name` is for programs, `what` a sentence for a person, `advice` the next thing to try."""

    name: str
    what: str
    advice: str
    draw: Callable[[Positions], Tokens]


_PLUGIN = "look at the plug-in: is it loaded, and does every request carry its values (docs/engines.md)"
_DEFAULTS = "every sampling value goes with every request; start the engine so that it takes none from the model's folder"
_USUAL_K = (20, 50)
_USUAL_P = (0.8, 0.9, 0.95)


def suspects(policy: GenerationPolicy, folder: GenerationPolicy | None) -> list[Suspect]:
    """All of them, of one policy; `folder` is what the model folder's generation_config.json says, where it differs."""
    return [*_noise(policy), *_seeds(policy), *_warping(policy, folder), _rounded_head(policy)]


def _noise(policy: GenerationPolicy) -> Iterator[Suspect]:
    yield Suspect(
        "greedy",
        "the tokens are the most likely ones: nothing random is added to the logits",
        _PLUGIN,
        lambda at: np.asarray(at.logits.argmax(axis=1), dtype=np.int64),
    )
    for shift, told in ((1, "one too high"), (-1, "one too low")):
        yield Suspect(
            "position_off_by_one",
            f"the position that is hashed is {told}",
            "it is the index, in prompt and completion, of the last token before the one that is drawn",
            lambda at, shift=shift: _sample(policy, at, positions=_shifted(at.positions, shift)),  # type: ignore[misc]
        )
    yield Suspect(
        "position_without_prompt",
        "the position that is hashed counts completion tokens alone",
        "tell the plug-in the prompt's length",
        lambda at: _sample(policy, at, positions=(at.positions - at.prompt_lengths + 1).astype(np.uint32)),
    )
    yield Suspect(
        "sorted_columns",
        "the noise belongs to a token's rank among the logits, not to its id",
        "an engine's own sampling sorts before it hashes where top-k or top-p is on; use the plug-in (docs/engines.md)",
        lambda at: _by_rank(policy, at),
    )


def _seeds(policy: GenerationPolicy) -> Iterator[Suspect]:
    whole = "send the seed as text: 63 bits do not fit every number"
    other: list[tuple[str, str, str, Callable[[Positions], npt.NDArray[np.uint64]]]] = [
        (
            "seed_of_the_group",
            "every rollout of a group is drawn with its first one's seed",
            _PLUGIN,
            lambda at: at.first_seeds,
        ),
        ("seed_cut", "the seed loses its upper half", whole, lambda at: at.seeds & np.uint64(0xFFFFFFFF)),
        ("seed_rounded", "the seed was a float on its way", whole, lambda at: at.seeds.astype(np.float64).astype(np.uint64)),
    ]
    for fixed in (0, 42):
        told = f"every request is drawn with the engine's default seed, {fixed}"
        other.append(("seed_default", told, _PLUGIN, lambda at, fixed=fixed: np.full_like(at.seeds, fixed)))  # type: ignore[misc]
    for name, what, advice, seeds in other:
        yield Suspect(name, what, advice, lambda at, seeds=seeds: _sample(policy, at, seeds=seeds(at)))  # type: ignore[misc]


def _warping(policy: GenerationPolicy, folder: GenerationPolicy | None) -> Iterator[Suspect]:
    """Other policies than the one that was asked for."""
    named: list[tuple[str, str, str, GenerationPolicy]] = []
    if folder is not None:
        told = "the generation_config.json of the model's folder is followed"
        named.append(("folder_followed", told, _DEFAULTS, replace(folder, max_tokens=policy.max_tokens)))
        named.append(("folder_followed", told, _DEFAULTS, replace(folder, temperature=policy.temperature)))
    twice = "the engine's own temperature is 0 (or 1) where the plug-in divides"
    named.append(
        ("temperature_twice", "logits are divided by the temperature twice", twice, _hot(policy, policy.temperature**2))
    )
    named.append(("temperature_never", "logits are not divided by the temperature", _PLUGIN, _hot(policy, 1.0)))
    if policy.top_k != -1 or policy.top_p < 1:
        told = "top-k and top-p of the policy are not applied"
        named.append(("truncation_never", told, _PLUGIN, replace(policy, top_k=-1, top_p=1.0)))
    named += [
        ("top_k_left_on", f"top-k {k} is on, which nobody asked for", _DEFAULTS, replace(policy, top_k=k)) for k in _USUAL_K
    ]
    named += [
        ("top_p_left_on", f"top-p {p} is on, which nobody asked for", _DEFAULTS, replace(policy, top_p=p)) for p in _USUAL_P
    ]
    seen = {replace(policy, max_tokens=1)}
    for name, what, advice, other in named:
        if (key := replace(other, max_tokens=1)) not in seen:  # with temperature 1, once, twice and never are the same
            seen.add(key)
            yield Suspect(name, what, advice, lambda at, other=other: _sample(other, at))  # type: ignore[misc]


def _rounded_head(policy: GenerationPolicy) -> Suspect:
    def draw(at: Positions) -> Tokens:
        rounded = torch.from_numpy(at.logits).to(torch.bfloat16).float().numpy()
        return _sample(policy, replace(at, logits=rounded))

    return Suspect(
        "head_rounded",
        "logits are rounded to bf16 before anything is drawn",
        "switch the engine's float32 head on, or name the class that has none (docs/engines.md)",
        draw,
    )


def _hot(policy: GenerationPolicy, temperature: float) -> GenerationPolicy:
    return replace(policy, temperature=temperature)


def _shifted(positions: npt.NDArray[np.uint32], shift: int) -> npt.NDArray[np.uint32]:
    return ((positions.astype(np.int64) + shift) % 2**32).astype(np.uint32)


def _sample(
    policy: GenerationPolicy,
    at: Positions,
    *,
    seeds: npt.NDArray[np.uint64] | None = None,
    positions: npt.NDArray[np.uint32] | None = None,
) -> Tokens:
    used_seeds = at.seeds if seeds is None else seeds
    return SeededSampler(policy).sample(at.logits, used_seeds, at.positions if positions is None else positions, at.histories)


def _by_rank(policy: GenerationPolicy, at: Positions) -> Tokens:
    sampler = SeededSampler(policy)
    drawn = np.empty(len(at.logits), dtype=np.int64)
    ranks = np.arange(at.logits.shape[1])
    for row, logits in enumerate(at.logits):
        x = sampler.warp(logits, at.histories[row])
        order = np.argsort(-x, kind="stable")
        noise = gumbel_noise(int(at.seeds[row]), int(at.positions[row]), ranks)
        drawn[row] = order[int(np.argmax(x[order].astype(np.float64) + noise))]
    return drawn
