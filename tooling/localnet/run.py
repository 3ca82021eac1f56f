"""A run of rollouts: network → model → processes → windows → evaluation → summary and report."""

from __future__ import annotations

import dataclasses

from grail_core.disk import write_atomically
from grail_core.errors import ChainError, StorageError
from tooling.localnet.auditing import run_audit
from tooling.localnet.checkpoints import EvaluationPlanner
from tooling.localnet.evaluation import run_evaluations
from tooling.localnet.plan import Layout, Plan, State
from tooling.localnet.report.assemble import collect_facts
from tooling.localnet.report.facts import AuditFact, EvaluationFact
from tooling.localnet.report.report import render
from tooling.localnet.report.summary import Summary, summarise, write_summary
from tooling.localnet.running import Running
from tooling.localnet.setup import Network
from tooling.localnet.view import View
from tooling.localnet.windows import events_of


class Localnet(Running[Summary]):
    def __init__(self, plan: Plan, layout: Layout, view: View, command: str) -> None:
        super().__init__(plan, layout, view, command)
        self.evaluations: list[EvaluationFact] = []

    def _begin(self) -> Network:
        self._make_model()
        return super()._begin()

    def _conclude(self, network: Network, state: State, why: str) -> Summary:
        """Evaluate, collect, and write summary and report."""
        windows_done = not why
        if windows_done:
            self.evaluations, why = self._evaluate(network)
        known = self._added(state, finished=windows_done)
        known.write(self._layout.state)
        events = self._windows.events if self._windows is not None else events_of(self._plan, self._layout.logs)
        facts = collect_facts(self._plan, self._layout, network, known, events, self.evaluations, why, self._command)
        if self._plan.audit and facts.finished:
            facts = dataclasses.replace(facts, audit=self._audit())
        if self._plan.control and facts.finished:
            facts = dataclasses.replace(facts, control=self._control())
        summary = summarise(facts)
        write_summary(summary, self._layout.summary)
        write_atomically(self._layout.report, render(facts, summary).encode())
        return summary

    def _evaluate(self, network: Network) -> tuple[list[EvaluationFact], str]:
        planner = EvaluationPlanner(self._plan, self._layout, network)
        tasks = planner.tasks()
        self._view.say("evaluation", f"{len(tasks)} checkpoints on {self._plan.evaluation_problems:,} held-out problems each")

        def told(fact: EvaluationFact) -> None:
            self._view.say(
                "evaluation",
                f"after {fact.window_index} windows: {100 * fact.success:.2f} % ± {100 * fact.success_error:.2f} solved, "
                f"{100 * fact.well_formed:.1f} % well formed",
            )

        try:
            return run_evaluations(tasks, on_result=told, pause=self._check_stop), ""
        except (StorageError, ChainError, OSError) as error:
            return [], f"the checkpoints could not be evaluated: {error}"

    def _audit(self) -> AuditFact:
        """The trainer's windows, repeated with the first validator's settings."""
        self._view.say("audit", "the trainer's windows are repeated from what was published (grail-trainer audit --all)")
        return run_audit(self._layout, self._plan.validator_names()[0], pause=self._check_stop)

    def _control(self) -> EvaluationFact | None:
        """The same run with learning rate 0, in a folder of its own; the evaluation of its last checkpoint."""
        self._view.say("control", "the same run again, with learning rate 0")
        plan = dataclasses.replace(
            self._plan,
            control=False,
            audit=False,
            chaos=False,
            learning_rate="0",
            model=str(self._plan.model or self._layout.model),
        )
        control = Localnet(plan, Layout(self._layout.control), self._view, self._command)
        control._stop_asked = self._stop_asked
        control.run()
        return control.evaluations[-1] if control.evaluations else None
