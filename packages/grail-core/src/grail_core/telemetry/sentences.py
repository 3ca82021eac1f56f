"""The terminal's form of an event: a sentence for what a role does all the time, else its fields, each with its unit.

The log file has every field of every event; here is what a person wants to see pass by. A sentence that finds a field missing
or of another kind gives way to the fields. Units follow from names, as docs/operations.md says of them: `seconds`, `ms`,
`bytes`; numbers without one count things, are shares from 0 to 1, or blocks and windows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from grail_core.text import printable

Fields = Mapping[str, Any]


def sentence(event: str, fields: Fields) -> str:
    """What happened, in words; "" where the event has none. Nothing in it is made fit for a terminal yet."""
    say = _SENTENCES.get(event)
    if say is None:
        return ""
    try:
        return say(fields)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""


def with_fields(fields: Fields) -> str:
    """`name=value` for each field that says something, with units."""
    return " ".join(f"{printable(name, 64)}={_short(name, value)}" for name, value in fields.items() if value not in ("", None))


def duration(seconds: float) -> str:
    """To the two largest units: 850 ms, 12.3 s, 4 min 5 s, 3 h 7 min, 2 d 4 h."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, below, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def size(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"


def _counted(count: int, one: str) -> str:
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def _short(name: str, value: object) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _measured(name, value)
    if isinstance(value, dict | list):
        return printable(json.dumps(value, default=str))
    text = printable(value)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


def _measured(name: str, value: float) -> str:
    words = name.split("_")
    number = f"{value:.4g}" if isinstance(value, float) else str(value)
    for word, unit in (("seconds", "s"), ("s", "s"), ("ms", "ms"), ("bytes", "B")):
        if word in (words[0], words[-1]):
            return f"{number}{unit}"
    return number


def _took(fields: Fields, phase: str) -> str:
    return duration(fields[f"seconds_{phase}"])


def _window_mined(f: Fields) -> str:
    return (
        f"window {f['window']}: {_counted(f['rollouts'], 'rollout')} in {_counted(f['groups'], 'group')}, mean reward "
        f"{f['reward_mean']:.3f}; {_took(f, 'generate')} generating, {_took(f, 'prove')} proving, "
        f"{size(f['bytes'])} up {duration(f['seconds_to_spare'])} before the deadline"
    )


def _window_judged(f: Fields) -> str:
    return (
        f"window {f['window']}: {f['checked']} of {_counted(f['announced'], 'file')} checked, {f['failed']} failed; "
        f"{_counted(f['rollouts_checked'], 'rollout')} verified in {_took(f, 'verify')}"
    )


def _miner_judged(f: Fields) -> str:
    counted = f", {f['unique_valid']} of {f['declared']} rollouts count" if f["status"] == "accepted" else ""
    return f"window {f['window']}: {f['hotkey']} {f['status'].replace('_', ' ')}{counted}" + _because(f)


def _window_trained(f: Fields) -> str:
    solved = "" if f.get("success_mean") is None else f", {100 * f['success_mean']:.1f} % solved"
    told = "" if f.get("reward_mean") is None else f", mean reward {f['reward_mean']:.3f}{solved}"
    alarms = f["alarms"] if isinstance(f.get("alarms"), list) else []
    raised = f"; {_counted(len(alarms), 'alarm')}: {', '.join(str(one['alarm']) for one in alarms)}" if alarms else ""
    return (
        f"window {f['window']}: learned from {_counted(f['groups'], 'group')} of {f['groups_offered']}{told}; verified in "
        f"{_took(f, 'verify')}, trained in {_took(f, 'train')}{raised}"
    )


def _checkpoint_published(f: Fields) -> str:
    delta = f", {size(f['delta_bytes'])} of changes" if f.get("delta_bytes") else ""
    late = "; it came too late for readers" if f.get("late") else ""
    return f"checkpoint {f['sequence']} in force from window {f['valid_from']}{delta}, in {_took(f, 'publish')}{late}"


def _batch_generated(f: Fields) -> str:
    left = f", {f['unfinished']} unfinished" if f.get("unfinished") else ""
    made = f"{_counted(f['groups'], 'group')}, {_counted(f['tokens'], 'token')}"
    return f"window {f['window']}: {made} in {duration(f['seconds'])}{left}"


