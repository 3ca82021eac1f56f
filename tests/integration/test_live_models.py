"""A node that follows a network: its checkpoints across the border of a window, whose they are offline, and what fails.

Chain, bucket, trainer, checkpoints, server and signatures are the real ones; the model is tiny and the clock is moved by hand.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from grail_core.commands.grail import cli
from grail_core.errors import CheckpointError, GrailError
from grail_core.inference.features import Features
from grail_core.inference.orders import Order, unsigned_order
from grail_core.inference.receipts import Receipt, order_json
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import direct_domain, order_digest
from grail_core.participant.deployment import open_checkpoints
from grail_core.participant.settings import load_settings
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.policy import GenerationPolicy, policy_json
from grail_miner.serving import service
from grail_miner.serving.answering import Answering, RefusedOrderError, ServedNetwork
from grail_miner.serving.live_models import LiveModel, LiveModels
from grail_miner.serving.models import HfModels
from grail_miner.serving.service import ServeRequest, serve
from tooling.testing.gated_models import GatedModels
from tooling.testing.keys import ALICE, BOB
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.next_checkpoint import NextCheckpoints
from tooling.testing.serving_node import MODEL, PATIENCE_S, running_node, save_served_model, until

BORDER = FIRST_WINDOW + 60
"""The first block that the second checkpoint is valid in."""
POLICY = GenerationPolicy(12)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """In the first window of its first checkpoint, and named by the settings of this process."""
    made = Network(tmp_path, miners=0, validators=0, model=save_served_model(tmp_path / "model"), end=END_TOKEN_ID)
    (tmp_path / "network.json").write_text(json.dumps(made.params.to_json()))
    for name, value in {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": tmp_path / "chain.sqlite",
        "NETUID": made.params.netuid,
        "GRAIL_NETWORK": tmp_path / "network.json",
        "GRAIL_STORAGE_ROOT": tmp_path / "buckets",
        "GRAIL_CACHE_DIR": tmp_path / "reader-cache",
        "GRAIL_STATE_DIR": tmp_path / "reader-state",
    }.items():
        monkeypatch.setenv(name, str(value))
    made.advance_to(FIRST_WINDOW + 35)
    return made


@dataclass
class Followed:
    """Live models, and what their `changed` was told: sequence numbers, each time."""

    live: LiveModels
    load: Callable[[Sequence[LiveModel]], None] = lambda models: None
    told: list[tuple[int, ...]] = field(default_factory=list)
    refuses: Callable[[tuple[int, ...]], bool] = lambda sequences: False

    def changed(self, models: Sequence[LiveModel]) -> None:
        sequences = tuple(model.checkpoint.sequence for model in models)
        self.told.append(sequences)
        if self.refuses(sequences):
            raise MemoryError("there is no room for it")
        self.load(models)

    @property
    def now(self) -> int:
        return self.live.now().checkpoint.sequence

    @property
    def held(self) -> tuple[int, ...]:
        return tuple(model.checkpoint.sequence for model in self.live.held())


@contextmanager
def following() -> Iterator[Followed]:
    reader = open_checkpoints(load_settings())
    followed: list[Followed] = []
    live = LiveModels(reader.chain, reader.checkpoints, changed=lambda models: followed[0].changed(models))
    followed.append(Followed(live))
    live.start()
    try:
        yield followed[0]
    finally:
        live.close()


def live_order(answering: Answering, number: int) -> dict[str, Any]:
    """The body of an order for whatever the network serves, by Bob."""
    assert answering.live_id is not None
    return order_body(answering.network, answering.node, answering.live_id, number)


def admitted(answering: Answering, container_id: bytes | None) -> int:
    """Which checkpoint an order for this container would be answered with."""
    assert container_id is not None
    order = signed_order(answering.network, answering.node, container_id, 9)
    checkpoint = answering.admit(order, POLICY, now_s=0).served.checkpoint
    assert checkpoint is not None
    return checkpoint.sequence


def order_body(network: ServedNetwork, node: Any, container_id: bytes, number: int) -> dict[str, Any]:
    return body_of(signed_order(network, node, container_id, number))


def signed_order(network: ServedNetwork, node: Any, container_id: bytes, number: int) -> Order:
    features = Features(prompt=f"Question {number}").to_bytes()
    order = unsigned_order(container_id=container_id, node=node, features=features, policy=POLICY, choices=1, nonce=number)
    order = replace(order, subscription=replace(order.subscription, owner=BOB.hotkey))
    message = command_message(network.id, order_digest(direct_domain(network.id, node), order))
    return replace(order, signature=BOB.sign(message))


def body_of(order: Order) -> dict[str, Any]:
    return {"order": order_json(order), "policy": policy_json(POLICY), "features": None, "logprobs": False}


def receipt_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return canonical_json(answer.json()["receipt"])


def export(block: int, folder: Path) -> Path:
    done = CliRunner().invoke(cli, ["checkpoint", "export", str(block), str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


def verified_offline(monkeypatch: pytest.MonkeyPatch, *commands: Sequence[object]) -> list[dict[str, Any]]:
    """The reports of each `grail verify`, while nobody in this process gets a socket."""
    found: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        for name in ("connect", "bind"):
            patch.setattr(socket.socket, name, no_socket)
        for name in ("create_connection", "getaddrinfo"):
            patch.setattr(socket, name, no_socket)
        for command in commands:
            done = CliRunner().invoke(cli, ["verify", *map(str, command), "--json"])
            if done.exception is not None and not isinstance(done.exception, GrailError):
                raise done.exception
            found += json.loads(done.stdout)["receipts"]
    return found


def no_socket(*_: object, **__: object) -> None:
    raise AssertionError("a socket was asked for")


def finding(report: dict[str, Any], check: str) -> dict[str, Any]:
    return next(one for one in report["findings"] if one["check"] == check)


def test_a_request_ends_on_the_checkpoint_that_it_began_with_and_both_are_shown_offline(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = NextCheckpoints(network)
    with following() as followed, ThreadPoolExecutor(1) as clients:
        assert (followed.now, followed.told) == (0, [(0,)])
        answering = Answering(followed.live, ServedNetwork(network.params, network.chain.genesis_hash), ALICE, name=MODEL)
        models = GatedModels()
        with running_node(answering, tmp_path / "serving", models=models) as node:
            scheduler = node.node.scheduler
            followed.load = lambda those: scheduler.hold([answering.holding(one.folder) for one in those])

            def come_to(condition: Callable[[], bool]) -> None:
                """A token at a time, and only where models wait for the one before to be drawn."""

                def letting_through() -> bool:
                    if scheduler.changing and not models.open._value:
                        models.open.release()
                    return condition()

                until(letting_through)

            begun: Future[httpx.Response] = clients.submit(node.post, "/v1/orders", live_order(answering, 1))
            try:
                models.wait_for_burst()
                second = trainer.publish()
                assert (second.sequence, second.valid_from) == (1, BORDER)
                network.advance_to(BORDER - 6)
                come_to(lambda: followed.told[-1] == (0, 1) and not scheduler.changing)  # ahead of its border
                assert (followed.now, followed.held) == (0, (0,))
                network.advance_to(BORDER)
                come_to(lambda: followed.now == 1)
                assert followed.held == (1, 0)
                first_digest = answering.served[1].folder.model.digest(answering.network.id)
                assert admitted(answering, first_digest) == 0  # two blocks long an order may still name it
                assert admitted(answering, answering.live_id) == 1
                network.advance_to(BORDER + 3)
                come_to(lambda: followed.held == (1,))
                assert not begun.done()
                assert len(scheduler._held) == 2  # the first one stays for the request that began with it
                with pytest.raises(RefusedOrderError, match="another model than the order names"):
                    admitted(answering, first_digest)
                assert followed.told == [(0,), (0, 1), (1, 0), (1,)]
            finally:
                models.open.release(100_000)
            older = receipt_of(begun.result(PATIENCE_S))
            until(lambda: len(scheduler._held) == 1)
            newer = receipt_of(node.post("/v1/orders", live_order(answering, 2)))
            plain = node.post("/v1/completions", {"model": MODEL, "prompt": "Once", "max_tokens": 5, "seed": 1}).json()["grail"]
            pinned = node.get(f"/v1/receipts/{plain['answer_digest']}?token={plain['receipt_token']}").content
            nobodys = body_of(replace(order_of(newer), signature=None))
            assert node.post("/v1/orders", nobodys).json()["error"]["code"] == "invalid_order"

    first, last = export(BORDER - 1, tmp_path / "older"), export(BORDER, tmp_path / "newer")
    bare = Path(shutil.copytree(last, tmp_path / "bare"))
    (bare / "grail-manifest.json").unlink()
    claims_first = json.loads(newer)
    claims_first["model"]["checkpoint"] = json.loads(older)["model"]["checkpoint"]
    kept = {"older": older, "newer": newer, "pinned": pinned, "claims_first": canonical_json(claims_first)}
    files = {name: tmp_path / f"{name}.json" for name in kept}
    for name, data in kept.items():
        files[name].write_bytes(data)
    of_network = ("--network", tmp_path / "network.json")
    said = verified_offline(
        monkeypatch,
        (files["older"], "--model", first, *of_network),
        (*files.values(), "--model", last, *of_network),
        (files["newer"], files["pinned"], "--model", bare, *of_network),
    )
    own, stale, (live_bare, pinned_bare) = (said[0], said[2], said[3]), (said[1], said[4]), said[5:]
    for report, block, sequence in zip(own, (FIRST_WINDOW, BORDER, BORDER), (0, 1, 1), strict=True):
        assert report["outcome"] == "accept", report["findings"]
        assert f"the network's own checkpoint {sequence}, valid from block {block}" in finding(report, "model")["detail"]
        assert (report["checkpoint"]["sequence"], report["checkpoint"]["checked"]) == (sequence, True)
    for report in stale:
        assert (report["findings"][-1]["check"], report["findings"][-1]["outcome"]) == ("model", "reject")
    assert "signed manifest is of checkpoint 1" in stale[1]["findings"][-1]["detail"]
    assert (live_bare["outcome"], finding(live_bare, "model")["outcome"]) == ("inconclusive", "inconclusive")
    assert (pinned_bare["outcome"], pinned_bare["checkpoint"]["checked"]) == ("inconclusive", False)  # whose chain, nobody says
    of_chain = ("--genesis", network.chain.genesis_hash.hex())
    (named,) = verified_offline(monkeypatch, (files["pinned"], "--model", bare, *of_network, *of_chain))
    assert (named["outcome"], named["checkpoint"]["checked"]) == ("accept", False)
    (other,) = verified_offline(monkeypatch, (files["pinned"], "--model", bare, *of_network, "--genesis", "11" * 32))
    assert (other["outcome"], "not of 1111" in other["findings"][-1]["detail"]) == ("reject", True)
    for report in (live_bare, pinned_bare):
        assert any("checkpoint 1: not checked, no manifest in the folder" in text for text in report["not_enforced"])


def order_of(receipt: bytes) -> Order:
    return Receipt.from_bytes(receipt).order


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The kinds of error that were told so far."""
    told = [record.__dict__ for record in caplog.records if record.getMessage() == "live_checkpoint_failed"]
    return [one["grail_event_fields"]["error"] for one in told]


