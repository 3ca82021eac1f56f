"""One window on plain values: context, challenge, real files and what measuring them gives. No chain, store, clock or model.

Rollouts are made up; files, digests and signatures are real, so that the pure parts of the roles can be driven through
everything they decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from grail_core.chain.base import Neuron
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence, RolloutEvidence
from grail_core.files.window_file import header_of, write_window_file
from grail_core.keys import LocalSigner
from grail_core.proof.calibration import shipped_table
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.work import ReferenceMeasurement
from grail_core.protocol import (
    Randomness,
    RolloutRecord,
    Seal,
    WindowHeader,
    count_groups,
    header_digest,
    merkle_root,
    rollout_digests,
    sample_rollouts,
)
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.constants import PROTOCOL_VERSION, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.manifest import CheckpointManifest, FileRef, ManifestContent, ObjectRef, build
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission

WINDOW = Window(90)
VOCABULARY = 64
CONTEXT_LENGTH = 64
END = 2
TRAINER = LocalSigner.from_seed(b"T" * 32)
MINERS = tuple(LocalSigner.from_seed(bytes([number]) * 32) for number in range(1, 5))

OWN_DRIFT = 0.006
"""RMS of what a small model's own pass lies from float32 by: of sketches, and in nats of log-probabilities and logits."""

_DIGEST = Digest(b"d" * 32)


@dataclass(frozen=True)
class PlainEnvironment:
    """Problems are numbers; a completion of an even number of words is right."""

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec("plain", 1)

    def problem(self, seed: int) -> Problem:
        return Problem("plain", seed, seed % 50)

    def messages(self, problem: Problem) -> list[Message]:
        return [Message("user", str(problem.payload))]

    def grade(self, problem: Problem, completion: str) -> Grade:
        right = len(completion.split()) % 2 == 0
        return Grade(reward=float(right), success=right, well_formed=True)


class PlainRenderer:
    """A prompt is a start token and the problem's number; a completion's text is its ids."""

    def render(self, messages: list[Message]) -> tuple[int, ...]:
        return (1, 10 + int(messages[0].content))

    def decode_completion(self, tokens: list[int], asked: Sequence[Message] = ()) -> str:
        return " ".join(str(token) for token in tokens if token != END)


def network() -> NetworkParameters:
    return replace(LOCALNET, trainer_hotkey=TRAINER.hotkey, beacon_policy="off")


def manifest(network_id: Digest, weights_root: Digest = _DIGEST, max_tokens: int = 8) -> CheckpointManifest:
    content = ManifestContent(
        network_id=network_id,
        trainer=TRAINER.hotkey,
        sequence=0,
        window=Window(0),
        valid_from=Window(30),
        parent=None,
        base=None,
        architecture="Qwen2ForCausalLM",
        weights_root=weights_root,
        index=ObjectRef(1, _DIGEST),
        files=(),
        shards=(FileRef("model.safetensors", ObjectRef(1, _DIGEST)),),
        deltas=(),
        environment=PlainEnvironment().spec,
        policy=GenerationPolicy(max_tokens),
        end_token_ids=(END,),
        tokenizer_digest=_DIGEST,
        chat_template_digest=_DIGEST,
        thinking_mode="none",
    )
    return build(content, TRAINER)


def window_context(max_tokens: int = 8) -> WindowContext:
    params = network()
    network_id = params.network_id(bytes(32))
    return WindowContext(params, network_id, WINDOW, b"b" * 32, None, manifest(network_id, max_tokens=max_tokens))


def challenge(context: WindowContext, beacon: SignedRound | None = None) -> Challenge:
    return Challenge(b"c" * 32, beacon, Randomness(context.network_id).select_seed(b"c" * 32, bytes(32)))


def neuron(uid: int) -> Neuron:
    return Neuron(uid, MINERS[uid].hotkey, 0, False, Block(0), f"fs:{uid}", Block(0), Block(0))


