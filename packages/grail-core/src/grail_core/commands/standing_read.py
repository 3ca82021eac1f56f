"""Gathers how one hotkey stands (`standing`), from chain and buckets.

Verdicts are read from the validators' own buckets one at a time, and of each is kept what it says of this hotkey and its
weights. What a look-back is, when an audit is forgotten and what weights come to are the functions that validators and the
development chain run themselves (`protocol.scores`, `chain.development.yuma`); none is a second copy. What the chain pays is
not asked: it follows from weights that are set later than verdicts, and from bonds that nobody here knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from grail_core.chain.base import Neuron
from grail_core.chain.development.yuma import emission
from grail_core.commands.explained import rejecting, to_do
from grail_core.commands.explained_round import to_do_in_round
from grail_core.commands.network_view import ELSEWHERE, ELSEWHERE_HINT, MAX_WINDOWS_BACK, NetworkView, chosen_validators
from grail_core.commands.standing import Expected, Heard, Said, Standing
from grail_core.commands.standing_own import files_of, published_by, windows_in_words
from grail_core.errors import GrailError, ProtocolViolationError
from grail_core.files.verdicts import MAX_REFUSALS, AnyVerdict, OtherNetworkVerdictError, RefusedVerdictError
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.constants import LOOKBACK_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.scores import ScoreInputs, weights_now
from grail_core.protocol.types import Hotkey, Window

VALIDATOR_SECONDS: Final = 60.0
"""That one validator's verdicts may take in all, reading and checking: the largest that there can be takes three seconds."""


def standing_of(view: NetworkView, hotkey: Hotkey, *, windows: int) -> Standing:
    """Gather it. Errors of one bucket are told in their place.

    Args:
        windows: of each validator's newest verdicts, and of this hotkey's files.

    Raises:
        ChainError: the chain does not answer.
    """
    neuron = view.metagraph.by_hotkey(hotkey)
    role = _role(view, hotkey, neuron)
    try:
        validators, left_out = chosen_validators(view, None)
    except ProtocolViolationError:  # there is none, or none with a bucket
        validators, left_out = [], 0
    heard = tuple(view.each(validators, lambda validator: _hear(view, validator, hotkey, windows)))
    files, problem = files_of(view, neuron, windows) if role in ("miner", "unregistered") else ((), "")
    expected = _expected(view, heard, neuron)
    return Standing(
        hotkey,
        role,
        view.block,
        view.window,
        neuron,
        files,
        problem,
        heard,
        left_out,
        expected,
        tuple(published_by(view, neuron, role, windows)),
        tuple(_danger(view, neuron, role, heard, expected)),
    )


def _role(view: NetworkView, hotkey: Hotkey, neuron: Neuron | None) -> str:
    if hotkey == view.params.trainer_hotkey:
        return "trainer"
    if neuron is None:
        return "unregistered"
    return "validator" if neuron.validator_permit and neuron.stake > 0 else "miner"


# --- what validators say ------------------------------------------------------------------------------------------------


def _hear(view: NetworkView, validator: Neuron, hotkey: Hotkey, windows: int) -> Heard:
    ear, problem, until = _Ear(view, hotkey, windows), "", time.monotonic() + VALIDATOR_SECONDS
    refused: list[tuple[Window, RefusedVerdictError]] = []
    try:
        store = view.bucket(validator)
        for window in view.ended_windows_back():
            if ear.full(window) or len(refused) == MAX_REFUSALS:
                break
            if time.monotonic() > until:
                problem = f"reading its verdicts takes longer than {VALIDATOR_SECONDS:.0f} s: older than {window} is not told"
                break
            try:
                verdict = view.verdict(store, window, validator.hotkey) if view.has_verdict(store, window) else None
            except RefusedVerdictError as error:
                refused.append((window, error))
                continue
            if verdict is not None:
                ear.add(verdict)
    except GrailError as error:
        problem = error.what
    if refused and not problem:
        problem = f"window {refused[0][0]}: {refused[0][1].what}"
    if not ear.said and not problem:
        problem = f"no verdict of the last {MAX_WINDOWS_BACK} windows is in its bucket"
    return Heard(
        validator.hotkey,
        validator.uid,
        validator.stake,
        tuple(ear.said),
        problem,
        ear.inputs,
        ear.weights,
        ear.weights_of,
        ear.failure,
        elsewhere=not ear.said and bool(refused) and all(isinstance(one, OtherNetworkVerdictError) for _, one in refused),
    )