def test_what_fails_is_told_by_name_and_the_node_goes_on_with_what_it_has(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bucket = tmp_path / "buckets"
    with following() as followed:
        followed.refuses = lambda sequences: 1 in sequences
        NextCheckpoints(network).publish()
        network.advance_to(BORDER - 5)
        until(lambda: (0, 1) in followed.told)  # a model that does not load
        until(lambda: failures(caplog) == ["MemoryError"])
        network.advance_to(BORDER)
        until(lambda: (1, 0) in followed.told)
        assert (followed.now, followed.held) == (0, (0,))

        bucket.rename(tmp_path / "away")  # and a bucket that is not there
        followed.refuses = lambda sequences: False
        network.advance_to(BORDER + 1)
        until(lambda: followed.now == 1)  # which needs no store any more
        network.advance_to(BORDER + 4)
        until(lambda: failures(caplog) == ["MemoryError", "RollbackError"])
        assert followed.held == (1,)
        (tmp_path / "away").rename(bucket)
    assert followed.held == (1,)


def test_a_network_without_a_checkpoint_starts_no_node(network: Network, tmp_path: Path) -> None:
    (tmp_path / "buckets").rename(tmp_path / "away")
    (tmp_path / "buckets").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint is valid"), following():
        pass


def test_a_checkpoint_whose_files_end_otherwise_than_its_manifest_is_not_served(tmp_path: Path) -> None:
    """No receipt of it could be held against the manifest."""
    model = save_served_model(tmp_path / "model")
    made = Network(tmp_path, miners=0, validators=0, model=model, end=END_TOKEN_ID - 1)
    made.advance_to(FIRST_WINDOW)
    live = LiveModels(made.chain, made.participant("trainer").checkpoints)
    with pytest.raises(CheckpointError, match="end tokens"):
        live.start()


def test_serve_live_names_both_containers_and_says_which_checkpoint_answered(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ModelProcess", HfModels)  # here, where their libraries are loaded already
    stop, told, url = threading.Event(), threading.Event(), []

    @contextmanager
    def stopping() -> Iterator[threading.Event]:
        yield stop

    def ready(address: str) -> None:
        url.append(address)
        told.set()

    request = ServeRequest(None, listen="127.0.0.1:0")
    thread = threading.Thread(target=serve, args=(load_settings(), stopping, request), kwargs={"ready": ready})
    thread.start()
    try:
        assert told.wait(PATIENCE_S)
        with httpx.Client(base_url=url[0], timeout=PATIENCE_S, trust_env=False) as client:
            grail = client.get("/info").json()["grail"]
            served = ServedNetwork(network.params, network.chain.genesis_hash)
            live_id, model_digest = (bytes.fromhex(one) for one in grail["container_ids"])
            body = order_body(served, bytes.fromhex(grail["hotkey"]), live_id, 1)
            receipt = Receipt.from_bytes(receipt_of(client.post("/v1/orders", json=body)))
            asked = ("ask", "2 + 2?", "--node", url[0], "--model", export(FIRST_WINDOW, tmp_path / "out"), "--max-tokens", 5)
            answered = CliRunner().invoke(cli, [*map(str, asked), "--network", str(tmp_path / "network.json"), "--json"])
            assert answered.exit_code == 0, answered.output
            assert json.loads(answered.stdout)["receipt"]["checkpoint"]["checked"] is True
            assert client.get("/v1/models").json()["data"][0]["id"] == network.params.name
    finally:
        stop.set()
        thread.join()
    assert receipt.checkpoint is not None
    assert receipt.checkpoint.digest.hex() == grail["checkpoint"]["digest"] == network.manifest.digest.hex()
    assert receipt.model.digest(served.id) == model_digest
    assert receipt.order.subscription.container_id == live_id
