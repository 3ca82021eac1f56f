"""Everything about one run as `RunFacts`: from its folder, its network, its state and its events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grail_core.protocol.constants import WINDOW_LENGTH
from tooling.localnet.checkpoints import published_manifests
from tooling.localnet.events import Event
from tooling.localnet.plan import Layout, Plan, State
from tooling.localnet.remote_stores import bucket_of
from tooling.localnet.report import collect
from tooling.localnet.report.facts import EvaluationFact, RunFacts
from tooling.localnet.setup import Network


def collect_facts(
    plan: Plan,
    layout: Layout,
    network: Network,
    state: State,
    events: Sequence[Event],
    evaluations: Sequence[EvaluationFact],
    why_unfinished: str,
    command: str,
) -> RunFacts:
    """The facts of a run as it stands.

    Args:
        state: with what this start added to it. events: of all starts. why_unfinished: "" for a run that came to its end.
    """
    manifests = published_manifests(network, layout)
    first = min((m.valid_from for m in manifests if m.sequence == 0), default=None)
    windows = range(first, first + WINDOW_LENGTH * plan.windows, WINDOW_LENGTH) if first is not None else range(0)
    stores = {name: bucket_of(layout, name) for name in plan.validator_names()}
    verdicts = collect.verdicts(network, stores, windows)
    miner_windows, rejects = collect.miner_facts(verdicts, network)
    return RunFacts(
        env_id=plan.env_id,
        seed=plan.seed,
        quick=plan.quick,
        model=plan.model or "made by grail-trainer init",
        windows_asked=plan.windows,
        first_window=first,
        block_time_ms=network.params.block_time_ms,
        started_at=state.started_at,
        seconds_total=state.seconds_before,
        finished=not why_unfinished,
        why_unfinished=why_unfinished,
        miners=network.miners,
        validators=plan.validator_names(),
        windows=collect.window_facts(verdicts, first or 0, plan.validator_names()),
        miner_windows=miner_windows,
        rejects=rejects,
        checkpoints=collect.checkpoint_facts(manifests),
        training=collect.training_facts(events),
        evaluations=tuple(evaluations),
        weights=collect.weight_facts(network, events),
        phases=collect.phase_facts(events),
        processes=state.processes,
        not_waited=state.not_waited,
        unenforced=collect.unenforced(verdicts),
        real_time=plan.real_time,
        seconds_in_windows=state.seconds_in_windows,
        parameters=collect.parameter_facts(network),
        versions=collect.versions(),
        machine=collect.machine(),
        command=command,
        parameters_total=collect.model_parameters(Path(plan.model) if plan.model else layout.model),
    )
