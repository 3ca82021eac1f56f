"""Checks `proof`, `logprob` and `sampling` of a receipt: what was measured of its choices, held against the bounds.

The two coarse bounds convict, and hold for every numerics class: whoever is above them ran another model or another draw. What
is above the finer ones of the table (`proof.receipt_bounds`) is not proved, and nobody is accused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.inference.receipts import Receipt
from grail_core.proof.calibration import Shape
from grail_core.proof.reader_table import ReaderTable
from grail_core.proof.receipt_bounds import (
    PROOF,
    STATISTICS,
    ReceiptStatistics,
    ReceiptTable,
    position_squares,
    possible_margins,
    receipt_statistics,
)
from grail_core.proof.sketches import differences
from grail_core.proof.work import ChoiceMeasurement
from grail_core.protocol.constants import (
    COARSE_ERROR_BOUND,
    COARSE_ERROR_POSITIONS,
    COARSE_LOGPROB_BOUND,
    COARSE_MARGIN,
    COARSE_MARGIN_ROLLOUT_POSITIONS,
    COARSE_MARGIN_SHARE,
)
from grail_core.protocol.findings import Finding, Outcome
from grail_core.verification.wording import accept, say

_NAMES: Final = {
    "error": "RMS sketch error, prompt and completion",
    "own_error": "RMS sketch error of the completion alone",
    "logprob": "largest difference of a claimed log-probability, nats",
    "margin": "largest margin by which a token lost its draw",
    "margin_sum": "how many tokens lost their draw, small margins in part",
}
_CHECK_OF: Final = {name: "logprob" if name == "logprob" else "proof" if name in PROOF else "sampling" for name in STATISTICS}


@dataclass(frozen=True)
class MeasuredAnswer:
    """What one model says of every choice, and which model in which class that was."""

    numerics_class: str
    shape: Shape
    choices: Sequence[ChoiceMeasurement]


def bounds_of(receipt: Receipt, measured: MeasuredAnswer, table: ReceiptTable) -> list[ReceiptStatistics] | None:
    """Of each choice; None where one is of classes, a shape or a length that the table does not have."""
    answer = receipt.answer
    found = [
        table.bounds(
            proof_class=answer.proof_class,
            generation_class=answer.generation_class,
            measured_in=measured.numerics_class,
            shape=measured.shape,
            length=length,
            looked_at=len(one.positions),
        )
        for length, one in zip(answer.lengths, measured.choices, strict=True)
    ]
    return [one for one in found if one is not None] if None not in found else None


@dataclass(frozen=True)
class JudgedBy:
    """Whose finer bounds a receipt was held against."""

    version: str
    digest: bytes  # SHA-256 of the table
    file: str | None  # of the reader's own; None: the one that ships


def judging(
    receipt: Receipt, measured: MeasuredAnswer, own: ReaderTable | None, table: ReceiptTable
) -> tuple[list[ReceiptStatistics] | None, JudgedBy | None]:
    """The bounds of each choice and whose they are: the reader's own table comes first where it holds. None: neither's."""
    if own is not None and own.is_of(receipt.model):
        bounds = bounds_of(receipt, measured, own.table)
        if bounds is not None:
            return bounds, JudgedBy(own.table.version, own.digest, own.name)
    bounds = bounds_of(receipt, measured, table)
    return bounds, None if bounds is None else JudgedBy(table.version, table.digest, None)


def measured_findings(
    receipt: Receipt,
    claims: Sequence[npt.NDArray[np.int16]],
    measured: MeasuredAnswer,
    bounds: Sequence[ReceiptStatistics] | None,
) -> Iterator[Finding]:
    """Of each check the coarse bound and then the finer ones, each as the choice has it that fares worst.

    Args:
        claims: of each choice, [n, 4] as `parse_sketches` gives them. bounds: as `bounds_of`.
    """
    values = [_values(receipt, index, claims[index], one) for index, one in enumerate(measured.choices)]
    errors = [differences(claim, one.z) for claim, one in zip(claims, measured.choices, strict=True)]
    yield _worst([_coarse_error(index, one) for index, one in enumerate(errors)])
    yield from _finer("proof", values, bounds)
    if any(choice.logprobs is not None for choice in receipt.answer.choices):
        yield _worst([_coarse_logprob(receipt, index, one) for index, one in enumerate(measured.choices)])
        yield from _finer("logprob", values, bounds)
    else:
        yield accept("logprob", detail="none are claimed")
    yield _worst([_coarse_margin(index, one) for index, one in enumerate(measured.choices)])
    yield from _finer("sampling", values, bounds)


def _values(receipt: Receipt, index: int, claims: npt.NDArray[np.int16], one: ChoiceMeasurement) -> ReceiptStatistics:
    return receipt_statistics(
        differences(claims, one.z),
        len(receipt.answer.choices[index].completion),
        one.margins,
        _logprob_errors(receipt, index, one),
        repetition_penalty=receipt.policy.repetition_penalty,
    )


def _finer(check: str, values: Sequence[ReceiptStatistics], bounds: Sequence[ReceiptStatistics] | None) -> Iterator[Finding]:
    if bounds is None:
        return
    for name in STATISTICS:
        if _CHECK_OF[name] != check:
            continue
        pairs = [(float(getattr(v, name)), float(getattr(b, name))) for v, b in zip(values, bounds, strict=True)]
        index = max(range(len(pairs)), key=lambda i: pairs[i][0] - pairs[i][1])
        value, bound = pairs[index]
        outcome = Outcome.ACCEPT if value <= bound else Outcome.UNPROVEN
        yield _said(index, outcome, check, value, bound, f"{name}: {_NAMES[name]}")


def _coarse_error(index: int, errors: npt.NDArray[np.float32]) -> Finding:
    squares = position_squares(errors)
    error = float(np.sqrt(squares.mean()))
    outcome = _coarse(error > COARSE_ERROR_BOUND, len(squares), COARSE_ERROR_POSITIONS)
    detail = f"coarse_error: RMS sketch error over {len(squares)} positions"
    return _said(index, outcome, "proof", error, COARSE_ERROR_BOUND, detail)


def _coarse_logprob(receipt: Receipt, index: int, one: ChoiceMeasurement) -> Finding:
    errors = _logprob_errors(receipt, index, one)
    if errors is None:
        return accept("logprob", detail=f"choice {index}: none are claimed")
    mean = float(np.abs(errors).mean()) if np.isfinite(errors).all() else float("inf")
    outcome = Outcome.ACCEPT if mean <= COARSE_LOGPROB_BOUND else Outcome.UNPROVEN
    detail = f"coarse_logprob: mean difference of log-probabilities at {len(errors)} positions, nats"
    return _said(index, outcome, "logprob", mean, COARSE_LOGPROB_BOUND, detail)


def _coarse_margin(index: int, one: ChoiceMeasurement) -> Finding:
    lost = possible_margins(one.margins) > COARSE_MARGIN
    share = float(lost.mean())
    outcome = _coarse(share > COARSE_MARGIN_SHARE, len(lost), COARSE_MARGIN_ROLLOUT_POSITIONS)
    detail = f"coarse_margin: share of {len(lost)} tokens that lost their draw by more than {COARSE_MARGIN:g}"
    return _said(index, outcome, "sampling", share, COARSE_MARGIN_SHARE, detail)


def _logprob_errors(receipt: Receipt, index: int, one: ChoiceMeasurement) -> npt.NDArray[np.float32] | None:
    raw = receipt.answer.choices[index].logprobs
    if raw is None:
        return None
    claimed: npt.NDArray[np.float32] = np.frombuffer(raw, dtype="<f4")[list(one.positions)]
    return claimed - one.logprobs


def _coarse(beyond: bool, positions: int, least: int) -> Outcome:
    """With too few positions a bound that fits any class convicts nobody, and still nothing is proved."""
    if not beyond:
        return Outcome.ACCEPT
    return Outcome.REJECT if positions >= least else Outcome.UNPROVEN


def _said(choice: int, outcome: Outcome, check: str, value: float, bound: float, detail: str) -> Finding:
    return say(outcome, check, value=_rounded(value), threshold=_rounded(bound), detail=f"choice {choice}: {detail}")


def _worst(findings: Sequence[Finding]) -> Finding:
    """The first of the worst outcome there is; of accepted ones the one with the largest value."""
    for outcome in (Outcome.REJECT, Outcome.UNPROVEN):
        for finding in findings:
            if finding.outcome is outcome:
                return finding
    return max(findings, key=lambda finding: float(finding.value or 0.0))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
