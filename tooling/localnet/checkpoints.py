"""The published checkpoints of a run, and the evaluation of each of them.

Manifests are read and verified as any reader does; folders are materialised through the reader's own path, deltas and all,
so that what is evaluated is what the miners ran.
"""

from __future__ import annotations

import os

from grail_core.checkpoints.manifests import list_manifests
from grail_core.checkpoints.source import CheckpointSource
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest
from tooling.localnet.evaluation import EvaluationTask
from tooling.localnet.plan import Layout, Plan
from tooling.localnet.processes import evaluate_command, init_environment
from tooling.localnet.remote_stores import bucket_of, reader_of
from tooling.localnet.setup import TRAINER, Network


def published_manifests(network: Network, layout: Layout) -> list[CheckpointManifest]:
    """Every verified manifest in the trainer's bucket, oldest first."""
    view = list_manifests(
        bucket_of(layout, TRAINER),
        trainer_hotkey=network.params.trainer_hotkey,
        network_id=Digest(network.network_id),
    )
    return [stored.manifest for stored in view.stored]


class EvaluationPlanner:
    """Which checkpoints to evaluate: the first and the last, the others too unless the run is quick or a control."""

    def __init__(self, plan: Plan, layout: Layout, network: Network) -> None:
        self._plan = plan
        self._layout = layout
        self._network = network

    def tasks(self) -> list[EvaluationTask]:
        manifests = published_manifests(self._network, self._layout)
        if not manifests:
            return []
        ends = (manifests[0], manifests[-1])
        only_ends = self._plan.quick or self._plan.learning_rate is not None  # a control run has no curve
        chosen = [m for m in manifests if m in ends or not only_ends]
        chosen.sort(key=lambda m: (m not in ends, m.sequence))  # what matters most first
        source = CheckpointSource(
            self._network.chain,
            reader_of(self._layout),
            self._network.params,
            Digest(self._network.network_id),
            self._layout.cache("evaluation"),
        )
        environment = replace_threads(init_environment(self._plan))
        first = manifests[0].valid_from
        return [
            EvaluationTask(
                label=f"checkpoint-{m.sequence}",
                valid_from=m.valid_from,
                window_index=(m.window - first) // WINDOW_LENGTH + 1 if m.sequence else 0,
                argv=evaluate_command(self._plan, source.materialise(m)),
                env=environment
                | {"GRAIL_CACHE_DIR": str(self._layout.cache("evaluation")), "GRAIL_NETWORK": str(self._layout.network)},
                folder=self._layout.evaluations,
            )
            for m in chosen
        ]


def replace_threads(environment: dict[str, str]) -> dict[str, str]:
    """One thread per evaluation: as many run at a time as there are processors."""
    return environment | {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.cpu_count()}
