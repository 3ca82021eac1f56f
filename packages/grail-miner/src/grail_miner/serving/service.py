"""From a model's folder, or a network, to a node that answers: what can be wrong with a start is found before it answers.

A folder needs no chain, bucket or registration: the genesis hash is zero, and receipts say so. A network's live checkpoints
need its chain and its trainer's bucket, both to be read alone. What must not be lost is below
GRAIL_STATE_DIR/{network}-{network id}/{hotkey}/serving: receipts, the key of their tokens, repeated requests, usage.
One process serves with a key at a time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import uvicorn

from grail_core.checkpoints.served_model import ServedFolder, read_served_folder
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.keys import LocalSigner, load_hotkey, make_hotkey, ss58
from grail_core.participant.deployment import NetworkReader, load_signer, open_checkpoints
from grail_core.participant.monitoring import monitoring_of
from grail_core.participant.settings import Settings
from grail_core.participant.state import StateFolder, network_state, only_process
from grail_core.participant.waiting import Stopping
from grail_core.protocol.network import NETWORKS
from grail_core.served_http import MAX_CONNECTIONS, TimedConnection, make_room
from grail_core.telemetry import get_logger
from grail_core.telemetry.metrics.monitoring import monitored
from grail_core.verification.receipt import NO_CHAIN
from grail_miner.metrics import NODE_TABLE
from grail_miner.serving.answering import Answering, ServedNetwork
from grail_miner.serving.app import application
from grail_miner.serving.clients import Clients
from grail_miner.serving.edge import Edge, listen_address
from grail_miner.serving.engine_start import HF, Drawing, engine_drawing
from grail_miner.serving.live_models import LiveModels
from grail_miner.serving.metering import metering_at
from grail_miner.serving.model_process import ModelProcess
from grail_miner.serving.node import Node
from grail_miner.serving.openai_reading import MAX_BODY_BYTES
from grail_miner.serving.receipt_store import ReceiptStore
from grail_miner.serving.repeats import Repeats
from grail_miner.serving.scheduler import Scheduler

log = get_logger(__name__)

_OWN_WALLET: Final = ("serving", "default")  # names below GRAIL_STATE_DIR/wallets, in bittensor's layout
_KEEP_ALIVE_S: Final = 5
_LAST_ANSWERS_S: Final = 600  # of a shutdown: for the running batch


@dataclass(frozen=True)
class ServeRequest:
    """What the command line says."""

    folder: Path | None  # None: the live checkpoints of the network that the settings name
    name: str = ""  # "": that of the folder, or of the network
    listen: str = ""  # "": GRAIL_SERVE_LISTEN
    network: str = "subnet-81"  # of a folder
    wallet: bool = False  # sign with the hotkey of BT_WALLET_* and not with one of its own
    thinking_mode: str = "none"  # of a folder; a checkpoint's manifest says its own
    tokens: Path | None = None  # None: GRAIL_SERVE_TOKENS
    engine: str = HF  # what draws; "sglang", "vllm": by the miner's settings
    backend: str = ""  # address of that engine's server; "": as the settings say


def serve(
    settings: Settings, stopping: Stopping, request: ServeRequest, *, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Answer until stopped.

    Args:
        ready: told the address once requests are answered.

    Raises:
        ConfigurationError: an address that is taken, one beyond loopback without a file of clients, such a file that cannot be
            used, no such network, no such wallet, state that cannot be used, an engine that is not there.
        ProtocolViolationError: settings of the engine that no network allows. EngineError: it does not serve the model.
        CheckpointError: a folder that is no model, or none that can be served; a network whose trainer has published none that
            is valid now. AlreadyRunningError, StorageError, ChainError.
    """
    try:
        _serve(settings, stopping, request, ready)
    except SystemExit as ended:  # a second signal, while an answer is being drawn
        # An interpreter that ends beside a thread in torch's own code is aborted; what is on disk is whole at any instant.
        sys.stdout.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def _serve(settings: Settings, stopping: Stopping, request: ServeRequest, ready: Callable[[str], None]) -> None:
    network, followed = _network(settings, request)
    make_room()
    tokens = request.tokens or settings.serve_tokens
    clients = None if tokens is None else Clients(tokens)
    address = request.listen or settings.serve_listen
    with _listening_at(address, tokens=clients is not None) as bound, stopping() as stop:
        signer = _signer(settings, request.wallet)
        state = StateFolder(network_state(settings.state_dir, network.params, network.id), signer.hotkey)
        with state.held(), _scheduler(settings, request, network, signer, followed, state) as scheduler:
            answering = scheduler.answering
            metering = metering_at(state.root / "serving" / "usage.sqlite")
            scheduler.first_token = metering.metrics.first_token
            node = Node(
                answering=answering,
                scheduler=scheduler,
                receipts=ReceiptStore(state.root / "serving" / "receipts", state.root / "serving" / "receipt-key"),
                repeats=Repeats(state.root / "serving" / "repeats.sqlite"),
                metering=metering,
                name=answering.name,
            )
            wanted = monitoring_of(settings, "node", network.params.name)
            with (
                monitored(wanted, NODE_TABLE, metering.metrics.registry),
                serving(node, bound, stop, clients=clients) as url,
            ):
                log.event(
                    "serving",
                    address=url,
                    model=node.name,
                    container=answering.container_id.hex(),
                    hotkey=ss58(signer.hotkey),
                    engine=request.engine,
                    drawn_in=answering.generation_class,
                    proved_in=answering.proof_class,
                    clients="" if clients is None else str(tokens),
                )
                ready(url)
                stop.wait()
            log.event("serving_stopped")


