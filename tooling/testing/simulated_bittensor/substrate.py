"""The SDK's `Substrate` over a node of the simulated network, and what makes one for a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bittensor

from grail_core.chain.base import seconds_of
from grail_core.chain.development.local import LocalChain
from tooling.testing.simulated_bittensor import answers, extrinsics, openings
from tooling.testing.simulated_bittensor.faults import FaultFile
from tooling.testing.simulated_bittensor.node import Node

SPEC_VERSION = 435


class SimulatedSubstrate:
    """What `bittensor.Client` asks of a `Substrate` for the roles' reads and writes; other requests have no method here."""

    def __init__(self, node: Node) -> None:
        self.token_symbols: dict[int, str] = {}
        self._node = node
        self._chain = node.chain
        self._open = False

    def balance(self, rao: int, netuid: int = 0) -> Any:
        return bittensor.Balance.from_rao(rao, netuid)

    async def connect(self) -> None:
        await self._node.answer()
        self._open = True

    async def close(self) -> None:
        self._open = False

    # --- blocks ---------------------------------------------------------------------------------------------------------

    async def block_hash(self, block: int | None = None) -> str:
        await self._answer()
        found = self._node.hash_of(self._node.head() if block is None else block)
        if found is None:
            raise bittensor.ChainError(f"no block at height {block}")
        return found

    async def block_number(self) -> int:
        await self._answer()
        return self._node.told_head()

    async def finalized_block_number(self) -> int:
        await self._answer()
        return self._node.told_finalised()

    async def block_time(self) -> float:
        return seconds_of(1, self._chain.parameters.block_time_ms)

    async def spec_version(self) -> int:
        return SPEC_VERSION

    async def get_block(self, block_number: int | None = None, block_hash: str | None = None) -> dict[str, Any] | None:
        await self._answer()
        number = self._node.head() if block_number is None else block_number
        found = self._node.hash_of(number)
        if found is None or not self._node.has_body(number):
            return None
        self._node.number_of(found)  # decoding a body takes the runtime of its block, which is state
        stamp = {
            "call_module": "Timestamp",
            "call_args": [{"name": "now", "value": self._node.time_of(number)}],
        }
        return {"header": {"number": number, "hash": found}, "extrinsics": [{"call": stamp}]}

    # --- state ----------------------------------------------------------------------------------------------------------

    async def query(self, module: str, name: str, params: list[Any] | None = None, block_hash: str | None = None) -> Any:
        await self._answer()
        number = self._node.number_of(block_hash)
        if name == "Now":
            return self._node.time_of(number)
        self._break_state()
        return answers.query(self._chain, self._node.faults_file.read(), number, name, params or [])

    async def query_map(
        self, module: str, name: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> list[tuple[Any, Any]]:
        await self._answer()
        self._break_state()
        return answers.query_map(self._chain, self._node.number_of(block_hash), name, params or [])

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        await self._answer()
        number = self._node.number_of(block_hash)
        self._break_state()
        if method != "get_metagraph" or params != [self._chain.netuid] or self._node.faults.state == "none":
            return None
        return answers.metagraph(self._chain, self._node.faults_file.read(), number)

    async def constant(self, module: str, name: str) -> Any:
        return None

    # --- writes ---------------------------------------------------------------------------------------------------------

    async def compose(self, call: Any) -> Any:
        return call

    async def estimate_fee(self, call: Any, keypair: Any) -> Any:
        return bittensor.Balance.from_rao(0)

    async def submit(self, call: Any, keypair: Any, **options: Any) -> Any:
        """Answers when the extrinsic is accepted; `wait_for_finalization` is not waited for."""
        await self._answer()
        faults = self._node.faults
        if faults.refuses is not None:
            return extrinsics.refused(f"the chain refuses it: {faults.refuses}", faults.refuses)
        if faults.loses:
            return bittensor.ExtrinsicResult(True, message="Success")
        return extrinsics.submit(self._chain, tuple(call), keypair)

    def _break_state(self) -> None:
        state = self._node.faults.state
        if state == "trap":
            raise bittensor.ChainError("Internal error: execution aborted: wasm trap")
        if state == "garbage":
            raise ValueError("it cannot be decoded")  # as the SDK's own decoding does

    async def _answer(self) -> None:
        if not self._open:
            raise bittensor.ConnectionNotReady("the connection is not open")
        await self._node.answer()


class SimulatedBittensor:
    """A simulated network over a development chain.

    Args:
        chain: shared with whoever else has its file; `faults` lie beside it.
    """

    def __init__(self, chain: LocalChain, path: Path) -> None:
        openings.install()
        self.chain = chain
        self.faults = FaultFile(path)
        self._nodes: dict[str, Node] = {}

    def substrate(self, endpoint: str, **options: Any) -> SimulatedSubstrate:
        """In the place of `bittensor.RpcSubstrate`; the node is named by the URL's host."""
        return SimulatedSubstrate(self.node(endpoint))

    def node(self, endpoint: str) -> Node:
        name = urlsplit(endpoint).hostname or ""
        return self._nodes.setdefault(name, Node(name, self.chain, self.faults))

    def client(self, endpoint: str) -> tuple[Any, Any]:
        """As the adapter makes clients, over this network."""
        substrate = self.substrate(endpoint)
        return bittensor.Client("local", substrate=substrate), substrate
