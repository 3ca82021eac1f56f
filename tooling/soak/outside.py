"""Breaks what the roles of a soak reach beyond their machine, from outside of their processes: files, and a stopped relay.

A node's faults are in the file beside the chain's, the line's in the proxy's file; both are read again at each request. The
relay is stopped by a signal, so that it takes connections and says nothing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Final

from grail_core.chain.development.local import LocalChain
from tooling.localnet.processes import BEACON
from tooling.localnet.supervisor import Supervisor
from tooling.soak import schedule
from tooling.soak.schedule import Fault
from tooling.testing.faulty_proxy import Faults
from tooling.testing.simulated_bittensor.faults import FaultFile

NODE: Final = "primary"
"""The endpoint that every role begins with; the other one goes on."""
LAG: Final = 8  # blocks
FAILURES: Final = 6  # requests of each process

LINES: Final[dict[str, Faults]] = {
    "latency": Faults(rates={"latency": 0.7}, latency_s=0.05),
    "resets": Faults(rates={"reset_before": 0.06, "reset_in": 0.03, "reset_after": 0.06}),
    "throttled": Faults(rates={"busy": 0.3}, retry_after_s=1),
    "truncated": Faults(rates={"truncated": 0.1}),
    "stale_lists": Faults(rates={"stale_list": 0.5}),
    "drip": Faults(rates={"drip": 0.3}, drip_s=0.02),
    "away": Faults(rates={"reset_before": 1.0}),
}


class Broken:
    """The outside of one run.

    Args:
        line: the proxy's file.
    """

    def __init__(self, chain: LocalChain, chain_file: Path, line: Path, supervisor: Supervisor) -> None:
        self._chain, self._chain_file, self._line, self._supervisor = chain, chain_file, line, supervisor
        self._nodes = FaultFile(chain_file)

    @staticmethod
    def make_whole(chain_file: Path, line: Path) -> None:
        """Before anything is started, too."""
        FaultFile(chain_file).clear()
        Faults().write(line)

    def begin(self, fault: Fault) -> None:
        if fault.part == schedule.CHAIN:
            self._nodes.set(NODE, **self._node(fault.what))
        elif fault.part == schedule.STORE:
            LINES[fault.what].write(self._line)
        else:
            self._signal_relay(signal.SIGSTOP)

    def end(self, fault: Fault) -> None:
        if fault.part == schedule.BEACON:
            self._signal_relay(signal.SIGCONT)
        else:
            self.make_whole(self._chain_file, self._line)

    def _node(self, what: str) -> dict[str, Any]:
        head = self._chain.current_block()
        faults: dict[str, dict[str, Any]] = {
            "frozen": {"head_at": head},
            "unfinal": {"finality_at": self._chain.finalised_block()},
            "silent": {"silent": True},
            "refused": {"unreachable": True},
            "lagging": {"behind": LAG},
            "flaky": {"fails": FAILURES},
            "throttled": {"throttled": 2},
            "does_nothing": {"loses": True},
        }
        return faults[what]

    def _signal_relay(self, number: signal.Signals) -> None:
        pid = self._supervisor.processes[BEACON].pid
        if pid is not None:
            os.kill(pid, number)
