"""`grail status`: how a hotkey of any role stands, from the chain and what validators have published. Needs no ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from grail_core.commands.standing import Expected, Heard, Said, Standing, StoredFile
    from grail_core.participant.settings import Settings
    from grail_core.protocol.scores import ScoreInputs
    from grail_core.telemetry.console import PlainConsole

EPILOG = """\b
Examples:
  grail status                        this machine's hotkey
  grail status --hotkey 5FHne         anybody's: whole, or the first letters where no other hotkey has them
  grail status --json | jq .danger

\b
Expected are the shares that the newest verdicts' weights come to if they are set, by stake-weighted consensus without bonds: an
order and a size, not a promise of the chain's. docs/pay.md says what the numbers of a score are.
"""


@click.command(epilog=EPILOG)
@click.option("--hotkey", metavar="SS58", show_default="this machine's wallet", help="Whose: whole, or its first letters.")
@click.option("--windows", type=click.IntRange(1, 24), default=4, show_default=True, help="Newest verdicts of each validator.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common_options
def status(settings: Settings, hotkey: str | None, windows: int, as_json: bool) -> None:
    """Say how a hotkey stands: its last files, what every validator says of them, its weight, rank and danger.

    Reads the chain and the buckets of the validators with the most stake, 64 at most; signatures are verified. A bucket that
    does not answer is said, and costs what it would have told.
    """
    from grail_core.commands.network_view import asked_hotkey, view_network
    from grail_core.commands.standing import standing_json
    from grail_core.commands.standing_read import standing_of

    view = view_network(settings)
    standing = standing_of(view, asked_hotkey(view, hotkey), windows=windows)
    if as_json:
        click.echo(json.dumps(standing_json(standing), indent=1))
    else:
        print_standing(standing)


def print_standing(standing: Standing) -> None:
    """For a person: what matters most last, where the eye is."""
    from grail_core.keys import ss58
    from grail_core.protocol.constants import WINDOW_LENGTH
    from grail_core.telemetry.console import PlainConsole

    console, neuron = PlainConsole(), standing.neuron
    place = "not registered on this subnet" if neuron is None else f"{standing.role}, uid {neuron.uid}"
    console.say(f"{ss58(standing.hotkey)}: {place}")
    inside = standing.block - standing.window
    console.say(f"window {standing.window}, block {inside} of {WINDOW_LENGTH} in it ({standing.block})")
    for line in standing.own:
        console.say(f"  {line}")
    if standing.files or standing.files_problem:
        console.say("files in its bucket:")
    for file in standing.files:
        console.say(f"  {_file_line(file)}")
    if standing.files_problem:
        console.say(f"  {standing.files_problem}")
    if standing.role in ("miner", "unregistered"):
        for those in _alike(standing.heard):
            _print_heard(console, those)
    if standing.not_asked:
        console.say(f"{standing.not_asked} validators with less stake were not asked")
    if standing.expected is not None:
        _print_expected(console, standing.expected, standing.role)
    if standing.danger:
        console.say("danger:")
    for line in standing.danger:
        console.say(f"  {line}")


def _file_line(file: StoredFile) -> str:
    if file.file_bytes is None and file.seal_stored_at_ms is None:
        return f"{file.window}: nothing"
    size = "no file" if file.file_bytes is None else f"file of {_size(file.file_bytes)}"
    if file.seal_stored_at_ms is None:
        return f"{file.window}: {size}, no seal: it does not count without one"
    if file.late_ms is None:
        return f"{file.window}: {size}, sealed"
    seconds = abs(file.late_ms) / 1000
    return f"{file.window}: {size}, sealed {seconds:.1f} s {'AFTER' if file.late_ms > 0 else 'before'} the deadline"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _alike(heard: Sequence[Heard]) -> list[list[Heard]]:
    """Validators that say the same together, in the order they come."""
    groups: dict[tuple[object, ...], list[Heard]] = {}
    for one in heard:
        groups.setdefault((one.said, one.inputs, one.problem), []).append(one)
    return list(groups.values())


def _print_heard(console: PlainConsole, those: Sequence[Heard]) -> None:
    """What some validators say, all of them the same."""
    from grail_core.keys import ss58
    from grail_core.protocol.scores import WEIGHT_TOTAL

    for number, one in enumerate(those):
        last = number == len(those) - 1
        console.say(f"validator {ss58(one.validator)} (uid {one.uid}, stake {one.stake / 1e9:,.9g}){':' if last else ','}")
    one = those[0]
    for said in one.said:
        console.say(f"  {_said_line(said)}")
    if one.said:
        weight = one.said[0].weight
        line = f"weight {weight} of {WEIGHT_TOTAL} ({100 * weight / WEIGHT_TOTAL:.3g} %)"
        if one.inputs is not None:
            line += ", inside a look-back" if one.inputs.in_lookback else ""
        console.say(f"  {line}")
        if one.inputs is not None:
            console.say(f"  {_counted(one.inputs)}")
    if one.problem:
        console.say(f"  {one.problem}")


def _counted(inputs: ScoreInputs) -> str:
    """Two sums over two spans, so that neither is part of the other."""
    from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, SCORE_WINDOWS

    audits = f"{inputs.audits} audit" + ("" if inputs.audits == 1 else "s")
    return (
        f"counted: {inputs.work} rollouts declared in the last {SCORE_WINDOWS} windows; {audits} of the last "
        f"{SCORE_MEMORY_WINDOWS} windows found {inputs.supported} valid"
    )


def _said_line(said: Said) -> str:
    head = f"{said.window}: "
    if said.status != "scored":
        return head + f"the window is {said.status}" + (f": {said.reason}" if said.reason else "")
    if said.miner is None:
        return head + "not registered when it began"
    line = head + said.miner
    if said.declared:
        line += f", {said.declared} declared" + (f", {said.valid} valid" if said.checked else "")
    if said.rejected_by:
        return line + f"; rejected by {', '.join(said.rejected_by)}: `grail explain {said.window}` tells why"
    return line + (f": {said.reason}" if said.reason else "")


_MORE_BURNT = 0.001  # weights are rounded to 1 in 65,535


def _print_expected(console: PlainConsole, expected: Expected, role: str) -> None:
    behind = f"by weights of validators with {_percent(expected.stake)} of the stake"
    if role == "miner":
        rank = "no rank" if expected.rank is None else f"rank {expected.rank} of {expected.earning} that earn"
        share, burnt, always = (_percent(one) for one in (expected.incentive, expected.burnt, expected.always_burnt))
        console.say(f"expected: {share} of what miners get, {rank} ({behind})")
        why = "whoever works, by the network's parameters: that says nothing of this hotkey"
        if expected.burnt - expected.always_burnt > _MORE_BURNT:
            why = f"{always} of it {why}; the rest is for work that nobody did, or that validators do not agree on"
        line = f"  burnt: {burnt}, {why}"
        console.say(line)
    elif role == "validator":
        console.say(f"expected: {_percent(expected.share)} of all emission, in the development chain's split ({behind})")


def _percent(share: Fraction) -> str:
    return f"{100 * float(share):.4g} %"
