"""A role as shipped whose bittensor SDK speaks to a simulated network: `localnet --chain bittensor-sim`.

`python -m tooling.localnet.on_simulated_chain CHAIN NAP (-c CODE | -m MODULE) …` is the Python command after NAP with two
things replaced before anything of ours is imported: `bittensor.RpcSubstrate` (see `tooling.testing.simulated_bittensor`) and
the wall clock, which is the chain's. Settings, adapter and SDK are those of a real network. Faults of its nodes are in the file
beside the chain's. NAP is how many seconds a role sleeps between two looks for a block, where a clock that is moved by hand
makes blocks come sooner than the chain says; 0 leaves it as shipped.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ENDPOINTS = ("ws://primary:1", "ws://fallback:1")
"""No such hosts are asked: they are the names of simulated nodes."""
SETTINGS = {"BT_NETWORK": "custom", "BT_CHAIN_ENDPOINT": ",".join(ENDPOINTS)}
VIRTUAL_NAP_S = 0.05


def on_simulated_chain(argv: tuple[str, ...], chain: Path, nap_s: float) -> tuple[str, ...]:
    """The command line of a Python process, `(python, "-c" or "-m", …)`, on the simulated network over this chain."""
    python, *rest = argv
    return (python, "-m", "tooling.localnet.on_simulated_chain", str(chain), str(nap_s), *rest)


def main(chain_file: Path, nap_s: float, command: list[str]) -> None:
    import bittensor

    import grail_core.clock
    from grail_core.chain.base import seconds_of
    from grail_core.chain.development.local import LocalChain
    from tooling.testing.simulated_bittensor.substrate import SimulatedBittensor

    chain = LocalChain.open(chain_file)
    simulated = SimulatedBittensor(chain, chain_file)
    bittensor.RpcSubstrate = simulated.substrate
    now_ms = chain.now_ms
    grail_core.clock.wall_clock_ms = now_ms
    if nap_s:
        from grail_core.chain.bittensor import following

        block_s = seconds_of(1, chain.parameters.block_time_ms)
        blocks = nap_s / block_s
        following.NAPS = following.Naps(blocks, blocks)
    kind, what, *arguments = command
    if kind == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(what, "<command>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
