"""The order of checks, on plain values: what ends an examination, what is asked for when, and that nothing is decided twice."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import shipped_table
from grail_core.proof.sketches import Sketches
from grail_core.proof.work import ComparedRollout, Leads
from grail_core.protocol import Finding, Outcome, RolloutRecord
from grail_core.protocol.types import Digest
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import CHECKS, Examination, decide, examine, examine_sample
from grail_core.verification.window_file import Submission
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
Change = Callable[[list[RolloutRecord]], None]


def examined(
    change: Change | None = None, *, sampling: plain.TruthfulSampling | None = None, history: frozenset[Digest] = frozenset()
) -> Examination:
    records = plain.rollouts(CONTEXT, MINER, range(2))
    if change is not None:
        change(records)
    data = plain.window_file(CONTEXT, MINER, records)
    context = replace(plain.check_context(CONTEXT, MINER.hotkey), history=history)
    return examine(data, context, sampling, content_digest=plain.digest_of(data))


def checks_of(findings: tuple[Finding, ...]) -> list[str]:
    return list(dict.fromkeys(finding.check for finding in findings))


def outside_the_vocabulary(records: list[RolloutRecord]) -> None:
    tokens = records[5].tokens.copy()
    tokens[-2] = plain.VOCABULARY
    records[5] = replace(records[5], tokens=tokens)


def another_prompt(records: list[RolloutRecord]) -> None:
    for index, record in enumerate(records):
        tokens = record.tokens.copy()
        tokens[1] = 10 + (tokens[1] - 9) % 50
        records[index] = replace(record, tokens=tokens)


def ends_early(records: list[RolloutRecord]) -> None:
    tokens = records[5].tokens.copy()
    tokens[-2] = plain.END
    records[5] = replace(records[5], tokens=tokens)


def test_an_honest_file_goes_through_every_check_in_their_order() -> None:
    sampling = plain.TruthfulSampling(SEED)
    examination = examined(sampling=sampling)
    assert examination.reject is None
    assert checks_of(examination.findings) == list(CHECKS)
    assert sampling.asked == ["measure", "alternatives"]
    assert len(examination.identities) == 32


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (outside_the_vocabulary, "schema"),
        (lambda records: records.pop(), "schema"),
        (lambda records: records.reverse(), "schema"),
        (another_prompt, "prompt"),
        (ends_early, "termination"),
    ],
    ids=["vocabulary", "incomplete group", "order", "prompt", "termination"],
)
def test_a_stage_that_rejects_ends_it_before_anything_is_measured(change: Change, check: str) -> None:
    sampling = plain.TruthfulSampling(SEED)
    examination = examined(change, sampling=sampling)
    assert examination.reject is not None
    assert examination.reject.check == check == checks_of(examination.findings)[-1]
    assert checks_of(examination.findings) == list(CHECKS[: CHECKS.index(check) + 1])
    assert sampling.asked == []
    assert examination.evidence is None


def test_alternatives_are_asked_for_only_where_nothing_else_rejects() -> None:
    for sampling, check in ((plain.TruthfulSampling(SEED, offset=0.5), "proof"), (_Unbelieving(SEED), "reward")):
        examination = examined(sampling=sampling)
        assert examination.reject is not None
        assert examination.reject.check == check
        assert sampling.asked == ["measure"]


class _Unbelieving(plain.TruthfulSampling):
    """Judges one rollout differently from its claim."""

    def _evidence(self, record: RolloutRecord) -> RolloutEvidence:
        found = super()._evidence(record)
        if (record.group, record.rollout) != (1, 4):
            return found
        return replace(found, grade=replace(found.grade, reward=1.0 - record.reward, success=not record.success))


class _Comparing(plain.TruthfulSampling):
    """Adds what two named models would have given: the current one, and an earlier one that is far from the claims."""

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        self.asked.append("alternatives")
        return replace(evidence, rollouts=tuple(replace(one, compared=compared(one)) for one in evidence.rollouts))


def compared(one: RolloutEvidence) -> ComparedRollout:
    """Under an earlier model that is far from the claims, and another temperature."""
    assert one.reference is not None
    z, m = one.reference.z, len(one.positions)
    leads = Leads(np.full(m, 0.5, np.float32), np.full(m, -0.5, np.float32), np.full(m, 3, np.int32))
    return ComparedRollout(
        tuple(one.positions.tolist()),
        {"current": z, "own": one.z, "previous-1": z + np.float32(0.05)},
        {"previous-1": leads, "temperature x 0.9": leads},
        one.reference.noise,
        one.reference.spread,
    )


def test_every_alternative_that_was_measured_is_decided_on() -> None:
    told = [f.detail.partition(":")[0] for f in examined(sampling=_Comparing(SEED)).findings]
    assert told[-2:] == ["previous-1 (tokens)", "temperature x 0.9 (tokens)"]
    assert told.count("previous-1") == 1
    assert not any("previous-1" in f.detail for f in examined(sampling=plain.TruthfulSampling(SEED)).findings)


def test_what_is_decided_can_be_decided_again_from_the_evidence() -> None:
    for sampling in (plain.TruthfulSampling(SEED), plain.TruthfulSampling(SEED, offset=0.5), _Unbelieving(SEED)):
        examination = examined(sampling=sampling)
        assert examination.submission is not None
        assert examination.evidence is not None
        again = decide(examination.submission, examination.evidence, shipped_table(), CONTEXT.params)
        assert examination.findings[-len(again) :] == again


EMPTY = np.zeros(0, np.int32)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda e: replace(e, content_digest=Digest(bytes(32))), "another file"),
        (lambda e: replace(e, inconclusive=-1), "less than no"),
        (lambda e: replace(e, rollouts=(*e.rollouts, e.rollouts[0])), "twice"),
        (lambda e: with_first(e, group=99), "no such rollout"),
        (lambda e: with_first(e, positions=e.rollouts[0].positions[::-1]), "ascending"),
        (lambda e: with_first(e, positions=e.rollouts[0].positions + 10_000), "outside a completion"),
        (lambda e: with_first(e, positions=e.rollouts[0].positions - 10_000), "outside a completion"),
        (lambda e: replace(e, rollouts=()), "of no rollout"),
        (lambda e: replace(e, rollouts=tuple(map(nowhere, e.rollouts))), "positions that are none"),
        (lambda e: with_first(e, **vars(nowhere(e.rollouts[0]))), "positions that are none"),
        (lambda e: with_first(e, positions=EMPTY), "positions that are none"),
        (lambda e: with_first(e, z=e.rollouts[0].z[:, :3]), "z of shape"),
        (lambda e: with_first(e, logprob=e.rollouts[0].logprob[1:]), "logprob of shape"),
        (lambda e: with_first(e, margin=e.rollouts[0].margin[1:]), "margin of shape"),
        (lambda e: with_reference(e, z=e.rollouts[0].z[1:]), "reference z of shape"),
        (lambda e: with_reference(e, twins=e.rollouts[0].margin[1:]), "reference twins of shape"),
        *(
            (lambda e, name=name, value=value: with_reference(e, **{name: e.rollouts[0].margin + value}), "no measurement has")
            for name in ("margins", "twins", "noise", "spread")
            for value in (-5.0, *((5.0, 3e38) if name != "noise" else ()))
        ),
        (lambda e: with_first(e, margin=e.rollouts[0].margin - 1), "no measurement has"),
        (lambda e: with_first(e, margin=e.rollouts[0].margin + 5), "no measurement has"),
        (lambda e: with_compared(e, positions=()), "compared positions that are none"),
        (lambda e: with_compared(e, positions=(3, 2)), "not ascending"),
        (lambda e: with_compared(e, positions=(10_000,)), "outside a completion"),
        (lambda e: with_compared(e, positions=tuple(range(1, len(e.rollouts[0].positions)))), "without the challenged"),
        (lambda e: with_compared(e, z={}), "without the sketches of the reference, or of the own"),
        *(
            (lambda e, name=name, change=change: with_sketches(e, name, change), complaint)
            for name in ("current", "own")
            for change, complaint in (
                (lambda z: z[1:], f"z of '{name}' of shape"),
                (lambda z: z * np.float32("nan"), "that no comparison gives"),
            )
        ),
        *(
            (lambda e, name=name: with_compared(e, z={name: e.rollouts[0].z}), "without the sketches of the reference, or")
            for name in ("current", "own", "previous-1")
        ),
        (lambda e: with_compared(e, noise=e.rollouts[0].margin - 1), "noise that no comparison gives"),
        (lambda e: with_compared(e, spread=e.rollouts[0].margin + 2), "spread that no comparison gives"),
        (lambda e: with_names(e, "int5", "int8"), "a comparison with 'int5', which"),
        (lambda e: with_names(e, "temperature x 0.9", "int8"), "a comparison with 'temperature x 0.9', which"),
        (lambda e: with_names(e, "int8", "\x1b[2J"), r"a comparison with '\\x1b\[2J', which"),
        *(
            (lambda e, name=name: with_names(e, "int8", name), f"a comparison with '{name}', which")
            for name in ("current", "own")
        ),
        (lambda e: with_names(e, "int8", "int4-groups"), "leads of 'int4-groups' without its sketches"),
        (lambda e: with_other_reference(e, z=1 / 2048), "another reference than its own"),
        (lambda e: with_other_reference(e, spread=0.1), "another spread"),
        (lambda e: with_noise(e, 20.0), "another noise"),
        (lambda e: with_noise(e, 0.05), "another noise"),
        (lambda e: with_own_drift(e, 20.0), "another own drift"),
        (lambda e: with_own_drift(e, 0.05), "another own drift"),
        (lambda e: with_leads(e, own=-1.0), "own leads of 'previous-1' that"),
        (lambda e: with_leads(e, own=50.5), "own leads of 'previous-1' that"),
        (lambda e: with_leads(e, other=float("nan")), "other leads of 'previous-1' that"),
        (lambda e: with_leads(e, rival=-2), "rivals of 'previous-1' that"),
    ],
)
def test_evidence_that_is_not_of_the_file_decides_nothing(
    change: Callable[[MinerEvidence], MinerEvidence], complaint: str
) -> None:
    examination = examined(sampling=plain.TruthfulSampling(SEED))
    assert examination.submission is not None
    assert examination.evidence is not None
    with pytest.raises(ProtocolViolationError, match=complaint):
        decide(examination.submission, change(examination.evidence), shipped_table(), CONTEXT.params)


NUMBERS = (
    *(("z", "logprob", "margin")),
    *(f"reference {name}" for name in ("z", "logprobs", "margins", "twins", "noise", "spread")),
    *(f"compared {name}" for name in ("noise", "spread", "current", "own", "previous-1")),
    *(f"leads {name}" for name in ("own", "other", "rival")),
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NUMBERS)
def test_whatever_numbers_evidence_holds_it_is_decided_on_or_refused(name: str) -> None:
    submission, evidence = examined_with_evidence()
    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e19, 50.0, 1.0, 1e-30, 0.0, -1e-30, -1.0, -10.0):
        for places in (range(1), range(len(evidence.rollouts))):
            rollouts = [put(one, name, value) if at in places else one for at, one in enumerate(evidence.rollouts)]
            try:
                found = decide(submission, replace(evidence, rollouts=tuple(rollouts)), shipped_table(), CONTEXT.params)
            except ProtocolViolationError:
                continue
            assert checks_of(found)[0] == "reward"


def examined_with_evidence() -> tuple[Submission, MinerEvidence]:
    """Of an honest file, every rollout compared."""
    examination = examined(sampling=plain.TruthfulSampling(SEED))
    assert examination.submission is not None
    assert examination.evidence is not None
    rollouts = tuple(replace(one, compared=compared(one)) for one in examination.evidence.rollouts)
    return examination.submission, replace(examination.evidence, rollouts=rollouts)


def put(one: RolloutEvidence, name: str, value: float) -> RolloutEvidence:
    """This number of a rollout, throughout; where it is the reference's it has no comparison to agree with."""
    part, _, field = name.rpartition(" ")
    if not part:
        return replace(one, **{field: np.full_like(getattr(one, field), value)})
    if part == "reference":
        assert one.reference is not None
        reference = replace(one.reference, **{field: np.full_like(getattr(one.reference, field), value)})
        return replace(one, reference=reference, compared=None)
    assert one.compared is not None
    if part == "leads":
        leads = one.compared.leads["previous-1"]
        old = getattr(leads, field)
        new = np.full_like(old, value) if field != "rival" else np.full_like(old, int(np.clip(np.nan_to_num(value), -9, 9)))
        told = {**one.compared.leads, "previous-1": replace(leads, **{field: new})}
        return replace(one, compared=replace(one.compared, leads=told))
    if field in one.compared.z:
        z = {**one.compared.z, field: np.full_like(one.compared.z[field], value)}
        return replace(one, compared=replace(one.compared, z=z))
    return replace(one, compared=replace(one.compared, **{field: np.full_like(getattr(one.compared, field), value)}))


