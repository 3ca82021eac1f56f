"""`verify.*` of the benchmark `proof`: generating rows against verifying them, on an 11 M Qwen2 of random weights.

8 rows of 64 prompt tokens and 64 (`.long`: 448) completion tokens, bf16 body and float32 head on both sides, one thread.
Making the claims is part of neither side. What verifying costs is told apart:

    verify_ms       checks 7 to 9 without any float32 pass: what every drawn file costs
    own_ms          with the float32 reference beside it
    alternatives_ms the same rows under every named alternative, and the reference's logits at their positions
    sketched_ms.NAME under one alternative by sketches alone, as the other rollouts are where only these leave something open

What is expected of a drawn file on subnet 81 whose miner is always drawn (p = 1): the first, and where its coin falls
(`float32_permille`) the reference of all 64 rollouts, 12 of them under every alternative, and the 52 others under what these
leave open. What they do follows from honest rollouts of a trained model beside checkpoints that steps of Adam lie before it, in
random twelves: `verify.rest_share` is how often it is anything, `verify.rest_ms` what it costs on these rows in the mean.
`verify.full_ratio` is the whole over verify_ms, `full_generate_ratio` generating over the whole; `.drawn_seldom` stands for a
miner whose every drawn file is held against float32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from tooling.studies.benchmarks.proof_left_open import honestly_left_open

if TYPE_CHECKING:
    from grail_core.generation.base import GenerationRequest
    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.alternatives import Alternatives
    from grail_core.proof.batch import RolloutProof
    from grail_core.proof.calibration import PairCalibration
    from grail_core.proof.comparison import Comparison
    from grail_core.proof.in_process import InThisProcess
    from grail_core.proof.sketches import Projections
    from grail_core.proof.work import AskedAlternatives, ComparedRollout, ProofRow, RolloutMeasurement
    from grail_core.protocol.policy import GenerationPolicy

Figures = dict[str, float]

PROMPT: Final = 64
ROWS: Final = 8
SAMPLE, FIRST = 64, 12  # rollouts of a drawn file, and those compared first
LENGTHS: Final = (("", 64), (".long", 448))
"""Suffix, completion tokens."""


def generation() -> Figures:
    """Every figure, for both lengths."""
    figures: Figures = {}
    for suffix, length in LENGTHS:
        left_open = honestly_left_open(length)
        figures |= {f"{key}{suffix}": value for key, value in _Scene(length).figures(left_open).items()}
    return figures


@dataclass(frozen=True)
class _Rollouts:
    """One batch of rows with their claims, as a validator has them."""

    rows: list[ProofRow]
    compared_at: list[ProofRow]  # the same, at the positions of a comparison
    proofs: list[RolloutProof]


class _Scene:
    """A model, its alternatives and honest rollouts of one length."""

    def __init__(self, length: int) -> None:
        from grail_core.generation.hf import HfGenerator
        from grail_core.model.policy_model import PolicyModel
        from grail_core.proof.in_process import InThisProcess
        from grail_core.proof.sketches import projections
        from grail_core.protocol.policy import GenerationPolicy
        from grail_core.protocol.randomness import Randomness
        from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

        shape = Qwen2Shape(32_000, hidden=256, intermediate=768, layers=4, context=1024, spread=0.02, tied=True)
        self.length = length
        self.model: PolicyModel = PolicyModel(in_bfloat16(random_model(shape)))
        self.policy: GenerationPolicy = GenerationPolicy(length)
        self.generator = HfGenerator(self.model, self.policy, frozenset())
        self.signs: Projections = projections(Randomness(bytes(32)), bytes(32), self.model.hidden_size)
        self.bare = InThisProcess(self.model, reference=False)
        self.work = InThisProcess(self.model, partial(_alternatives, self.model))
        self.batch = self._batch(np.random.default_rng(3))

    def figures(self, left_open: Sequence[AskedAlternatives]) -> Figures:
        """Args: left_open: what honest twelves leave open."""
        from grail_core.protocol.network import SUBNET_81

        first = self.batch
        requests = _requests(first.rows)
        actions: dict[str, Callable[[], object]] = {
            "generate": partial(self.generator.generate, requests),
            "verify": partial(self._verify, self.bare, first),
            "own": partial(self._verify, self.work, first),
            "alternatives": partial(self._compare, self.work, first),
            "full_logits": partial(self._full_logits, first),
            "body": partial(self._body, first),
        }
        seconds = _in_turn(list(actions.values()), 5 if self.length < 100 else 3)
        ms = {name: 1e3 * taken for name, taken in zip(actions, seconds, strict=True)}
        found = {f"verify.{name}_ms": ms[name] for name in ("generate", "verify", "own", "alternatives", "body")}
        found["verify.generate_ratio"] = ms["generate"] / ms["verify"]
        found["peer.full_logits.generate_ratio"] = ms["generate"] / ms["full_logits"]
        sketched, drawn = self._by_alternative(first)
        found |= {f"verify.sketched_ms.{name}": value for name, value in sketched.items()}
        found |= {f"verify.alternative_ms.{name}": value for name, value in drawn.items()}
        found["verify.rest_share"] = statistics.fmean(map(bool, left_open))
        found["verify.rest_ms"] = rest = statistics.fmean(_cost(asked, sketched, drawn) for asked in left_open)
        compared = FIRST / SAMPLE * ms["alternatives"] + (1 - FIRST / SAMPLE) * rest
        for suffix, coin in (("", SUBNET_81.float32_permille / 1000), (".drawn_seldom", 1.0)):
            full = ms["verify"] + coin * (ms["own"] - ms["verify"] + compared)
            found[f"verify.full_ratio{suffix}"] = full / ms["verify"]
            found[f"verify.full_generate_ratio{suffix}"] = ms["generate"] / full
        return found

    def _batch(self, rng: np.random.Generator) -> _Rollouts:
        from grail_core.generation.base import GenerationRequest
        from grail_core.proof.batch import prove_rollouts
        from grail_core.proof.work import ProofRow
        from grail_core.protocol import challenged_positions
        from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, CHALLENGE_K

        requests = [
            GenerationRequest(tuple(rng.integers(0, 32_000, PROMPT).tolist()), int(rng.integers(2**63))) for _ in range(ROWS)
        ]
        completions = self.generator.generate(requests)
        tokens = [request.prompt + one.tokens for request, one in zip(requests, completions, strict=True)]
        digests = [rng.bytes(32) for _ in requests]

        def opened(count: int) -> list[ProofRow]:
            return [
                ProofRow(row, PROMPT, challenged_positions(bytes(32), digest, self.length, count), request.sampling_seed)
                for row, digest, request in zip(tokens, digests, requests, strict=True)
            ]

        proofs = prove_rollouts(self.model, tokens, [PROMPT] * ROWS, self.signs)
        return _Rollouts(opened(CHALLENGE_K), opened(ALTERNATIVE_POSITIONS), proofs)

    def _verify(self, work: InThisProcess, one: _Rollouts) -> Sequence[RolloutMeasurement]:
        """Checks 7 to 9 of honest rows, grade and all; with a reference where `work` has one."""
        from grail_core.proof.statistics import evaluate

        measured = work.measure(one.rows, self.signs, self.policy).rollouts
        sample = [_comparison(proof, row, result) for proof, row, result in zip(one.proofs, one.rows, measured, strict=True)]
        if any(statistic.rejects for statistic in evaluate(sample, _pair())):
            raise RuntimeError("honest rows were rejected")
        return measured

    def _compare(self, work: InThisProcess, one: _Rollouts, asked: AskedAlternatives | None = None) -> list[ComparedRollout]:
        return work.compare(one.compared_at, self.signs, self.policy, asked=asked)

    def _full_logits(self, one: _Rollouts) -> object:
        from tooling.studies.benchmarks.proof_peers import full_logits_verify

        return full_logits_verify(self.model, [row.tokens for row in one.rows], PROMPT)

    def _body(self, one: _Rollouts) -> object:
        """One forward pass without the head: what no verifier goes below."""
        import torch

        with torch.inference_mode():
            return self.model.hidden_states([row.tokens for row in one.rows])

    def _by_alternative(self, one: _Rollouts) -> tuple[Figures, Figures]:
        """By name, what each weights-alternative adds by sketches alone, and by tokens too; and as "reference" what it takes
        before any, which with the tokens' logits are the ways to sample as well."""
        from grail_core.proof.work import AskedAlternatives

        names = list(_alternatives(self.model).weights)
        asked = [AskedAlternatives(frozenset({name})) for name in names]
        asked += [AskedAlternatives(tokens=frozenset({name})) for name in names]
        nothing = [AskedAlternatives(frozenset({"nothing"})), AskedAlternatives(tokens=frozenset({"nothing"}))]
        self._verify(self.work, one)  # keeps its own and the reference's states, as before any comparison
        jobs = [partial(self._compare, self.work, one, some) for some in (*nothing, *asked)]
        without, with_logits, *taken = (1e3 * value for value in _in_turn(jobs, 3))
        sketched = dict(zip(names, (value - without for value in taken), strict=False))
        drawn = dict(zip(names, (value - with_logits for value in taken[len(names) :]), strict=True))
        return {"reference": without, **sketched}, {"reference": with_logits, **drawn}


