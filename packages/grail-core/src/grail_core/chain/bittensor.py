"""A real subnet through the bittensor SDK (11.x).

The SDK is asynchronous; one private event loop on a daemon thread runs it, every call has a time limit, and a connection that
fails is made anew. What never changes (finalised blocks, metagraphs of finalised blocks) is kept. Reads are retried;
of the writes only the commitment is, which may be written twice without harm. Importing this module does not import the SDK.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from grail_core.chain.base import MAX_WEIGHT, BlockInfo, Metagraph, Neuron
from grail_core.clock import wall_clock_ms
from grail_core.errors import ChainError, ConfigurationError
from grail_core.keys import from_ss58, ss58
from grail_core.protocol.network import MAX_COMMITMENT_BYTES
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Hotkey
from grail_core.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")
READ_SECONDS = 60.0
WRITE_SECONDS = 180.0  # a write returns when its block is final
STALE_METAGRAPH_SECONDS = 600.0  # the newest metagraph answers so long while no endpoint does
_RETRY_PAUSES = (1.0, 4.0)
_MAX_NAP_SECONDS = 30.0
_BLOCKS_KEPT = 1024
_METAGRAPHS_KEPT = 16


class BittensorChain:
    """The `Chain` protocol over an SDK client.

    Args:
        make_client: makes a fresh `bittensor.Client` and the `bittensor.Substrate` it uses; called again after a failure.
        netuid: the subnet.
        where: what to name in errors, the network or endpoint.
    """

    def __init__(
        self,
        make_client: Callable[[], tuple[Any, Any]],
        *,
        netuid: int,
        where: str,
        retry_pauses: tuple[float, ...] = _RETRY_PAUSES,
    ) -> None:
        self._make_client = make_client
        self._netuid = netuid
        self._where = where
        self._retry_pauses = retry_pauses
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting = asyncio.Lock()
        self._client: Any = None
        self._substrate: Any = None
        self._genesis_hash: bytes | None = None
        self._block_seconds: float | None = None
        self._blocks: OrderedDict[int, BlockInfo] = OrderedDict()
        self._metagraphs: OrderedDict[int, Metagraph] = OrderedDict()
        self._newest: tuple[float, Metagraph] | None = None  # monotonic seconds when it was read

    @classmethod
    def connect(cls, network: str, *, netuid: int) -> BittensorChain:
        """A chain for a network name (`finney`, `test`) or a websocket URL. Opens no connection yet.

        Raises:
            ConfigurationError: the SDK is not installed, or there is no such network.
        """
        try:
            import bittensor
            from bittensor import settings
        except ImportError as error:
            raise ConfigurationError(
                "a Bittensor network needs the bittensor SDK", where=network, hint="pip install 'grail-core[bittensor]'"
            ) from error
        try:
            name, endpoint = settings.resolve_endpoint(network)
        except (ValueError, bittensor.BittensorError):
            name = endpoint = ""
        if not endpoint and not {":", "/", "@"} & set(network):
            raise ConfigurationError(
                f"there is no network called {network!r}", where="BT_NETWORK", hint="finney, test, or set BT_CHAIN_ENDPOINT"
            )
        if not endpoint.startswith(("ws://", "wss://")):
            raise ConfigurationError(
                "a chain endpoint is a ws:// or wss:// URL",
                where="BT_CHAIN_ENDPOINT",
                hint="or unset it and set BT_NETWORK=finney; a development chain's file needs BT_NETWORK=local",
            )

        def make() -> tuple[Any, Any]:
            fallbacks = [url for url in settings.default_fallback_endpoints(name) if url != endpoint]
            archives = settings.default_archive_endpoints(name)
            substrate = bittensor.RpcSubstrate(endpoint, fallback_endpoints=fallbacks, archive_endpoints=archives)
            return bittensor.Client(endpoint, substrate=substrate), substrate

        # A provider's URL may hold its key: the address alone is told in errors.
        return cls(make, netuid=netuid, where=endpoint.rpartition("@")[2].partition("?")[0])

    def close(self) -> None:
        """Close the connection and end the loop's thread; a later call opens both again."""
        with self._lock:
            self._disconnect()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    # --- the Chain protocol ---------------------------------------------------------------------------------------------

    @property
    def genesis_hash(self) -> bytes:
        if self._genesis_hash is None:
            text = self._read("genesis hash", lambda client, substrate: substrate.block_hash(0))
            self._genesis_hash = _hash_bytes(text, "block 0")
        return self._genesis_hash

    @property
    def netuid(self) -> int:
        return self._netuid

    def now_ms(self) -> int:
        return wall_clock_ms()

    def current_block(self) -> Block:
        return Block(int(self._read("current block", lambda client, substrate: client.block())))

    def finalised_block(self) -> Block:
        return Block(int(self._read("finalised block", lambda client, substrate: client.finalized_block())))

    def block(self, number: Block) -> BlockInfo:
        known = self._blocks.get(number)
        if known is not None:
            return known
        if number < 0:
            raise ChainError(f"there is no block {number}", where=self._where)
        found = self._read(f"block {number}", lambda client, substrate: client.block_info(number))
        if found is None or found.number != number:
            raise ChainError(f"there is no block {number} (yet)", where=self._where)
        info = BlockInfo(number, _hash_bytes(found.hash, f"block {number}"), round(found.timestamp.timestamp() * 1000))
        if number <= self.finalised_block():
            self._keep(self._blocks, number, info, _BLOCKS_KEPT)
        return info

    def metagraph(self, block: Block | None = None) -> Metagraph:
        """As of `block`; None is the finalised block, or for a while the last one read if no endpoint answers."""
        try:
            number = self.finalised_block() if block is None else block
            known = self._metagraphs.get(number)
            if known is None:
                known = self._fetch_metagraph(number)
                if block is None or number <= self.finalised_block():
                    self._keep(self._metagraphs, number, known, _METAGRAPHS_KEPT)
        except ChainError:
            if block is not None or self._newest is None or time.monotonic() - self._newest[0] > STALE_METAGRAPH_SECONDS:
                raise
            age = time.monotonic() - self._newest[0]
            log.event("metagraph_stale", level=30, block=self._newest[1].block, age_seconds=round(age))
            return self._newest[1]
        if block is None:
            self._newest = (time.monotonic(), known)
        return known

    def commit(self, signer: Signer, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        if not 1 <= len(raw) <= MAX_COMMITMENT_BYTES:
            raise ChainError(f"a commitment has 1 to {MAX_COMMITMENT_BYTES} bytes of UTF-8", where=ss58(signer.hotkey))
        from bittensor import calls

        fields = {"fields": [[{f"Raw{len(raw)}": "0x" + raw.hex()}]]}
        call = calls.Commitments.set_commitment(netuid=self._netuid, info=fields)
        sdk_signer = _SdkSigner(signer)
        result = self._read(
            "commitment", lambda client, substrate: client.submit_call(call, sdk_signer, signer="hotkey"), limit=WRITE_SECONDS
        )
        self._require_success(result, "the commitment", signer)

    def set_weights(self, signer: Signer, weights: Mapping[int, int]) -> None:
        if not weights or not any(weights.values()):
            raise ChainError("weights name at least one UID, and not all are zero", where=ss58(signer.hotkey))
        for uid, weight in weights.items():
            if not 0 <= weight <= MAX_WEIGHT:
                raise ChainError(f"a weight lies between 0 and {MAX_WEIGHT}, not {weight}", where=f"UID {uid}")
        import bittensor

        # The SDK chooses the plain call or commit-reveal as the subnet demands, and checks registration and rate limit.
        ordered = dict(sorted(weights.items()))
        intent = bittensor.SetWeights(self._netuid, uids=list(ordered), weights=[float(w) for w in ordered.values()])
        sdk_signer = _SdkSigner(signer)
        result = self._run(
            lambda client, substrate: client.execute(intent, sdk_signer, retries=2), "set weights", WRITE_SECONDS
        )
        self._require_success(result, "the weights", signer)

    def pending_weights(self, hotkey: Hotkey, block: Block | None = None) -> Block | None:
        """From the commits that wait for their drand round (`TimelockedWeightCommits`).

        Not by the SDK's own read: it makes a date of every validator's reveal round, which one of them can choose to have none.
        """
        number = self.finalised_block() if block is None else block

        async def commits(client: Any, substrate: Any) -> Any:
            at = await substrate.block_hash(number)
            return await substrate.query_map("SubtensorModule", "TimelockedWeightCommits", [self._netuid], block_hash=at)

        address = ss58(hotkey)
        epochs = self._read(f"weight commits at block {number}", commits)
        blocks = [int(committed) for _, epoch in epochs for who, committed, *_ in epoch or () if str(who) == address]
        return Block(max(blocks)) if blocks else None

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        while True:
            missing = number - (self.finalised_block() if finalised else self.current_block())
            if missing <= 0:
                return True
            seconds = self._seconds_per_block()
            # Far away: sleep most of the way. Near: look four times per block.
            nap = min((missing - 1) * seconds * 0.9, _MAX_NAP_SECONDS) if missing > 1 else 0.0
            if stop.wait(max(nap, seconds / 4)):
                return False

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _fetch_metagraph(self, number: int) -> Metagraph:
        graph = self._read(
            f"metagraph at block {number}", lambda client, substrate: client.subnets.metagraph(self._netuid, block=number)
        )
        if graph is None:
            raise ChainError(f"there is no subnet {self._netuid}", where=self._where, hint="check NETUID and BT_NETWORK")
        return Metagraph(Block(number), tuple(_neuron(n) for n in sorted(graph.neurons, key=lambda n: n.uid)))

    def _seconds_per_block(self) -> float:
        if self._block_seconds is None:
            self._block_seconds = float(self._read("block time", lambda client, substrate: client.block_time()))
        return self._block_seconds

    def _require_success(self, result: Any, what: str, signer: Signer) -> None:
        if not result.success:
            error = result.error or result.message or "no reason given"
            raise ChainError(f"the chain refused {what}: {error}", where=ss58(signer.hotkey), hint=_remediation(result.error))

    def _read(self, what: str, request: Callable[[Any, Any], Awaitable[T]], *, limit: float = READ_SECONDS) -> T:
        """Run an idempotent request, on a fresh connection again after a failure of the connection."""
        for pause in (*self._retry_pauses, None):
            try:
                return self._run(request, what, limit)
            except _ConnectionLostError:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _run(self, request: Callable[[Any, Any], Awaitable[T]], what: str, limit: float) -> T:
        import bittensor

        async def connected() -> T:
            async with self._connecting:
                if self._client is None:
                    client, substrate = self._make_client()
                    await client.connect()
                    self._client, self._substrate = client, substrate
                client, substrate = self._client, self._substrate
            return await request(client, substrate)

        try:
            future = asyncio.run_coroutine_threadsafe(connected(), self._running_loop())
            try:
                return future.result(limit)
            except concurrent.futures.TimeoutError:
                future.cancel()
                raise
        except (
            bittensor.RpcConnectionError,
            bittensor.ConnectionNotReady,
            concurrent.futures.TimeoutError,
            OSError,
        ) as error:
            self._disconnect()
            reason = str(error) or f"no answer within {limit:.0f} s"
            raise _ConnectionLostError(
                f"{what}: the chain cannot be reached: {reason}",
                where=self._where,
                hint="check the network and BT_CHAIN_ENDPOINT",
            ) from error
        except bittensor.BittensorError as error:
            raise ChainError(f"{what}: {error}", where=self._where, hint=_remediation(error)) from error

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._connecting = asyncio.Lock()  # a lock belongs to one loop
                threading.Thread(target=self._loop.run_forever, name="bittensor", daemon=True).start()
            return self._loop

    def _disconnect(self) -> None:
        with self._lock:
            client, self._client, self._substrate = self._client, None, None
            if client is not None and self._loop is not None:
                with contextlib.suppress(Exception):  # it is broken or unwanted already
                    asyncio.run_coroutine_threadsafe(client.close(), self._loop).result(5)

    def _keep(self, cache: OrderedDict[int, T], number: int, value: T, most: int) -> None:
        with self._lock:
            cache[number] = value
            if len(cache) > most:
                cache.popitem(last=False)


class _ConnectionLostError(ChainError):
    """No answer: it may help to ask again."""


class _SdkSigner:
    """One of our signers as the SDK's `Signer`."""

    crypto_type = 1  # sr25519

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.ss58_address = ss58(signer.hotkey)
        self.public_key = bytes(signer.hotkey)

    def sign(self, payload: bytes) -> bytes:
        return bytes(self._signer.sign(bytes(payload)))


def _neuron(row: Any) -> Neuron:
    commitment = row.commitment
    plain = commitment is not None and not commitment.encrypted and commitment.data != ""
    return Neuron(
        uid=int(row.uid),
        hotkey=from_ss58(row.hotkey),
        stake=int(row.total_stake.rao),
        validator_permit=bool(row.validator_permit),
        registered_at=Block(int(row.block_at_registration)),
        commitment=str(commitment.data) if plain else None,
        commitment_block=Block(int(commitment.block)) if plain else None,
        last_update=Block(int(row.last_update)),
    )


def _hash_bytes(text: object, what: str) -> bytes:
    try:
        raw = bytes.fromhex(str(text).removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ChainError(f"the node gave no hash of 32 bytes for {what}", where=repr(text))
    return raw


def _remediation(error: object) -> str:
    return str(getattr(error, "remediation", "") or "")
