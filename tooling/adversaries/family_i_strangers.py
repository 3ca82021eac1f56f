"""I14 and I15: what a node fetches for whoever asks it to, which is nothing, and what it tells of others' requests.

A real node at a real socket. I14 sends addresses wherever a text or a member can stand; a listener in this process stands
behind all that can be one, and must see no connection. I15 is a client of the node, a passer-by and a program behind a proxy,
who want to learn what another client asked and was answered. How long an answer takes tells something of the node's load, and
is left out.
"""

from __future__ import annotations

import base64
import logging
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from grail_core.inference.constants import MAX_ANSWER_SECONDS
from grail_core.inference.features import NO_SALT, Features, features_digest
from grail_core.inference.orders import Draw, Order, Subscription, Terms, order_policy_digest
from grail_core.inference.receipts import Receipt, order_json
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import order_digest
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.policy import GenerationPolicy, policy_json
from grail_miner.serving.clients import Clients
from grail_miner.serving.models import HfModels, ToProve
from grail_miner.serving.new_token import add_client
from tooling.adversaries.rows import Row, Try
from tooling.testing.keys import BOB
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, save_served_model

SECRET: Final = "the-strangers-secret-question"
_POLICY: Final = GenerationPolicy(8)
_LIMITS: Final = "requests_per_minute = 1000000\ntokens_per_minute = 1000000000\n"
_LATER: Final = 2**32 - 1  # Unix seconds


@dataclass(frozen=True)
class World:
    """A node with the clients alice, whose secret it is, and bob, who wants it."""

    node: RunningNode
    tokens: dict[str, str]
    state: Path
    models: _Failing

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}

    def order(self, salt: bytes, features: bytes, **more: Any) -> dict[str, Any]:
        """The body of a signed order whose features lie beside it, under their salted digest."""
        answering = self.node.node.answering
        digest = features_digest(answering.network.id, salt, features)
        terms = Terms(0, Draw.CLIENT, 1, MAX_ANSWER_SECONDS, order_policy_digest(_POLICY), digest, answering.node, True)
        sub = Subscription(BOB.hotkey, answering.container_id, b"", 1, 0, 1, 0, 1, 100_000, terms)
        order = Order(sub, 1, _LATER, None)
        signature = BOB.sign(command_message(answering.network.id, order_digest(answering.domain, order)))
        beside = {"salt": salt.hex(), "body": base64.b64encode(features).decode()}
        return {"order": order_json(replace(order, signature=signature)), "policy": policy_json(_POLICY)} | {
            "features": beside,
            "logprobs": False,
            **more,
        }


class _Failing(HfModels):
    """Whose proofs fail, where it is told to, with an error that says what was asked."""

    fails = False

    def prove(self, job: ToProve) -> list[RolloutProof]:
        if self.fails:
            raise ValueError(f"no proof of {SECRET}")
        return super().prove(job)


@contextmanager
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokens, clients = {}, root / "clients.toml"
        for name in ("alice", "bob"):
            tokens[name] = add_client(clients, name)
            clients.write_text(clients.read_text() + _LIMITS)
        state = root / "state"
        answering = answering_of(save_served_model(root / "model"))
        models = _Failing()
        with running_node(answering, state, clients=Clients(clients), models=models) as node:
            yield World(node, tokens, state, models)


# I14.


