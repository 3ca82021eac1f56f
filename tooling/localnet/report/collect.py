"""From what a run left on disk to `RunFacts`: signed verdicts, manifests, training logs, the chain, event files.

Verdicts and manifests are verified as any participant would; one that does not verify is an error of the run and is said,
never skipped. Timings come from event files, which nothing else depends on.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from grail_core.files.verdicts import read_verdict
from grail_core.proof.calibration import STATISTICS
from grail_core.protocol import MinerStatus, Outcome, SignedVerdict, VerdictBody, WindowStatus, score_inputs
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import SUBNET_81
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import ObjectStore
from grail_core.verification.model_checks import NOT_ENFORCED
from grail_trainer.metrics import METRICS
from tooling.localnet.events import Event
from tooling.localnet.report.facts import (
    AlarmFact,
    CheckpointFact,
    MinerWindowFact,
    ParameterFact,
    PhaseFact,
    RejectFact,
    TrainingFact,
    WeightFact,
    WindowFact,
)
from tooling.localnet.setup import Network

VERSIONED = (
    "grail-core",
    "grail-envs",
    "grail-miner",
    "grail-validator",
    "grail-trainer",
    "torch",
    "transformers",
    "numpy",
    "zstandard",
)
PHASES = {
    "window_mined": ("generate", "grade", "prove", "pack", "upload"),
    "window_judged": ("load", "verify"),
    "window_trained": ("verify", "train"),
    "checkpoint_published": ("publish",),
}
ROLES = {"window_mined": "miner", "window_judged": "validator"}


def verdicts(
    network: Network, stores: Mapping[str, ObjectStore], windows: Iterable[int]
) -> dict[int, dict[str, SignedVerdict]]:
    """Verified verdicts by window and validator."""
    found: dict[int, dict[str, SignedVerdict]] = {}
    for window in windows:
        found[window] = {}
        for name, store in stores.items():
            verdict = read_verdict(store, Window(window), network.signers[name].hotkey, network.network_id)
            if verdict is not None:
                found[window][name] = verdict
    return found


def window_facts(
    found: Mapping[int, Mapping[str, SignedVerdict]], first: int, validators: Sequence[str]
) -> tuple[WindowFact, ...]:
    """What all validators together say of each window.

    Bodies are compared byte for byte. Scores and weights sum up a validator's own windows, so once one of two validators has
    missed a window (and said so), theirs differ by rule: from then on bodies are compared without these two members.
    """
    facts = []
    behind: set[str] = set()  # validators that missed a window of this run
    for window, by_validator in sorted(found.items()):
        scored = {n: v.body for n, v in by_validator.items() if v.body.status is WindowStatus.SCORED}
        missed = {n: f"{v.body.status.value}: {v.body.reason}" for n, v in by_validator.items() if n not in scored}
        missed |= {name: "no verdict was published" for name in validators if name not in by_validator}
        with_scores = not behind & scored.keys()
        digests = {(body if with_scores else _without_scores(body)).canonical() for body in scored.values()}
        behind |= missed.keys()
        rows = next(iter(scored.values())).miners if scored else ()
        facts.append(
            WindowFact(
                window=window,
                index=(window - first) // WINDOW_LENGTH,
                judged_by=tuple(scored),
                missed_by=missed,
                bodies_equal=len(digests) == 1 if len(scored) > 1 else None,
                scores_compared=with_scores,
                rows_announced=sum(m.declared for m in rows),
                rows_verified=sum(m.unique_valid for m in rows),
            )
        )
    return tuple(facts)


def _without_scores(body: VerdictBody) -> VerdictBody:
    """Memory alone decides scores, weights and chances."""
    blank = score_inputs((), body.window)
    miners = [m if m.coin is None else dataclasses.replace(m, check_probability=Fraction(1)) for m in body.miners]
    return dataclasses.replace(body, miners=tuple(miners), score_inputs=dict.fromkeys(body.hotkeys, blank), weights={})


def miner_facts(
    found: Mapping[int, Mapping[str, SignedVerdict]], network: Network
) -> tuple[tuple[MinerWindowFact, ...], tuple[RejectFact, ...]]:
    """Each miner's outcome per window, from the first validator that scored it, and the rejects of all validators."""
    names = {network.signers[m.name].hotkey: m.name for m in network.miners}
    outcomes, rejects = [], []
    for window, by_validator in sorted(found.items()):
        scored = [(name, v.body) for name, v in by_validator.items() if v.body.status is WindowStatus.SCORED]
        for position, (validator, body) in enumerate(scored):
            for miner in body.miners:
                if miner.hotkey not in names:
                    continue
                failing = [f for f in miner.findings if f.outcome is Outcome.REJECT]
                for finding in failing:
                    rejects.append(
                        RejectFact(
                            validator=validator,
                            window=window,
                            miner=names[miner.hotkey],
                            check=finding.check,
                            value=_text(finding.value),
                            threshold=_text(finding.threshold),
                            detail=finding.detail,
                        )
                    )
                if position == 0:
                    reason = miner.reason if miner.status is not MinerStatus.ACCEPTED else ""
                    outcomes.append(
                        MinerWindowFact(
                            window=window,
                            miner=names[miner.hotkey],
                            outcome=miner.status.value,
                            declared=miner.declared,
                            unique_valid=miner.unique_valid,
                            reason=reason,
                        )
                    )
    return tuple(outcomes), tuple(rejects)