def nowhere(one: RolloutEvidence) -> RolloutEvidence:
    """Measured at no position, in good form."""
    none = one.margin[:0]
    return replace(one, positions=EMPTY, z=one.z[:0], logprob=none, margin=none, reference=None)


def with_first(evidence: MinerEvidence, **changes: object) -> MinerEvidence:
    first, *others = evidence.rollouts
    return replace(evidence, rollouts=(replace(first, **changes), *others))  # type: ignore[arg-type]


def with_reference(evidence: MinerEvidence, **changes: object) -> MinerEvidence:
    first = evidence.rollouts[0]
    assert first.reference is not None
    return with_first(evidence, reference=replace(first.reference, **changes))  # type: ignore[arg-type]


def with_compared(evidence: MinerEvidence, **changes: object) -> MinerEvidence:
    return with_first(evidence, compared=replace(compared(evidence.rollouts[0]), **changes))  # type: ignore[arg-type]


def with_names(evidence: MinerEvidence, sketched: str, drawn: str) -> MinerEvidence:
    """Compared under these names, by sketches and by tokens."""
    found = compared(evidence.rollouts[0])
    z = {"current": found.z["current"], "own": found.z["own"], sketched: found.z["previous-1"]}
    return with_compared(evidence, z=z, leads={drawn: found.leads["previous-1"]})