class Canary:
    """Listens on a port of its own; who connects is counted."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        self.seen = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except OSError:
                return
            self.seen += 1
            connected.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def addresses(port: int, folder: Path) -> list[str]:
    """Of the listener, by every name and way, and of what lies inside a network or a machine."""
    local = f"127.0.0.1:{port}"
    return [
        f"http://{local}/x",
        f"https://{local}/x",
        f"http://localhost:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"http://2130706433:{port}/",
        f"http://user:{port}@{local}/redirect",
        f"gopher://{local}/_GET",
        f"ftp://{local}/",
        f"//{local}/",
        f"file://{folder}/receipt-key",
        "data:image/png;base64,iVBORw0KGgo=",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "unix:///var/run/docker.sock",
    ]


def run_i14(world: World, most: int | None = None) -> Row:
    """`most`: so many addresses alone."""
    row, canary = Row("I14", "address sent to a node"), Canary()
    try:
        for url in addresses(canary.port, world.state)[:most]:
            for name, answer, taken in _with_an_address(world, url):
                _judge(row, canary, f"{name}: {url}", answer, taken)
        seen = canary.seen
        socket.create_connection(("127.0.0.1", canary.port)).close()
        while canary.seen == seen:  # and it does see who connects
            threading.Event().wait(0.01)
        row.honest_tries += 1
    finally:
        canary.close()
    return row


def _judge(row: Row, canary: Canary, name: str, answer: httpx.Response, taken: bool) -> None:
    """`taken`: as text it is answered; else it is refused by name."""
    said = answer.json() if answer.content else {}
    code = said.get("error", {}).get("code") or said.get("error", {}).get("param") or ""
    if taken:
        row.honest_tries += 1
        row.honest_false_rejects += answer.status_code != 200
    wrong = "" if taken or 400 <= answer.status_code < 500 else f"status {answer.status_code}"
    if canary.seen:
        wrong = f"{canary.seen} connections came"
    row.tries.append(Try(name, bool(wrong), "nothing is fetched" if taken else "refused by name", wrong or str(code)))


def _with_an_address(world: World, url: str) -> Iterator[tuple[str, httpx.Response, bool]]:
    """Each request with this address in it, the answer, and whether it is text that is answered."""
    node, own = world.node, world.bearer("alice")
    few = {"model": MODEL, "max_tokens": 1}

    def chat(content: Any, **more: Any) -> httpx.Response:
        return node.post("/v1/chat/completions", {**few, "messages": [{"role": "user", "content": content}], **more}, **own)

    def completion(**more: Any) -> httpx.Response:
        return node.post("/v1/completions", {**few, "prompt": "Once", **more}, **own)

    yield "prompt", completion(prompt=url), True
    yield "message", chat(url), True
    yield "text part", chat([{"type": "text", "text": url}]), True
    yield "user and stop", completion(user=url, stop=url[:64]), True
    yield "image_url part", chat([{"type": "image_url", "image_url": {"url": url}}]), False
    yield "input_audio part", chat([{"type": "input_audio", "input_audio": {"data": url}}]), False
    yield "file part", chat([{"type": "file", "file": {"file_id": url, "file_data": url}}]), False
    yield "tools", chat("hi", tools=[{"type": "function", "function": {"name": "fetch", "url": url}}]), False
    yield "model", completion(model=url), False
    yield "url in a body", completion(url=url), False
    yield "prompt of addresses", completion(prompt=[url, url]), False
    features = Features(prompt=url).to_bytes()
    yield "features of an order", node.post("/v1/orders", world.order(bytes([7]) * 32, features), **own), True
    unread = Features(prompt="Once").to_bytes()[:-1] + b',"url":"%b"}' % url.encode()
    yield "url in features", node.post("/v1/orders", world.order(bytes([7]) * 32, unread), **own), False
    yield "url in an order's body", node.post("/v1/orders", world.order(NO_SALT, features, url=url), **own), False
    body = world.order(NO_SALT, features)
    yield "url in an order", node.post("/v1/orders", {**body, "order": {**body["order"], "url": url}}, **own), False
    yield "features by address", node.post("/v1/orders", {**body, "features": {"url": url}}, **own), False


# I15.


@contextmanager
def logged() -> Iterator[list[str]]:
    """Everything that any logger of this process says meanwhile, whole."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name.partition(".")[0] in ("httpx", "httpcore"):
                return  # of who asks
            said.append(f"{record.getMessage()} {record.__dict__} {record.exc_info}")

    handler, root = Handler(level=logging.DEBUG), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@dataclass(frozen=True)
class Asked:
    """What alice asked and was told."""

    grail: dict[str, str]
    text: str
    usage: list[Any]


def run_i15(world: World) -> Row:
    row = Row("I15", "try to learn a stranger's request")
    with ExitStack() as stack:
        said = stack.enter_context(logged())
        alice = _alice(world)
        _receipts(row, world, alice)
        _lists(row, world, alice)
        _counts(row, world, alice)
        _guesses(row, world)
        _texts(row, world, alice, said)
    return row