@contextmanager
def serving(
    node: Node,
    bound: socket.socket,
    stop: threading.Event,
    *,
    clients: Clients | None = None,
    http: type[TimedConnection] = TimedConnection,
) -> Iterator[str]:
    """A node that answers at this socket while the block lasts; yields its address.

    At the end nothing more is taken, the running batch is answered and what waits is told. `stop` is set if the HTTP server
    ends by itself.
    """
    _listen(bound)
    host, port = bound.getsockname()[:2]
    config = uvicorn.Config(
        Edge(application(node), max_body=MAX_BODY_BYTES, clients=clients),
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # it would believe a header that says who asks
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    server = uvicorn.Server(config)
    failed: list[BaseException] = []

    def run() -> None:  # in a thread of its own uvicorn leaves the signals alone
        try:
            asyncio.run(server.serve(sockets=[bound]))
        except BaseException as error:  # noqa: BLE001 - raised again below, where it can be told
            failed.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=run, name="http", daemon=True)
    node.scheduler.start()
    thread.start()
    try:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        node.scheduler.stop_taking()
        server.should_exit = True
        thread.join()
        node.scheduler.close()
        node.metering.usage.close()
    if failed:
        raise failed[0]


def _network(settings: Settings, request: ServeRequest) -> tuple[ServedNetwork, NetworkReader | None]:
    """Whose network id is in every seed; and the network itself, where its checkpoints are served."""
    if request.folder is None:
        followed = open_checkpoints(settings)
        return ServedNetwork(followed.params, followed.chain.genesis_hash), followed
    name = request.network
    if name not in NETWORKS:
        raise ConfigurationError(
            f"there is no built-in network {name!r:.80}, and without a chain no other can be checked against",
            where="--network",
            hint=f"one of {', '.join(sorted(NETWORKS))}",
        )
    return ServedNetwork(NETWORKS[name], NO_CHAIN), None


def _signer(settings: Settings, wallet: bool) -> LocalSigner:
    """The wallet's hotkey, or one that is made at the first start and kept."""
    if wallet:
        return load_signer(settings)
    folder = settings.state_dir / "wallets"
    with only_process(folder / "lock", "another process makes the hotkey at this moment", hint="start again"):
        make_hotkey(folder, *_OWN_WALLET)
    return load_hotkey(folder, *_OWN_WALLET)


@contextmanager
def _scheduler(
    settings: Settings,
    request: ServeRequest,
    network: ServedNetwork,
    signer: LocalSigner,
    followed: NetworkReader | None,
    state: StateFolder,
) -> Iterator[Scheduler]:
    """What answers, with its model loaded; a network is followed while the block lasts."""
    with _drawing(settings, request, state) as drawing:

        def made(source: ServedFolder | LiveModels, name: str) -> Scheduler:
            software = {package: version(package) for package in ("grail-miner", "torch", "transformers")}
            drawable = drawing.require_drawable
            answering = Answering(
                source, network, signer, name=request.name or name, software=software, require_drawable=drawable
            )
            return Scheduler(answering, drawing.models, max_queue=settings.serve_max_queue, max_rows=drawing.most_rows)

        if followed is None:
            folder = _folder(request)
            scheduler = made(folder, folder.folder.resolve().name)
            scheduler.hold(scheduler.answering.to_hold)
            yield scheduler
            return
        live = LiveModels(
            followed.chain,
            followed.checkpoints,
            changed=lambda those: scheduler.hold([scheduler.answering.holding(one.folder) for one in those]),
        )
        scheduler = made(live, network.params.name)
        live.start()
        try:
            yield scheduler
        finally:
            live.close()


@contextmanager
def _drawing(settings: Settings, request: ServeRequest, state: StateFolder) -> Iterator[Drawing]:
    """What draws and proves, without a model; closed in the end."""
    if request.engine == HF:
        drawing = Drawing(ModelProcess(device=settings.device))
    else:
        drawing = engine_drawing(settings, request.engine, request.backend, state.root / "serving" / "engine")
    try:
        yield drawing
    finally:
        drawing.models.close()


def _folder(request: ServeRequest) -> ServedFolder:
    if request.folder is None or not request.folder.is_dir():
        raise CheckpointError(
            "there is no such folder",
            where=str(request.folder),
            hint="give a model's folder in Transformers' layout: config.json, *.safetensors, tokenizer.json",
        )
    folder = read_served_folder(request.folder, thinking_mode=request.thinking_mode)
    for note in folder.notes:
        log.warning("%s", note)
    return folder


@contextmanager
def _listening_at(address: str, *, tokens: bool) -> Iterator[socket.socket]:
    """A socket that has the address already: loading a model takes minutes, an address that is taken is told at once."""
    host, port = listen_address(address, tokens=tokens)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise _address_error(error, address) from error
        yield bound


def _listen(bound: socket.socket) -> None:
    try:
        bound.listen(128)
    except OSError as error:  # two processes may bind what neither listens at yet
        raise _address_error(error, str(bound.getsockname())) from error


def _address_error(error: OSError, address: str) -> ConfigurationError:
    taken = error.errno == errno.EADDRINUSE
    return ConfigurationError(
        "another program listens at this address" if taken else f"nobody can listen at this address: {error.strerror}",
        where=address,
        hint="end that program, or choose another port: --listen 127.0.0.1:PORT",
    )