def with_other_reference(evidence: MinerEvidence, z: float = 0.0, spread: float = 0.0) -> MinerEvidence:
    """So far from the reference at one position."""
    found = compared(evidence.rollouts[0])
    sketches, spreads = found.z["current"].copy(), found.spread.copy()
    sketches[-1] += z
    spreads[-1] += spread
    return with_compared(evidence, z={**found.z, "current": sketches}, spread=spreads)


def with_sketches(evidence: MinerEvidence, name: str, change: Callable[[Sketches], Sketches]) -> MinerEvidence:
    """Of one that the first rollout is compared with."""
    z = compared(evidence.rollouts[0]).z
    return with_compared(evidence, z={**z, name: change(z[name])})


def with_own_drift(evidence: MinerEvidence, factor: float) -> MinerEvidence:
    """All are compared with so many times the drift, in variance, of the first pass."""
    rollouts = []
    for one in evidence.rollouts:
        found = compared(one)
        reference = found.z["current"]
        own = reference + (one.z - reference) * np.float32(math.sqrt(factor))
        rollouts.append(replace(one, compared=replace(found, z={**found.z, "own": own})))
    return replace(evidence, rollouts=tuple(rollouts))


def with_noise(evidence: MinerEvidence, factor: float) -> MinerEvidence:
    """All are compared with so many times the noise beside their references."""
    rollouts = [(one, compared(one)) for one in evidence.rollouts]
    changed = [replace(one, compared=replace(found, noise=found.noise * np.float32(factor))) for one, found in rollouts]
    return replace(evidence, rollouts=tuple(changed))


