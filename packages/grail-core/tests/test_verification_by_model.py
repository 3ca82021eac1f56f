"""Files of a tiny trained model, real from the draw to the finding: honest ones pass with every test on, and what was run
instead is named by the test that is about it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import pytest
import torch

from grail_core.environment import Problem
from grail_core.files.evidence import MinerEvidence, read_evidence, write_evidence
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof.alternatives import Alternatives, rounded_copies
from grail_core.proof.batch import prove_rollouts
from grail_core.proof.comparison import Statistic
from grail_core.proof.in_process import InThisProcess
from grail_core.proof.sketches import projections
from grail_core.protocol import Outcome, RolloutRecord
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.types import Digest
from grail_core.verification import model_checks
from grail_core.verification.challenged import MOST_COMPARED_FIRST, require_challenged
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, decide, examine
from grail_core.verification.measure import ChallengedSample
from grail_core.verification.window_file import Submission
from tooling.testing import plain_window as plain
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

MAX_TOKENS = 48
GROUPS = range(2)
CONTEXT = plain.window_context(MAX_TOKENS)
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
POLICY = CONTEXT.manifest.policy
SHAPE = Qwen2Shape(plain.VOCABULARY, hidden=64, context=plain.CONTEXT_LENGTH, spread=0.08)


class Scene:
    """A model trained for a moment on a made-up language, and its checkpoint before that."""

    def __init__(self) -> None:
        module = random_model(SHAPE, seed=5)
        generator = torch.Generator().manual_seed(1)
        likely = torch.softmax(3 * torch.randn(plain.VOCABULARY, plain.VOCABULARY, generator=generator), dim=1)
        likely[:, plain.END] = 0.01
        optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
        for step in range(60):
            if step == 59:
                self.before = PolicyModel(in_bfloat16(copy.deepcopy(module)))
                optimiser.param_groups[0]["lr"] = 1e-3
            words = [torch.randint(plain.VOCABULARY, (24,), generator=generator)]
            for _ in range(47):
                words.append(torch.multinomial(likely[words[-1]], 1, generator=generator)[:, 0])
            rows = torch.stack(words, dim=1)
            optimiser.zero_grad()
            module(input_ids=rows, labels=rows).loss.backward()
            optimiser.step()
        self.model = PolicyModel(in_bfloat16(module).requires_grad_(False))

    @cached_property
    def alternatives(self) -> Alternatives:
        return Alternatives(self.model, {"previous-1": self.before.state, **rounded_copies(self.model)})

    def rounded(self, name: str) -> PolicyModel:
        """This model with the weights of a rounded copy, in bf16."""
        found = PolicyModel(copy.deepcopy(self.model.module))
        weights = rounded_copies(self.model)[name]()
        found.load_state({one: weights[one].bfloat16() if one in weights else value for one, value in found.state().items()})
        return found

    def file(
        self, drawn_by: PolicyModel | None = None, proved_by: PolicyModel | None = None, sampler: SeededSampler | None = None
    ) -> bytes:
        """A miner's file of whole groups; what is not said is honest."""
        records: list[RolloutRecord] = []
        for group in GROUPS:
            records += self._group(group, drawn_by or self.model, proved_by or self.model, sampler)
        return plain.window_file(CONTEXT, MINER, records)

    def _group(
        self, group: int, drawn_by: PolicyModel, proved_by: PolicyModel, sampler: SeededSampler | None
    ) -> list[RolloutRecord]:
        environment, renderer = plain.PlainEnvironment(), plain.PlainRenderer()
        problem: Problem = environment.problem(CONTEXT.problem_seed(MINER.hotkey, group))
        prompt = renderer.render(environment.messages(problem))
        seeds = [CONTEXT.sampling_seed(MINER.hotkey, group, r) for r in range(ROLLOUTS_PER_PROBLEM)]
        generator = HfGenerator(drawn_by, POLICY, frozenset({plain.END}), sampler=sampler)
        done = generator.generate([GenerationRequest(prompt, seed) for seed in seeds])
        rows = [(*prompt, *one.tokens) for one in done]
        signs = projections(CONTEXT.randomness, CONTEXT.window_seed, SHAPE.hidden)
        proofs = prove_rollouts(proved_by, rows, [len(prompt)] * len(rows), signs)
        records = []
        for r, (row, proof) in enumerate(zip(rows, proofs, strict=True)):
            grade = environment.grade(problem, renderer.decode_completion(list(row[len(prompt) :])))
            tokens = np.array(row, np.int32)
            records.append(
                RolloutRecord(group, r, tokens, len(prompt), proof.logprobs, proof.sketches, grade.reward, grade.success)
            )
        return records

    def examined(self, data: bytes) -> Examination:
        sample = ChallengedSample(SEED, InThisProcess(self.model, self.alternatives))
        return examine(data, check_context(), sample, content_digest=plain.digest_of(data))


def check_context() -> CheckContext:
    return plain.check_context(CONTEXT, MINER.hotkey)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def honest(scene: Scene) -> Examination:
    return scene.examined(scene.file())


def whole(examination: Examination) -> tuple[Submission, MinerEvidence]:
    assert examination.submission is not None
    assert examination.evidence is not None
    return examination.submission, examination.evidence


