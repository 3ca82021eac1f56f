"""C3, E4: one group under several ids, in one file and across windows; another miner framed by a copy of its work.

The network has one problem only, so that nothing but seeds and history tells groups, windows and hotkeys apart: with problems
of their own `prompt` would have the word. A try is accepted if a rollout counts twice, or if a victim is worse off for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from grail_core.environment import Environment, EnvironmentSpec, Grade, Message, Problem
from grail_core.generation.base import Completion
from grail_core.protocol import MinerStatus, MinerVerdict, without_negative_zero
from grail_core.protocol.rollouts.records import RolloutRecord
from grail_core.protocol.types import Window
from grail_core.verification.examine import first_reject
from grail_core.verification.uniqueness import rollout_identity
from grail_envs.sat import SatEnvironment
from grail_miner.groups import Group
from tooling.adversaries.crowd import HONEST, Crowd, Liar, Lie, crowd_of, honest, ruling
from tooling.adversaries.family_c_files import renumbered
from tooling.adversaries.rows import Row, Try
from tooling.testing.small_network import FIRST_WINDOW

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
GROUPS = range(8)
"""128 rollouts: far more than are looked at, so that what is not drawn counts once too."""


class OneProblem:
    """Whatever the seed, the same problem."""

    def __init__(self, inner: Environment) -> None:
        self._inner = inner

    @property
    def spec(self) -> EnvironmentSpec:
        return self._inner.spec

    def problem(self, seed: int) -> Problem:
        return self._inner.problem(0)

    def messages(self, problem: Problem) -> list[Message]:
        return self._inner.messages(problem)

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self._inner.grade(problem, completion)


def _crowd(lies: dict[str, Lie], max_tokens: int) -> AbstractContextManager[Crowd]:
    return crowd_of(lies, max_tokens=max_tokens, environment=OneProblem(SatEnvironment(3, 4, 5, 6)))


def c3() -> dict[str, Any]:
    """Ids, rollouts and windows of the same work. Twins: honest answers of one token, most of which are equal to others."""
    row = Row("C3", "files in one network")
    lies: dict[str, Lie] = {
        "one group under two ids": _one_under_two_ids,
        "one group under every id": _one_under_every_id,
        "one rollout sixteen times": _one_rollout,
        "the window before": _the_window_before,
        "the window before, proved afresh": _proved_afresh,
    }
    with _crowd(lies, max_tokens=8) as crowd:
        crowd.mine()
        (first,) = crowd.judge(crowd.validator())
        crowd.mine(SECOND_WINDOW)
        (second,) = crowd.judge(crowd.validator(), window=SECOND_WINDOW)
        for name in lies:
            if name in AGAIN:
                honest(row, crowd.verdict(first, name))
                row.tries.append(ruling(name, crowd.verdict(second, name), AGAIN[name]))
            else:
                row.tries.append(ruling(name, crowd.verdict(first, name), "sampling"))
        for body in (first, second):
            honest(row, crowd.verdict(body, HONEST))
    _equal_answers(row)
    return row.to_json()


def _equal_answers(row: Row) -> None:
    """Honest files full of repetition: accepted, each rollout counted once over the file and the windows before."""
    with _crowd({}, max_tokens=1) as crowd:
        counted: set[bytes] = set()
        for window in (FIRST_WINDOW, SECOND_WINDOW):
            crowd.network.advance_to(window + 1)
            miner = crowd.liar(HONEST, window)
            groups = miner.groups(GROUPS)
            miner.seal(miner.pack(groups))
            (body,) = crowd.judge(crowd.validator(), window=window)
            verdict = crowd.verdict(body, HONEST)
            honest(row, verdict)
            identities = [identity_of(record) for group in groups for record in group.rollouts]
            due = len(set(identities) - counted)
            counted.update(identities)
            message = f"{verdict.unique_valid} of {len(identities)} rollouts counted, {due} are new and distinct"
            repeats = due < len(identities)  # else nothing would be shown
            row.tries.append(
                Try(f"equal answers, window {window}", verdict.unique_valid != due or not repeats, "unique", message)
            )


def e4() -> dict[str, Any]:
    """Framers take the victim's rollouts as their own, or answer alike honestly, before and after it seals: what its verdict
    counts for is what it is without any of them."""
    row = Row("E4", "framers around one victim")
    alone, _, _ = _victim({})
    row.honest_tries, row.honest_false_rejects = 1, int(alone.status is not MinerStatus.ACCEPTED)
    framed = {f"{name}, sealed {order} it": frame for name, frame in FRAMES.items() for order in ("before", "after")}
    victim, framers, noted = _victim(framed)
    harmed = what_counts(victim) != what_counts(alone) or not noted
    for name, verdict in framers.items():
        rejecting = first_reject(verdict.findings)
        got_through = harmed or (verdict.status is MinerStatus.ACCEPTED) != ("honestly" in name)
        message = (
            f"victim {victim.status.value}, {victim.unique_valid} rollouts, {alone.unique_valid} alone; {verdict.status.value}"
        )
        row.tries.append(Try(name, got_through, rejecting.check if rejecting else "unique", message))
    honest(row, victim)
    return row.to_json()


Frame = Callable[[Liar, list[Group]], bytes]
FRAMES: dict[str, Frame] = {
    "its file signed anew": lambda framer, theirs: framer.pack(theirs),
    "one group of it beside own ones": lambda framer, theirs: framer.pack([theirs[0], *framer.groups([1])]),
    "the same answers, honestly": lambda framer, theirs: framer.pack(framer.groups(GROUPS)),
}


def what_counts(verdict: MinerVerdict) -> tuple[object, ...]:
    """All of a verdict that scores are made of, and its coin."""
    return verdict.status, verdict.reason, verdict.miner_window(FIRST_WINDOW), verdict.gaps, verdict.coin


def _victim(frames: dict[str, Frame]) -> tuple[MinerVerdict, dict[str, MinerVerdict], bool]:
    """The victim's verdict, its framers', and whether check 3 noted that another hotkey has equal rollouts."""
    with _crowd(dict.fromkeys(frames, lambda liar: b""), max_tokens=1) as crowd:
        crowd.network.advance_to(FIRST_WINDOW + 1)
        victim = crowd.liar(HONEST)
        groups = victim.groups(GROUPS)
        data = victim.pack(groups)
        for before in (True, False):
            for name, frame in frames.items():
                if before == ("before" in name):
                    framer = crowd.liar(name)
                    framer.seal(frame(framer, groups))
            if before:
                victim.seal(data)
        (body,) = crowd.judge(crowd.validator())
        verdict = crowd.verdict(body, HONEST)
        framers = {name: crowd.verdict(body, name) for name in frames}
    return verdict, framers, any("equal another hotkey's" in finding.detail for finding in verdict.findings)


def identity_of(record: RolloutRecord) -> bytes:
    """What "the same rollout" means (check 3)."""
    return rollout_identity(record.prompt, record.completion)


def _one_under_two_ids(liar: Liar) -> bytes:
    (made,) = liar.groups([0])
    return liar.pack([made, renumbered(made, 1)])


def _one_under_every_id(liar: Liar) -> bytes:
    (made,) = liar.groups([0])
    return liar.pack([renumbered(made, number) for number in GROUPS])


def _one_rollout(liar: Liar) -> bytes:
    (made,) = liar.groups([0])
    return liar.pack([Group(0, tuple(replace(made.rollouts[0], rollout=number) for number in range(16)))])


def _the_window_before(liar: Liar) -> bytes:
    """Honest in the first window; then the same rollouts, signed for the second."""
    return liar.pack(_first_groups(liar))


def _proved_afresh(liar: Liar) -> bytes:
    """The same with sketches of this window, from the right model over those very tokens."""
    (group,) = _first_groups(liar)
    prompt, answers = (
        tuple(group.rollouts[0].prompt.tolist()),
        [Completion(tuple(r.completion.tolist())) for r in group.rollouts],
    )
    proofs = liar.mining.prove(liar.context, liar.loaded, prompt, answers)
    proved = [
        replace(record, sketches=proof.sketches, logprobs=without_negative_zero(proof.logprobs))
        for record, proof in zip(group.rollouts, proofs, strict=True)
    ]
    return liar.pack([Group(0, tuple(proved))])


def _first_groups(liar: Liar) -> list[Group]:
    return Liar(liar.network, liar.name, FIRST_WINDOW).groups([0])


AGAIN = {"the window before": "proof", "the window before, proved afresh": "sampling"}
"""What has the word in the second window over the work of the first."""

ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"C3": c3, "E4": e4}
