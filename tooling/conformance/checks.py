"""What an engine must do, one check after another, over HTTP. Each gives a figure, and says whether it is good enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from grail_core.errors import EngineError
from grail_core.generation.base import Completion, GenerationRequest, ServedWeights
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.batch import prove_rollouts
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_miner.conformance.report import LEAST_AGREEMENT, ConformanceReport, lines, to_json
from grail_miner.conformance.run import Verifier, collect, conformance, probes_for
from tooling.conformance.engine import Dtype, Running
from tooling.conformance.models import TRUNCATED

_LARGEST_LOGPROB = {"bfloat16": 0.25, "float32": 1e-3}  # nats, largest difference over all tokens
_SETTLES = 100  # looks at the engine, a tenth of a second apart, until aborted requests have left it


@dataclass(frozen=True)
class Checked:
    """`figures` are for programs, `says` for the table."""

    name: str
    passed: bool
    says: str
    figures: dict[str, object] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoints:
    """`hostile` has the weights of `first`, and is what the engine was started with."""

    first: ServedWeights
    second: ServedWeights
    hostile: ServedWeights


def checks(running: Running, given: Checkpoints, dtype: Dtype) -> Iterator[Checked]:
    """All of them, in this order; the engine serves `first` again at the end."""
    least = 1.0 if dtype == "float32" else LEAST_AGREEMENT
    rows: list[Completion] = []
    for name, weights in (("tokens", given.hostile), ("tokens, top-k and top-p", _truncated(given.hostile))):
        running.generator.serve(weights)
        report = report_of(running, weights, least)
        yield _tokens(name, report)
        if weights is given.hostile:
            rows = [Completion(row.tokens) for row in report.reading.rows]
            yield _hostile(report)
            yield _seeds(report, dtype)
            yield _logprobs(running, given.hostile, report, dtype)
    yield from _reload(running, given, least, rows)
    yield _abort(running, given.first)
    yield _missing_folder(running, given.first)


def _truncated(weights: ServedWeights) -> ServedWeights:
    return replace(weights, policy=TRUNCATED)


def report_of(running: Running, weights: ServedWeights, least: float) -> ConformanceReport:
    """What `grail-miner conformance` finds of an engine that serves these weights."""
    assert weights.model is not None
    verifier = Verifier(weights.model, PromptRenderer(weights.folder), None, least)
    return conformance(running.generator, weights, verifier, probes_for(weights, verifier, 64))


def _tokens(name: str, report: ConformanceReport) -> Checked:
    return Checked(name, report.conforms, f"{_share(report)} agree", to_json(report), tuple(lines(report)))


def _share(report: ConformanceReport) -> str:
    margins = report.reading.margins
    lost, largest = int((margins > 0).sum()), float(margins.max()) if len(margins) else 0.0
    of = f"of {len(margins)} tokens" + (f" ({lost} differ, margins up to {largest:.2g})" if lost else "")
    return f"{report.reading.agreement:.2%} {of}"


def _hostile(report: ConformanceReport) -> Checked:
    """The folder would end rows after three tokens, after any of eleven, and draw the likeliest alone."""
    reading = report.reading
    whole = not reading.cut_short() and not reading.run_on()
    lengths = [len(row.tokens) for row in reading.rows]
    says = f"rows of {min(lengths)} to {max(lengths)} tokens, {len(reading.cut_short())} cut short"
    return Checked("hostile generation_config.json", whole and report.conforms, says, {"longest": max(lengths)})


def _seeds(report: ConformanceReport, dtype: Dtype) -> Checked:
    """Rollouts of a group differ, and a seed draws the same alone as among many (in bf16 other batches may flip a token)."""
    by_group: dict[int, set[tuple[int, ...]]] = {}
    for group, row in zip(report.group_of, report.reading.rows, strict=True):
        by_group.setdefault(group, set()).add(row.tokens)
    differ = sum(len(rows) > 1 for rows in by_group.values())
    same, asked = report.same_again
    passed = differ == len(by_group) and (same == asked or dtype == "bfloat16")
    says = f"rollouts differ in {differ} of {len(by_group)} groups; {same} of {asked} requests the same alone as in a batch"
    return Checked("seeds", passed, says, {"groups_that_differ": differ, "groups": len(by_group), "same": same, "again": asked})


def _logprobs(running: Running, weights: ServedWeights, report: ConformanceReport, dtype: Dtype) -> Checked:
    assert weights.model is not None
    rows = report.reading.rows[:PROOF_BATCH_SIZE]
    whole = [(*row.request.prompt, *row.tokens) for row in rows]
    starts = [len(row.request.prompt) for row in rows]
    signs = np.ones((4, weights.model.hidden_size), dtype=np.float32)
    ours = np.concatenate([one.logprobs for one in prove_rollouts(weights.model, whole, starts, signs)])
    theirs = np.concatenate([running.logprobs(weights, row, start) for row, start in zip(whole, starts, strict=True)])
    distances = np.abs(ours.astype(np.float64) - theirs)
    largest, mean = float(distances.max()), float(distances.mean())
    says = f"{len(distances)} tokens, mean difference {mean:.2g} nats, largest {largest:.2g}"
    return Checked("log-probabilities", largest <= _LARGEST_LOGPROB[dtype], says, {"mean": mean, "largest": largest})


def _reload(running: Running, given: Checkpoints, least: float, before: list[Completion]) -> Iterator[Checked]:
    """To the second checkpoint and back; the answers themselves carry the label, and the client refuses any other."""
    seconds, paused = running.roll(given.second)
    report = report_of(running, given.second, least)
    changed = sum(row.tokens != done.tokens for row, done in zip(report.reading.rows, before, strict=True))
    passed = report.conforms and running.generator.version == given.second.version and changed >= 0.9 * len(before)
    says = f"{_share(report)} are the new checkpoint's, {changed} of {len(before)} rows changed"
    yield Checked("weight reload", passed, says, to_json(report) | {"changed": changed}, tuple(lines(report)))
    back, paused_back = running.roll(given.first)
    verified = report_of(running, given.first, least)
    again = sum(row.tokens == done.tokens for row, done in zip(verified.reading.rows, before, strict=True))
    says = f"{_share(verified)} are the first one's again, {again} of {len(before)} rows equal"
    passed = verified.conforms and (again == len(before) or least < 1)
    yield Checked("weight reload, back", passed, says, to_json(verified) | {"equal": again}, tuple(lines(verified)))
    figures: dict[str, object] = {"sync.seconds": [seconds, back], "sync.pause_ms": [paused, paused_back]}
    yield Checked("reload time", True, f"{seconds:.3f} and {back:.3f} s, paused {paused:.0f} and {paused_back:.0f} ms", figures)


def _abort(running: Running, weights: ServedWeights) -> Checked:
    """Cancelled after the first row: the engine drops what it has, and draws as before."""
    requests = [GenerationRequest((1 + index % 200,) * 8, 7_000 + index) for index in range(64)]
    whole = collect(running.generator, requests)
    came = 0
    cancelled = [False]
    for _ in running.generator.generate(requests, lambda: cancelled[0]):
        came += 1
        cancelled[0] = True
    left = running.in_flight()
    for _ in range(_SETTLES):
        if not left:
            break
        time.sleep(0.1)
        left = running.in_flight()
    again = collect(running.generator, requests)
    same = sum(one.tokens == other.tokens for one, other in zip(whole, again, strict=True))
    passed = came < len(requests) and left == 0 and same >= 0.9 * len(requests)
    says = f"{came} of {len(requests)} rows came, {left} left in the engine, {same} the same when asked again"
    return Checked("abort", passed, says, {"came": came, "left": left, "same": same})


def _missing_folder(running: Running, weights: ServedWeights) -> Checked:
    """A roll that fails is said, and is no roll: what draws next is known, or nothing draws."""
    gone = replace(weights, version="f" * 64, folder=weights.folder.with_name("gone"))
    try:
        running.generator.serve(gone)
    except EngineError as error:
        told, version = error.what.splitlines()[0], running.generator.version
    else:
        return Checked("a folder that is not there", False, "was served")
    running.generator.serve(weights)
    passed = version in (None, weights.version) and running.generator.version == weights.version
    serves = "nothing" if version is None else "the old weights"
    return Checked("a folder that is not there", passed, f"serves {serves} after it; then rolls again", {"told": told})