def unenforced(found: Mapping[int, Mapping[str, SignedVerdict]]) -> tuple[str, ...]:
    """The pooled statistics that some verdict reports without acting on them."""
    details = {
        finding.detail
        for by_validator in found.values()
        for verdict in by_validator.values()
        for miner in verdict.body.miners
        for finding in miner.findings
        if finding.detail.endswith(NOT_ENFORCED)
    }
    return tuple(name for name in STATISTICS if any(detail.partition(":")[0] == name for detail in details))


def checkpoint_facts(manifests: Iterable[CheckpointManifest]) -> tuple[CheckpointFact, ...]:
    """Sizes as the signed manifests say them. The delta is the one against the direct parent."""
    facts = []
    for manifest in sorted(manifests, key=lambda m: m.sequence):
        full = sum(shard.object.size for shard in manifest.shards) or None
        parent = [d.size for d in manifest.deltas if d.base == manifest.parent]
        changed = manifest.training.get("changed_share")
        facts.append(
            CheckpointFact(
                valid_from=manifest.valid_from,
                sequence=manifest.sequence,
                kind="FULL" if full else "DELTA",
                full_bytes=full,
                delta_bytes=parent[0] if parent else None,
                changed_share=float(changed) if isinstance(changed, str | int) else None,
            )
        )
    return tuple(facts)


def training_facts(events: Iterable[Event]) -> tuple[TrainingFact, ...]:
    """The newest `window_trained` of each window."""
    facts = {}
    for event in events:
        window = event.integer("window")
        if event.name != "window_trained" or window is None:
            continue
        facts[window] = TrainingFact(
            window=window,
            groups=event.integer("groups") or 0,
            reward_mean=event.number("reward_mean"),
            success_mean=event.number("success_mean"),
            seconds_train=event.number("seconds_train"),
            valid_from=event.integer("valid_from"),
            metrics={name: value for name in METRICS if (value := event.number(name)) is not None},
            alarms=tuple(_alarms(event.fields.get("alarms"))),
        )
    return tuple(facts[w] for w in sorted(facts))


def _alarms(value: object) -> Iterator[AlarmFact]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            yield AlarmFact(*(str(one.get(name, "")) for name in ("alarm", "action", "reason")))


def phase_facts(events: Iterable[Event]) -> tuple[PhaseFact, ...]:
    """Seconds by phase, and by rollout where the event says how many there were."""
    facts = []
    for event in events:
        if event.name not in PHASES:
            continue
        window = event.integer("window") or event.integer("valid_from") or 0
        role = ROLES.get(event.name, "trainer")
        for phase in PHASES[event.name]:
            seconds = event.number(f"seconds_{phase}")
            if seconds is not None:
                facts.append(PhaseFact(window, event.process, role, phase, seconds))
        for phase, count in (("generate", "rollouts"), ("verify", "rollouts_checked")):
            seconds, rollouts = event.number(f"seconds_{phase}"), event.integer(count)
            if seconds is not None and rollouts and event.name in ROLES:
                facts.append(PhaseFact(window, event.process, role, f"{phase}, one rollout", seconds / rollouts))
    return tuple(facts)


def weight_facts(network: Network, events: Iterable[Event]) -> tuple[WeightFact, ...]:
    """What the chain had after each `weights_sent`, and `weights_set` of what a killed process sent, read from the chain."""
    names = {network.signers[n].hotkey: n for n in network.signers}
    hidden = network.chain.parameters.rules.reveal_blocks
    head, facts = network.chain.current_block(), []
    seen: set[tuple[str, int]] = set()
    for event in events:
        block = event.integer("block")
        if event.name not in ("weights_sent", "weights_set") or block is None or (event.process, block) in seen:
            continue
        seen.add((event.process, block))
        after = Block(min(block + 2 + hidden, head))  # an extrinsic is included in the block after the one it was sent in
        for hotkey, row in network.chain.weights(after).items():
            if names.get(hotkey) == event.process:
                facts.append(WeightFact(after, event.process, shares_of(row)))
    return tuple(facts)


def shares_of(row: Mapping[int, int]) -> dict[int, float]:
    total = sum(row.values())
    return {uid: weight / total for uid, weight in row.items()} if total else {}


def current_shares(network: Network) -> dict[int, float]:
    """Share of weight by UID now, the mean over validators that set any."""
    rows = [shares_of(row) for row in network.chain.weights().values() if row]
    totals: dict[int, float] = defaultdict(float)
    for row in rows:
        for uid, share in row.items():
            totals[uid] += share / len(rows)
    return dict(totals)


def parameter_facts(network: Network) -> tuple[ParameterFact, ...]:
    return tuple(ParameterFact(d.name, d.reference, d.value) for d in network.params.differences(SUBNET_81))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str]:
    return {
        "processors": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "interpreter": sys.implementation.name,
    }


def model_parameters(folder: Path) -> int | None:
    """How many weights the safetensors files of a folder hold, from their headers."""
    total = 0
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, tensor in header.items():
                if name != "__metadata__":
                    count = 1
                    for dimension in tensor["shape"]:
                        count *= int(dimension)
                    total += count
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return None
    return total or None


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)
