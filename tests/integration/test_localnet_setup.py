"""A localnet's identity follows from its seed, whatever its network is made with: folders of earlier versions go on."""

from __future__ import annotations

from pathlib import Path

from tooling.localnet.plan import Layout, Plan
from tooling.localnet.setup import make_network

PLAN = Plan(windows=2, env_id="sat", seed=81, quick=True, miners=1, cheats=("copy",), validators=1, block_time_ms=1500)
NETWORK_ID = "12953a5f152f39fb9057e481e10a316fd6ab4778e9f0d7b80fdf0be59db5fc4e"
"""Of keys, chain and parameters of this plan, as it was before `grail devnet` was made of the same parts."""


def test_a_seeds_network_is_the_one_that_it_was_and_the_next_start_opens_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = make_network(PLAN, layout)
    assert first.network_id.hex() == NETWORK_ID
    assert list(first.uids) == ["burn", "trainer", "validator-1", "miner-1", "miner-2"]
    again = make_network(PLAN, layout)
    assert (again.network_id, again.uids, again.chain.current_block()) == (
        first.network_id,
        first.uids,
        first.chain.current_block(),
    )
