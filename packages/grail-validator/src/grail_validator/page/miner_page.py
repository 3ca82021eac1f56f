"""One hotkey: what every window of the memory says of it, what it can expect, and what threatens it.

The forecast is the pay rules' own (`grail_core.verification.forecast`). Of gradient work nothing is forecast: what a rating
becomes depends on what all others do.
"""

from __future__ import annotations

from fractions import Fraction
from html import escape
from typing import Final

from grail_core import svg
from grail_core.keys import ss58
from grail_core.pages.parts import Cell, card, note, number, table, tile
from grail_core.protocol import MinerStatus
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.gradient.rating import NANO
from grail_core.protocol.gradient.scores import FAILED_ROUNDS
from grail_core.protocol.types import Hotkey
from grail_core.verification.forecast import ASSUMPTIONS, Course, Danger, Expected, Field, danger, forecast
from grail_validator.page.board import Seen, Snapshot
from grail_validator.page.layout import (
    Facts,
    Query,
    cell,
    document,
    explain_link,
    page_of,
    pager,
    percent,
    status_badge,
    window_link,
)
from grail_validator.page.records import MinerRecord, WindowRecord
from grail_validator.page.scoreboard import change_of, fails_unseen, lookback_end, standing_of, weights_before

_AHEAD: Final = (1, 2, 3, 6, 12, 15, 24, 36, 48, 84)
"""Windows from now of which the forecast is a row."""
_WIDTH, _HEIGHT, _LEFT, _FLOOR, _TOP = 540, 190, 46, 160, 14
_COLOURS: Final = {Course.GOES_ON: "m2", Course.FAILS_ONCE: "bad", Course.STOPS: "m4"}


def miner_page(facts: Facts, snapshot: Snapshot, hotkey: Hotkey, query: Query) -> str | None:
    """None where the memory has nothing of this hotkey, and the newest window does not list it."""
    newest = snapshot.newest
    uid = None if newest is None else next((uid for uid, who in newest.hotkeys.items() if who == hotkey), None)
    seen = tuple(snapshot.histories.get(hotkey, ()))
    if not seen and uid is None:
        return None
    address = ss58(hotkey)
    body = "" if newest is None or uid is None else _now(facts, snapshot, newest, uid, seen)
    if uid is None:
        body = note("It is not registered in the newest scored window: nothing of it is read or paid any more.")
    return document(
        facts,
        snapshot,
        at="/",
        title=f"Miner {address[:10]}…",
        heading_html=f'{"UID " + str(uid) if uid is not None else "Miner"} <span class="mono">{address}</span>',
        crumbs=(("/", "Scoreboard"),),
        body_html=body + _history(snapshot, hotkey, query),
    )


def _now(facts: Facts, snapshot: Snapshot, newest: WindowRecord, uid: int, seen: tuple[Seen, ...]) -> str:
    burn = None if facts.rule is None else facts.rule.burn_uid
    one = standing_of(snapshot, newest, uid, burn, weights_before(snapshot, newest))
    since = "as in" if one.change == 0 else f"{change_of(one)} since"
    changed = "" if one.change is None else f"{since} the one before; "
    tiles = [
        tile("Weight", f"{one.weight:,}", f"of 65,535 in {newest.window}; {changed}{percent(one.share)} of what miners earn"),
        tile("Checked", str(one.checked), f"files of the memory; {one.valid:,} found valid"),
        tile("Failures", str(len(one.failures)), "in the memory"),
        tile("Look-back left", str(one.lookback_left), _lookback(seen, newest, uid)),
    ]
    shown = (
        f'<div class="tiles">{"".join(tiles[:3])}</div>' if newest.is_round else f'<div class="tiles">{"".join(tiles)}</div>'
    )
    return shown + (_of_rounds(newest, uid) if newest.is_round else _forecast(facts, snapshot, newest, uid))


def _lookback(seen: tuple[Seen, ...], newest: WindowRecord, uid: int) -> str:
    end = lookback_end(seen, newest, uid)
    return f"worth 0 before window {end}" if end > newest.window + WINDOW_LENGTH else "windows in which a failure means 0"


# --- gradient work ------------------------------------------------------------------------------------------------------


