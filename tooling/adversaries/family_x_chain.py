"""X13: a chain head that stands still behind a live connection, and a call that says success and did nothing.

A try is a validator with weights to set, as shipped from ledger to SDK, over simulated nodes of which the first is hostile. It
got through where the validator does not notice: where it is still with that node, or says nothing, five block times after the
node began to stand; or where lost weights are not said and on the chain within one interval. The honest twin has the same nodes
and no lie: its weights are set at the first try, and nobody is left or accused.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.chain.bittensor.adapter import BittensorChain
from grail_validator.weight_setting import WeightSetting
from tooling.adversaries.rows import Row, Try
from tooling.testing.faults import events
from tooling.testing.judged_network import ME, MINER, judged, setting
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.simulated_bittensor.subnet import SimulatedSubnet
from tooling.testing.small_network import SmallNetwork

NOTICED_BLOCKS = 5
HOSTILE, OTHER = "primary", "fallback"


@dataclass
class Stage:
    network: SmallNetwork
    subnet: SimulatedSubnet
    chain: BittensorChain
    validator: WeightSetting

    def live(self, blocks: int) -> list[str]:
        """Block by block; what was said."""
        with events() as names:
            for _ in range(blocks):
                self.subnet.advance(1)
                self.validator.turn()
        return names

    @property
    def hostile_in_use(self) -> bool:
        return self.chain.endpoint.startswith(HOSTILE)

    @property
    def paid(self) -> bool:
        """Whether the chain holds this validator's weights."""
        row = self.network.chain.weights().get(self.network.signers[ME].hotkey, {})
        neuron = self.network.chain.metagraph().by_hotkey(self.network.signers[MINER].hotkey)
        return neuron is not None and row.get(neuron.uid, 0) > 0


Attempt = Callable[[Stage], str]
"""What went wrong; no text where the lie was noticed as it should be."""


def _stands(**fault: int) -> Attempt:
    """The node stands where it is, or so many blocks before."""

    def attempt(stage: Stage) -> str:
        head, finalised = stage.chain.current_block(), stage.chain.finalised_block()
        at = {"head_at": head, "finality_at": finalised}
        stage.subnet.faults.set(HOSTILE, **{name: at[name] - back for name, back in fault.items()})
        names = stage.live(NOTICED_BLOCKS)
        if stage.hostile_in_use:
            return "still asked five block times later"
        if "chain_endpoint_left" not in names or not {"chain_head_stands", "chain_head_old", "chain_finality_stands"} & {
            *names
        }:
            return "left without a word"
        stage.live(NOTICED_BLOCKS)
        return "" if stage.paid else "no weights on the chain ten blocks later"

    return attempt


def _found_standing(stage: Stage) -> str:
    """It stood before this validator was started."""
    stage.subnet.faults.set(HOSTILE, head_at=stage.network.chain.current_block() - 10)
    names = stage.live(NOTICED_BLOCKS)
    if stage.hostile_in_use or "chain_endpoint_left" not in names:
        return "still asked five block times later"
    stage.live(NOTICED_BLOCKS)
    return "" if stage.paid else "no weights on the chain ten blocks later"


def _says_success(stage: Stage) -> str:
    """Every submission to this node is answered with success, for ever."""
    stage.subnet.faults.set(HOSTILE, loses=True)
    names = stage.live(stage.network.params.weight_interval)
    if "weights_not_on_chain" not in names:
        return "nobody noticed within an interval"
    return "" if stage.paid else "no weights on the chain within an interval"


def _says_success_once(stage: Stage) -> str:
    """One call is lost, and there is no other node: it is sent again."""
    stage.network.chain.lose_weights(stage.network.signers[ME].hotkey, 1)
    names = stage.live(stage.network.params.weight_interval)
    if "weights_not_on_chain" not in names:
        return "nobody noticed within an interval"
    return "" if stage.paid else "no weights on the chain within an interval"


def _honest(stage: Stage) -> str:
    names = stage.live(2 * NOTICED_BLOCKS)
    wrong = [name for name in names if name.startswith("chain_") or name == "weights_not_on_chain"]
    if wrong or names.count("weights_sent") != 1:
        return f"accused: {', '.join(wrong) or names}"
    return "" if stage.paid else "no weights on the chain"


TRIES: dict[str, tuple[Attempt, str, Sequence[str]]] = {
    "the best block stands": (_stands(head_at=0), "another endpoint", (HOSTILE, OTHER)),
    "the finalised block stands": (_stands(finality_at=0), "another endpoint", (HOSTILE, OTHER)),
    "it stood before anybody looked": (_found_standing, "another endpoint", (HOSTILE, OTHER)),
    "success that is none, every time": (_says_success, "said and sent again", (HOSTILE, OTHER)),
    "success that is none, once": (_says_success_once, "said and sent again", (HOSTILE,)),
}


def x13(*, quick: bool = False) -> dict[str, Any]:
    """Each lie before a validator of its own; `quick` tries as much."""
    row = Row("X13", "validators")
    root = Path(tempfile.mkdtemp(prefix="grail-attacks-"))
    try:
        model = save_byte_model(root / "model")
        for number, (name, (attempt, caught, endpoints)) in enumerate(TRIES.items()):
            with _stage(root / str(number), model, endpoints) as stage:
                wrong = attempt(stage)
            row.tries.append(Try(name, bool(wrong), "" if wrong else caught, wrong or caught))
        with _stage(root / "honest", model, (HOSTILE, OTHER)) as stage:
            row.honest_tries, row.honest_false_rejects = 1, int(bool(_honest(stage)))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return row.to_json()


@contextmanager
def _stage(folder: Path, model: Path, endpoints: Sequence[str]) -> Iterator[Stage]:
    folder.mkdir()
    network = judged(SmallNetwork(folder, model=model, miners=2, validators=1))
    subnet = SimulatedSubnet(folder, chain=network.chain)
    chain = subnet.adapter(*endpoints)
    try:
        yield Stage(network, subnet, chain, setting(network, chain))
    finally:
        chain.close()


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"X13": x13}
