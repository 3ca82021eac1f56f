"""Why a round of gradient work was judged as it was: its verdict told with numbers, likely causes and what to do.

The body says everything that is told here; where it came from, a ledger or a bucket, is the caller's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from grail_core.commands.explained import NUMBERS, checks_passed
from grail_core.commands.hotkeys import chosen
from grail_core.keys import ss58
from grail_core.proof.round_work import LOSS_SCALE
from grail_core.protocol.findings import Outcome
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.gradient.rating import NANO, Rating
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.reading import Json
from grail_core.protocol.verdicts import MinerStatus, WindowStatus
from grail_core.telemetry.console import PlainConsole
from grail_core.verification.gradient.causes import round_lines, told_of_round

_STORE: Final = "store a seal by block D, then the update and the opening by block V"

TO_DO_IN_ROUND: Final[dict[MinerStatus, str]] = {
    MinerStatus.ABSENT: f"no seal counted, so nothing was drawn or is paid; it costs this round alone. It must {_STORE}",
    MinerStatus.NOT_SELECTED: "its coin did not fall: the round counts as work, and its update was not scored. Nothing is to "
    "be done",
    MinerStatus.ACCEPTED: "every check passes. Nothing is to be done",
    MinerStatus.FAILED: "a check rejects: its rating begins anew, and it earns nothing before round {over}",
    MinerStatus.INCONCLUSIVE: "a fault of this validator's, and none of the miner's: the round is no work and no failure. Look "
    "at the validator's log",
}
WITHOUT_VALUE: Final = (
    "every check passes, but its update did not lower the loss: it counts as work without value. Look at learning rate, batch "
    "and what was compressed"
)
OF_ROUND: Final[dict[WindowStatus, str]] = {
    WindowStatus.VOID: "An input of the round could not be had by its void block: it is void for everyone, and costs nobody "
    "anything. Miners go on from the feedback before it",
    WindowStatus.INCONCLUSIVE: "A fault of this validator's: nobody is paid or punished for it. Look at this validator's log",
    WindowStatus.MISSED: "This validator was not there",
}


def miners_of_round(body: GradientVerdictBody, hotkey: str | None) -> list[GradientMinerVerdict]:
    """All of them, or the one of this hotkey (`hotkeys.chosen`); none of a round that was not scored, whose body names none.

    Raises:
        ProtocolViolationError: the verdict has none of it. ConfigurationError: it is no hotkey.
    """
    if hotkey is None or (not body.miners and body.status is not WindowStatus.SCORED):
        return list(body.miners)
    asked = chosen(hotkey, [miner.hotkey for miner in body.miners], where=f"round {body.window}")
    return [miner for miner in body.miners if miner.hotkey == asked]


def round_json(verdict: SignedGradientVerdict, miners: Sequence[GradientMinerVerdict]) -> dict[str, Json]:
    """The body, and with each of these miners what a program gets beside it."""
    body = verdict.body
    told: list[Json] = [{**miner.to_json(), **_told(miner, body)} for miner in miners]
    return {**body.to_json(), "validator": ss58(verdict.validator), "miners": told}


def _told(miner: GradientMinerVerdict, body: GradientVerdictBody) -> dict[str, Json]:
    """What a program gets beside the row: F, weight, rating after, causes and what to do."""
    standing = body.standings[miner.uid]
    return {
        **told_of_round(miner.findings),
        "f": str(body.powers[miner.uid]),
        "weight": body.weights.get(miner.uid, 0),
        "rating": [standing.rating.mu, standing.rating.sigma],
        "to_do": to_do_in_round(miner, body),
    }


def to_do_in_round(miner: GradientMinerVerdict, body: GradientVerdictBody) -> str:
    """What a miner of this status does, or that there is nothing."""
    if miner.status is MinerStatus.FAILED:
        return TO_DO_IN_ROUND[miner.status].format(over=body.standings[miner.uid].unpaid_until)
    if miner.status is MinerStatus.ACCEPTED and not miner.valid:
        return WITHOUT_VALUE
    return TO_DO_IN_ROUND[miner.status]


def print_round(verdict: SignedGradientVerdict, miners: Sequence[GradientMinerVerdict], *, whole: bool = False) -> None:
    """Who, status, findings with numbers and bounds, score, rank, rating, F and weight, for a person.

    Of an accepted update each check is a line; `whole`: every number that it measured.
    """
    console, body = PlainConsole(), verdict.body
    console.say(f"round {body.window}: {body.status.value}" + (f": {body.reason}" if body.reason else ""))
    if verdict.adopted is not None:
        console.say(f"  memory before round {verdict.adopted.first} was taken over from {ss58(verdict.adopted.validator)}")
    if body.status in OF_ROUND:
        console.say(f"  {OF_ROUND[body.status]}")
    if not miners:
        return
    table = Table("uid", "verdict", "score", "rank", "F", "weight", "rejected by")  # the rest would not fit, and stands below
    for miner in miners:
        table.add_row(*_cells(miner, body))
    console.print(table)
    for line in merge_lines(body):
        console.say(line)
    quiet = [miner for miner in miners if miner.status is MinerStatus.ABSENT and not miner.findings and not miner.reason]
    if len(quiet) > 1:  # validators and the trainer among them
        uids = ", ".join(str(miner.uid) for miner in quiet)
        console.say(f"uids {uids}: absent, with no seal that counts; who works must {_STORE}")
    for miner in miners:
        if miner not in quiet or len(quiet) == 1:
            _print_miner(console, miner, body, alone=len(miners) == 1, whole=whole)


def _cells(miner: GradientMinerVerdict, body: GradientVerdictBody) -> tuple[str, ...]:
    score = miner.score
    return (
        str(miner.uid),
        miner.status.value,
        "" if score is None else f"{score.score / LOSS_SCALE:.4f}",
        "" if score is None else str(score.rank),
        f"{body.powers[miner.uid] / NANO:.4g}",
        str(body.weights.get(miner.uid, 0)),
        ", ".join(dict.fromkeys(one.check for one in miner.findings if one.outcome is Outcome.REJECT)),
    )


def _rating(rating: Rating) -> str:
    """What it is worth, and what that is made of."""
    return f"{rating.ordinal / NANO:.2f} ({rating.mu / NANO:.2f} ± {rating.sigma / NANO:.2f})"


def merge_lines(body: GradientVerdictBody) -> list[str]:
    """Whose files the next checkpoint says it merged, as this validator saw it."""
    if body.merge is None:
        return ["no manifest of the next round was seen in time: nobody was merged, as far as this validator saw"]
    merged = ", ".join(str(uid) for uid, _ in body.merge.merged)
    lines = [f"merged: uids {merged or 'none'}"]
    if body.merge.ineligible:
        lines.append(f"! merged and not eligible here: uids {', '.join(map(str, body.merge.ineligible))}")
    return lines


def standing_line_of_round(miner: GradientMinerVerdict, body: GradientVerdictBody) -> str:
    """The verdict in a sentence: status, the reason where no check says it, and what to do."""
    rejected = any(one.outcome is Outcome.REJECT for one in miner.findings)
    told = miner.status.value + (f": {miner.reason}" if miner.reason and not rejected else "")
    return f"{told}; {to_do_in_round(miner, body)}"


def numbers_of_round(miner: GradientMinerVerdict) -> list[str]:
    """What was drawn, scored and rated of it, a line each."""
    lines = []
    if miner.check_probability is not None and miner.coin is not None:
        share = miner.coin / 2**64
        drawn = f"coin {share:.3f}, drawn to be scored below {float(miner.check_probability):.3f} (two lowest coins always)"
        lines.append(drawn + ("; a coin of its own drew a step to be replayed" if miner.replay else ""))
    if miner.score is not None:
        score, error = miner.score.score / LOSS_SCALE, miner.score.error / LOSS_SCALE
        lines.append(
            f"score {score:.4f} ± {error:.4f} nats a token, summed over the common sequences, rank {miner.score.rank}; "
            f"declared {miner.declared} sequences"
        )
    if miner.rating_before is not None and miner.rating_after is not None:
        lines.append(f"rating {_rating(miner.rating_before)} before, {_rating(miner.rating_after)} after")
    if miner.advantage is not None and miner.z is not None:
        value, error = miner.advantage.value / 2**30, miner.advantage.error / 2**30
        lines.append(f"own data {value:.5f} ± {error:.5f} nats a token above common, z {miner.z / 10**6:.2f} (reported)")
    return lines


def _print_miner(
    console: PlainConsole, miner: GradientMinerVerdict, body: GradientVerdictBody, *, alone: bool, whole: bool
) -> None:
    console.say(f"uid {miner.uid}, {ss58(miner.hotkey)}: {standing_line_of_round(miner, body)}")
    for line in numbers_of_round(miner):
        console.say(f"  {line}")
    if miner.status is MinerStatus.ACCEPTED and not alone:
        return  # what all its checks say is shown to who asks for it alone
    if miner.status is MinerStatus.ACCEPTED and not whole:
        for line in checks_passed(miner.findings):
            console.say(f"   {line}")
        console.say(f"   {NUMBERS}")
        return
    for line in round_lines(miner.findings):
        console.say(f" {line}")
