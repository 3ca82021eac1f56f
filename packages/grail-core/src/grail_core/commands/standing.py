"""How one hotkey stands, as values: what lies in its bucket, what every validator says of it, its expectations and dangers.

`standing_read` gathers it, `status` prints it. Nothing is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from grail_core.chain.base import Neuron
from grail_core.keys import ss58
from grail_core.protocol.scores import WEIGHT_TOTAL, ScoreInputs
from grail_core.protocol.types import Block, Hotkey, Window


@dataclass(frozen=True)
class StoredFile:
    """What lies in the hotkey's bucket of one window. `stored_at_ms` is the store's, Unix milliseconds; None: nothing."""

    window: Window
    file_bytes: int | None = None
    seal_stored_at_ms: int | None = None
    late_ms: int | None = None  # behind the deadline, where its block is known; negative is in time


@dataclass(frozen=True)
class Said:
    """What one verdict says of the hotkey. `miner` is None where it was not registered when the window began."""

    window: Window
    status: str  # of the window
    miner: str | None
    reason: str
    declared: int
    valid: int
    checked: bool
    rejected_by: tuple[str, ...]
    to_do: str
    weight: int  # of 65,535
    paid_again_from: Window | None = None  # where it failed: the first window in which that does not mean 0 any more
    forgotten_from: Window | None = None  # and in which its audit does not count any more; of a window of rollouts


@dataclass(frozen=True)
class Heard:
    """What one validator has published of the hotkey, newest first; `problem` says why that is nothing, or not all."""

    validator: Hotkey
    uid: int
    stake: int
    said: tuple[Said, ...] = ()
    problem: str = ""
    inputs: ScoreInputs | None = None  # of the newest scored window of rollouts
    weights: tuple[tuple[int, int], ...] = ()  # of the newest verdict that has some, by UID now
    weights_of: Window | None = None
    failure: Said | None = None  # the newest one inside whose look-back the newest verdict is
    elsewhere: bool = False  # all that was read of it is signed, for another network


@dataclass(frozen=True)
class Expected:
    """What the newest verdicts' weights come to if validators set them: shares, exact.

    `incentive`: of what miners share. `always_burnt`: of `burnt`, what parameters give the burn UID whoever works.
    `share`: of all that the subnet emits, as the development chain splits it. `rank`: among the `earning` hotkeys that get
    some, without the burn UID; None where it gets none. `before`: hotkeys that would lose their UID before it on a full subnet,
    of `registered`, nobody's immunity counted.
    """

    incentive: Fraction
    share: Fraction
    burnt: Fraction
    always_burnt: Fraction
    rank: int | None
    earning: int
    before: int
    registered: int
    stake: Fraction  # behind these weights, of all trusted stake


@dataclass(frozen=True)
class Standing:
    hotkey: Hotkey
    role: str  # trainer, validator, miner, unregistered
    block: Block
    window: Window
    neuron: Neuron | None
    files: tuple[StoredFile, ...]
    files_problem: str
    heard: tuple[Heard, ...]
    not_asked: int  # validators with less stake
    expected: Expected | None
    own: tuple[str, ...]  # one line each: what a validator or a trainer has published itself
    danger: tuple[str, ...]  # one line each, what comes first first


def standing_json(standing: Standing) -> dict[str, Any]:
    """For a program: hotkeys as SS58, shares as decimal text."""
    neuron, expected = standing.neuron, standing.expected
    return {
        "hotkey": ss58(standing.hotkey),
        "role": standing.role,
        "uid": None if neuron is None else neuron.uid,
        "registered_at": None if neuron is None else neuron.registered_at,
        "stake_rao": None if neuron is None else neuron.stake,
        "block": standing.block,
        "window": standing.window,
        "files": [vars(file) for file in standing.files],
        "files_problem": standing.files_problem,
        "validators": [_heard_json(one) for one in standing.heard],
        "validators_not_asked": standing.not_asked,
        "expected": None if expected is None else {name: _number(value) for name, value in vars(expected).items()},
        "published": list(standing.own),
        "danger": list(standing.danger),
    }


def _heard_json(one: Heard) -> dict[str, Any]:
    mine = one.said[0] if one.said else None
    return {
        "validator": ss58(one.validator),
        "uid": one.uid,
        "stake_rao": one.stake,
        "problem": one.problem,
        "weight": None if mine is None else mine.weight,
        "weight_total": WEIGHT_TOTAL,
        "power": None if one.inputs is None else str(one.inputs.power),
        "score_inputs": None
        if one.inputs is None
        else {name: getattr(one.inputs, name) for name in ("work", "supported", "estimate", "audits", "in_lookback")},
        "verdicts": [vars(said) for said in one.said],
        "failure": None if one.failure is None else vars(one.failure),
    }


def _number(value: object) -> object:
    return f"{float(value):.9g}" if isinstance(value, Fraction) else value
