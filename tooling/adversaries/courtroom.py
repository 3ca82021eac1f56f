"""One miner's file before the project's own checks, with nothing replaced but the miner's honesty.

A network inside this process (`tooling.testing`) publishes a trained tiny model as its checkpoint; a miner's groups are
made with the pieces of `grail_miner.mining`, packed, signed and sealed; the seal is read as first sight reads it, and the file
goes through checks 1 to 9 as the validator runs them: parsed from bytes, sampled by a challenge that the file's digest decides,
measured, and compared with what `grail-validator run` compares with unless its operator says otherwise, decided.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.files.evidence import MinerEvidence
from grail_core.files.window_file import WindowFileError, header_of
from grail_core.generation.base import Completion
from grail_core.model.policy_model import PolicyModel
from grail_core.participant.windows import open_challenge
from grail_core.proof.alternatives import Alternatives, Weights
from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.in_process import InThisProcess
from grail_core.protocol import Finding, Randomness, RolloutRecord, Seal, WindowHeader, without_negative_zero
from grail_core.protocol.context import Challenge, WindowContext, challenge_seed
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import examine, first_reject
from grail_core.verification.measure import ChallengedSample
from grail_core.verification.seal import read_seal
from grail_miner.groups import Group
from grail_miner.mining import Mining
from grail_validator.compared_models import ComparedModels
from tooling.adversaries.deviations.observation import Rollout, Setting
from tooling.adversaries.tampering import as_tokens
from tooling.testing.mining import loaded_by
from tooling.testing.models.language_model import END, encoder
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork


@dataclass(frozen=True)
class Ruling:
    """What was said of one seal and its file. `caught_by` is what rejects ("seal": first sight), "" where nothing does."""

    findings: tuple[Finding, ...]
    evidence: MinerEvidence | None

    @property
    def accepted(self) -> bool:
        return first_reject(self.findings) is None

    @property
    def caught_by(self) -> str:
        finding = first_reject(self.findings)
        return finding.check if finding else ""

    @property
    def why(self) -> str:
        finding = first_reject(self.findings)
        return finding.detail if finding else ""


class Courtroom:
    """A network whose checkpoint is the given folder, one window of it, and its validator.

    Args:
        root: empty folder for chain, buckets and caches. model: Transformers folder with the tokenizer of
            `tooling.testing.models`. max_tokens: the policy's limit. miners: hotkeys that take part. end: the one end
            token; by default that of the training text. window: which window is mined; others have other seeds.
        earlier: weights of the checkpoints before, by the names that a validator has for them ("previous-1" …); a network's
            first checkpoint has none before it.
    """

    def __init__(
        self,
        root: Path,
        model: Path,
        *,
        max_tokens: int = 24,
        miners: int = 1,
        end: int | None = None,
        window: Window = FIRST_WINDOW,
        earlier: Mapping[str, Weights] | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self.end: int = encoder(model).token_to_id(END) if end is None else end
        self.network = SmallNetwork(root, miners=miners, validators=1, max_tokens=max_tokens, model=model, end=self.end)
        self.network.advance_to(window + 1)
        self.context: WindowContext = self.network.participant("miner-0").open_window(window)
        self.mining = self.network.mining("miner-0")
        self.loaded: LoadedCheckpoint = loaded_by(self.mining, self.context)
        self._compared = ComparedModels()
        self.alternatives: Callable[[], Alternatives] = cache(
            lambda: self._compared.alternatives(self.loaded.model, earlier or {})
        )
        _ = self.challenge

    @property
    def hotkey(self) -> Hotkey:
        return self.mining.signer.hotkey

    def before(self, number: int) -> Courtroom:
        """The same window with another of its miners in the dock: other problems, other seeds."""
        other = copy.copy(self)
        other.mining = copy.copy(self.mining)
        other.mining.signer = self.network.signers[f"miner-{number}"]
        return other

    @property
    def model(self) -> PolicyModel:
        return self.loaded.model

    # The miner's side

    def honest(self, groups: Sequence[int]) -> list[Group]:
        """Groups as the shipped miner makes them."""
        return self.mining.produce_groups(self.context, self.loaded, groups)

    def mined_by(self, mining: Mining, groups: Sequence[int]) -> bytes:
        """The file of a miner that differs in one step, which goes its own way through the window."""
        loaded = mining.select_model(self.context)
        return mining.pack(self.context, loaded, mining.produce_groups(self.context, loaded, groups))

    def prompt(self, group: int) -> tuple[int, ...]:
        environment = self.network.environment
        problem = environment.problem(self.context.problem_seed(self.hotkey, group))
        return self.loaded.renderer.render(environment.messages(problem))

    def groups_of(self, rollouts: Sequence[Rollout], claims: Sequence[RolloutProof]) -> list[Group]:
        """Rollouts and claims made in any way, graded as the environment grades them: what a consistent liar packs."""
        by_group: dict[int, list[RolloutRecord]] = {}
        environment = self.network.environment
        for rollout, claim in zip(rollouts, claims, strict=True):
            problem = environment.problem(self.context.problem_seed(self.hotkey, rollout.group))
            grade = self.mining.grade(environment, self.loaded, problem, Completion(rollout.completion))
            record = RolloutRecord(
                group=rollout.group,
                rollout=rollout.rollout,
                tokens=as_tokens(rollout.tokens),
                prompt_length=rollout.prompt_length,
                logprobs=without_negative_zero(claim.logprobs),
                sketches=claim.sketches,
                reward=grade.reward,
                success=grade.success,
            )
            by_group.setdefault(rollout.group, []).append(record)
        return [Group(group, tuple(records)) for group, records in by_group.items()]

    def graded_again(self, groups: Sequence[Group]) -> list[Group]:
        """With the rewards that changed text earns, so that no earlier check speaks for the proof."""
        records = [record for group in groups for record in group.rollouts]
        rollouts = [
            Rollout(record.group, record.rollout, tuple(record.tokens.tolist()), record.prompt_length) for record in records
        ]
        return self.groups_of(rollouts, [RolloutProof(bytes(record.sketches), record.logprobs) for record in records])

    def pack(self, groups: Sequence[Group]) -> bytes:
        """The signed file of these groups."""
        return self.mining.pack(self.context, self.loaded, groups)

    # The validator's side

    @cached_property
    def challenge(self) -> Challenge:
        self.network.advance_to(self.context.window + 38)
        participant = self.network.participant("validator-0")
        return open_challenge(participant.chain, participant.beacon, self.context)

    @property
    def table(self) -> CalibrationTable:
        """That the window's checkpoint pins."""
        return self.loaded.pinned.table

    def check_context(self, sealed: WindowHeader | None = None) -> CheckContext:
        return CheckContext(
            window=self.context,
            hotkey=self.hotkey,
            environment=self.network.environment,
            renderer=self.loaded.renderer,
            vocabulary_size=self.model.vocabulary_size,
            context_length=self.model.context_length,
            table=self.table,
            sealed=sealed,
        )

    def first_sight(self, data: bytes, header: WindowHeader | None = None) -> Seal | list[Finding] | None:
        """What a validator makes of the seal that goes with a file; None where its bytes hold no header to seal.

        Args:
            header: what is sealed; the file's own where it is None.
        """
        try:
            header = header or header_of(data)
        except WindowFileError:
            return None
        digest, size = Digest(hashlib.sha256(data).digest()), len(data)
        message = Seal.message(self.context.network_id, ROLLOUTS, header, digest, size)
        seal = Seal(ROLLOUTS, header, digest, size, self.mining.signer.sign(message))
        shape = Shape(self.model.layers, self.model.hidden_size)
        return read_seal(seal.encode(), self.hotkey, self.context, table=self.table, shape=shape)

    def work(self) -> InThisProcess:
        """The window's model as a validator has it, with nothing kept of any file before."""
        return InThisProcess(self.model, self.alternatives, kept_bytes=self._compared.states_bytes)

    def examine(self, data: bytes, *, header: WindowHeader | None = None) -> Ruling:
        """The seal as first sight reads it (`header`: as `first_sight`), then checks 1 to 9 on the file's bytes."""
        seal = self.first_sight(data, header)
        if isinstance(seal, list):
            return Ruling(tuple(seal), None)
        digest = Digest(hashlib.sha256(data).digest())
        sample = ChallengedSample(challenge_seed(self.context, self.challenge, digest), self.work())
        context = self.check_context(seal.header if seal is not None else None)
        examination = examine(data, context, sample, content_digest=digest)
        return Ruling(examination.findings, examination.evidence)


@dataclass(frozen=True)
class CourtSetting(Setting):
    """The window's own randomness in the shape that `Bench` asks for."""

    court: Courtroom = dataclasses.field(kw_only=True)

    @property
    def randomness(self) -> Randomness:
        return self.court.context.randomness

    @property
    def window_seed(self) -> bytes:
        return self.court.context.window_seed

    def sampling_seed(self, group: int, rollout: int, hotkey: str = "miner") -> int:
        """The miner's own seed; for another name, what somebody else's hotkey would be given."""
        own = self.court.hotkey if hotkey == "miner" else Hotkey(hashlib.sha256(hotkey.encode()).digest())
        return self.court.context.sampling_seed(own, group, rollout)
