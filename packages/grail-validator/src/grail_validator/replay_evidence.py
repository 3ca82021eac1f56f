"""Published evidence in the place of a model: what `examine` asks a `Sampling` for was measured by somebody else before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import MinerEvidence
from grail_core.proof.calibration import Shape
from grail_core.proof.numerics import class_and_parts, measuring_class
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.challenged import longest_row, require_challenged
from grail_core.verification.context import CheckContext
from grail_core.verification.evidence_fit import require_evidence_of
from grail_core.verification.window_file import Submission

EvidenceOf = Mapping[tuple[Hotkey, Digest], MinerEvidence]
"""By hotkey and content digest."""


@dataclass(frozen=True)
class PublishedSampling:
    """Hands out the evidence of a file, once it is seen to be of this file and of what the challenge draws.

    Args:
        seed: the file's challenge seed; None where nobody gave the challenge round: then what was drawn is taken as said.
        probability: with which the file's miner was drawn.
        shape: of the window's checkpoint, which says what its table enforces.
        fault: told, by hotkey, why evidence cannot be what a verdict rests on.
    """

    evidence: EvidenceOf
    seed: Digest | None
    probability: Fraction
    shape: Shape
    fault: Callable[[Hotkey, str], None]

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        """Raises ProtocolViolationError where there is none, or it is of something else."""
        try:
            found = self.evidence.get((submission.hotkey, submission.content_digest))
            if found is None:
                raise ProtocolViolationError("there is no evidence of this file")
            require_evidence_of(submission, found)
            told = Shape(found.layers, found.hidden_size)
            if told != self.shape:
                raise ProtocolViolationError(
                    f"the evidence is of a model of {told.layers} layers of {told.hidden_size}, "
                    f"the checkpoint has {self.shape.layers} of {self.shape.hidden_size}"
                )
            own, _ = class_and_parts(found.numerics_class)
            proof_class, longest = submission.file.header.proof_class, longest_row(submission, found)
            if own not in {measuring_class(proof_class, one, longest) for one in context.window.params.validator_classes}:
                raise ProtocolViolationError(f"no validator may measure in numerics class {own}")
            if self.seed is not None:
                params, policy = context.window.params, context.policy
                require_challenged(submission, found, self.seed, context.table, params, policy, self.probability)
        except ProtocolViolationError as error:
            self.fault(submission.hotkey, error.what)
            raise
        return found

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """They are in it already, where any were measured."""
        return evidence