class _Ear:
    """What is kept of one validator's verdicts, newest first: some whole, and of what an older one still does, that."""

    def __init__(self, view: NetworkView, hotkey: Hotkey, windows: int) -> None:
        self._view, self._hotkey, self._windows = view, hotkey, windows
        self.said: list[Said] = []
        self.inputs: ScoreInputs | None = None
        self.weights: tuple[tuple[int, int], ...] = ()
        self.weights_of: Window | None = None
        self.failure: Said | None = None
        self._in_lookback: bool | None = None  # by the newest verdict that says so

    def full(self, window: Window) -> bool:
        """Is there nothing to be read any more, from this window back?"""
        if len(self.said) < self._windows:
            return False
        oldest = self.said[0].window - LOOKBACK_WINDOWS[1] * WINDOW_LENGTH
        return not self._in_lookback or self.failure is not None or window < oldest

    def add(self, verdict: AnyVerdict) -> None:
        """The next older one."""
        body, one = verdict.body, said_of(verdict, self._hotkey)
        uid = _uid(verdict, self._hotkey)
        if uid is not None and self._in_lookback is None:
            if isinstance(verdict, SignedVerdict):
                self.inputs = verdict.body.score_inputs[uid]
                self._in_lookback = self.inputs.in_lookback
            else:
                self._in_lookback = verdict.body.standings[uid].unpaid_until > one.window
        if body.weights and not self.weights:
            registered = {neuron.hotkey: neuron.uid for neuron in self._view.metagraph.neurons}
            now = weights_now(body.weights, body.hotkeys, registered, self._view.params.burn_uid)
            self.weights, self.weights_of = tuple(sorted(now.items())), body.window
        if len(self.said) < self._windows:
            self.said.append(one)
        if self.failure is None and one.paid_again_from is not None and one.paid_again_from > self.said[0].window:
            self.failure = one


def _uid(verdict: AnyVerdict, hotkey: Hotkey) -> int | None:
    """Under which it was registered when the window began."""
    return next((uid for uid, holder in verdict.body.hotkeys.items() if holder == hotkey), None)


def said_of(verdict: AnyVerdict, hotkey: Hotkey) -> Said:
    """What a verdict of either kind of work says of a hotkey."""
    body = verdict.body
    uid = _uid(verdict, hotkey)
    weight = 0 if uid is None else body.weights.get(uid, 0)
    if isinstance(verdict, SignedVerdict):
        miner = verdict.body.miner(hotkey)
        if miner is None:
            return Said(body.window, body.status.value, None, body.reason, 0, 0, False, (), "", weight)
        counted = miner.miner_window(body.window)
        return Said(
            body.window,
            body.status.value,
            miner.status.value,
            miner.reason,
            miner.declared,
            miner.unique_valid,
            miner.checked,
            tuple(rejecting(miner.findings)),
            to_do(miner, body.window),
            weight,
            counted.paid_again_from if counted.failed else None,
            counted.forgotten_from if counted.failed else None,
        )
    worked = next((miner for miner in verdict.body.miners if miner.hotkey == hotkey), None)
    if worked is None:
        return Said(body.window, body.status.value, None, body.reason, 0, 0, False, (), "", weight)
    failed = worked.status is MinerStatus.FAILED
    return Said(
        body.window,
        body.status.value,
        worked.status.value,
        worked.reason,
        worked.declared,
        worked.valid,
        worked.checked,
        tuple(rejecting(worked.findings)),
        to_do_in_round(worked, verdict.body),
        weight,
        verdict.body.standings[worked.uid].unpaid_until if failed else None,
    )


