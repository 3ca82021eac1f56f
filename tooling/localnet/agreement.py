"""What validators of a run say of the same windows, and whether the weights follow from what they published.

Everything is read as a stranger reads it: signed verdicts from the buckets, weights from the chain. A window that one of them
was not there to see stands apart: that validator calls it inconclusive, judges nobody, and fills it in from another's verdict
(A3), which its next one says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grail_core.errors import StorageError
from grail_core.files.verdicts import read_verdict
from grail_core.protocol import MinerWindow, ScoreInputs, SignedVerdict, VerdictBody, WindowStatus, score_inputs, weights
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.scores import WeightRule
from grail_core.protocol.types import Hotkey, Window
from tooling.localnet.plan import Layout
from tooling.localnet.remote_stores import bucket_of
from tooling.localnet.setup import Network

Verdicts = Mapping[Window, SignedVerdict]
"""One validator's, by window."""


@dataclass
class Agreement:
    """Windows by what became of them. `missed` and `filled_in` are named by validator; what must not be is in `problems`."""

    equal: list[Window] = field(default_factory=list)
    missed: dict[str, list[Window]] = field(default_factory=dict)
    filled_in: dict[str, list[Window]] = field(default_factory=dict)
    weights_recomputed: int = 0  # verdicts whose score inputs and weights follow from what was published
    problems: list[str] = field(default_factory=list)


def verdicts_of(layout: Layout, network: Network, name: str, windows: range) -> dict[Window, SignedVerdict]:
    """What lies in a validator's bucket, each with its signature checked."""
    store = bucket_of(layout, name)
    hotkey, network_id = network.signers[name].hotkey, network.network_id
    found = {}
    for window in map(Window, windows):
        try:
            verdict = read_verdict(store, window, hotkey, network_id)
        except StorageError as error:
            raise StorageError(f"the verdict of window {window} cannot be read: {error.what}", where=name) from error
        if verdict is not None:
            found[window] = verdict
    return found


def compare(published: Mapping[str, Verdicts], rule: WeightRule, hotkeys: Mapping[str, Hotkey], windows: range) -> Agreement:
    """Of all windows of a run.

    Args:
        published: by validator, from the first window that any of them has a verdict of. hotkeys: of the validators.
        windows: of the run.
    """
    found = Agreement()
    for window in map(Window, windows):
        bodies = {name: verdicts[window].body for name, verdicts in published.items() if window in verdicts}
        found.problems += [f"window {window}: no verdict of {name}" for name in published.keys() - bodies.keys()]
        scored = {name: body for name, body in bodies.items() if body.status is WindowStatus.SCORED}
        if len({body.canonical() for body in scored.values()}) > 1:
            found.problems.append(f"window {window}: {', '.join(sorted(scored))} scored it differently")
        elif len(scored) == len(published):
            found.equal.append(window)
        for name in sorted(bodies.keys() - scored.keys()):
            _apart(found, name, bodies[name], published[name])
    names = {hotkey: name for name, hotkey in hotkeys.items()}
    by_hotkey = {hotkeys[name]: verdicts for name, verdicts in published.items()}
    for name, verdicts in published.items():
        filled = recompute(found, name, verdicts, by_hotkey, rule)
        found.filled_in[name] = sorted(window for window in filled if window in windows)
        missed = found.missed.get(name, [])
        told = [window for window in missed if any(later > window for later in verdicts)]
        lost = [window for window in told if window not in filled and any(window in other for other in published.values())]
        found.problems += [f"window {window}: missed by {name}, and filled in from nobody" for window in lost]
        strangers = {v.adopted.validator for v in verdicts.values() if v.adopted is not None} - names.keys()
        found.problems += [f"{name} filled in from {hotkey.hex()}, who is no validator here" for hotkey in strangers]
    return found


def _apart(found: Agreement, name: str, body: VerdictBody, verdicts: Verdicts) -> None:
    """A window without a score: it has to be one that was missed, and to cost nobody anything."""
    if body.status is not WindowStatus.INCONCLUSIVE or "first sight" not in body.reason:
        found.problems.append(f"window {body.window}: {name} calls it {body.status.value}: {body.reason}")
        return
    found.missed.setdefault(name, []).append(body.window)
    if body.miners:
        found.problems.append(f"window {body.window}: {name} missed it and judges {len(body.miners)} miners all the same")


def recompute(
    found: Agreement, name: str, verdicts: Verdicts, others: Mapping[Hotkey, Verdicts], rule: WeightRule
) -> dict[Window, Hotkey]:
    """Score inputs and weights of every verdict, from this validator's own verdicts and those that it says it filled in from.

    Returns:
        The windows that were filled in, and from whom.
    """
    history: dict[Hotkey, dict[Window, MinerWindow]] = {}
    filled: dict[Window, Hotkey] = {}

    def remember(body: VerdictBody) -> None:
        for miner in body.miners:
            history.setdefault(miner.hotkey, {})[body.window] = miner.miner_window(body.window)

    for window in sorted(verdicts):
        verdict = verdicts[window]
        if verdict.adopted is not None:
            for before in range(verdict.adopted.first, verdict.adopted.last + 1, WINDOW_LENGTH):
                own, other = verdicts.get(Window(before)), others.get(verdict.adopted.validator, {}).get(Window(before))
                scored_by_us = own is not None and own.body.status is WindowStatus.SCORED
                if other is not None and other.body.status is WindowStatus.SCORED and not scored_by_us:
                    remember(other.body)
                    filled[Window(before)] = verdict.adopted.validator
        body = verdict.body
        remember(body)
        inputs: dict[int, ScoreInputs] = {}
        for uid, hotkey in body.hotkeys.items():
            windows = history.get(hotkey, {})
            inputs[uid] = score_inputs([windows[one] for one in sorted(windows)], window)
        if inputs != dict(body.score_inputs) or (weights(inputs, rule) if inputs else {}) != dict(body.weights):
            found.problems.append(f"window {window}: the weights of {name} do not follow from what was published")
        else:
            found.weights_recomputed += 1
    return filled
