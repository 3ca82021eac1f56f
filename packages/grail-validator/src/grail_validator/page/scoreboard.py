"""The first page: every registered hotkey of the newest scored window, what it earns, and what speaks against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from grail_core.keys import ss58
from grail_core.pages.parts import Cell, badge, card, number, table, tile
from grail_core.protocol import MinerStatus, WindowStatus
from grail_core.protocol.constants import SCORE_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.scores import WEIGHT_TOTAL
from grail_core.protocol.types import Hotkey, Window
from grail_validator.page.board import Seen, Snapshot
from grail_validator.page.layout import (
    Facts,
    Query,
    cell,
    document,
    explain_link,
    hotkey_link,
    page_of,
    pager,
    percent,
    sort_links,
    window_link,
)
from grail_validator.page.records import MinerRecord, WindowRecord


@dataclass(frozen=True)
class Standing:
    """How one hotkey stands. `share` is of what miners earn; `failures` are (window, record), newest first."""

    uid: int
    hotkey: Hotkey
    weight: int
    change: int | None  # of the weight since the scored window before; None: it was not registered then, or there is none
    share: float
    valid: int  # rollouts, or sequences, that checks found valid in the memory
    checked: int
    failures: tuple[tuple[Window, MinerRecord], ...]
    lookback_left: int  # windows from the next one on
    latest: MinerStatus | None
    word: str
    kind: str  # a badge's


def standings(snapshot: Snapshot, burn_uid: int | None) -> list[Standing]:
    """Of every hotkey registered in the newest scored window, by weight."""
    newest = snapshot.newest
    if newest is None:
        return []
    before = weights_before(snapshot, newest)
    found = [standing_of(snapshot, newest, uid, burn_uid, before) for uid in newest.hotkeys]
    return sorted(found, key=lambda one: (-one.weight, one.uid))


def weights_before(snapshot: Snapshot, newest: WindowRecord) -> dict[Hotkey, int]:
    """Weights of the scored window, or round, before the newest one that is read, by hotkey: a UID may be another's now."""
    for record in reversed(snapshot.records):
        if record.window < newest.window and record.status is WindowStatus.SCORED and record.is_round == newest.is_round:
            return {hotkey: record.weights.get(uid, 0) for uid, hotkey in record.hotkeys.items()}
    return {}


def lookback_end(seen: list[Seen] | tuple[Seen, ...], newest: WindowRecord, uid: int) -> Window:
    """The first window in which no failure counts any more; 0 where none does."""
    if newest.is_round:
        return newest.standings[uid].unpaid_until if uid in newest.standings else Window(0)
    ends = (one.paid_again_from for record, one in seen if not record.is_round)  # a round's failure takes nothing of these
    return max((end for end in ends if end is not None), default=Window(0))


def fails_unseen(newest: WindowRecord, uid: int, end: Window) -> bool:
    """Does the verdict say that it is inside a look-back, for a failure of which no window here tells? Whoever adopted its
    memory, or whose verdict is missing, may know of it."""
    inputs = newest.score_inputs.get(uid)
    return inputs is not None and inputs.in_lookback and end <= newest.window


