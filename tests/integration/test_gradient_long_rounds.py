"""Rounds of two windows: whoever is killed in the first one goes on in the second."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import torch

from grail_core.protocol.types import Window
from grail_trainer.gradient_presets import TINY
from tooling.testing.driven_chain import Driven
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound

FIRST = Window(60)


def test_a_miner_and_an_aggregator_that_start_again_inside_a_round_show_and_merge_what_was_sealed_before(
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    network = GradientNetwork(tmp_path / "network", replace(TINY, round_windows=2), miners=1, validators=0)
    one = GradientRound.trained(network, FIRST)
    one.seal()
    network.advance_to(one.context.times.deadline_block + 1)
    running = network.participant("trainer").current_window()
    assert running == FIRST + 30
    window, stop = network.participant("trainer").open_window(running), threading.Event()
    miner = network.miner("miner-0", chain=Driven(network.chain, FIRST + 60))
    assert miner.mine(window, stop)
    assert one.stored("miner-0", "update")
    assert one.stored("miner-0", "opening")
    assert not miner.mine(window, stop), "a round is mined once, and a window inside it has no work of its own"
    assert network.aggregator(chain=Driven(network.chain, FIRST + 60)).run(stop, rounds=1) == 1
    head = network.participant("trainer").own_checkpoints.refresh().head
    assert head is not None
    assert (head.window, head.valid_from) == (FIRST, FIRST + 60)
