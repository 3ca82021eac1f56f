"""A real subnet through the bittensor SDK (11.x): the `Chain` protocol over a connection that goes from endpoint to endpoint.

Only what never changes is remembered: blocks and metagraphs that were final by the word of the endpoint that gave them, in the
same request. Reads are repeated, on another endpoint where there is one; of the writes only the commitment is, which may be
written twice without harm. What a node has thrown away is asked of archive nodes; an endpoint that cannot answer what another
one can is left. Nothing here reckons with epochs: a subnet's
tempo may change, and only the SDK needs it, to choose the round that reveals weights. Importing this module does not import the
SDK.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grail_core.chain.base import MAX_WEIGHT, BlockInfo, Metagraph, weights_update
from grail_core.chain.bittensor.connection import READ_SECONDS, WRITE_SECONDS, SdkConnection, remediation
from grail_core.chain.bittensor.endpoints import Endpoint, Endpoints
from grail_core.chain.bittensor.following import HeadFollower
from grail_core.chain.bittensor.heads import Head
from grail_core.chain.bittensor.plausibility import MOST_BLOCKS
from grail_core.chain.bittensor.reading import StateReader
from grail_core.chain.bittensor.resolving import clients_by_sdk, resolved
from grail_core.chain.bittensor.sdk_values import SdkSigner, hash_bytes, neuron_of
from grail_core.clock import wall_clock_ms
from grail_core.errors import ChainError
from grail_core.keys import ss58
from grail_core.protocol.network import MAX_COMMITMENT_BYTES
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Hotkey
from grail_core.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")
STALE_METAGRAPH_SECONDS = 600.0  # the newest metagraph answers so long while no endpoint does
LOST_BLOCKS = 3  # final blocks after which weights that the chain does not show were lost by the endpoint that took them
COMMITMENT_LOOKS = 3  # a block time apart, for a commitment whose first answer was lost
_BLOCKS_KEPT = 1024
_METAGRAPHS_KEPT = 16
_UNSETTLED_KEPT = 64


@dataclass(frozen=True)
class Timing:
    """The clocks of an adapter, and how it sleeps; for tests and simulations to replace.

    clock: Unix milliseconds of the network. monotonic: seconds. jitter: a number from 0 to 1.
    """

    clock: Callable[[], int] = wall_clock_ms
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    read_seconds: float = READ_SECONDS


class BittensorChain:
    """The `Chain` protocol over SDK clients. Threads may share it.

    Args:
        make_client: makes a `bittensor.Client`, and the `bittensor.Substrate` it uses, for a URL; again after a failure.
        endpoints: URLs of nodes of one chain, in the order of preference.
        archives: URLs of nodes that keep the state of all blocks; the other endpoints are asked for old blocks too.
        netuid: the subnet.
        genesis: hash of block 0 in hexadecimal, where it is known beforehand; else the first endpoint that answers says it.
    """

    def __init__(
        self,
        make_client: Callable[[str], tuple[Any, Any]],
        *,
        endpoints: Sequence[str],
        archives: Sequence[str] = (),
        netuid: int,
        genesis: str | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._make_client, self._netuid = make_client, netuid
        self._timing = timing or Timing()
        self._connection = self._connect(endpoints, genesis)
        self._archives = tuple(dict.fromkeys((*archives, *endpoints)))
        self._follower = HeadFollower(self._connection, self._timing.clock, self._timing.monotonic)
        self._state = StateReader(self._connection, self._follower, self._open_archives, self._timing.monotonic)
        self._lock = threading.RLock()
        self._blocks: OrderedDict[int, BlockInfo] = OrderedDict()
        self._metagraphs: OrderedDict[int, Metagraph] = OrderedDict()
        self._unsettled: OrderedDict[int, bytes] = OrderedDict()  # hashes of blocks that were not final when they were read
        self._sent: dict[Hotkey, tuple[Endpoint, Block]] = {}  # who took the last weights of a hotkey, and the block before
        self._newest: tuple[float, Metagraph] | None = None  # monotonic seconds when it was read

    @classmethod
    def connect(cls, network: str, *, netuid: int) -> BittensorChain:
        """A chain for a network name (`finney`, `test`) or websocket URLs, separated by commas. Opens no connection yet.

        Raises:
            ConfigurationError: the SDK is not installed, or there is no such network.
        """
        found = resolved(network)
        return cls(clients_by_sdk(), endpoints=found.endpoints, archives=found.archives, netuid=netuid, genesis=found.genesis)

    def close(self) -> None:
        """Close the connections and end their threads; a later call opens both again."""
        self._connection.close()
        self._state.close()

    # --- the Chain protocol ---------------------------------------------------------------------------------------------

    @property
    def genesis_hash(self) -> bytes:
        if self._connection.genesis is None:
            self._connection.read("genesis hash", lambda client, substrate: substrate.block_hash(0))
        return hash_bytes(self._connection.genesis, "block 0")

    @property
    def netuid(self) -> int:
        return self._netuid

    def now_ms(self) -> int:
        return self._timing.clock()

    def current_block(self) -> Block:
        return self._follower.number(Head.BEST)

    def finalised_block(self) -> Block:
        return self._follower.number(Head.FINALISED)

    def block(self, number: Block) -> BlockInfo:
        known = self._blocks.get(number)
        if known is not None:
            return known
        if not 0 <= number < MOST_BLOCKS:
            raise ChainError("there is no block of that number", where=self.endpoint)

        async def info(client: Any, substrate: Any) -> tuple[int, BlockInfo | None]:
            finalised = await client.finalized_block()  # first: what is final now cannot be replaced before it is read
            found = await client.block_info(number)
            if found is None:
                return int(finalised), None
            timestamp_ms = round(found.timestamp.timestamp() * 1000)
            return int(finalised), BlockInfo(Block(int(found.number)), hash_bytes(found.hash, f"block {number}"), timestamp_ms)

        finalised, read = self._state.read(f"block {number}", number, info, lacks=lambda answer: answer[1] is None)
        if read is None or read.number != number or not self._follower.may_exist(number):
            raise ChainError(f"there is no block {number} (yet)", where=self.endpoint)
        self._settle(read, final=number <= finalised and self._follower.may_exist(finalised))
        return read

    def metagraph(self, block: Block | None = None) -> Metagraph:
        """As of `block`; None is the finalised block, or for a while the last one read if no endpoint answers."""
        now = self._timing.monotonic
        try:
            known = self._metagraph(block)
        except ChainError as error:
            age = float("inf") if self._newest is None else now() - self._newest[0]
            if block is not None or self._newest is None or age > STALE_METAGRAPH_SECONDS:
                raise
            stale = self._newest[1]
            log.event("metagraph_stale", level=logging.WARNING, block=stale.block, age_seconds=round(age), reason=error.what)
            return stale
        if block is None:
            self._newest = (now(), known)
        return known

    def commit(self, signer: Signer, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        if not 1 <= len(raw) <= MAX_COMMITMENT_BYTES:
            raise ChainError(f"a commitment has 1 to {MAX_COMMITMENT_BYTES} bytes of UTF-8", where=ss58(signer.hotkey))
        from bittensor import calls

        fields = {"fields": [[{f"Raw{len(raw)}": "0x" + raw.hex()}]]}
        call = calls.Commitments.set_commitment(netuid=self._netuid, info=fields)
        sdk_signer, tries = SdkSigner(signer), 0

        async def submitted(client: Any, substrate: Any) -> Any:
            nonlocal tries
            tries += 1
            return await client.submit_call(call, sdk_signer, signer="hotkey")

        try:
            _require_success(self._connection.read("commitment", submitted, limit=WRITE_SECONDS), "the commitment", signer)
        except ChainError:
            # Of a try whose answer was lost nobody knows; the next one may be refused because it was carried out.
            if not self._shows_commitment(signer.hotkey, text, looks=COMMITMENT_LOOKS if tries > 1 else 1):
                raise

    def set_weights(self, signer: Signer, weights: Mapping[int, int]) -> None:
        if not weights or not any(weights.values()):
            raise ChainError("weights name at least one UID, and not all are zero", where=ss58(signer.hotkey))
        for uid, weight in weights.items():
            if not 0 <= weight <= MAX_WEIGHT:
                raise ChainError(f"a weight lies between 0 and {MAX_WEIGHT}, not {weight}", where=f"UID {uid}")
        import bittensor

        self._leave_what_lost_weights(signer.hotkey)
        endpoint, before = self._connection.endpoints.current, self.current_block()
        # The SDK chooses the plain call or commit-reveal as the subnet demands, and checks registration and rate limit.
        ordered = dict(sorted(weights.items()))
        intent = bittensor.SetWeights(self._netuid, uids=list(ordered), weights=[float(w) for w in ordered.values()])
        sdk_signer = SdkSigner(signer)
        try:
            result = self._connection.run(
                "set weights", lambda client, substrate: client.execute(intent, sdk_signer, retries=2), limit=WRITE_SECONDS
            )
        except ChainError:  # if another one shows that they did not arrive, that one has the next
            self._sent[signer.hotkey] = endpoint, before
            raise
        _require_success(result, "the weights", signer)
        self._sent[signer.hotkey] = endpoint, before

    def pending_weights(self, hotkey: Hotkey, block: Block | None = None) -> Block | None:
        """From the commits that wait for their drand round (`TimelockedWeightCommits`).

        Not by the SDK's own read: it makes a date of every validator's reveal round, which one of them can choose to have none.
        """
        number = self.finalised_block() if block is None else block

        address = ss58(hotkey)

        async def commits(client: Any, substrate: Any) -> list[int]:
            at = await substrate.block_hash(number)
            epochs = await substrate.query_map("SubtensorModule", "TimelockedWeightCommits", [self._netuid], block_hash=at)
            return [int(committed) for _, epoch in epochs for who, committed, *_ in epoch or () if str(who) == address]

        blocks = self._state.read(f"weight commits at block {number}", number, commits)
        return Block(max(blocks)) if blocks else None

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        return self._follower.wait(number, stop=stop, head=Head.FINALISED if finalised else Head.BEST)

    @property
    def endpoint(self) -> str:
        """The address of the endpoint in use, without what may be a key."""
        return self._connection.endpoints.current.name

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _connect(self, urls: Sequence[str], genesis: str | None, *, told: bool = True) -> SdkConnection:
        timing = self._timing
        endpoints = Endpoints(urls, monotonic=timing.monotonic, jitter=timing.jitter, told=told)
        return SdkConnection(
            endpoints, self._make_client, genesis=genesis, sleep=timing.sleep, read_seconds=timing.read_seconds
        )

    def _open_archives(self) -> SdkConnection:
        return self._connect(self._archives, self._connection.genesis, told=False)

    def _leave_what_lost_weights(self, hotkey: Hotkey) -> None:
        """Another endpoint takes the next weights where this one took the last ones and the chain never showed them."""
        endpoint, before = self._sent.pop(hotkey, (None, Block(0)))
        if endpoint is None or endpoint is not self._connection.endpoints.current or not self._connection.endpoints.others():
            return
        with contextlib.suppress(ChainError):  # whoever cannot be asked is left for that
            finalised = self.finalised_block()
            update = weights_update(self, hotkey, finalised)
            if finalised > before + LOST_BLOCKS and (update is None or update <= before):
                others = self._follower.sound_others()
                if others and self._connection.endpoints.current is endpoint:
                    reason = f"weights that were sent to it after block {before} are not on the chain"
                    self._connection.leave(others[0].endpoint, reason)
                self._connection.drop_unused()

    def _shows_commitment(self, hotkey: Hotkey, text: str, *, looks: int) -> bool:
        """Whether the chain's best block has this commitment, by as many looks a block time apart."""
        with contextlib.suppress(ChainError):
            for look in range(looks):
                if look:
                    self._timing.sleep(self._follower.block_seconds())
                neuron = self.metagraph(self.current_block()).by_hotkey(hotkey)
                if neuron is not None and neuron.commitment == text:
                    return True
        return False

    def _metagraph(self, block: Block | None) -> Metagraph:
        if block is not None and block in self._metagraphs:
            return self._metagraphs[block]
        finalised = self.finalised_block()
        number = finalised if block is None else block
        if number in self._metagraphs:
            return self._metagraphs[number]

        async def graph(client: Any, substrate: Any) -> tuple[int, Metagraph | None]:
            final = await client.finalized_block()  # on the connection that answers: it may be another one than before
            found = await client.subnets.metagraph(self._netuid, block=number)
            rows = () if found is None else tuple(neuron_of(n) for n in sorted(found.neurons, key=lambda n: n.uid))
            return int(final), None if found is None else Metagraph(Block(number), rows)

        final, read = self._state.read(f"metagraph at block {number}", number, graph, broken=lambda answer: answer[1] is None)
        if read is None:
            raise ChainError(f"there is no subnet {self._netuid}", where=self.endpoint, hint="check NETUID and BT_NETWORK")
        if number <= final and self._follower.may_exist(final):
            self._keep(self._metagraphs, number, read, _METAGRAPHS_KEPT)
        return read

    def _settle(self, info: BlockInfo, *, final: bool) -> None:
        """Remember a final block; of any other only its hash, to notice that another block took its place."""
        with self._lock:
            before = self._unsettled.pop(info.number, None)
            if before is not None and before != info.hash:
                log.event(
                    "chain_block_replaced",
                    level=logging.WARNING,
                    block=info.number,
                    was=before.hex()[:16],
                    now=info.hash.hex()[:16],
                    final=final,
                    endpoint=self.endpoint,
                )
        if final:
            self._keep(self._blocks, info.number, info, _BLOCKS_KEPT)
        else:
            self._keep(self._unsettled, info.number, info.hash, _UNSETTLED_KEPT)

    def _keep(self, cache: OrderedDict[int, T], number: int, value: T, most: int) -> None:
        with self._lock:
            cache[number] = value
            if len(cache) > most:
                cache.popitem(last=False)


def _require_success(result: Any, what: str, signer: Signer) -> None:
    if not result.success:
        error = result.error or result.message or "no reason given"
        raise ChainError(f"the chain refused {what}: {error}", where=ss58(signer.hotkey), hint=remediation(result.error))
