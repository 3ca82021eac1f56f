"""`verify.*` of the benchmark `proof`: generating rows against verifying them, on an 11 M Qwen2 of random weights.

8 rows of 64 prompt tokens and 64 (`.long`: 448) completion tokens, bf16 body and float32 head on both sides, one thread.
Making the claims is part of neither side. Three costs of verifying are told apart:

    verify_ms       checks 7 to 9 without any float32 pass, what every version had
    own_ms          with the float32 reference beside it: what every drawn file costs
    alternatives_ms the same rows under every named alternative, and the reference at their positions

What is expected of a drawn file: its own, and where the coin falls (at most always: the most a network may ask) 16 of its 64
rollouts compared, and the 48 others where those leave something open. How often they do follows from honest rollouts: of this
model's, in random sixteens (`verify.rest_share`). `verify.full_ratio` is the whole over verify_ms, `full_generate_ratio`
generating over the whole; both take chance 1 of the coin, and `.quarter` stands for a coin of 1/4. What one alternative adds
on those rows is `verify.alternative_ms.NAME`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from grail_core.generation.base import GenerationRequest
    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.alternatives import Alternatives
    from grail_core.proof.batch import RolloutProof
    from grail_core.proof.calibration import PairCalibration
    from grail_core.proof.comparison import Comparison, NamedComparison
    from grail_core.proof.in_process import InThisProcess
    from grail_core.proof.sketches import Projections
    from grail_core.proof.work import ComparedRollout, ProofRow, RolloutMeasurement
    from grail_core.protocol.policy import GenerationPolicy

Figures = dict[str, float]

PROMPT: Final = 64
ROWS: Final = 8
SAMPLE: Final = 64  # rollouts of a drawn file
LENGTHS: Final = (("", 64, 32), (".long", 448, 32))
"""Suffix, completion tokens, honest rollouts from which it is told how often sixteen leave something open."""
DRAWS: Final = 400


def generation() -> Figures:
    """Every figure, for both lengths."""
    figures: Figures = {}
    for suffix, length, rollouts in LENGTHS:
        figures |= {f"{key}{suffix}": value for key, value in _Scene(length, rollouts).figures().items()}
    return figures


@dataclass(frozen=True)
class _Rollouts:
    """One batch of rows with their claims, as a validator has them."""

    rows: list[ProofRow]
    compared_at: list[ProofRow]  # the same, at the positions of a comparison
    proofs: list[RolloutProof]


class _Scene:
    """A model, its alternatives and honest rollouts of one length."""

    def __init__(self, length: int, rollouts: int) -> None:
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
        rng = np.random.default_rng(3)
        self.batches = [self._batch(rng) for _ in range(rollouts // ROWS)]

    def figures(self) -> Figures:
        first = self.batches[0]
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
        found["verify.rest_share"] = rest = self._rest_share()
        compared = (16 + (SAMPLE - 16) * rest) / SAMPLE
        for suffix, coin in (("", 1.0), (".quarter", 0.25)):
            full = ms["own"] + coin * compared * ms["alternatives"]
            found[f"verify.full_ratio{suffix}"] = full / ms["verify"]
            found[f"verify.full_generate_ratio{suffix}"] = ms["generate"] / full
        return found | self._by_alternative(first)

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

    def _compare(self, work: InThisProcess, one: _Rollouts) -> list[ComparedRollout]:
        return work.compare(one.compared_at, self.signs, self.policy)

    def _full_logits(self, one: _Rollouts) -> object:
        from tooling.studies.benchmarks.proof_peers import full_logits_verify

        return full_logits_verify(self.model, [row.tokens for row in one.rows], PROMPT)

    def _body(self, one: _Rollouts) -> object:
        """One forward pass without the head: what no verifier goes below."""
        import torch

        with torch.inference_mode():
            return self.model.hidden_states([row.tokens for row in one.rows])

    @cached_property
    def _named(self) -> list[NamedComparison]:
        """Every rollout under every alternative, as the tests take it; own states are as kept from measuring, as in a file."""
        from grail_core.proof.comparison import compare_named

        named = []
        for batch in self.batches:
            measured = self._verify(self.work, batch)
            for row, at, proof, result, compared in zip(
                batch.rows, batch.compared_at, batch.proofs, measured, self._compare(self.work, batch), strict=True
            ):
                places = np.asarray(at.positions)
                one = compare_named(
                    claimed_sketches=_sketches(proof, self.length)[places],
                    tokens=np.asarray(at.tokens[PROMPT:], dtype=np.int32)[places],
                    compared=compared,
                    z=result.z,
                    challenged=np.searchsorted(places, np.asarray(row.positions)),
                )
                if one is None:
                    raise RuntimeError("the reference has no number")
                named.append(one)
        return named

    def _rest_share(self) -> float:
        """How often sixteen honest rollouts leave open what the others have to settle, over random sixteens."""
        from grail_core.proof.statistics import wants_all

        rng = np.random.default_rng(4)
        draws = [rng.choice(len(self._named), 16, replace=False) for _ in range(DRAWS)]
        return statistics.fmean(wants_all([self._named[int(i)] for i in draw], _pair()) for draw in draws)

    def _by_alternative(self, one: _Rollouts) -> Figures:
        """What each weights-alternative adds, and the reference with the ways to sample, which cost no pass of their own."""
        from grail_core.proof.alternatives import Alternatives
        from grail_core.proof.in_process import InThisProcess

        weights = _alternatives(self.model).weights
        works = {"reference": InThisProcess(self.model, Alternatives(self.model, {}))}
        works |= {name: InThisProcess(self.model, Alternatives(self.model, {name: weights[name]})) for name in weights}
        for work in works.values():
            self._verify(work, one)  # keeps its own states, as before any comparison
        seconds = dict(zip(works, _in_turn([partial(self._compare, work, one) for work in works.values()], 3), strict=True))
        reference = seconds.pop("reference")
        figures = {"verify.alternative_ms.reference": 1e3 * reference}
        return figures | {f"verify.alternative_ms.{name}": 1e3 * (s - reference) for name, s in seconds.items()}


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
