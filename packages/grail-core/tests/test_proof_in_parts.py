"""A proof batch that memory does not hold is measured in parts, says so, and then rejects by nothing fitted on whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from torch import Tensor

from grail_core.errors import MachineFaultError
from grail_core.files.evidence import MinerEvidence, read_evidence, write_evidence
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.calibration import shipped_table
from grail_core.proof.in_process import InThisProcess
from grail_core.proof.numerics import DEFAULT_CLASS, class_and_parts, class_in_parts
from grail_core.proof.sketches import projections
from grail_core.proof.work import ProofRow
from grail_core.protocol import Outcome, Randomness
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, decide, examine
from grail_core.verification.window_file import Submission
from tooling.testing import plain_window as plain
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
SIGNS = projections(Randomness(bytes(32)), b"s" * 32, 32)
POLICY = GenerationPolicy(max_tokens=8)
ROWS = [ProofRow([1, 2, *(3 + (r + i) % 12 for i in range(2 + r % 5))], 2, (0, 1), r) for r in range(16)]


@pytest.fixture
def model() -> PolicyModel:
    return PolicyModel(in_bfloat16(random_model(Qwen2Shape(16))))


def holding(model: PolicyModel, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The machine's memory holds so many rows at once. Returns the sizes of the passes that fitted."""
    sizes: list[int] = []
    forward = model.hidden_states

    def limited(rows: Sequence[Sequence[int]]) -> list[Tensor]:
        if len(rows) > most:
            raise MemoryError
        sizes.append(len(rows))
        return forward(rows)

    monkeypatch.setattr(model, "hidden_states", limited)
    return sizes


@pytest.mark.parametrize(("most", "parts", "sizes"), [(16, None, [16]), (15, 8, [8, 8]), (6, 4, [4] * 4), (1, 1, [1] * 16)])
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_says_how_many_rows_fitted(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch, most: int, parts: int | None, sizes: list[int]
) -> None:
    whole = InThisProcess(model).measure(ROWS, SIGNS, POLICY)
    fitted = holding(model, most, monkeypatch)
    found = InThisProcess(model).measure(ROWS, SIGNS, POLICY)
    assert (found.parts, fitted) == (parts, sizes)
    assert [one.positions for one in found.rollouts] == [one.positions for one in whole.rollouts]
    for one, other in zip(found.rollouts, whole.rollouts, strict=True):
        assert np.abs(one.z - other.z).max() < 0.05  # the same rows in the same order, in products of other shapes


def test_a_row_that_does_not_fit_alone_is_this_machines_fault(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    holding(model, 0, monkeypatch)
    with pytest.raises(MachineFaultError, match="ran out of memory"):
        InThisProcess(model).measure(ROWS, SIGNS, POLICY)


def test_float32_passes_in_parts_differ_by_less_than_a_sketchs_rounding(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the comparison with alternatives, which is made in float32, needs no mark."""
    alternatives = Alternatives(model, {"previous-1": lambda: {n: t * 1.25 for n, t in model.state().items()}})
    work = InThisProcess(model, alternatives)
    whole = work.compare(ROWS, SIGNS, POLICY)
    fitted = holding(alternatives.reference.model(), 4, monkeypatch)
    found = work.compare(ROWS, SIGNS, POLICY)
    assert fitted == [4] * 8
    for one, other in zip(found, whole, strict=True):
        assert one.z.keys() == other.z.keys() == {"current", "own", "previous-1"}
        assert all(np.abs(one.z[name] - other.z[name]).max() < 1 / 4096 / 8 for name in ("current", "previous-1"))


def test_what_evidence_says_of_parts_is_its_class_and_their_size_and_nothing_else_is_read_as_that() -> None:
    assert class_and_parts(DEFAULT_CLASS) == (DEFAULT_CLASS, None)
    assert class_and_parts(class_in_parts(DEFAULT_CLASS, 8)) == (DEFAULT_CLASS, 8)
    for forged in ("", ", in parts of ", ", in parts of -1", ", in parts of ٣", ", in parts of 9999"):
        assert class_and_parts(DEFAULT_CLASS + forged)[1] is None


# --- what is decided ------------------------------------------------------------------------------------------------------


@dataclass
class _InParts(plain.TruthfulSampling):
    """Measured in parts of `parts` rows, with a sketch difference of `offset` throughout."""

    parts: int | None = 8

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        evidence = super().measure(submission, context)
        return replace(evidence, numerics_class=class_in_parts(DEFAULT_CLASS, self.parts)) if self.parts else evidence


def examined(sampling: _InParts) -> Examination:
    data = plain.window_file(CONTEXT, MINER, plain.rollouts(CONTEXT, MINER, range(2)))
    context = plain.check_context(CONTEXT, MINER.hotkey)
    return examine(data, context, sampling, content_digest=plain.digest_of(data))


FINE = 0.05
"""An RMS sketch difference that the table rejects, and the coarse bound of 0.30 does not."""


def test_what_only_a_table_rejects_is_inconclusive_where_the_batches_were_measured_in_parts() -> None:
    whole, parts = examined(_InParts(SEED, FINE, parts=None)), examined(_InParts(SEED, FINE))
    assert whole.reject is not None
    assert "energy" in whole.reject.detail
    assert parts.reject is None
    assert parts.undecided is not None
    assert (parts.undecided.check, parts.undecided.value) == (whole.reject.check, whole.reject.value)
    assert "measured in parts of 8" in parts.undecided.detail


def test_a_coarse_bound_rejects_however_the_batches_were_measured() -> None:
    """Else whoever sends rows that a small machine's memory does not hold could send no model's sketches with them."""
    parts = examined(_InParts(SEED, 1.0))
    assert parts.reject is not None
    assert "coarse_error" in parts.reject.detail
    assert "measured in parts of 8" in parts.reject.detail


def test_an_honest_file_measured_in_parts_is_accepted_and_its_findings_say_so() -> None:
    whole, parts = examined(_InParts(SEED, parts=None)), examined(_InParts(SEED))
    assert parts.reject is None
    assert parts.undecided is None
    assert [one.outcome for one in parts.findings] == [Outcome.ACCEPT] * len(whole.findings)
    marked = [one for one in parts.findings if "measured in parts of 8" in one.detail]
    assert {one.check for one in marked} == {"proof", "logprob", "sampling"}
    assert not any("parts" in one.detail for one in whole.findings)


@pytest.mark.parametrize("offset", [0.0, FINE, 1.0])
def test_evidence_carries_the_mark_so_that_anybody_decides_the_same_from_it(offset: float) -> None:
    found = examined(_InParts(SEED, offset))
    assert found.submission is not None
    assert found.evidence is not None
    (read,) = read_evidence(write_evidence([found.evidence]))
    of_model = [one for one in found.findings if one.check in ("reward", "proof", "logprob", "sampling")]
    assert list(decide(found.submission, read, shipped_table(), CONTEXT.params)) == of_model
