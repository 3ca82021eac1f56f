"""A receipt's checkpoint held against the manifest in the model's folder: the network's own, something else, or not checked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints.served_model import read_manifest_file
from grail_core.errors import CheckpointError
from grail_core.inference.answers import live_container_id
from grail_core.inference.receipts import Receipt, ServedCheckpoint
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import direct_domain, order_digest
from grail_core.keys import LocalSigner
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.manifest import MAX_MANIFEST_BYTES, CheckpointManifest, FileRef, ManifestContent, ObjectRef, build
from grail_core.protocol.network import NETWORKS, UNSET_HOTKEY
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.receipt import NO_CHAIN, check_receipt
from grail_core.verification.receipt_checkpoint import check_checkpoint
from tooling.testing.checkpoints import parts_of
from tooling.testing.keys import CAROL, EVE
from tooling.testing.plain_receipts import NETWORK, NETWORK_ID, NODE, OWNER, live_receipt

TRAINER = CAROL
OTHER = Digest(b"\x77" * 32)


def manifest_of(receipt: Receipt, trainer: LocalSigner = TRAINER, **changed: Any) -> CheckpointManifest:
    """What a trainer would sign of the receipt's model, as its checkpoint 7."""
    model = receipt.model
    config = FileRef("config.json", ObjectRef(1, model.config_digest))
    content = ManifestContent(
        network_id=NETWORK_ID,
        trainer=trainer.hotkey,
        sequence=7,
        window=Window(150),
        valid_from=Window(210),
        parent=OTHER,
        base=OTHER,
        architecture=model.architecture,
        weights_root=model.weights_root,
        index=ObjectRef(1, OTHER),
        files=(config,),
        shards=(FileRef("model.safetensors", ObjectRef(1, OTHER)),),
        deltas=(),
        environment=parts_of(NETWORK_ID, 0, 0).environment,
        policy=GenerationPolicy(8),
        end_token_ids=model.end_token_ids,
        tokenizer_digest=model.tokenizer_digest,
        chat_template_digest=model.chat_template_digest,
        thinking_mode=model.thinking_mode,
    )
    return build(dataclasses.replace(content, **changed), trainer)


RECEIPT = live_receipt()
MANIFEST = manifest_of(RECEIPT)
NAMED = ServedCheckpoint(MANIFEST.digest, 7, 210)


def held_against(raw: bytes | None, named: ServedCheckpoint = NAMED, trainer: Hotkey | None = TRAINER.hotkey) -> Finding:
    return check_checkpoint(RECEIPT, named, raw, trainer, NETWORK_ID)


def test_the_networks_own_checkpoint_is_said_with_its_number_and_block() -> None:
    finding = held_against(MANIFEST.to_bytes())
    assert (finding.check, finding.outcome) == ("model", Outcome.ACCEPT)
    assert finding.detail == "the network's own checkpoint 7, valid from block 210"


@pytest.mark.parametrize(
    ("raw", "trainer", "why"),
    [
        (None, TRAINER.hotkey, "no manifest in the folder"),
        (MANIFEST.to_bytes(), None, "the network names no trainer"),
        (MANIFEST.to_bytes(), UNSET_HOTKEY, "the network names no trainer"),
    ],
)
def test_without_manifest_or_trainer_it_is_said_to_be_unchecked(raw: bytes | None, trainer: Hotkey | None, why: str) -> None:
    finding = held_against(raw, trainer=trainer)
    assert finding.outcome is Outcome.INCONCLUSIVE
    assert f"not checked, {why}" in (finding.detail or "")