def with_leads(evidence: MinerEvidence, **changes: float) -> MinerEvidence:
    """One alternative's leads, each number that is given put throughout."""
    leads = compared(evidence.rollouts[0]).leads["previous-1"]
    changed = {name: np.full_like(getattr(leads, name), value) for name, value in changes.items()}
    return with_compared(evidence, leads={"previous-1": replace(leads, **changed)})


def test_an_examination_goes_on_with_another_sample_and_not_past_a_reject() -> None:
    whole = examined()
    assert checks_of(whole.findings) == list(CHECKS[: CHECKS.index("reward")])
    context = plain.check_context(CONTEXT, MINER.hotkey)
    for seed in (SEED, Digest(b"t" * 32)):
        sampled = examine_sample(whole, context, plain.TruthfulSampling(seed))
        assert checks_of(sampled.findings) == list(CHECKS)
    rejected, sampling = examined(ends_early), plain.TruthfulSampling(SEED)
    assert examine_sample(rejected, context, sampling) is rejected
    assert sampling.asked == []


def test_repeated_and_known_rollouts_do_not_count_and_do_not_reject() -> None:
    whole = examined()
    known = frozenset(whole.identities[:10])
    examination = examined(history=known)
    assert examination.reject is None
    assert set(examination.identities) == set(whole.identities) - known
    unique = next(finding for finding in examination.findings if finding.check == "unique")
    assert (unique.value, unique.outcome) == (22, Outcome.ACCEPT)


