"""A running localnet in which a UID changes hands before the weights, and the chain loses a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grail_core.chain.base import weights_update
from grail_core.chain.development.local import LocalChain
from grail_core.files.verdicts import read_verdict
from grail_core.keys import LocalSigner
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.storage.filesystem import FilesystemDirectory
from tooling import REPOSITORY
from tooling.localnet.events import Event, EventTail
from tooling.localnet.newcomer import REVEAL_BLOCKS
from tooling.localnet.plan import Layout
from tooling.localnet.setup import derive_seed

SEED = 81
VALIDATORS = ("validator-1", "validator-2")


def run(out: Path, *options: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    command = [sys.executable, "-m", "tooling.localnet", "--out", str(out), "--seed", str(SEED), "--json", *options]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=1100)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["not_waited_for"] == []


def of(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if event.name == name]


def number(event: Event, name: str) -> int:
    value = event.integer(name)
    assert value is not None
    return value


def included_after(chain: LocalChain, hotkey: Hotkey, block: int) -> int:
    """In which block the next weights, or the next commit, of this hotkey are."""
    blocks = range(block + 1, chain.current_block() + 1)
    return next(b for b in blocks if (weights_update(chain, hotkey, Block(b)) or 0) > block)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("hidden", [0, REVEAL_BLOCKS])
def test_a_uid_recycled_between_judgement_and_weights_pays_its_new_owner_nothing_and_its_share_burns(
    hidden: int, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--quick", "--windows", "3", "--miners", "2", "--cheat", "none", "--evaluation-problems", "64", "--newcomer")
    run(out, *options, *(("--commit-reveal",) if hidden else ()))
    layout = Layout(out)
    chain = LocalChain.open(layout.chain)
    params = NetworkParameters.from_json(json.loads(layout.network.read_bytes()))
    network_id, burn = params.network_id(chain.genesis_hash), params.burn_uid
    newcomer = LocalSigner.from_seed(derive_seed(SEED, "hotkey", "newcomer"))
    owner = chain.metagraph().by_hotkey(newcomer.hotkey)
    assert owner is not None, "nobody came"
    former = chain.metagraph(Block(owner.registered_at - 1)).neurons[owner.uid]
    for name in VALIDATORS:
        events = EventTail(name, layout.logs / f"{name}.jsonl").read()
        hotkey = next(n.hotkey for n in chain.metagraph().neurons if n.commitment == f"fs:{name}")
        (lost,) = of(events, "weights_not_on_chain")  # noticed, within one interval
        assert number(lost, "block") - number(lost, "sent_at") <= params.weight_interval
        assert number(lost, "sent_at") < owner.registered_at
        (again,) = [event for event in of(events, "weights_sent") if event.integer("attempt") == 2]
        sent_at, window = number(again, "block"), Window(number(again, "window"))
        assert of(events, "weights_set"), "no call before it was seen on the chain"
        verdict = read_verdict(FilesystemDirectory(layout.store, "reader").open(f"fs:{name}"), window, hotkey, network_id)
        assert verdict is not None
        judged = verdict.body.weights
        assert verdict.body.hotkeys[owner.uid] == former.hotkey
        assert judged[owner.uid] > 0
        included = included_after(chain, hotkey, sent_at)
        row = chain.weights(Block(included + hidden))[hotkey]
        assert row.get(owner.uid, 0) == 0
        assert row[burn] == judged[burn] + judged[owner.uid]
        assert {uid: w for uid, w in row.items() if uid not in (burn, owner.uid)} == {
            uid: w for uid, w in judged.items() if uid not in (burn, owner.uid)
        }
        assert chain.weights(Block(included - 1))[hotkey] != row  # the former ones were in force until then
    assert newcomer.hotkey not in chain.earnings(owner.registered_at, chain.current_block())
    for name, other in (VALIDATORS, VALIDATORS[::-1]):
        command = [sys.executable, "-m", "grail_core.commands.grail", "scores", "--json"]
        command += ["--from", str(layout.store / name), "--also", str(layout.store / other)]
        environment = {**os.environ, "GRAIL_NETWORK": str(layout.network)}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert {row["result"] for row in json.loads(ended.stdout)["windows"]} == {"equal"}
