"""Why an engine's tokens are not a verifier's: the likeliest fault, from what the tokens follow from instead.

A suspect is named where it draws most of the tokens that lose, and nearly all of those that win as well: a rule that explains
one side alone explains nothing. What no rule draws is told apart by how likely the tokens are under our own model: as likely
as any draw of it (another seed, or none), or not (another model, or another prompt). Nothing is guessed where too few tokens
lose to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.generation.base import Completion, GenerationRequest
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.conformance.reading import Reader, Reading, ReadRow
from grail_miner.conformance.suspects import Positions, suspects

FEWEST = 12
"""Tokens that must lose before anything is said of why."""

_LOOKED_AT = 192  # positions that lose, and as many that win
_EXPLAINED, _KEPT = 0.8, 0.9  # shares of losing and of winning tokens that a suspect must draw
_AS_GOOD = 0.03  # of the share explained: suspects this near are named together
_LIKELY = 6.0  # standard errors by which tokens of our model may be unlikely under it
_NEAR = 0.25  # margins up to this are what other kernels do

RenderedAgain = Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]]
"""The prompts that decoding and encoding make of one; none where it comes back as it was."""


@dataclass(frozen=True)
class Cause:
    """`explained`: share of the losing tokens looked at that follow from it; None where that is no count."""

    name: str
    what: str
    advice: str
    explained: float | None = None


@dataclass(frozen=True)
class Asked:
    """What is known beside the reading. `again`: the same requests in another batch, by their index in the reading."""

    group_of: Sequence[int]
    again: dict[int, Completion]
    folder_policy: GenerationPolicy | None
    rendered_again: RenderedAgain


def likely_causes(reader: Reader, reading: Reading, asked: Asked) -> list[Cause]:
    """The likeliest first; empty where nothing is wrong or nothing can be told."""
    return [*_of_endings(reading), *_of_draws(reader, reading, asked)]


def _of_endings(reading: Reading) -> Iterator[Cause]:
    if cut := reading.cut_short():
        dropped = sum(int(reading.rows[index].draws[-1]) in reading.end_tokens for index in cut)
        if dropped > len(cut) / 2:
            told = f"{dropped} answers stop where an end token is due and do not hold it"
            advice = "the end token is the last of the completion: ask the engine for token ids, with what ends them"
            yield Cause("end_token_dropped", told, advice, dropped / len(cut))
        else:
            told = f"{len(cut)} answers stop before their limit without an end token"
            yield Cause("cut_short", told, "no limit of the engine (context, output) may lie below the policy's")
    if run_on := reading.run_on():
        told = f"{len(run_on)} answers go on after an end token, or beyond their limit"
        yield Cause(
            "end_token_passed", told, "tell the engine the manifest's end tokens with every request; it must not ignore them"
        )


def _of_draws(reader: Reader, reading: Reading, asked: Asked) -> list[Cause]:
    lost = [(index, int(k)) for index, row in enumerate(reading.rows) for k in row.lost]
    if len(lost) < FEWEST:
        return []
    won = [(index, k) for index, row in enumerate(reading.rows) for k in range(len(row.tokens)) if row.margins[k] == 0]
    looked_at = _spread(lost), _spread(won)
    found = _suspected(reader, reading, asked, looked_at)
    if found:
        return _with_clones(found, reading, asked)
    prompts = _of_prompts(reader, reading, asked)
    if prompts is not None:
        return [prompts]
    if float((reading.margins <= _NEAR).mean()) > 0.99:
        told = f"every loss is narrow (margins up to {_NEAR:g}): the engine computes slightly other numbers"
        return [
            Cause("numerics", told, "look at its dtype, its attention and its head; narrow losses are what calibration is for")
        ]
    return _with_clones([_unexplained(reader, reading, asked, looked_at[0])], reading, asked)


def _suspected(
    reader: Reader, reading: Reading, asked: Asked, looked_at: tuple[list[tuple[int, int]], list[tuple[int, int]]]
) -> list[Cause]:
    listed = suspects(reading.policy, asked.folder_policy)
    drawn: list[list[int]] = []
    for places in looked_at:
        hits = np.zeros(len(listed), dtype=np.int64)
        for at, claimed in _positions(reader, reading, asked, places):
            hits += [int((suspect.draw(at) == claimed).sum()) for suspect in listed]
        drawn.append(hits.tolist())
    lost, won = (max(1, len(places)) for places in looked_at)
    causes = []
    for suspect, of_lost, of_won in zip(listed, drawn[0], drawn[1], strict=True):
        kept = of_won / won if looked_at[1] else 1.0
        # Where hardly anything wins, what wins does so by chance: the rule is held to the losing tokens alone.
        by_chance = len(looked_at[1]) < len(looked_at[0]) / 4
        if of_lost / lost >= _EXPLAINED and (by_chance or kept >= _KEPT):
            causes.append(Cause(suspect.name, suspect.what, suspect.advice, of_lost / lost))
    causes.sort(key=lambda cause: -(cause.explained or 0))
    best = causes[0].explained if causes else None
    return _once([cause for cause in causes if best is not None and (cause.explained or 0) >= best - _AS_GOOD])


def _positions(
    reader: Reader, reading: Reading, asked: Asked, places: Sequence[tuple[int, int]]
) -> Iterator[tuple[Positions, npt.NDArray[np.int64]]]:
    """These positions, a few at a time, with the tokens that the engine has there."""
    first_of: dict[int, int] = {}
    for index, group in enumerate(asked.group_of):
        first_of.setdefault(group, reading.rows[index].request.sampling_seed)
    for start, logits in reader.logits([reading.rows[index].states[k] for index, k in places]):
        here = places[start : start + len(logits)]
        rows = [reading.rows[index] for index, _ in here]
        lengths = np.array([len(row.request.prompt) for row in rows], dtype=np.int64)
        offsets = np.array([k for _, k in here], dtype=np.int64)
        at = Positions(
            logits,
            np.array([row.request.sampling_seed for row in rows], dtype=np.uint64),
            np.array([first_of[asked.group_of[index]] for index, _ in here], dtype=np.uint64),
            (lengths - 1 + offsets).astype(np.uint32),
            lengths,
            [(*row.request.prompt, *row.tokens[:k]) for row, (_, k) in zip(rows, here, strict=True)],
        )
        yield at, np.array([row.tokens[k] for row, (_, k) in zip(rows, here, strict=True)], dtype=np.int64)


def _of_prompts(reader: Reader, reading: Reading, asked: Asked) -> Cause | None:
    """Whether the rows whose prompts do not survive decoding and encoding are drawn over what comes back."""
    changed: list[tuple[ReadRow, Sequence[tuple[int, ...]]]] = []
    for row in reading.rows:
        if len(row.lost) and (others := asked.rendered_again(row.request.prompt)):
            changed.append((row, others))
    changed = changed[:16]
    if not changed:
        return None
    most = max(len(others) for _, others in changed)
    best = 0.0
    for which in range(most):
        pairs = [(row, others[min(which, len(others) - 1)]) for row, others in changed]
        fitting = [(row, other) for row, other in pairs if len(other) + len(row.tokens) <= reading.context_length]
        if fitting:
            requests = [GenerationRequest(other, row.request.sampling_seed) for row, other in fitting]
            best = max(best, reader.read(requests, [Completion(row.tokens) for row, _ in fitting]).agreement)
    if best < _EXPLAINED:
        return None
    told = "the prompt is decoded and encoded again: the tokens follow from other ids than were sent"
    return Cause("prompt_encoded_again", told, "send token ids, never text, and add no special tokens", best)


def _unexplained(reader: Reader, reading: Reading, asked: Asked, places: list[tuple[int, int]]) -> Cause:
    errors = _unlikeliness(reader, reading, asked, places)
    if errors < -_LIKELY:
        told = f"the tokens are unlikely under this checkpoint ({-errors:.0f} standard errors): another model drew them"
        return Cause("other_weights", told, "look at which weights the engine has loaded, and at what its prompt was")
    differ = [index for index, done in asked.again.items() if done.tokens != reading.rows[index].tokens]
    if len(differ) > len(asked.again) / 2:
        told = f"{len(differ)} of {len(asked.again)} requests gave other tokens when they were made again: the seed is ignored"
        return Cause(
            "seed_ignored", told, "switch seeded sampling on: the plug-in, or the engine's deterministic mode (docs/engines.md)"
        )
    told = "the tokens are draws of this checkpoint, the same each time, by noise that is not the protocol's"
    return Cause("other_noise", told, "the engine follows its own seeds: use the plug-in (docs/engines.md)")


def _unlikeliness(reader: Reader, reading: Reading, asked: Asked, places: Sequence[tuple[int, int]]) -> float:
    """By how many standard errors the tokens are likelier than draws of our own policy would be; far below 0: not its draws."""
    sampler = SeededSampler(reading.policy)
    total = variance = 0.0
    for at, claimed in _positions(reader, reading, asked, places):
        for row, token in enumerate(claimed.tolist()):
            x = sampler.warp(at.logits[row], at.histories[row]).astype(np.float64)
            logprobs = x - (np.log(np.exp(x - x.max()).sum()) + x.max())
            inside = np.isfinite(logprobs)
            weights, values = np.exp(logprobs[inside]), logprobs[inside]
            mean = float(weights @ values)
            total += max(float(logprobs[token]), -30.0) - mean
            variance += float(weights @ (values - mean) ** 2)
    return total / max(math.sqrt(variance), 1e-9)


def _with_clones(causes: list[Cause], reading: Reading, asked: Asked) -> list[Cause]:
    """First of all: groups whose rollouts are one and the same, which no group of this checkpoint should be."""
    by_group: dict[int, set[tuple[int, ...]]] = {}
    sizes: dict[int, int] = {}
    for group, row in zip(asked.group_of, reading.rows, strict=True):
        by_group.setdefault(group, set()).add(row.tokens)
        sizes[group] = sizes.get(group, 0) + 1
    pairs = [group for group, size in sizes.items() if size > 1]
    cloned = [group for group in pairs if len(by_group[group]) == 1]
    if not pairs or len(cloned) < 0.8 * len(pairs):
        return causes
    told = f"in {len(cloned)} of {len(pairs)} groups all rollouts are the same: their seeds do not reach the draw"
    return [Cause("clones", told, "send each rollout's own seed; an engine's default is one seed for all"), *causes]


def _spread(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most _LOOKED_AT of them, evenly."""
    step = max(1, -(-len(places) // _LOOKED_AT))
    return places[::step]


def _once(causes: list[Cause]) -> list[Cause]:
    seen: set[str] = set()
    return [cause for cause in causes if not (cause.name in seen or seen.add(cause.name))]  # type: ignore[func-returns-value]
