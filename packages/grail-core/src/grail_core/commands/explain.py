"""`grail explain`: why a window was judged as it was, by what validators have published. Needs no ledger, and no role."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from grail_core.commands.options import common_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from grail_core.chain.base import Neuron
    from grail_core.commands.network_view import NetworkView
    from grail_core.errors import GrailError
    from grail_core.files.verdicts import AnyVerdict
    from grail_core.participant.settings import Settings
    from grail_core.protocol.types import Window

B = TypeVar("B")
M = TypeVar("M")

EPILOG = """\b
Examples:
  grail explain latest                          this machine's hotkey, in the newest window that was judged
  grail explain 4242000 --hotkey 5FHne          a beginning will do where no other hotkey has it
  grail explain latest --all --validator 5Gw3s  everybody, as one validator says it
"""


@click.command(epilog=EPILOG)
@click.argument("window", metavar="WINDOW|latest")
@click.option("--hotkey", metavar="SS58", show_default="this machine's wallet", help="Whose: whole, or its first letters.")
@click.option("--all", "everybody", is_flag=True, help="Every miner of the window.")
@click.option("--validator", metavar="SS58", help="As this validator says it, and no other.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: bodies with margins, causes and what to do.")
@common_options
def explain(settings: Settings, window: str, hotkey: str | None, everybody: bool, validator: str | None, as_json: bool) -> None:
    """Say why a hotkey got its verdict in WINDOW: every check with its numbers, the likely cause, and what to do.

    WINDOW is a window's first block, a round's, or `latest`. Verdicts are read from the validators' own buckets and their
    signatures verified; validators that say the same are told once. Ends with exit code 11 where none has a verdict of WINDOW,
    or none says anything of the hotkey. Of an accepted file each check has one line; -v shows all that it measured.
    """
    from grail_core.commands.network_view import asked_hotkey, chosen_validators, view_network
    from grail_core.keys import ss58

    if everybody and hotkey is not None:
        raise click.UsageError("--all is everybody, and --hotkey is one: give one of them")
    view = view_network(settings)
    asked = None if everybody else ss58(asked_hotkey(view, hotkey))
    validators, left_out = chosen_validators(view, validator)
    told = _heard(view, validators, _window(view, validators, window), left_out)
    if asked is not None:
        _require_anything_of(told, asked)
    if as_json:
        click.echo(json.dumps(_json(told, asked), indent=2))
    else:
        _print(told, asked)


@dataclass(frozen=True)
class _Heard:
    """What validators say of one window: those that say the same together, the most stake first."""

    window: Window
    bodies: tuple[tuple[tuple[Neuron, ...], AnyVerdict], ...]
    silent: tuple[tuple[Neuron, str], ...]  # and why
    left_out: int  # validators with less stake, which were not asked
    stake: int  # of all that were asked


def _window(view: NetworkView, validators: list[Neuron], text: str) -> Window:
    """Raises click.BadParameter, ProtocolViolationError."""
    from grail_core.protocol.constants import WINDOW_LENGTH
    from grail_core.protocol.types import Window

    if text != "latest":
        if not text.isascii() or not text.isdecimal() or len(text) > 15:
            raise click.BadParameter(f"{text!r} is no block number, and not `latest`", param_hint="WINDOW")
        if int(text) % WINDOW_LENGTH:
            inside = int(text) - int(text) % WINDOW_LENGTH
            raise click.BadParameter(
                f"windows are multiples of {WINDOW_LENGTH}: block {text} is in window {inside}", param_hint="WINDOW"
            )
        return Window(int(text))
    return view.newest_judged(validators)


def _heard(view: NetworkView, validators: list[Neuron], window: Window, left_out: int) -> _Heard:
    """Raises ProtocolViolationError where there is no verdict of it."""
    from grail_core.commands.network_view import ELSEWHERE_HINT
    from grail_core.errors import GrailError, ProtocolViolationError
    from grail_core.files.verdicts import OtherNetworkVerdictError

    def ask(neuron: Neuron) -> AnyVerdict | GrailError | None:
        try:
            return view.verdict(view.bucket(neuron), window, neuron.hotkey)
        except GrailError as error:
            return error

    same: dict[bytes, list[tuple[Neuron, AnyVerdict]]] = defaultdict(list)
    silent: list[tuple[Neuron, str]] = []
    answers = view.each(validators, ask)
    for neuron, said in zip(validators, answers, strict=True):
        if said is None:
            silent.append((neuron, "it has published no verdict of it"))
        elif isinstance(said, GrailError):
            silent.append((neuron, said.what))
        else:
            same[said.body.digest()].append((neuron, said))
    if not same:
        reasons = "; ".join(dict.fromkeys(why for _, why in silent))
        elsewhere = any(isinstance(said, OtherNetworkVerdictError) for said in answers)
        raise ProtocolViolationError(
            f"no validator has a verdict of window {window}: {reasons}",
            where=f"{len(silent)} validators' buckets",
            hint=ELSEWHERE_HINT if elsewhere else f"`grail explain latest` tells the newest one; this is window {view.window}",
        )
    bodies = tuple((tuple(neuron for neuron, _ in group), group[0][1]) for group in same.values())
    return _Heard(window, bodies, tuple(silent), left_out, sum(neuron.stake for neuron in validators))


def _require_anything_of(heard: _Heard, hotkey: str) -> None:
    """Raises ProtocolViolationError where no body names it, and none is of a window that everybody shares the fate of."""
    from grail_core.errors import ProtocolViolationError
    from grail_core.keys import ss58
    from grail_core.protocol import WindowStatus

    said = []
    for _, verdict in heard.bodies:
        body = verdict.body
        if body.status in (WindowStatus.VOID, WindowStatus.INCONCLUSIVE):
            return
        if any(ss58(miner.hotkey) == hotkey for miner in body.miners):
            return
        said.append(body.status.value + (f", {body.reason}" if body.reason else ""))
    raise ProtocolViolationError(
        f"hotkey {hotkey}: no verdict of window {heard.window} says anything of it ({'; '.join(dict.fromkeys(said))})",
        hint="it was not registered when that window began, or no validator that judged it was asked; --all tells everybody",
    )


def _json(heard: _Heard, hotkey: str | None) -> dict[str, Any]:
    from grail_core.keys import ss58

    return {
        "window": heard.window,
        "verdicts": [
            {"validators": [ss58(neuron.hotkey) for neuron in neurons], "body": _body_json(verdict, hotkey)}
            for neurons, verdict in heard.bodies
        ],
        "silent": [{"validator": ss58(neuron.hotkey), "reason": why} for neuron, why in heard.silent],
        "validators_not_asked": heard.left_out,
    }


def _body_json(verdict: AnyVerdict, hotkey: str | None) -> dict[str, Any]:
    from grail_core.commands.explained import miners_of_window, window_json
    from grail_core.commands.explained_round import miners_of_round, round_json
    from grail_core.protocol import SignedVerdict

    if isinstance(verdict, SignedVerdict):
        return window_json(verdict.body, _if_named(miners_of_window, verdict.body, hotkey))
    return round_json(verdict, _if_named(miners_of_round, verdict.body, hotkey))


def _if_named(miners: Callable[[B, str | None], list[M]], body: B, hotkey: str | None) -> list[M]:
    """Nothing of a hotkey that this body does not name: another validator's may."""
    from grail_core.errors import ProtocolViolationError

    try:
        return miners(body, hotkey)
    except ProtocolViolationError:
        return []