def _of_rounds(newest: WindowRecord, uid: int) -> str:
    standing = newest.standings.get(uid)
    if standing is None:
        return ""
    rating = standing.rating
    lines = [
        f"rating {rating.ordinal / NANO:.2f} ({rating.mu / NANO:.2f} ± {rating.sigma / NANO:.2f})",
        f"work of its last rounds: {standing.work:,} sequences; audited {standing.audited:,}, found valid {standing.valid:,}",
        f"a failure now begins its rating anew and pays nothing for {FAILED_ROUNDS} rounds, more where a replay shows it",
    ]
    if standing.failing(newest.window):
        lines.insert(0, f"it failed: worth 0 before round {standing.unpaid_until}")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return card(
        "Where it stands, and what threatens it",
        "Of rounds nothing is forecast: a rating depends on what all others do.",
        f'<ul class="plain">{items}</ul>',
    )


# --- windows of rollouts ------------------------------------------------------------------------------------------------


def field_of(snapshot: Snapshot, newest: WindowRecord, facts: Facts) -> Field | None:
    """What forecasts are made of; None where the network's rule is not known."""
    if facts.rule is None:
        return None
    histories = {
        hotkey: [one.counted for record, one in seen if one.counted is not None and record.window <= newest.window]
        for hotkey, seen in snapshot.histories.items()
    }
    return Field(newest.window, newest.hotkeys, newest.score_inputs, histories, facts.rule)


def _forecast(facts: Facts, snapshot: Snapshot, newest: WindowRecord, uid: int) -> str:
    field = field_of(snapshot, newest, facts)
    if field is None:
        return note("Nothing is forecast: the settings name no network whose parameters could be read (GRAIL_NETWORK).")
    if not field.gives(newest.weights):
        return note(
            "Nothing is forecast: the parameters that GRAIL_NETWORK names do not give the weights of the newest verdict from "
            "its own score inputs. They are another network's, or windows of another kind of work are paid beside these."
        )
    if fails_unseen(newest, uid, lookback_end(tuple(snapshot.histories.get(newest.hotkeys[uid], ())), newest, uid)):
        return note(
            "Nothing is forecast: it is inside the look-back of a failure that is not shown here, so that its end is not "
            "known. Its validator adopted that window from another, or it is missing."
        )
    courses = {course: forecast(field, uid, course) for course in Course}
    told = danger(field, uid)
    warned = (
        ""
        if field.agrees(uid)
        else note(
            "Its validator remembers more of it than the windows that are read here (it adopted them from another, or they are "
            "missing): the forecast begins from what is here."
        )
    )
    assumed = "".join(f"<li>{escape(line)}</li>" for line in ASSUMPTIONS)
    drawing = card("Share of all weight, in windows to come", "", _drawing(courses) + _legend())
    assumptions = f'<details><summary>What is assumed</summary><ul class="plain">{assumed}</ul></details>'
    return (
        warned
        + f'<div class="grid2">{card("What threatens it", "", _dangers(told))}{drawing}</div>'
        + card("", "", _expected(courses) + assumptions)
    )


def danger_lines(told: Danger) -> list[str]:
    """In sentences, the nearest first."""
    lines = []
    if told.paid_again_from is not None:
        lines.append(
            f"inside a look-back: it is worth 0 before window {told.paid_again_from}, {told.lookback_left} windows more"
        )
    if told.failures:
        count = f"{told.failures} failure" + ("s are" if told.failures > 1 else " is")
        lines.append(f"{count} remembered until window {told.forgotten_from}: audits that lower what is shown of its work")
    if told.failure_costs is not None:
        lines.append(
            f"a failure in the next window would mean 0 for {told.failure_lookback} windows, and cost "
            f"{float(told.failure_costs):.1f} windows of its present pay in all"
        )
    elif told.failure_lookback:
        lines.append(f"a failure in the next window would mean 0 for {told.failure_lookback} windows from then on")
    if told.chance:
        drawn = f"its next file is drawn with a chance of {float(told.chance):.3f}"
        lines.append(drawn + (", more than others': its audits do not support what it seals yet" if told.newcomer else ""))
    if told.inconclusive_counts:
        lines.append("a window that this validator could not judge would count as work without an audit")
    bound = {
        "audits": "its volume is held down by what audits found valid (three times that counts at most)",
        "draws": "its volume is held down by how seldom it was drawn: audits that had to come speak for their own windows only",
    }
    if told.share and told.bound_by in bound:
        lines.append(bound[told.bound_by])
    if told.idle:
        since = (
            "no seal of it counted in the memory"
            if told.idle >= SCORE_MEMORY_WINDOWS
            else f"no seal of it counted for {told.idle} windows"
        )
        lines.append(f"{since}: each window without one lowers its work")
    return lines or ["nothing that verdicts tell of"]