def _alice(world: World) -> Asked:
    """A question, the same as a stream, one that fails, one that is refused, and one whose client goes."""
    node, own = world.node, world.bearer("alice")
    asked = {"model": MODEL, "prompt": SECRET, "max_tokens": 24, "user": SECRET}
    answer = node.post("/v1/completions", asked, **own).json()
    node.post("/v1/completions", {**asked, "stream": True}, **own)
    node.post("/v1/completions", {**asked, SECRET: SECRET}, **own)
    node.post("/v1/completions", {**asked, "prompt": SECRET * 100, "model": SECRET}, **own)
    node.post("/v1/completions", {**asked, "prompt": SECRET * 2_000}, **own)
    with node.connection() as gone:
        gone.sendall(node.request_bytes("/v1/completions", {**asked, "max_tokens": 900, "stream": True}, **_lower(own)))
        gone.recv(10)
    world.models.fails = True
    node.post("/v1/completions", asked, **own)
    node.post("/v1/completions", {**asked, "stream": True}, **own)
    world.models.fails = False
    usage = node.get("/v1/usage", **own).json()["data"]
    return Asked(answer["grail"], answer["choices"][0]["text"], usage)


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _refused(row: Row, name: str, answer: httpx.Response, *secrets: str) -> None:
    """A try that got through if it was answered, or if the refusal tells a secret."""
    told = [secret for secret in (SECRET, *secrets) if secret and secret in answer.text]
    open_ = answer.status_code < 400
    code = "" if open_ else str(answer.json()["error"]["code"])
    row.tries.append(Try(name, open_ or bool(told), code, f"status {answer.status_code}"))


def _honest(row: Row, answer: httpx.Response) -> None:
    row.honest_tries += 1
    row.honest_false_rejects += answer.status_code != 200


def _receipts(row: Row, world: World, alice: Asked) -> None:
    node, grail = world.node, alice.grail
    path, token = f"/v1/receipts/{grail['answer_digest']}", grail["receipt_token"]
    bobs = node.post("/v1/completions", {"model": MODEL, "prompt": "bobs", "max_tokens": 1}, **world.bearer("bob")).json()[
        "grail"
    ]
    wrong = {
        "no token": "",
        "an empty token": "?token=",
        "a token of zeros": f"?token={'0' * 64}",
        "the digest as token": f"?token={grail['answer_digest']}",
        "bob's token of a receipt": f"?token={bobs['receipt_token']}",
        "all but the last digit": f"?token={token[:-1]}",
        "in capitals": f"?token={token.upper()}",
        "bob's client token": f"?token={world.tokens['bob']}",
        "two tokens, the right one first": f"?token={token}&token=0",
    }
    behind = {"X-Forwarded-For": "203.0.113.9", "Host": "node.example.org"}
    for who, headers in (("bob", world.bearer("bob")), ("this machine", {}), ("a proxy", behind)):
        for name, query in wrong.items():
            _refused(row, f"receipt, {who}, {name}", node.get(path + query, **headers))
    for name in ("..", "../receipt-key", "%2e%2e%2freceipt-key", "", "*", "0" * 64, f"{grail['answer_digest']}.json"):
        _refused(row, f"receipt by the name {name!r}", node.get(f"/v1/receipts/{name}?token={token}", **world.bearer("bob")))
    _honest(row, node.get(f"{path}?token={token}", **behind))
    _honest(row, node.get(f"{path}?token={token}", **world.bearer("bob")))  # alice gave it to bob


def _lists(row: Row, world: World, alice: Asked) -> None:
    node, bob = world.node, world.bearer("bob")
    for path in (
        "/v1/receipts",
        "/v1/receipts/",
        "/v1/orders",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/jobs",
        "/v1/files",
    ):
        _refused(row, f"list {path}", node.get(path, **bob), alice.grail["answer_digest"])
    _refused(row, "metrics without leave", node.get("/metrics", **bob))
    behind = {"X-Forwarded-For": "203.0.113.9"}
    for path in ("/v1/usage", "/metrics", "/info"):
        _refused(row, f"{path} behind a proxy, as this machine", node.get(path, **behind))
    own = node.get("/v1/usage?days=400", **bob)
    others = [one for one in own.json()["data"] if one["client"] != "bob"]
    row.tries.append(Try("usage of others", bool(others), "a client's own", f"{len(others)} rows of others"))
    _honest(row, own)
    _honest(row, node.get("/info", **bob))