def test_an_honest_file_passes_with_every_test_on(honest: Examination) -> None:
    assert honest.reject is None, honest.reject
    assert honest.undecided is None
    _, evidence = whole(honest)
    assert evidence.inconclusive == 0
    assert sum(one.compared is not None for one in evidence.rollouts) in (MOST_COMPARED_FIRST, 32)
    told = {finding.detail.partition(":")[0] for finding in honest.findings if "not enforced" not in finding.detail}
    assert {"sketch_ratio", "twin_margin", "logprob_ratio", "twin_logprob"} <= told
    assert {"int8", "int4-groups", "int8 (tokens)", "temperature x 0.9 (tokens)", "top-p 0.95 (tokens)"} <= told


def test_what_is_published_decides_the_same_and_is_what_the_challenge_asks_for(honest: Examination) -> None:
    submission, evidence = whole(honest)
    (read,) = read_evidence(write_evidence([evidence]))
    table, params = check_context().table, CONTEXT.params
    require_challenged(submission, read, SEED, table, params, POLICY, Fraction(1))
    again = decide(submission, read, table, params)
    assert again == honest.findings[-len(again) :]


def told_of(examination: Examination, scene: Scene, name: str) -> Statistic:
    """What the named test says of a file, whether or not another test rejected it before anything was compared."""
    submission, evidence = whole(examination)
    context = check_context()
    work = InThisProcess(scene.model, scene.alternatives)
    evidence = ChallengedSample(SEED, work).under_alternatives(submission, context, evidence)
    own = model_checks.sample_statistics(submission, evidence, context.table, CONTEXT.params)
    found = model_checks.alternatives_statistics(submission, evidence, context.table, own)
    return next(statistic for statistic in found if statistic.name == name)


CHEATS: dict[str, Callable[[Scene], bytes]] = {
    "previous-1": lambda scene: scene.file(scene.before, scene.before),
    "int8": lambda scene: scene.file(proved_by=scene.rounded("int8")),
    "int4-groups": lambda scene: scene.file(proved_by=scene.rounded("int4-groups")),
    "int4-groups (tokens)": lambda scene: scene.file(drawn_by=scene.rounded("int4-groups")),
    "temperature x 0.9 (tokens)": lambda scene: scene.file(
        sampler=SeededSampler(replace(POLICY, temperature=0.9 * POLICY.temperature))
    ),
    "top-p 0.95 (tokens)": lambda scene: scene.file(sampler=SeededSampler(replace(POLICY, top_p=0.95))),
}


LONG = ("int4-groups", "top-p 0.95 (tokens)")


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.heavy) if one in LONG else one for one in CHEATS])
def test_what_was_run_instead_is_rejected_and_named(scene: Scene, honest: Examination, name: str) -> None:
    examination = scene.examined(CHEATS[name](scene))
    assert examination.reject is not None
    cheat, clean = told_of(examination, scene, name), told_of(honest, scene, name)
    assert cheat.exceeds, cheat
    assert not clean.exceeds


def without_references(evidence: MinerEvidence, value: float, places: Sequence[int]) -> MinerEvidence:
    """The reference of these rollouts says this throughout (of what has bounds, only where it is no number), and they are not
    compared."""
    rollouts = list(evidence.rollouts)
    for at in places:
        found = rollouts[at].reference
        assert found is not None
        names = ("z", "logprobs") if math.isfinite(value) else vars(found)
        odd = {name: np.full_like(getattr(found, name), value) for name in names}
        rollouts[at] = replace(rollouts[at], reference=replace(found, **odd), compared=None)
    return replace(evidence, rollouts=tuple(rollouts))


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38, 1e9, -1e9])
@pytest.mark.parametrize("places", [[0], range(32)], ids=["one rollout", "all"])
def test_a_reference_without_sense_rejects_nobody(honest: Examination, value: float, places: Sequence[int]) -> None:
    submission, evidence = whole(honest)
    table, params = check_context().table, CONTEXT.params
    lost = without_references(evidence, value, places)
    findings = decide(submission, lost, table, params)
    assert not any(finding.outcome is Outcome.REJECT for finding in findings)
    assert all(model_checks.reference_says_nothing(submission, lost.rollouts[at]) for at in places)
    assert any(finding.outcome is Outcome.INCONCLUSIVE for finding in findings) == (len(places) == 32)


def test_an_own_pass_that_is_float32s_own_decides_nothing(honest: Examination) -> None:
    """A validator whose drift is none has no measure of anybody else's."""
    submission, evidence = whole(honest)
    rollouts = []
    for one in evidence.rollouts:
        assert one.reference is not None
        rollouts.append(replace(one, z=one.reference.z, compared=None))
    findings = decide(submission, replace(evidence, rollouts=tuple(rollouts)), check_context().table, CONTEXT.params)
    assert not any(finding.outcome is Outcome.REJECT for finding in findings)
    assert any(finding.outcome is Outcome.INCONCLUSIVE for finding in findings)


def test_a_class_of_equal_bits_is_held_to_them_where_the_network_names_it(scene: Scene, honest: Examination) -> None:
    params = replace(CONTEXT.params, bit_equal=("bf16-sdpa-cpu-transformers",))
    submission, evidence = whole(honest)
    table = check_context().table
    assert not any(finding.outcome is Outcome.REJECT for finding in decide(submission, evidence, table, params))
    nearly = whole(scene.examined(scene.file(proved_by=scene.rounded("int8"))))
    found = model_checks.sample_statistics(nearly[0], nearly[1], table, params)
    (of_bits,) = (statistic for statistic in found if statistic.name == "bit_equal")
    assert of_bits.rejects
    without = model_checks.sample_statistics(*nearly, table, CONTEXT.params)
    assert "bit_equal" not in {statistic.name for statistic in without}
