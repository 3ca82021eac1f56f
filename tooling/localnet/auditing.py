"""The trainer's published windows, repeated at the end of a run by its shipped command, as a stranger without a wallet."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from grail_core.errors import GrailError
from tooling.localnet.plan import Layout
from tooling.localnet.processes import audit_argv, base_environment
from tooling.localnet.report.facts import AuditFact
from tooling.localnet.supervisor import last_lines

WALLET = "BT_WALLET_"
ENDS = (0, 5, 11)
"""Exit codes of an audit that came to its end."""


class AuditFailedError(GrailError):
    """The audit's process ended with an error."""


def settings_without_wallet(layout: Layout, name: str) -> dict[str, str]:
    """What a role's file of settings says to a shell, without whose it is."""
    lines = (layout.root / "settings" / f"{name}.env").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines)
    return {key: " ".join(shlex.split(value)) for key, _, value in pairs if not key.startswith(WALLET)}


def run_audit(layout: Layout, reader: str, *, pause: Callable[[], None]) -> AuditFact:
    """Audit every window that is still there.

    Args:
        reader: whose settings, but for its wallet, are used. pause: called while waiting; raises to give up.

    Raises:
        AuditFailedError: with the last lines of what it said.
    """
    started, log, out = time.monotonic(), layout.logs / "audit.log", layout.root / "audit.json"
    with log.open("wb") as said, out.open("wb") as result:
        process = subprocess.Popen(
            audit_argv(),
            env=base_environment() | settings_without_wallet(layout, reader),
            cwd=layout.logs,
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=said,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                pause()
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode not in ENDS:
        raise AuditFailedError("\n  ".join(["the audit ended with an error:", *last_lines(log, 8)]), where=str(log))
    return _fact(out, time.monotonic() - started)


def _fact(out: Path, seconds: float) -> AuditFact:
    windows = json.loads(out.read_bytes())
    outcomes = Counter(str(one["outcome"]) for one in windows)
    first = next((one for one in windows if one["difference"]), None)
    return AuditFact(
        outcomes=dict(sorted(outcomes.items())),
        difference="" if first is None else f"window {first['window']}: {first['difference']}",
        seconds=seconds,
    )
