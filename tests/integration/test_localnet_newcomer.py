"""What `--newcomer` and `--commit-reveal` do to localnet's chain, without its processes."""

from __future__ import annotations

from pathlib import Path

from grail_core.protocol.types import Window
from tooling.localnet.conductor import Known, Timetable
from tooling.localnet.events import Event
from tooling.localnet.newcomer import IMMUNITY_BLOCKS, REVEAL_BLOCKS, Newcomer
from tooling.localnet.plan import Layout, Plan
from tooling.localnet.report.collect import weight_facts
from tooling.localnet.setup import Network, make_network, newcomer_of

FIRST = Window(30)


def plan(*, newcomer: bool = False, commit_reveal: bool = False) -> Plan:
    return Plan(3, "sat", 7, True, 2, (), 2, 500, newcomer=newcomer, commit_reveal=commit_reveal)


def played(network: Network, newcomer: Newcomer) -> list[str]:
    """The validators pay miner-2 more than miner-1, and the clock goes to the newcomer's moments and past them."""
    chain, uids = network.chain, network.uids
    losing, taking = newcomer.halts(FIRST)
    said: list[str] = []
    chain.advance(losing - 30 - chain.current_block())
    for name in ("validator-1", "validator-2"):
        chain.set_weights(network.signers[name], {0: 900, uids["miner-1"]: 40, uids["miner-2"]: 60})
    for block in (losing - 1, losing, losing + 1, taking - 1, taking, taking + 1):
        chain.advance(block - chain.current_block())
        line = newcomer.act(FIRST, chain.current_block())
        said += [line] if line else []
        if block == losing + 1:
            for name in ("validator-1", "validator-2"):
                chain.set_weights(network.signers[name], {0: 1})
    chain.advance(3)
    return said


def test_the_call_is_lost_and_the_miner_that_earns_least_loses_its_uid_before_that_is_noticed(tmp_path: Path) -> None:
    network = make_network(plan(newcomer=True), Layout(tmp_path))
    newcomer = newcomer_of(plan(newcomer=True), network)
    assert newcomer is not None
    assert len(network.chain.metagraph().neurons) == network.chain.parameters.rules.max_uids == 6
    losing, taking = newcomer.halts(FIRST)
    assert IMMUNITY_BLOCKS < losing < taking
    said = played(network, newcomer)
    assert [line.split()[-1] for line in said] == ["weights", str(network.uids["miner-1"])]
    chain = network.chain
    graph = chain.metagraph()
    assert graph.neurons[network.uids["miner-1"]].hotkey == newcomer.signer.hotkey
    assert graph.by_hotkey(network.signers["miner-1"].hotkey) is None
    (first, second) = chain.weights().values()
    assert first == second == {0: 900, network.uids["miner-2"]: 60}  # the lost calls changed nothing, the UID's weight is gone
    assert newcomer.act(FIRST, chain.current_block()) is None


def test_a_run_that_is_resumed_after_it_knows_every_role_by_the_uid_it_began_with(tmp_path: Path) -> None:
    settings, layout = plan(newcomer=True), Layout(tmp_path)
    network = make_network(settings, layout)
    newcomer = newcomer_of(settings, network)
    assert newcomer is not None
    played(network, newcomer)
    again = make_network(settings, layout)
    assert (again.uids, again.miners) == (network.uids, network.miners)
    assert again.chain.nonce(network.signers["miner-1"].hotkey) == 1  # not registered once more
    resumed = newcomer_of(settings, again)
    assert resumed is not None
    assert resumed.act(FIRST, again.chain.current_block()) is None


def test_a_run_without_either_has_room_and_sets_weights_in_the_open(tmp_path: Path) -> None:
    network = make_network(plan(), Layout(tmp_path))
    assert newcomer_of(plan(), network) is None
    rules = network.chain.parameters.rules
    assert (rules.reveal_blocks, rules.max_uids) == (0, 256)


def test_committed_weights_are_reported_once_they_are_in_force_and_the_clock_goes_so_far(tmp_path: Path) -> None:
    network = make_network(plan(commit_reveal=True), Layout(tmp_path))
    chain = network.chain
    chain.advance(40)
    sent_at = chain.current_block()
    chain.set_weights(network.signers["validator-1"], {0: 1, network.uids["miner-1"]: 3})
    chain.advance(REVEAL_BLOCKS + 3)
    fields = {"window": 30, "block": sent_at}
    events = [Event("validator-1", name, 0.0, fields) for name in ("weights_sent", "weights_set")]
    (fact,) = weight_facts(network, events)
    assert fact.shares == {0: 0.25, network.uids["miner-1"]: 0.75}
    open_chain = make_network(plan(), Layout(tmp_path / "open")).chain
    rests = []
    for parameters in (chain.parameters, open_chain.parameters):
        table = Timetable(network.params, parameters, 2, "trainer", ("validator-1",), ("miner-1",))
        (rest,) = [stand for stand in table.stands(Known(FIRST)) if stand.name == "rest"]
        rests.append(rest.at_ms)
    assert rests[0] - rests[1] == REVEAL_BLOCKS * network.params.block_time_ms
