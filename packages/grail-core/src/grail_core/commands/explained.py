"""Why a window was judged as it was: a verdict's body told with numbers, likely causes and what to do.

The one implementation of these words: `grail explain` and `grail status` tell published verdicts by it, `grail-validator
explain` its ledger's, `grail-validator serve` shows them on its page. Where the body comes from, and that its signature holds,
is the caller's matter. What is in it may be anybody's text: the console makes it fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from grail_core.commands.hotkeys import chosen
from grail_core.keys import ss58
from grail_core.protocol import Finding, MinerStatus, MinerVerdict, Outcome, VerdictBody, WindowStatus
from grail_core.protocol.reading import Json
from grail_core.protocol.types import Window
from grail_core.telemetry.console import PlainConsole
from grail_core.verification.causes import lines_of, told_of

_STORE: Final = "store the file, then the seal, between block T and the deadline"

TO_DO: Final[dict[MinerStatus, str]] = {
    MinerStatus.ABSENT: "no seal counted at the deadline, so nothing was drawn or is paid; it costs this window alone. "
    f"It must {_STORE}",
    MinerStatus.NOT_SELECTED: "its coin did not fall: the window counts as work, and was not checked. Nothing is to be done",
    MinerStatus.ACCEPTED: "sampled rollouts pass every check. Nothing is to be done",
    MinerStatus.FAILED: "a check rejects: it earns nothing before window {over}, when the look-back is over. Try the next "
    "file with `grail-miner check FILE` before it is uploaded",
    MinerStatus.INCONCLUSIVE: "a fault of this validator's, and none of the miner's. Look at the validator's log; the first "
    "such window of a well-supported hotkey counts nothing, any other one counts as an audit without a valid rollout",
}

NUMBERS: Final = "(every number that was measured: -v, or --json)"

SEAL_REFUSED: Final = (
    "its seal was refused, so nothing was drawn or is paid; it costs this window alone. Mend what the lines below name"
)

OF_WINDOW: Final[dict[WindowStatus, str]] = {
    WindowStatus.VOID: "An input of the window could not be had by its void time: it is void for everyone, and costs nobody "
    "anything. Look at chain, beacon and trainer",
    WindowStatus.INCONCLUSIVE: "A fault of this validator's: nobody is paid or punished for it, and its scores are adopted "
    "from another validator. Look at this validator's log",
    WindowStatus.MISSED: "This validator was not there",
}


def window_json(body: VerdictBody, miners: Sequence[MinerVerdict]) -> dict[str, Json]:
    """The body, and with each of these miners margins, causes, and what to do."""
    told: list[Json] = [{**miner.to_json(), **told_of(miner.findings), "to_do": to_do(miner, body.window)} for miner in miners]
    return {**body.to_json(), "miners": told}


def miners_of_window(body: VerdictBody, hotkey: str | None) -> list[MinerVerdict]:
    """All of them, or the one of this hotkey (`hotkeys.chosen`); none of a window that was not scored, whose body names none.

    Raises:
        ProtocolViolationError: the verdict has none of it. ConfigurationError: it is no hotkey.
    """
    if hotkey is None or (not body.miners and body.status is not WindowStatus.SCORED):
        return list(body.miners)
    asked = chosen(hotkey, [miner.hotkey for miner in body.miners], where=f"window {body.window}")
    return [miner for miner in body.miners if miner.hotkey == asked]


def rejecting(findings: Sequence[Finding]) -> list[str]:
    """Names of the checks that reject; their findings say the reason once more."""
    return [*dict.fromkeys(one.check for one in findings if one.outcome is Outcome.REJECT)]


def checks_passed(findings: Sequence[Finding]) -> list[str]:
    """One line for each check of an accepted file: how it ended, and of how many findings."""
    lines = []
    for check in dict.fromkeys(one.check for one in findings):
        those = [one for one in findings if one.check == check]
        outcomes = ", ".join(dict.fromkeys(one.outcome.value for one in those))
        lines.append(f"{check}: {outcomes}" + (f", {len(those)} findings" if len(those) > 1 else ""))
    return lines


def to_do(miner: MinerVerdict, window: Window) -> str:
    """What a miner of this status does, or that there is nothing."""
    if miner.status is MinerStatus.ABSENT and miner.findings:
        return SEAL_REFUSED
    if miner.status is MinerStatus.FAILED:
        return TO_DO[miner.status].format(over=miner.miner_window(window).paid_again_from)
    return TO_DO[miner.status]


def standing_line(miner: MinerVerdict, window: Window) -> str:
    """The verdict in a sentence: status, the reason where no check says it, and what to do."""
    told = miner.status.value + (f": {miner.reason}" if miner.reason and not rejecting(miner.findings) else "")
    return f"{told}; {to_do(miner, window)}"


def coin_line(miner: MinerVerdict) -> str:
    """How it was drawn, or not; "" where no coin was tossed."""
    if miner.check_probability is None or miner.coin is None:
        return ""
    share = miner.coin / 2**64
    return f"coin {share:.3f}, drawn below {float(miner.check_probability):.3f} (two lowest coins always)"


def print_window(body: VerdictBody, miners: Sequence[MinerVerdict], *, whole: bool = False) -> None:
    """A table of these miners, then each with its reason, what to do, and the findings that say so, for a person.

    Of an accepted file each check is a line; `whole`: every number that it measured.
    """
    console = PlainConsole()
    console.say(f"window {body.window}: {body.status.value}" + (f": {body.reason}" if body.reason else ""))
    if body.versions.calibration:
        console.say(f"  judged by calibration {body.versions.calibration}; `grail-validator doctor` says what it enforces")
    if body.status in OF_WINDOW:
        console.say(f"  {OF_WINDOW[body.status]}")
    if not miners:
        return
    table = Table("uid", "verdict", "declared", "valid", "weight", "rejected by")  # hotkeys would not fit, and stand below
    for miner in miners:
        numbers = (miner.declared, miner.unique_valid, body.weights.get(miner.uid, 0))
        table.add_row(str(miner.uid), miner.status.value, *map(str, numbers), ", ".join(rejecting(miner.findings)))
    console.print(table)
    absent = [miner for miner in miners if miner.status is MinerStatus.ABSENT and not miner.findings]
    if len(absent) > 1:  # validators and the trainer among them
        uids = ", ".join(str(miner.uid) for miner in absent)
        console.say(f"uids {uids}: absent, with no seal that counts; who works must {_STORE}")
    for miner in miners:
        if miner in absent and len(absent) > 1:
            continue
        console.say(f"uid {miner.uid}, {ss58(miner.hotkey)}: {standing_line(miner, body.window)}")
        if coin := coin_line(miner):
            console.say(f"  {coin}")
        if miner.status is MinerStatus.ACCEPTED and len(miners) > 1:
            continue  # what all its checks say is shown to who asks for it alone
        if miner.status is MinerStatus.ACCEPTED and not whole:
            for line in checks_passed(miner.findings):
                console.say(f"   {line}")
            console.say(f"   {NUMBERS}")
            continue
        for line in lines_of(miner.findings):
            console.say(f" {line}")