def standing_of(
    snapshot: Snapshot, newest: WindowRecord, uid: int, burn_uid: int | None, before: Mapping[Hotkey, int]
) -> Standing:
    """Of one UID that the newest scored window lists. `before`: as `weights_before`."""
    hotkey = newest.hotkeys[uid]
    earned = sum(newest.weights.values()) - newest.weights.get(-1 if burn_uid is None else burn_uid, 0)
    seen = tuple(snapshot.histories.get(hotkey, ()))
    weight = newest.weights.get(uid, 0)
    failures = tuple((record.window, one) for record, one in reversed(seen) if one.status is MinerStatus.FAILED)
    end, following = lookback_end(seen, newest, uid), newest.window + WINDOW_LENGTH
    left = max(0, (end - following) // WINDOW_LENGTH)
    paid = weight if uid != burn_uid else 0
    sealed = [record for record, one in seen[-SCORE_WINDOWS:] if one.status is not MinerStatus.ABSENT]
    refused = [one for _, one in seen[-SCORE_WINDOWS:] if one.status is MinerStatus.ABSENT and one.rejected_by]
    latest = next((one.status for record, one in reversed(seen) if record.window == newest.window), None)
    if fails_unseen(newest, uid, end):
        word, kind = "worth 0, for a failure not shown here", "failed"
    else:
        word, kind = _word(uid == burn_uid and weight > 0, left, paid, bool(sealed), bool(refused), bool(failures))
    return Standing(
        uid,
        hotkey,
        weight,
        weight - before[hotkey] if hotkey in before else None,
        paid / earned if earned else 0.0,
        sum(one.valid for _, one in seen if one.checked),
        sum(one.checked for _, one in seen),
        failures,
        left,
        latest,
        word,
        kind,
    )


def _word(burns: bool, left: int, paid: int, sealed: bool, refused: bool, failed: bool) -> tuple[str, str]:
    if burns:
        return "burns what nobody earned", ""
    if left:
        return f"worth 0 for {left} more", "failed"
    if paid:
        return ("earns, failed before", "inconclusive") if failed else ("earns", "accepted")
    if failed:
        return "failed", "failed"
    if sealed:
        return "sealed, not paid yet", "inconclusive"
    return ("seal refused", "failed") if refused else ("no seal", "")


_ORDERS: Final[dict[str, Callable[[Standing], Any]]] = {
    "weight": lambda one: (-one.weight, one.uid),
    "uid": lambda one: one.uid,
    "hotkey": lambda one: ss58(one.hotkey),
    "change": lambda one: (-abs(one.change or 0), one.uid),
    "valid": lambda one: (-one.valid, one.uid),
    "checked": lambda one: (-one.checked, one.uid),
    "failures": lambda one: (-len(one.failures), one.uid),
    "lookback": lambda one: (-one.lookback_left, one.uid),
}
_COLUMNS: Final = {
    "UID": "uid",
    "hotkey": "hotkey",
    "weight": "weight",
    "change": "change",
    "valid": "valid",
    "checked": "checked",
    "failures": "failures",
    "look-back left": "lookback",
}


def scoreboard(facts: Facts, snapshot: Snapshot, query: Query) -> str:
    burn_uid = None if facts.rule is None else facts.rule.burn_uid
    everybody = standings(snapshot, burn_uid)
    newest = snapshot.newest
    found = [one for one in everybody if _matches(one, query.find)]
    found.sort(key=_ORDERS.get(query.sort, _ORDERS["weight"]))
    shown = found[page_of(query, len(found))]
    lede = (
        "No scored window has been read yet."
        if newest is None
        else f"Every hotkey that was registered in {_named(newest)}, and what the last {len(snapshot.records)} "
        f"{'rounds' if newest.is_round else 'windows'} say of it."
    )
    heads = ["UID", "hotkey", "standing", "weight#", "change#", "share#", "valid#", "checked#", "failures", "look-back left#"]
    body = table(heads, map(_row, shown), caption=_caption(query, len(found)), links=sort_links(query, "/", _COLUMNS))
    return document(
        facts,
        snapshot,
        at="/",
        title="Scoreboard",
        lede=lede,
        body_html=_tiles(snapshot, everybody, burn_uid)
        + _find(query)
        + card("", "", body)
        + pager(query, "/", len(found), "hotkeys")
        + _LEGEND,
    )


_LEGEND: Final = (
    '<p class="said">weight: of 65,535, as the newest verdict has it. change: since the scored window before. share: of what '
    "miners earn. valid: distinct rollouts (in gradient work sequences) that checks found valid in the memory. checked: files "
    "drawn and judged. look-back left: windows "
    "from the next one on in which a failure still means 0.</p>"
)


def _named(record: WindowRecord) -> str:
    return f"{'round' if record.is_round else 'window'} {record.window}"


def _caption(query: Query, count: int) -> str:
    asked = f" that match “{query.find}”" if query.find else ""
    return f"{count:,} hotkeys{asked}" if count != 1 else f"1 hotkey{asked}"


def _matches(one: Standing, find: str) -> bool:
    if not find:
        return True
    return find == str(one.uid) or ss58(one.hotkey).lower().startswith(find.lower().rstrip("….")) or find in one.word


def _find(query: Query) -> str:
    kept = f'<input type="hidden" name="sort" value="{escape(query.sort)}">' if query.sort else ""
    value = f' value="{escape(query.find)}"' if query.find else ""
    return (
        '<form class="find" role="search" action="/" method="get"><label>Find a hotkey (its first letters), a UID, or a '
        f'standing ("failed")<input name="q" maxlength="64" autocomplete="off"{value}></label>{kept}'
        "<button>Find</button></form>"
    )


def _row(one: Standing) -> list[Cell]:
    return [
        cell(str(one.uid), "nw"),
        cell(hotkey_link(one.hotkey), "nw"),
        cell(badge(one.word, one.kind)),
        number(f"{one.weight:,}"),
        number(change_of(one)),
        number(percent(one.share) if one.share else "–"),
        number(f"{one.valid:,}"),
        number(str(one.checked)),
        cell(_failures(one), "long"),
        number(str(one.lookback_left) if one.lookback_left else "–"),
    ]


def change_of(one: Standing) -> str:
    """Of its weight, for a reader; "new": it was not registered in the scored window before."""
    if one.change is None:
        return "new"
    return f"{one.change:+,}".replace("-", "−") if one.change else "–"


def _failures(one: Standing) -> str:
    if not one.failures:
        return "no failure"
    window, newest = one.failures[0]
    more = f" (and {len(one.failures) - 1} before)" if len(one.failures) > 1 else ""
    return f"{explain_link(window, one.hotkey, f'{window}')}: {escape(newest.reason)}{more}"


def _tiles(snapshot: Snapshot, everybody: list[Standing], burn_uid: int | None) -> str:
    newest = snapshot.newest
    if newest is None:
        return ""
    earning = sum(one.share > 0 for one in everybody)
    checked, failed = sum(one.checked for one in everybody), sum(len(one.failures) for one in everybody)
    burnt = 0 if burn_uid is None else newest.weights.get(burn_uid, 0)
    last = snapshot.records[-1]
    also = "" if last is newest else f"; {_named(last)} is {last.status.value}"
    scored = sum(one.status is WindowStatus.SCORED for one in snapshot.records)
    return (
        '<div class="tiles">'
        + tile(
            f"Newest scored {'round' if newest.is_round else 'window'}",
            window_link(newest.window),
            f"{scored} scored of {len(snapshot.records)} read{also}",
        )
        + tile("Earning", f"{earning}", f"of {len(everybody)} registered hotkeys")
        + tile("Failures", f"{failed}", f"in {checked:,} checks of the memory")
        + tile(
            "Burnt",
            "–" if burn_uid is None else percent(burnt / WEIGHT_TOTAL, 1),
            "of all weight: what nobody earned, and what the rules burn",
        )
        + "</div>"
    )


__all__ = ["Standing", "change_of", "lookback_end", "scoreboard", "standing_of", "standings", "weights_before"]