@pytest.mark.parametrize(
    "named",
    [
        dataclasses.replace(NAMED, digest=OTHER),
        dataclasses.replace(NAMED, sequence=8),
        dataclasses.replace(NAMED, valid_from=240),
    ],
    ids=["digest", "sequence", "valid_from"],
)
def test_a_claim_that_the_manifest_contradicts_is_rejected(named: ServedCheckpoint) -> None:
    finding = held_against(MANIFEST.to_bytes(), named)
    assert finding.outcome is Outcome.REJECT
    assert "the folder's signed manifest is of checkpoint 7" in (finding.detail or "")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"architecture": "LlamaForCausalLM"}, "architecture"),
        ({"files": (FileRef("config.json", ObjectRef(1, OTHER)),)}, "config.json"),
        ({"files": (FileRef("tokenizer.json", ObjectRef(1, OTHER)),)}, "config.json"),
        ({"weights_root": OTHER}, "weights root"),
        ({"tokenizer_digest": OTHER}, "tokenizer"),
        ({"chat_template_digest": OTHER}, "chat template"),
        ({"thinking_mode": "native"}, "thinking mode"),
        ({"end_token_ids": (3,)}, "set of end tokens"),
    ],
)
def test_a_manifest_of_another_model_shows_nothing(changed: dict[str, Any], what: str) -> None:
    signed = manifest_of(RECEIPT, **changed)
    finding = held_against(signed.to_bytes(), dataclasses.replace(NAMED, digest=signed.digest))
    assert finding.outcome is Outcome.REJECT
    assert f"another {what} than the model of the receipt" in (finding.detail or "")


@pytest.mark.parametrize(
    "forge",
    [
        lambda: manifest_of(RECEIPT, EVE).to_bytes(),
        lambda: manifest_of(RECEIPT, network_id=OTHER).to_bytes(),
        lambda: MANIFEST.to_bytes().replace(b'"sequence":7', b'"sequence":8'),
        lambda: MANIFEST.to_bytes()[:-2] + b' "}',
        lambda: MANIFEST.to_bytes() + b"\n",
        lambda: MANIFEST.to_bytes()[:-40],
        lambda: b"[" * MAX_MANIFEST_BYTES,
        lambda: b'{"manifest":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b',"signature":"' + b"0" * 128 + b'"}',
        lambda: MANIFEST.to_bytes() + b" " * MAX_MANIFEST_BYTES,
        lambda: b"\xff\xfe",
        lambda: b"",
    ],
    ids=[
        *("another signer", "another network", "altered", "altered signature", "not canonical", "cut", "brackets", "nested"),
        *("oversized", "not UTF-8", "empty"),
    ],
)
def test_what_the_trainer_did_not_sign_so_is_rejected(forge: Callable[[], bytes]) -> None:
    finding = held_against(forge())
    assert finding.outcome is Outcome.REJECT
    assert "does not show the network's checkpoint" in (finding.detail or "")


def test_a_live_order_answered_without_a_chain_is_rejected() -> None:
    """There is no network then that serves anything."""
    name, network_id = "subnet-81", NETWORKS["subnet-81"].network_id(NO_CHAIN)
    domain = direct_domain(network_id, RECEIPT.node)
    named = dataclasses.replace(RECEIPT.order.subscription, container_id=live_container_id(network_id))
    order = dataclasses.replace(RECEIPT.order, subscription=named)
    order = dataclasses.replace(order, signature=OWNER.sign(command_message(network_id, order_digest(domain, order))))
    moved = dataclasses.replace(RECEIPT, network=name, genesis_hash=NO_CHAIN, domain=domain, order=order)
    signed = dataclasses.replace(moved, signature=NODE.sign(moved.answer_digest(moved.seeds(network_id))))
    decisive = check_receipt(signed.to_bytes(), seed=bytes(32)).decisive
    assert decisive is not None
    assert (decisive.check, decisive.outcome) == ("model", Outcome.REJECT)
    assert "the node belongs to none" in (decisive.detail or "")


def test_a_live_order_rests_on_the_nodes_word_for_the_moment() -> None:
    report = check_receipt(RECEIPT.to_bytes(), seed=bytes(32), network=NETWORK)
    assert report.outcome is Outcome.INCONCLUSIVE  # there is no folder
    assert any("that this one was valid when it was asked is the node's word" in text for text in report.trust)
    assert any("Whether the node's key is a registered participant's was not asked" in text for text in report.trust)


def test_a_manifest_file_is_read_in_bounded_memory_and_never_waited_for(tmp_path: Path) -> None:
    assert read_manifest_file(tmp_path) is None
    path = tmp_path / "grail-manifest.json"
    path.write_bytes(b"a" * (MAX_MANIFEST_BYTES + 100))
    assert len(read_manifest_file(tmp_path) or b"") == MAX_MANIFEST_BYTES + 1
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no regular file"):
        read_manifest_file(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_manifest_file(tmp_path)
