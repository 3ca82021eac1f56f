"""Who installs grail-core alone, without extras for models, wallets and serving, checks all of a receipt that needs none."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grail_core.inference.receipts import Receipt
from grail_core.protocol.findings import Finding
from grail_core.verification.receipt import check_receipt
from tooling.testing.plain_receipts import (
    NETWORK,
    NETWORK_ID,
    ROUND_1000,
    by_node,
    hidden_order,
    ordered_receipt,
    unsigned_receipt,
)
from tooling.testing.wallets import ACCOUNT, wallet_signature

BLOCKED = """
import importlib.abc, json, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
given = json.load(sys.stdin)
raw, parameters, genesis = given["receipt"].encode(), given["parameters"], bytes.fromhex(given["genesis"])
"""
EXTRAS = {
    *("torch", "transformers", "tokenizers", "safetensors", "jinja2", "numba", "yaml", "bittensor", "boto3"),
    *("eth_account", "eth_keys", "eth_utils", "eth_hash", "coincurve", "starlette", "uvicorn"),
}


def alone(program: str, receipt: Receipt) -> str:
    """What a program prints in a process that has no extra of grail-core."""
    given = {"receipt": receipt.to_bytes().decode(), "parameters": NETWORK.to_json(), "genesis": receipt.genesis_hash.hex()}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=sorted(EXTRAS)) + program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTED = """
for name in {names}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        print(name)
"""

BY_HAND = """
from grail_core.beacon.bls import is_valid
from grail_core.inference.receipts import Receipt
from grail_core.inference.signatures import is_signed_by
from grail_core.inference.typed_data import order_digest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.reading import Node
from grail_core.protocol.signatures import verify

network = NetworkParameters.from_json(Node(parameters))
network_id = network.network_id(genesis)
receipt = Receipt.from_bytes(raw)
seeds = receipt.seeds(network_id)
digest = receipt.answer_digest(seeds)
order = order_digest(receipt.domain, receipt.order)
assert verify(receipt.node, digest, receipt.signature)
assert is_signed_by(network_id, receipt.order.subscription.owner, order, receipt.order.signature)
assert not is_signed_by(network_id, receipt.order.subscription.owner, digest, receipt.order.signature)
for one in (receipt.seed_round, receipt.challenge_round):
    assert is_valid(network.beacon.public_key, one.round, one.signature)
    assert not is_valid(network.beacon.public_key, one.round + 1, one.signature)
print(digest.hex(), seeds.sampling(1), seeds.sketch.hex())
"""

CHECKED = """
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.reading import Node
from grail_core.verification.receipt import check_receipt

report = check_receipt(raw, seed=bytes(32), network=NetworkParameters.from_json(Node(parameters)), genesis=genesis, model=None)
digest = report.answer_digest and report.answer_digest.hex()
print(json.dumps([report.outcome.value, digest, [[f.check, f.outcome.value] for f in report.findings]]))
"""

PASSED = {"receipt", "order", "node", "journal", "termination", "gas"}
NEED_A_MODEL = {"model", "prompt", "proof", "logprob", "sampling"}


def test_what_is_missing_there_is_missing() -> None:
    assert set(alone(IMPORTED.format(names=sorted(EXTRAS)), unsigned_receipt()).split()) == EXTRAS


def test_form_digests_signatures_and_beacon_of_a_receipt_take_no_extra() -> None:
    receipt = ordered_receipt()
    seeds = receipt.seeds(NETWORK_ID)
    expected = [receipt.answer_digest(seeds).hex(), str(seeds.sampling(1)), seeds.sketch.hex()]
    assert alone(BY_HAND, receipt).split() == expected


@pytest.mark.parametrize("make", [unsigned_receipt, ordered_receipt])
def test_without_a_model_a_receipt_is_inconclusive_with_everything_else_checked(make: Callable[[], Receipt]) -> None:
    receipt = make()
    outcome, digest, findings = json.loads(alone(CHECKED, receipt))
    assert outcome == "inconclusive"
    assert digest == receipt.answer_digest(receipt.seeds(NETWORK_ID)).hex()
    said = dict(findings)
    assert {check for check, result in said.items() if result == "accept"} >= PASSED
    assert {check for check, result in said.items() if result == "inconclusive"} >= NEED_A_MODEL
    assert said["beacon"] == ("accept" if receipt.seed_round is None else "inconclusive"), "nobody vouches for its time"
    assert [check for check, _ in findings] == [finding.check for finding in checked(receipt)]


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("order", {"interval": 9}),
        ("node", {"signature": bytes(64)}),
        ("beacon", {"challenge_round": dataclasses.replace(ROUND_1000, round=1_001)}),
        ("gas", {"gas_used": 1}),
    ],
)
def test_without_a_model_a_lie_is_still_rejected(check: str, changes: dict[str, Any]) -> None:
    outcome, _, findings = json.loads(alone(CHECKED, dataclasses.replace(ordered_receipt(), **changes)))
    assert outcome == "reject"
    assert findings[-1] == [check, "reject"]


def test_a_wallets_order_is_inconclusive_where_no_wallet_library_is_and_accepted_where_one_is() -> None:
    receipt = ordered_receipt()
    terms = receipt.order.subscription.terms
    order = hidden_order(receipt.order.subscription.container_id, receipt.policy, terms.features_digest, ACCOUNT)
    order = dataclasses.replace(order, signature=wallet_signature(receipt.domain, order))
    receipt = by_node(dataclasses.replace(receipt, order=order))
    said = dict(json.loads(alone(CHECKED, receipt))[2])
    assert said["order"] == "inconclusive"
    assert said["node"] == said["gas"] == "accept", "the other checks go on"
    assert {finding.check: finding.outcome.value for finding in checked(receipt)}["order"] == "accept"


def checked(receipt: Receipt) -> tuple[Finding, ...]:
    return check_receipt(receipt.to_bytes(), seed=bytes(32), network=NETWORK, genesis=receipt.genesis_hash).findings


COMMAND = """
from pathlib import Path
from click.testing import CliRunner
from grail_core.commands.grail import cli
import grail_core.commands.receipt_models as models

models.find_spec = lambda name: None  # what importlib says of a package that is not installed
Path({file!r}).write_bytes(raw)
for more in ([], ["--model", {folder!r}]):
    done = CliRunner().invoke(cli, ["verify", {file!r}, "--json", *more])
    print(type(done.exception).__name__, getattr(done.exception, "exit_code", None), getattr(done.exception, "hint", ""))
"""


def test_the_command_checks_what_needs_no_model_and_says_what_to_install_for_the_rest(tmp_path: Path) -> None:
    program = COMMAND.format(file=str(tmp_path / "receipt.json"), folder=str(tmp_path))
    without, with_folder = alone(program, unsigned_receipt()).splitlines()
    assert without.startswith("ReceiptInconclusiveError 15")
    assert with_folder.startswith("ConfigurationError 3")
    assert "grail-core[model]" in with_folder
