"""`grail-ROLE doctor --watch`: the same questions again and again; what is said is what began and what ended.

Names and actions are those of the alerts (`telemetry.alerts`); what no alert speaks of has the name that the doctor gives it.
Whatever does not answer is a finding and ends nothing. A round that takes longer than ROUND_S is told, and the next one begins
when it has ended. A round leaves nothing open behind it; one that is in hand when the watch is stopped has LEAVE_S to take away
what it wrote into the bucket.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from grail_core.errors import GrailError
from grail_core.telemetry.alerts import ALERTS, FULL_SUBNET, LAST_PLACES, STALE_SHARE, Severity, alert_of
from grail_core.text import printable

if TYPE_CHECKING:
    from grail_core.errors import ConfigurationError
    from grail_core.examination.findings import Finding
    from grail_core.examination.known import Known, Role
    from grail_core.participant.settings import Resolution

ROUND_S: Final = 300.0
LEAVE_S: Final = 5.0
_OF: Final = {alert.name: alert for alert in ALERTS}


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong now. `detail` has its numbers; who compares rounds looks at `name` alone."""

    name: str
    severity: Severity
    detail: str
    action: str


Troubles = Mapping[str, Trouble]
Look = Callable[[], Iterable[Trouble]]


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --watch and --every to a role's doctor."""
    every = click.option(
        "--every",
        type=click.IntRange(5, 86_400),
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="With --watch: between two rounds.",
    )
    watch = click.option(
        "--watch", is_flag=True, help="Ask again and again, and say what begins and ends, with the alerts' names; until Ctrl-C."
    )
    return watch(every(command))


def watch_command(
    found: Resolution, faults: tuple[ConfigurationError, ...], role: Role, *, every: int, offline: bool, as_json: bool
) -> None:
    """Ask until stopped, and print what changes."""
    from grail_core.commands.options import stop_on_signals, verbosity

    if not verbosity():  # what these would tell in every round is a finding
        logging.getLogger("grail_core").setLevel(logging.ERROR)
    with stop_on_signals() as stop:
        watch(lambda: troubles_of(found, faults, role, offline=offline), stop, role.name, every_s=every, as_json=as_json)


def watch(
    look: Look,
    stop: threading.Event,
    role: str,
    *,
    every_s: float,
    as_json: bool,
    round_s: float = ROUND_S,
    leave_s: float = LEAVE_S,
) -> None:
    """Rounds until `stop` is set, each in a thread of its own: one that hangs neither ends this nor holds up its end."""
    said = _Said(role, as_json=as_json)
    said.watching(every_s)
    while not stop.is_set():
        ended, round_ = threading.Event(), _Round(look)
        threading.Thread(target=round_.run, args=(ended,), name="doctor-round", daemon=True).start()
        _wait(ended, stop, round_s)
        if not ended.is_set() and not stop.is_set():
            said.long_round(round_s)
            while not ended.is_set() and not stop.is_set():
                _wait(ended, stop, round_s)
        if stop.is_set():
            ended.wait(leave_s)
            break
        if round_.troubles is not None:
            said.changes(round_.troubles)
        stop.wait(every_s)
    said.over()


def _wait(ended: threading.Event, stop: threading.Event, most_s: float) -> None:
    until = time.monotonic() + most_s
    while not ended.wait(0.1) and not stop.is_set() and time.monotonic() < until:
        pass


class _Round:
    def __init__(self, look: Look) -> None:
        self._look = look
        self.troubles: Troubles | None = None

    def run(self, ended: threading.Event) -> None:
        try:
            self.troubles = _joined(self._look())
        except Exception as error:  # noqa: BLE001 - a fault of ours is a finding too; the next round may go well
            what = f"{type(error).__name__}: {error}"[:300]
            self.troubles = {"doctor": Trouble("doctor", "warning", f"this round failed: {what}", "report it if it stays")}
        finally:
            ended.set()


def _joined(troubles: Iterable[Trouble]) -> Troubles:
    """One of each name, with the details of all."""
    joined: dict[str, Trouble] = {}
    for one in troubles:
        before = joined.get(one.name)
        detail = one.detail if before is None or one.detail == before.detail else f"{before.detail}; {one.detail}"
        joined[one.name] = Trouble(one.name, one.severity, detail[:1_000], one.action)
    return joined


class _Said:
    """What was printed, so that only changes are."""

    def __init__(self, role: str, *, as_json: bool) -> None:
        self._role, self._as_json = role, as_json
        self._since: dict[str, tuple[Trouble, float]] = {}
        self._first = True

    def watching(self, every_s: float) -> None:
        self._line(f"watching this {self._role} every {every_s:.0f} s; Ctrl-C ends it", event="watching", every_seconds=every_s)

    def changes(self, now: Troubles) -> None:
        moment = time.monotonic()
        for name in [name for name in self._since if name not in now]:
            trouble, began = self._since.pop(name)
            self._line(f"ENDED  {name}, after {_lasted(moment - began)}", event="ended", **_fields(trouble))
        for name, trouble in now.items():
            if name not in self._since:
                self._since[name] = (trouble, moment)
                text = f"BEGAN  {name} ({trouble.severity}): {trouble.detail}"
                action = f"\n{'':16}→ {trouble.action}" if trouble.action else ""
                self._line(text + action, event="began", **_fields(trouble))
        if self._first and not now:
            self._line("nothing is wrong", event="nothing_wrong")
        self._first = False

    def long_round(self, seconds: float) -> None:
        self._line(f"a round takes longer than {seconds:.0f} s; the next begins when it has ended", event="long_round")

    def over(self) -> None:
        left = ", ".join(self._since) or "nothing"
        self._line(f"stopped; wrong at the end: {left}", event="stopped", wrong=[*self._since])

    def _line(self, text: str, **fields: object) -> None:
        if self._as_json:
            click.echo(json.dumps({"time": round(time.time(), 3), "role": self._role, **fields}))
            return
        stamp = datetime.now(UTC).strftime("%H:%M:%S")
        lines = [printable(line) for line in text.split("\n")]
        click.echo("\n".join([f"{stamp} {lines[0]}", *lines[1:]]))