# --- what follows -------------------------------------------------------------------------------------------------------


def _expected(view: NetworkView, heard: Sequence[Heard], neuron: Neuron | None) -> Expected | None:
    told = [one for one in heard if one.weights]
    if not told or neuron is None:
        return None
    paid = emission({one.uid: one.stake for one in told}, {one.uid: dict(one.weights) for one in told})
    burn = view.params.burn_uid
    mine = paid.incentive.get(neuron.uid, Fraction(0)) if neuron.uid != burn else Fraction(0)
    earning = {uid: share for uid, share in paid.incentive.items() if uid != burn and share > 0}
    order = sorted(view.metagraph.neurons, key=lambda one: (paid.share.get(one.uid, Fraction(0)), one.registered_at, one.uid))
    trusted = sum(one.stake for one in view.validators())
    return Expected(
        incentive=mine,
        share=paid.share.get(neuron.uid, Fraction(0)),
        burnt=paid.incentive.get(burn, Fraction(0)),
        always_burnt=Fraction(view.params.burn_share_permille, 1000),
        rank=1 + sum(share > mine for share in earning.values()) if mine else None,
        earning=len(earning),
        before=[one.uid for one in order].index(neuron.uid),
        registered=len(order),
        stake=Fraction(sum(one.stake for one in told), trusted),
    )


def _danger(
    view: NetworkView, neuron: Neuron | None, role: str, heard: Sequence[Heard], expected: Expected | None
) -> list[str]:
    if neuron is None:
        return ["not registered: it has no UID, and nothing of it is read or paid"]
    lines = _failures(view, heard) if role == "miner" else []
    if heard and all(one.elsewhere for one in heard):
        lines.append(f"{ELSEWHERE}: nothing is known of this hotkey there; {ELSEWHERE_HINT}")
    elif not any(one.said for one in heard):
        lines.append("no validator has published a verdict lately: nobody is paid for what nobody judged")
    if expected is not None and role == "miner":
        lines.append(
            f"deregistration: {expected.before} of {expected.registered} registered hotkeys would lose their UID before it, "
            f"were the subnet full and no immunity counted (registered in block {neuron.registered_at}, "
            f"{view.block - neuron.registered_at} blocks ago)"
        )
    return lines


def _failures(view: NetworkView, heard: Sequence[Heard]) -> list[str]:
    """What speaks against a miner, each with the stake that says so."""
    stake: dict[str, int] = {}
    for one in heard:
        for line in _against(view, one):
            stake[line] = stake.get(line, 0) + one.stake
    asked = sum(one.stake for one in heard)
    return [f"{line} (by {100 * behind / asked:.3g} % of the stake asked)" for line, behind in stake.items()]


def _against(view: NetworkView, one: Heard) -> list[str]:
    lines = []
    failure = one.failure
    if failure is not None and failure.paid_again_from is not None:
        left = max(0, (failure.paid_again_from - view.window) // WINDOW_LENGTH)
        soon = f"worth 0 before window {failure.paid_again_from}, {windows_in_words(left)} from now"
        line = f"failed in window {failure.window}: {soon}"
        if failure.forgotten_from is not None:
            rest = max(0, (failure.forgotten_from - view.window) // WINDOW_LENGTH)
            line += f"; it lowers what audits show for {windows_in_words(rest)}"
        lines.append(line)
    absent = [said for said in one.said if said.miner == MinerStatus.ABSENT.value]
    if absent and len(absent) == len([said for said in one.said if said.status == WindowStatus.SCORED.value]):
        lines.append(f"no seal of it counted in the last {windows_in_words(len(absent))} that were scored")
    return lines
