"""A run of gradient work: network → first checkpoint → processes → rounds → held-out loss → summary and report."""

from __future__ import annotations

import json

from grail_core.disk import write_atomically
from grail_core.errors import ChainError, StorageError
from tooling.localnet.checkpoints import published_manifests
from tooling.localnet.plan import State
from tooling.localnet.processes import PRESET, Processes
from tooling.localnet.rounds.collect import collect_facts
from tooling.localnet.rounds.facts import LossFact
from tooling.localnet.rounds.page import render
from tooling.localnet.rounds.summary import RoundsSummary, summarise
from tooling.localnet.rounds.windows import Rounds
from tooling.localnet.running import Running
from tooling.localnet.setup import Network
from tooling.localnet.windows import events_of

NOWHERE = "http://127.0.0.1:9"
"""What begins a network asks no beacon."""
HELD_OUT, QUICK_HELD_OUT = 512, 128
"""Sequences of the curve."""


class GradientLocalnet(Running[RoundsSummary]):
    def _begin(self) -> Network:
        network = super()._begin()
        if not published_manifests(network, self._layout):
            self._view.say(
                "trainer", f"begins a network of gradient work (grail-trainer init --work gradient --preset {PRESET})"
            )
            spec = Processes(self._plan, self._layout, network, NOWHERE).begin()
            self._run_to_its_end(spec.argv, spec.env)
        return network

    def _windows_of(self, network: Network, state: State) -> Rounds:
        return Rounds(self._plan, self._layout, network, self._supervisor, self._view, state, self._check_stop)

    def _conclude(self, network: Network, state: State, why: str) -> RoundsSummary:
        """Score the checkpoints, collect, and write summary and report."""
        losses: list[LossFact] = []
        rounds_done = not why
        if rounds_done:
            losses, why = self._losses(network)
        known = self._added(state, finished=rounds_done)
        known.write(self._layout.state)
        events = self._windows.events if self._windows is not None else events_of(self._plan, self._layout.logs)
        facts = collect_facts(self._plan, self._layout, network, known, events, losses, why, self._command)
        summary = summarise(facts)
        write_atomically(self._layout.summary, (json.dumps(summary.to_json(), indent=2) + "\n").encode())
        write_atomically(self._layout.report, render(facts, summary).encode())
        return summary

    def _losses(self, network: Network) -> tuple[list[LossFact], str]:
        from tooling.localnet.rounds.losses import held_out_losses

        count = QUICK_HELD_OUT if self._plan.quick else HELD_OUT
        self._view.say("evaluation", f"every checkpoint on {count} held-out sequences")
        try:
            return held_out_losses(network, self._layout, count, pause=self._check_stop), ""
        except (StorageError, ChainError, OSError) as error:
            return [], f"the checkpoints could not be evaluated: {error}"