def _print(heard: _Heard, hotkey: str | None) -> None:
    from grail_core.keys import ss58
    from grail_core.telemetry.console import PlainConsole

    console = PlainConsole()
    for number, (neurons, verdict) in enumerate(heard.bodies):
        if number:
            console.say("")
        share = 100 * sum(neuron.stake for neuron in neurons) / heard.stake
        names = ", ".join(ss58(neuron.hotkey) for neuron in neurons)
        console.say(f"{'validator' if len(neurons) == 1 else 'validators'} {names}, {share:.3g} % of the stake asked:")
        if not _print_body(verdict, hotkey) and hotkey is not None:
            console.say(f"  nothing is said in it of hotkey {hotkey}")
    for neuron, why in heard.silent:
        console.say(f"validator {ss58(neuron.hotkey)}: {why}")
    if heard.left_out:
        console.say(f"{heard.left_out} validators with less stake were not asked; --validator names one")


def _print_body(verdict: AnyVerdict, hotkey: str | None) -> bool:
    """Whether it told of any miner."""
    from grail_core.commands.explained import miners_of_window, print_window
    from grail_core.commands.explained_round import miners_of_round, print_round
    from grail_core.commands.options import verbosity
    from grail_core.protocol import SignedVerdict

    if isinstance(verdict, SignedVerdict):
        miners = _if_named(miners_of_window, verdict.body, hotkey)
        print_window(verdict.body, miners, whole=verbosity() > 0)
        return bool(miners)
    of_round = _if_named(miners_of_round, verdict.body, hotkey)
    print_round(verdict, of_round, whole=verbosity() > 0)
    return bool(of_round)