def _dangers(told: Danger) -> str:
    return f'<ul class="plain">{"".join(f"<li>{escape(line)}</li>" for line in danger_lines(told))}</ul>'


def _expected(courses: dict[Course, tuple[Expected, ...]]) -> str:
    rows = []
    for ahead in _AHEAD:
        at = {course: found[ahead - 1] for course, found in courses.items() if ahead <= len(found)}
        if at:
            window = next(iter(at.values())).window
            rows.append(
                [cell(f"{ahead}", "nw"), cell(str(window), "nw"), *(number(_share(at[course].share)) for course in Course)]
            )
    heads = ["windows from now", "window", *(f"{course.value}#" for course in Course)]
    return table(heads, rows, caption="What its share of all weight becomes if it goes on, fails once, or stops")


def _share(share: Fraction) -> str:
    return percent(float(share)) if share else "0"


def _drawing(courses: dict[Course, tuple[Expected, ...]]) -> str:
    most = max((one.share for found in courses.values() for one in found), default=Fraction(0)) or Fraction(1, 100)
    parts = []
    for part in (0, 1, 2):
        y = _FLOOR - (_FLOOR - _TOP) * part / 2
        parts.append(svg.line(_LEFT, y, _WIDTH, y, css="grid"))
        parts.append(svg.text(_LEFT - 6, y + 4, percent(float(most) * part / 2), css="tick", text_anchor="end"))
    length = max(len(found) for found in courses.values())
    for course, found in courses.items():
        points = [(_x(i, length), _FLOOR - float(one.share / most) * (_FLOOR - _TOP)) for i, one in enumerate(found)]
        dashes = {} if course is Course.GOES_ON else {"stroke_dasharray": "6 4" if course is Course.STOPS else "2 3"}
        parts.append(svg.polyline(points, fill="none", stroke=f"var(--{_COLOURS[course]})", stroke_width=2, **dashes))
    for ahead in (1, 12, 24, 36, 48, 60, 72, 84):
        if ahead <= length:
            parts.append(svg.text(_x(ahead - 1, length), _FLOOR + 18, str(ahead), css="tick", text_anchor="middle"))
    label = (
        "Share of all weight over the windows to come, if it goes on, fails once or stops; the numbers are in the table below"
    )
    return svg.inline(_WIDTH + 8, _HEIGHT, parts, css="chart", label=label)


def _x(at: int, length: int) -> float:
    return _LEFT + (_WIDTH - _LEFT) * at / max(1, length - 1)


def _legend() -> str:
    return '<p class="sub">windows from now; solid: goes on, dotted: fails once in the next window, dashed: stops</p>'


# --- history ------------------------------------------------------------------------------------------------------------


def _history(snapshot: Snapshot, hotkey: Hotkey, query: Query) -> str:
    """Every window that says something of it, those that were scored for nobody among them."""
    own = {record.window: one for record, one in snapshot.histories.get(hotkey, ())}
    told = [record for record in snapshot.records if record.window in own or not (record.miners or record.hotkeys)]
    if not told:
        return '<p class="empty">No window of the memory says anything of it.</p>'
    ordered, path = told[::-1], f"/miners/{ss58(hotkey)}"
    rows = (_row(record, own.get(record.window), hotkey) for record in ordered[page_of(query, len(ordered))])
    failed = sum(one.status is MinerStatus.FAILED for one in own.values())
    void = len(told) - len(own)
    caption = f"Its last {len(ordered)} windows, newest first; {failed} failed" + (f", {void} not scored" if void else "")
    body = table(["window", "verdict", "declared#", "valid#", "weight#", "why"], rows, caption=caption)
    return card("", "", body) + pager(query, path, len(ordered), "windows")


def _row(record: WindowRecord, one: MinerRecord | None, hotkey: Hotkey) -> list[Cell]:
    said = record.reason if one is None else one.reason
    numbers = ("", "", "") if one is None else (f"{one.declared:,}", f"{one.valid:,}", f"{one.weight:,}")
    return [
        cell(window_link(record.window), "nw"),
        cell(status_badge(record.status if one is None else one.status)),
        *map(number, numbers),
        cell(explain_link(record.window, hotkey, "explain") + (f": {escape(said)}" if said else ""), "long"),
    ]