def _cost(asked: AskedAlternatives, sketched: Figures, drawn: Figures) -> float:
    """Of comparing these rows with what is asked for."""
    if not asked:
        return 0.0
    base = drawn["reference"] if asked.tokens else sketched["reference"]
    by_tokens = sum(drawn[name] for name in asked.tokens & drawn.keys())
    return base + by_tokens + sum(sketched[name] for name in asked.sketches - asked.tokens)


def _alternatives(model: PolicyModel) -> Alternatives:
    """What a validator has in the middle of training: rounded copies, and three earlier checkpoints, 1e-5 a step away."""
    import torch

    from grail_core.proof.alternatives import Alternatives, rounded_copies

    generator = torch.Generator().manual_seed(5)
    steps = {name: torch.randn(value.shape, generator=generator).sign() * 1e-5 for name, value in model.state().items()}

    def before(age: int) -> dict[str, torch.Tensor]:
        return {name: value.float() - age * steps[name] for name, value in model.state().items()}

    kept = {f"previous-{age}": before(age) for age in (1, 2, 3)}
    earlier = {name: partial(dict[str, torch.Tensor], weights) for name, weights in kept.items()}
    return Alternatives(model, {**earlier, **rounded_copies(model)})


def _comparison(proof: RolloutProof, row: ProofRow, result: RolloutMeasurement) -> Comparison:
    from grail_core.proof.comparison import compare

    at = np.asarray(row.positions)
    return compare(
        0,
        0,
        claimed_sketches=_sketches(proof, len(row.tokens) - PROMPT)[at],
        claimed_logprobs=proof.logprobs[at],
        z=result.z,
        logprobs=result.logprobs,
        margins=result.margins,
        reference=result.reference,
    )


def _sketches(proof: RolloutProof, length: int) -> np.ndarray:
    """int16 [length, 4], of completion tokens' own positions."""
    from grail_core.proof.sketches import parse_sketches

    return parse_sketches(proof.sketches, length + 1)[1:]


def _pair() -> PairCalibration:
    from grail_core.proof.calibration import shipped_table
    from grail_core.proof.numerics import DEFAULT_CLASS

    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    if pair is None or not pair.covers(None):
        raise RuntimeError("the shipped table enforces nothing for this machine's numerics")
    return pair


def _requests(rows: Sequence[ProofRow]) -> list[GenerationRequest]:
    from grail_core.generation.base import GenerationRequest

    return [GenerationRequest(tuple(row.tokens[:PROMPT]), row.sampling_seed) for row in rows]


def _in_turn(actions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Medians of several actions run in turn, so that a busy spell of the machine meets all; the first turn is not counted."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 1):
        for action, taken in zip(actions, times, strict=True):
            started = time.process_time()
            action()
            if turn:
                taken.append(time.process_time() - started)
    return [statistics.median(taken) for taken in times]