def rollouts(context: WindowContext, miner: LocalSigner, groups: Sequence[int]) -> list[RolloutRecord]:
    """Every rollout of these groups, distinct, well formed and truthful about its reward."""
    environment, renderer = PlainEnvironment(), PlainRenderer()
    records = []
    for group in groups:
        problem = environment.problem(context.problem_seed(miner.hotkey, group))
        asked = environment.messages(problem)
        prompt = renderer.render(asked)
        for rollout in range(ROLLOUTS_PER_PROBLEM):
            completion = (*[20 + (rollout + i) % 40 for i in range(1 + rollout % 6)], END)
            grade = environment.grade(problem, renderer.decode_completion(list(completion), asked))
            generator = np.random.default_rng([group, rollout])
            words = np.rint(4096 * generator.normal(size=(len(completion) + 1, 4)))
            records.append(
                RolloutRecord(
                    group=group,
                    rollout=rollout,
                    tokens=np.array((*prompt, *completion), np.int32),
                    prompt_length=len(prompt),
                    logprobs=np.full(len(completion), -1.0, np.float32),
                    sketches=words.clip(-32767, 32767).astype("<i2").tobytes(),
                    reward=grade.reward,
                    success=grade.success,
                )
            )
    return records


def window_file(context: WindowContext, miner: LocalSigner, records: Sequence[RolloutRecord]) -> bytes:
    """A signed file of these rollouts."""
    counted = count_groups(
        sorted({record.group for record in records if record.group >= 0})
    )  # a forged rollout may say anything
    header = WindowHeader(
        protocol_version=PROTOCOL_VERSION,
        window=context.window,
        block_hash=context.block_hash,
        beacon_round=0,
        beacon_signature=None,
        hotkey=miner.hotkey,
        checkpoint_digest=context.checkpoint_digest,
        env_digest=context.env_digest,
        policy_digest=context.manifest.policy_digest,
        groups=counted.groups,
        gaps=counted.gaps,
        declared=counted.declared,
        merkle_root=merkle_root(rollout_digests(context.network_id, records)),
        proof_class=DEFAULT_CLASS,
        generation_class=DEFAULT_CLASS,
    )
    return write_window_file(header, miner.sign(header_digest(context.network_id, header)), records)


def seal(context: WindowContext, miner: LocalSigner, data: bytes, header: WindowHeader | None = None) -> Seal:
    """The miner's promise of a file."""
    header, digest = header or header_of(data), digest_of(data)
    message = Seal.message(context.network_id, ROLLOUTS, header, digest, len(data))
    return Seal(ROLLOUTS, header, digest, len(data), miner.sign(message))


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def check_context(context: WindowContext, hotkey: Hotkey) -> CheckContext:
    return CheckContext(context, hotkey, PlainEnvironment(), PlainRenderer(), VOCABULARY, CONTEXT_LENGTH, shipped_table())


@dataclass
class TruthfulSampling:
    """Measures exactly what a file claims, plus `offset` on every sketch; counts what it is asked for. The reference lies as
    far from that as it does from a small model's own pass.
    """

    seed: Digest
    offset: float = 0.0
    inconclusive: int = 0
    asked: list[str] = field(default_factory=list)

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        self.asked.append("measure")
        sample = sample_rollouts(self.seed, submission.groups)
        found = [self._evidence(submission.rollout_of(*place)) for place in sample.places]
        return MinerEvidence(
            submission.hotkey, submission.content_digest, tuple(found), DEFAULT_CLASS, 1, 64, self.inconclusive
        )

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        self.asked.append("alternatives")
        return evidence

    def _evidence(self, record: RolloutRecord) -> RolloutEvidence:
        z = record.sketch_values()[1:].astype(np.float32) / np.float32(4096) + np.float32(self.offset)
        count = record.completion_length
        noise = np.random.default_rng([7, record.group, record.rollout]).normal(size=(count, 5)).astype(np.float32)
        drift = np.float32(OWN_DRIFT) * noise
        return RolloutEvidence(
            group=record.group,
            rollout=record.rollout,
            grade=GradeEvidence(record.reward, record.success, GradeStability.STABLE),
            positions=np.arange(count, dtype=np.int32),
            z=z,
            logprob=record.logprobs.copy(),
            margin=np.zeros(count, np.float32),
            reference=ReferenceMeasurement(
                z=z + drift[:, :4],
                logprobs=record.logprobs + drift[:, 4],
                margins=np.zeros(count, np.float32),
                twins=np.zeros(count, np.float32),
                noise=np.full(count, OWN_DRIFT**2, np.float32),
                spread=np.full(count, 0.5, np.float32),
            ),
        )