def _counts(row: Row, world: World, alice: Asked) -> None:
    """The nonce says how often a client itself asked the same: bob's first question like alice's has none of hers."""
    node = world.node
    asked = {"model": MODEL, "prompt": SECRET, "max_tokens": 24, "user": SECRET}
    answer = node.post("/v1/completions", asked, **world.bearer("bob"))
    grail = answer.json()["grail"]
    receipt = Receipt.from_bytes(node.get(f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}").content)
    nonce = receipt.order.nonce
    row.tries.append(Try("nonce of another's question", nonce != 0, "counted for each client", f"nonce {nonce}"))
    _honest(row, answer)
    again = node.get("/v1/usage", **world.bearer("alice")).json()["data"]
    same = [one["requests"] for one in again] == [one["requests"] for one in alice.usage]
    row.tries.append(Try("what bob asks, in alice's usage", not same, "a client's own", ""))


def _guesses(row: Row, world: World) -> None:
    """Of an order whose features are hidden everybody may know all but these and their salt: the right guess of a prompt,
    and a one-word answer, show in no digest without the salt."""
    node, answering = world.node, world.node.node.answering
    salt, features = bytes(range(32)), Features(prompt=SECRET).to_bytes()
    body = world.order(salt, features)
    answer = node.post("/v1/orders", body, **world.bearer("alice"))
    receipt = Receipt.from_bytes(canonical_json(answer.json()["receipt"]))
    public = receipt.order.subscription.terms.features_digest
    digest = receipt.answer_digest(receipt.seeds(answering.network.id))
    known = order_digest(receipt.domain, receipt.order)
    for name, guess in (("no salt", NO_SALT), ("the order's digest", known), ("nearly the right one", salt[1:] + b"!")):
        right = features_digest(answering.network.id, guess, features) == public
        row.tries.append(Try(f"the prompt guessed, with {name} as salt", right, "salt", ""))
        told = replace(receipt, salt=guess)
        same = told.answer_digest(told.seeds(answering.network.id)) == digest
        row.tries.append(Try(f"prompt and answer guessed, with {name} as salt", same, "salt", ""))
    row.honest_tries += 2
    row.honest_false_rejects += features_digest(answering.network.id, salt, features) != public
    row.honest_false_rejects += receipt.answer_digest(receipt.seeds(answering.network.id)) != digest


def _texts(row: Row, world: World, alice: Asked, said: list[str]) -> None:
    """No log and no database has a text of a prompt or an answer, or a token of a receipt or a client."""
    secrets = {
        "prompt": SECRET,
        "answer": alice.text,
        "receipt's token": alice.grail["receipt_token"],
        "client's token": world.tokens["alice"],
    }
    kept = [file for file in world.state.rglob("*") if file.is_file() and file.parent.name != "receipts"]
    for name, secret in secrets.items():
        lines = [line for line in said if secret in line]
        row.tries.append(Try(f"{name} in {len(said)} lines of the log", bool(lines), "not logged", ""))
        files = [file.name for file in kept if secret.encode() in file.read_bytes()]
        row.tries.append(Try(f"{name} in {len(kept)} files of the state", bool(files), "not kept", ", ".join(files)))
    own = world.node.get(f"/v1/receipts/{alice.grail['answer_digest']}?token={alice.grail['receipt_token']}")
    row.honest_tries += 2  # and who asked has it, and the operator is told that it failed
    row.honest_false_rejects += not any("request_failed" in line for line in said)
    row.honest_false_rejects += SECRET.encode() not in Receipt.from_bytes(own.content).order.subscription.features


RUNS: Final[dict[str, Callable[[World], Row]]] = {"I14": run_i14, "I15": run_i15}


def _attack(id_: str) -> dict[str, Any]:
    with world() as made:
        return RUNS[id_](made).to_json()


ATTACKS: Final[dict[str, Callable[[], dict[str, Any]]]] = {"I14": lambda: _attack("I14"), "I15": lambda: _attack("I15")}