def forged(index: int, field: str, value: object) -> Change:
    """A rollout whose writer went around the record's own rules; its digest and the file's signature are right all the same."""

    def change(records: list[RolloutRecord]) -> None:
        record = copy.copy(records[index])
        object.__setattr__(record, field, value)
        records[index] = record

    return change


ROW = plain.rollouts(CONTEXT, MINER, range(1))[7]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rollout", 16),
        ("group", -1),
        ("prompt_length", 0),
        ("prompt_length", len(ROW.tokens)),
        ("tokens", np.where(np.arange(len(ROW.tokens)) == 3, -5, ROW.tokens).astype(np.int32)),
        ("logprobs", ROW.logprobs[:-1].copy()),
        ("logprobs", np.full_like(ROW.logprobs, np.nan)),
        ("logprobs", np.full_like(ROW.logprobs, -0.0)),
        ("sketches", bytes(ROW.sketches)[:-8]),
        ("sketches", b"\x00\x80" + bytes(ROW.sketches)[2:]),
        ("reward", float("inf")),
        ("reward", -0.0),
    ],
)
def test_a_rollout_that_breaks_the_records_own_rules_is_named_when_the_file_is_opened(field: str, value: object) -> None:
    """One copy of these rules: the record's. A signed file of such rollouts fails with the place and the rule."""
    examination = examined(forged(7, field, value), sampling=plain.TruthfulSampling(SEED))
    assert examination.submission is None
    assert examination.reject is not None
    assert examination.reject.check == "schema"
    assert examination.reject.detail.startswith("row 7 breaks the record's rules: ")


def test_bytes_come_with_their_digest() -> None:
    with pytest.raises(TypeError, match="digest"):
        examine(b"PAR1", plain.check_context(CONTEXT, MINER.hotkey))
    examination = examine(b"PAR1", plain.check_context(CONTEXT, MINER.hotkey), content_digest=SEED)
    assert examination.submission is None
    assert examination.reject is not None
    assert examination.reject.check == "file"