def _fields(trouble: Trouble) -> dict[str, str]:
    return {"alert": trouble.name, "severity": trouble.severity, "detail": trouble.detail, "action": trouble.action}


def _lasted(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


# --- one round ----------------------------------------------------------------------------------------------------------


def troubles_of(
    found: Resolution, faults: tuple[ConfigurationError, ...], role: Role, *, offline: bool = False
) -> Iterator[Trouble]:
    """What a doctor finds wrong, and what chain and verdicts say of this hotkey; what cannot be asked is a trouble itself."""
    from grail_core.examination import deployment, folders
    from grail_core.examination.known import Known

    known = Known()
    try:
        for finding in deployment.examine(found, faults, role, known, offline=offline):
            yield from _of_finding(finding)
        for finding in folders.folders(folders.of_role(found.settings)):
            yield from _of_finding(finding)
        if offline or known.chain is None or known.params is None:
            return
        yield from _asked("standing", lambda: _of_checkpoint(known))
        if role.permit:
            yield from _asked("standing", lambda: _of_weights(known))
        if role.name == "miner" and known.signer is not None:
            yield from _asked("standing", lambda: _of_standing(found, known))
    finally:
        if known.chain is not None:
            known.chain.close()


def _asked(name: str, ask: Callable[[], Iterable[Trouble]]) -> Iterator[Trouble]:
    try:
        yield from ask()
    except GrailError as error:
        yield Trouble(name, "warning", error.what, error.hint)


def _of_finding(finding: Finding) -> Iterator[Trouble]:
    from grail_core.examination.findings import State

    if finding.state in (State.OK, State.NOT_ASKED):
        return
    alert = alert_of(finding.section, finding.name)
    if alert is not None:
        yield Trouble(alert.name, alert.severity, finding.detail, alert.action)
    else:
        severity: Severity = "critical" if finding.state is State.BROKEN else "warning"
        yield Trouble(f"{finding.section}: {finding.name}", severity, finding.detail, finding.hint)


def _of_alert(name: str, detail: str) -> Trouble:
    alert = _OF[name]
    return Trouble(alert.name, alert.severity, detail, alert.action)


def _of_checkpoint(known: Known) -> Iterator[Trouble]:
    """Raises ChainError."""
    from grail_core.checkpoints.manifests import windows_of_round
    from grail_core.checkpoints.trainer_life import SILENT_ROUNDS
    from grail_core.protocol.constants import WINDOW_LENGTH
    from grail_core.protocol.windows import window_of

    if known.manifest is None or known.chain is None:
        return
    age = (window_of(known.chain.current_block()) - known.manifest.valid_from) // WINDOW_LENGTH
    if age * STALE_SHARE >= SILENT_ROUNDS * windows_of_round(known.manifest):
        yield _of_alert("GrailCheckpointStale", f"checkpoint {known.manifest.sequence} has been in force for {age} windows")


def _of_weights(known: Known) -> Iterator[Trouble]:
    """Raises ChainError."""
    if known.chain is None or known.signer is None or known.params is None:
        return
    neuron = known.chain.metagraph().by_hotkey(known.signer.hotkey)
    if neuron is None:
        return
    age = known.chain.current_block() - max(neuron.last_update, neuron.registered_at)
    if age > 3 * known.params.weight_interval:
        due = known.params.weight_interval
        told = f"the chain has shown no new weights of this hotkey for {age} blocks; they are due every {due}"
        yield _of_alert("GrailWeightsNotSet", told)


def _of_standing(found: Resolution, known: Known) -> Iterator[Trouble]:
    """Raises GrailError."""
    from grail_core.commands.network_view import NetworkView
    from grail_core.commands.own_standing import WINDOWS, standing_fields
    from grail_core.commands.standing_read import standing_of
    from grail_core.participant.deployment import open_reader

    if known.signer is None or known.params is None or known.chain is None:
        return
    reader = open_reader(found.settings, known.params, known.chain)
    view = NetworkView(found.settings, known.params, known.chain, reader)
    fields = standing_fields(standing_of(view, known.signer.hotkey, windows=WINDOWS))
    window = fields["window"]
    for alert in ALERTS:
        if alert.standing and fields[alert.standing] > (0.5 if alert.standing == "absent" else 0):
            yield _of_alert(alert.name, _told(alert.standing, fields, window))
    places, hotkeys = fields.get("places_before"), fields.get("hotkeys", 0)
    if places is not None and places < LAST_PLACES and hotkeys >= FULL_SUBNET:
        yield _of_alert("GrailMinerNearDeregistration", f"{places} of {hotkeys} hotkeys would lose their UID before this one")


def _told(field: str, fields: Mapping[str, Any], window: int | None) -> str:
    if field == "unpaid_windows":
        return f"worth 0 for {fields[field]} windows more"
    share = f"{100 * fields[field]:.3g} % of the stake"
    if field == "absent":
        return f"window {window}: {share} saw no seal of this miner that counts"
    return f"window {window}: failed by {share}, by {', '.join(fields['rejected_by']) or 'no check that is named'}"