def _weights_sent(f: Fields) -> str:
    paid = sum(1 for weight in f["weights"].values() if weight)
    return f"weights of window {f['window']} sent at block {f['block']}, {_counted(paid, 'UID')} above 0"


def _network_seen(f: Fields) -> str:
    known = [f"block {f['block']}, {duration(f['head_age_seconds'])} old"] if "block" in f else []
    if "checkpoint_sequence" in f:
        age = f["checkpoint_age_windows"]
        since = f"in force for {_counted(age, 'window')}" if age >= 0 else f"in force in {_counted(-age, 'window')}"
        known.append(f"checkpoint {f['checkpoint_sequence']}, {since}")
    blind = [part for part, failed in f["failed"].items() if failed]
    return "; ".join([*known, f"nothing seen of {', '.join(blind)}"] if blind else known)


def _standing_seen(f: Fields) -> str:
    said = f"by {_counted(f['validators'], 'validator')}: weight {100 * f['weight']:.3g} %"
    rejected = f", rejected by {100 * f['rejected']:.3g} % of the stake" if f["rejected"] else ""
    return said + rejected + (f", worth 0 for {_counted(f['unpaid_windows'], 'window')}" if f["unpaid_windows"] else "")


def _stopped(f: Fields) -> str:
    """Of every role; what it did is in the fields that its summary has."""
    after = f"stopped after {duration(f['seconds'])}: " if "seconds" in f else "stopped: "
    known = [f"{_counted(f[name], what)} {said}".strip() for name, (what, said) in _DONE.items() if f.get(name)]
    known += [f"{size(f['bytes_uploaded'])} uploaded"] if f.get("bytes_uploaded") else []
    known += [f"weights set {_counted(f['weights_set'], 'time')}"] if f.get("weights_set") else []
    lost = f"; the last one lost because {f['last_reason']}" if f.get("last_reason") else ""
    return after + (", ".join(known) or _counted(f["windows"], "window")) + lost


_DONE = {
    "windows_mined": ("window", "mined"),
    "windows_judged": ("window", "judged"),
    "windows_trained": ("window", "learned from"),
    "rounds": ("round", ""),
    "windows_lost": ("window", "lost"),
    "rollouts": ("rollout", ""),
    "files_checked": ("file", "checked"),
    "files_failed": ("file", "failed"),
    "checkpoints": ("checkpoint", "published"),
    "alarms": ("alarm", ""),
}


def _because(f: Fields) -> str:
    return f": {f['reason']}" if f.get("reason") else ""


def _of_window(said: str) -> Callable[[Fields], str]:
    return lambda f: f"window {f['window']}: {said}{_because(f)}"


def _started(f: Fields) -> str:
    return f"{f['hotkey']}, UID {f['uid']} of network {f['network']}" + (f", backend {f['backend']}" if "backend" in f else "")


_SENTENCES: Mapping[str, Callable[[Fields], str]] = {
    "batch_generated": _batch_generated,
    "checkpoint_published": _checkpoint_published,
    "first_sight": lambda f: (
        f"window {f['window']}: seals of {f['seen']} of {_counted(f['registered'], 'hotkey')} in time, {f['late']} late"
    ),
    "largest_pass_fits": lambda f: f"the largest pass fits: {f['tokens']:,} tokens in {duration(f['seconds'])}",
    "miner_judged": _miner_judged,
    "miner_started": _started,
    "miner_stopped": _stopped,
    "network_seen": _network_seen,
    "standing_seen": _standing_seen,
    "trainer_started": _started,
    "trainer_stopped": _stopped,
    "upload_failed": _of_window("the upload failed"),
    "upload_waits": lambda f: f"window {f['window']}: made; uploaded at block {f['until_block']}",
    "validator_started": _started,
    "validator_stopped": _stopped,
    "verdict_published": lambda f: (
        f"window {f['window']}: verdict of {size(f['bytes'])}, evidence of {size(f['evidence_bytes'])}"
    ),
    "weights_sent": _weights_sent,
    "weights_set": lambda f: f"weights of window {f['window']}, sent at block {f['block']}, are on the chain",
    "window_judged": _window_judged,
    "window_mined": _window_mined,
    "window_not_scored": lambda f: f"window {f['window']} is {f['status']}{_because(f)}",
    "window_not_trained": _of_window("not learned from"),
    "window_skipped": _of_window("skipped"),
    "window_trained": _window_trained,
}
