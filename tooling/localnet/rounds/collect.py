"""From what a run of gradient work left on disk to `RoundsFacts`: signed verdicts, manifests, objects, the chain, event files.

Verdicts and manifests are verified as any participant would; one that does not verify is an error of the run and is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from grail_core.files.verdicts import read_round_verdict
from grail_core.protocol.findings import Outcome
from grail_core.protocol.gradient.merged import Merged
from grail_core.protocol.gradient.rating import NANO
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.protocol.verdicts import WindowStatus
from grail_core.storage.layout import opening_key, update_key
from grail_envs.corpus import bytes_1
from tooling.localnet.checkpoints import published_manifests
from tooling.localnet.events import Event
from tooling.localnet.plan import Layout, Plan, State
from tooling.localnet.processes import PRESET
from tooling.localnet.remote_stores import bucket_of
from tooling.localnet.report import collect
from tooling.localnet.report.facts import PhaseFact, RejectFact, RunFacts, WindowFact
from tooling.localnet.rounds.facts import LossFact, MergeFact, MinerRoundFact, RoundsFacts, StandingFact
from tooling.localnet.rounds.status import SPEC
from tooling.localnet.setup import Network

LOSS_UNIT = 1 << 20
"""Of a nat: what losses and scores are counted in."""
PHASES = {
    "round_trained": ("miner", "train and pack", "seconds"),
    "round_judged": ("validator", "judge", "seconds_verify"),
}

Verdicts = Mapping[int, Mapping[str, SignedGradientVerdict]]
"""By round and validator."""


def collect_facts(
    plan: Plan,
    layout: Layout,
    network: Network,
    state: State,
    events: Sequence[Event],
    losses: Sequence[LossFact],
    why_unfinished: str,
    command: str,
) -> RoundsFacts:
    """As `report.assemble.collect_facts`."""
    manifests = published_manifests(network, layout)
    first = min((m.valid_from for m in manifests if m.sequence == 0), default=None)
    length = SPEC.round_blocks
    rounds = range(first, first + length * plan.windows, length) if first is not None else range(0)
    found = verdicts_of(network, layout, plan.validator_names(), rounds)
    merges = merge_facts(manifests, network)
    run = RunFacts(
        env_id=f"gradient ({PRESET})",
        seed=plan.seed,
        quick=plan.quick,
        model="made by grail-trainer init --work gradient",
        windows_asked=plan.windows,
        first_window=first,
        block_time_ms=network.params.block_time_ms,
        started_at=state.started_at,
        seconds_total=state.seconds_before,
        finished=not why_unfinished,
        why_unfinished=why_unfinished,
        miners=network.miners,
        validators=plan.validator_names(),
        windows=round_facts(found, first or 0, plan.validator_names()),
        rejects=reject_facts(found, network),
        checkpoints=collect.checkpoint_facts(manifests),
        weights=collect.weight_facts(network, events),
        phases=phase_facts(events),
        processes=state.processes,
        not_waited=state.not_waited,
        real_time=plan.real_time,
        seconds_in_windows=state.seconds_in_windows,
        parameters=collect.parameter_facts(network),
        versions=collect.versions(),
        machine=collect.machine(),
        command=command,
        parameters_total=collect.model_parameters(layout.model),
    )
    return RoundsFacts(
        run=run,
        preset=PRESET,
        miner_rounds=miner_facts(found, merges, network, layout),
        standings=standing_facts(found, network),
        merges=merges,
        losses=tuple(losses),
        floor=bytes_1.ENTROPY if SPEC.corpus == bytes_1.NAME else None,
    )


def verdicts_of(
    network: Network, layout: Layout, validators: Iterable[str], rounds: Iterable[int]
) -> dict[int, dict[str, SignedGradientVerdict]]:
    stores = {name: bucket_of(layout, name) for name in validators}
    found: dict[int, dict[str, SignedGradientVerdict]] = {}
    for round_ in rounds:
        found[round_] = {}
        for name, store in stores.items():
            verdict = read_round_verdict(store, Window(round_), network.signers[name].hotkey, network.network_id)
            if verdict is not None:
                found[round_][name] = verdict
    return found


def round_facts(found: Verdicts, first: int, validators: Sequence[str]) -> tuple[WindowFact, ...]:
    """Bodies are compared byte for byte. A validator that missed a round has another memory, and differs."""
    facts = []
    for round_, by_validator in sorted(found.items()):
        scored = {n: v.body for n, v in by_validator.items() if v.body.status is WindowStatus.SCORED}
        missed = {n: f"{v.body.status.value}: {v.body.reason}" for n, v in by_validator.items() if n not in scored}
        missed |= {name: "no verdict was published" for name in validators if name not in by_validator}
        equal = len({body.digest() for body in scored.values()}) == 1 if len(scored) > 1 else None
        index = (round_ - first) // SPEC.round_blocks
        facts.append(WindowFact(round_, index, tuple(scored), missed, equal, rows_announced=0, rows_verified=0))
    return tuple(facts)


def reject_facts(found: Verdicts, network: Network) -> tuple[RejectFact, ...]:
    names = names_of(network)
    return tuple(
        RejectFact(
            validator=validator,
            window=round_,
            miner=names[miner.hotkey],
            check=finding.check,
            value="" if finding.value is None else str(finding.value),
            threshold="" if finding.threshold is None else str(finding.threshold),
            detail=finding.detail,
        )
        for round_, by_validator in sorted(found.items())
        for validator, verdict in by_validator.items()
        for miner in verdict.body.miners
        for finding in miner.findings
        if finding.outcome is Outcome.REJECT and miner.hotkey in names
    )


def miner_facts(found: Verdicts, merges: Sequence[MergeFact], network: Network, layout: Layout) -> tuple[MinerRoundFact, ...]:
    """From the first validator that scored a round."""
    names, merged = names_of(network), {(one.round, name) for one in merges for name in one.merged}
    hotkeys = {miner.name: miner.hotkey for miner in network.miners}
    stores = {miner.name: bucket_of(layout, miner.name) for miner in network.miners}
    facts = []
    for round_, by_validator in sorted(found.items()):
        body = next((v.body for v in by_validator.values() if v.body.status is WindowStatus.SCORED), None)
        for one in () if body is None else body.miners:
            name = names.get(one.hotkey)
            if name is None:
                continue
            own, scale = hotkeys[name], SPEC.common * LOSS_UNIT
            update = stores[name].head(update_key(own, Window(round_)))
            opening = stores[name].head(opening_key(own, Window(round_)))
            facts.append(
                MinerRoundFact(
                    round=round_,
                    miner=name,
                    outcome=one.status.value,
                    reason=one.reason,
                    declared=one.declared,
                    score=None if one.score is None else one.score.score / scale,
                    error=None if one.score is None else one.score.error / scale,
                    rank=None if one.score is None else one.score.rank,
                    merged=(round_, name) in merged,
                    update_bytes=None if update is None else update.size,
                    opening_bytes=None if opening is None else opening.size,
                )
            )
    return tuple(facts)


def standing_facts(found: Verdicts, network: Network) -> tuple[StandingFact, ...]:
    """Of the newest scored body of the first validator that has one."""
    scored = [
        verdict.body
        for _, by_validator in sorted(found.items())
        for verdict in by_validator.values()
        if verdict.body.status is WindowStatus.SCORED
    ]
    if not scored:
        return ()
    body, names = max(scored, key=lambda body: body.window), names_of(network)
    return tuple(
        StandingFact(
            names[hotkey],
            body.standings[uid].rating.mu / NANO,
            body.standings[uid].rating.sigma / NANO,
            body.powers[uid],
        )
        for uid, hotkey in sorted(body.hotkeys.items())
        if hotkey in names
    )


def merge_facts(manifests: Iterable[CheckpointManifest], network: Network) -> tuple[MergeFact, ...]:
    names, uids = names_of(network), {miner.uid: miner.name for miner in network.miners}
    facts = []
    for manifest in manifests:
        if not manifest.sequence:
            continue
        merged = Merged.from_json(dict(manifest.training))
        facts.append(
            MergeFact(
                round=merged.round,
                sequence=manifest.sequence,
                merged=tuple(names.get(one.hotkey, "?") for one in merged.merged),
                dropped={uids.get(one.uid, "?"): one.score / (SPEC.guard * LOSS_UNIT) for one in merged.dropped},
                update_bytes=merged.size,
            )
        )
    return tuple(facts)


def phase_facts(events: Iterable[Event]) -> tuple[PhaseFact, ...]:
    facts = []
    for event in events:
        role, phase, member = PHASES.get(event.name, ("", "", ""))
        seconds = event.number(member) if member else None
        if seconds is not None:
            facts.append(PhaseFact(event.integer("window") or 0, event.process, role, phase, seconds))
    return tuple(facts)


def names_of(network: Network) -> dict[bytes, str]:
    return {bytes(network.signers[miner.name].hotkey): miner.name for miner in network.miners}
