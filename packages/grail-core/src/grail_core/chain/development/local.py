"""A development chain in one SQLite file that many processes share, with real keys and real signatures.

Blocks are a function of the clock: block n exists from genesis time + n · block time, and its hash follows from the chain's
seed, so a seeded network reproduces. What people do is a log of signed extrinsics; state as of any block is a replay of that
log. Block n never changes once it exists: a reader first raises the stored head to the block it reads, and an extrinsic is
always included in the block after the stored head, both under the database's write lock.

With the real clock blocks go on while nobody runs (a restart finds a gap of blocks, as on a real chain). A network that shall
continue where it stopped calls `rebase_clock()` before anything else reads the chain. Whoever reads the file can compute
future block hashes, and stake costs nothing: this chain is for development, not for strangers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from grail_core.chain.base import BlockInfo, Metagraph
from grail_core.chain.development.chain_file import SCHEMA, connect, database_errors
from grail_core.chain.development.clock import ClockMode, ClockState, start_clock
from grail_core.chain.development.extrinsics import Arguments, Call, Extrinsic, sign_extrinsic
from grail_core.chain.development.parameters import LocalChainParameters
from grail_core.chain.development.state import ChainRules, ChainState, apply, reveal, reveal_blocks_of
from grail_core.chain.development.timelock import close_weights
from grail_core.chain.development.yuma import Emission
from grail_core.clock import WallClock, wall_clock_ms
from grail_core.errors import ChainError, DamagedStateError
from grail_core.keys import ss58
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Hotkey, Signature

FORMAT = 2
_MAX_NAP_SECONDS = 2.0  # another process may rebase or advance the clock meanwhile
_VIRTUAL_NAP_SECONDS = 0.02  # a virtual clock is moved by somebody's call, which no arithmetic foresees
_STATES_KEPT = 8
_SET_BACK_BLOCKS = 2  # of chain time below the newest block's: less is two processes that read the clock one after the other
_METAGRAPHS_KEPT = 64


class StaleNonceError(ChainError):
    """Another extrinsic of the same hotkey came first; sign again."""


class LocalChain:
    """The `Chain` protocol over a SQLite file, and what a development network needs besides. Threads may share one."""

    def __init__(self, path: Path, wall_clock: WallClock) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._states: OrderedDict[int, ChainState] = OrderedDict()
        self._metagraphs: OrderedDict[int, Metagraph] = OrderedDict()
        self.parameters = self._read_parameters()

    # --- making and opening ---------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        seed: str | int,
        netuid: int = 81,
        block_time_ms: int = 1_500,
        genesis_time_ms: int | None = None,
        finality_lag: int = 1,
        clock: ClockMode = ClockMode.REAL,
        factor: float = 1.0,
        rules: ChainRules | None = None,
        wall_clock: WallClock = wall_clock_ms,
    ) -> LocalChain:
        """Make a chain at its genesis block.

        Args:
            genesis_time_ms: Unix milliseconds of block 0; None is now.
            factor: chain seconds per wall second, for the fast clock only.

        Raises:
            ChainError: there is a chain at this path already, or the folder cannot be written.
        """
        if netuid < 0 or block_time_ms < 1 or finality_lag < 0:
            raise ValueError("netuid and finality lag are at least 0, the block time is at least 1 ms")
        now = wall_clock()
        parameters = LocalChainParameters(
            netuid,
            str(seed),
            block_time_ms,
            now if genesis_time_ms is None else genesis_time_ms,
            finality_lag,
            rules or ChainRules(),
        )
        state = start_clock(clock, genesis_time_ms=parameters.genesis_time_ms, wall_ms=now, factor=factor)
        place = Path(path)
        with database_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            connection = connect(place)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'chain'").fetchone():
                    connection.execute("ROLLBACK")
                    raise ChainError(
                        "there is a chain at this path already", where=str(place), hint="open it, or choose a new folder"
                    )
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO chain VALUES (0, ?, ?)", (FORMAT, json.dumps(dataclasses.asdict(parameters), sort_keys=True))
                )
                connection.execute(
                    "INSERT INTO clock VALUES (0, ?, ?, ?, ?, 0)",
                    (state.mode.value, state.anchor_wall_ms, state.anchor_chain_ms, state.rate_permille),
                )
                connection.execute("COMMIT")
            finally:
                connection.close()
        return cls(place, wall_clock)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, wall_clock: WallClock = wall_clock_ms) -> LocalChain:
        """Open a chain that `create` made. Reads no clock, so that `rebase_clock` can come first.

        Raises:
            ChainError: no such file, or it holds no development chain of this format.
        """
        place = Path(path)
        if not place.is_file():
            raise ChainError(
                "there is no development chain at this path",
                where=str(place),
                hint="make one with `grail devnet init`, or check BT_CHAIN_ENDPOINT",
            )
        return cls(place, wall_clock)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
            self._connection = None

    # --- the Chain protocol ---------------------------------------------------------------------------------------------

    @property
    def genesis_hash(self) -> bytes:
        return self.parameters.genesis_hash

    @property
    def netuid(self) -> int:
        return self.parameters.netuid

    def current_block(self) -> Block:
        return self._raise_head()

    def finalised_block(self) -> Block:
        return Block(max(0, self._raise_head() - self.parameters.finality_lag))

    def block(self, number: Block) -> BlockInfo:
        self._require_block(number)
        return BlockInfo(number, self.parameters.block_hash(number), self.parameters.time_of_ms(number))

    def metagraph(self, block: Block | None = None) -> Metagraph:
        number = self.finalised_block() if block is None else block
        self._require_block(number)
        with self._lock:
            if number not in self._metagraphs:
                self._metagraphs[number] = self._state_at(number).metagraph(number, self.parameters.rules)
                if len(self._metagraphs) > _METAGRAPHS_KEPT:
                    self._metagraphs.popitem(last=False)
            return self._metagraphs[number]

    def commit(self, signer: Signer, text: str) -> None:
        self._send(signer, Call.COMMIT, {"text": text})

    def set_weights(self, signer: Signer, weights: Mapping[int, int]) -> None:
        if self._is_lost(signer.hotkey):
            return
        rows = [[uid, weight] for uid, weight in sorted(weights.items())]
        blocks = self.parameters.rules.reveal_blocks
        if not blocks:
            self._send(signer, Call.SET_WEIGHTS, {"weights": rows})
            return
        reveal_at = self._raise_head() + blocks
        try:
            commit = close_weights(rows, self.parameters.block_hash(reveal_at), signer.hotkey)
        except ValueError as error:
            raise ChainError(f"the weights cannot be encoded: {error}", where=_address(signer.hotkey)) from error
        self._send(signer, Call.COMMIT_WEIGHTS, {"commit": commit.hex(), "reveal": reveal_at})

    def pending_weights(self, hotkey: Hotkey, block: Block | None = None) -> Block | None:
        number = self.finalised_block() if block is None else block
        self._require_block(number)
        waiting = self._state_at(number).pending.get(hotkey, ())
        return waiting[-1].committed_at if waiting else None

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        needed = number + (self.parameters.finality_lag if finalised else 0)
        due_ms = self.parameters.time_of_ms(needed)
        while True:
            clock, head = self._clock()
            missing_ms = clock.wall_ms_until(due_ms, self._wall_clock())
            if head >= needed or missing_ms == 0:
                self._raise_head()  # what was waited for exists from now on, for everybody
                return True
            nap = _VIRTUAL_NAP_SECONDS if missing_ms is None else min(max(missing_ms, 1) / 1000, _MAX_NAP_SECONDS)
            if stop.wait(nap):
                return False

    # --- what only a development chain has ------------------------------------------------------------------------------

    def register(self, signer: Signer) -> int:
        """Give this hotkey the lowest free UID, or on a full subnet the worst one's, from the next block. Returns the UID."""
        self._send(signer, Call.REGISTER, {})
        return self._pending_state(Block(self._raise_head() + 1)).uids[signer.hotkey]

    def deregister(self, signer: Signer) -> None:
        """Free this hotkey's UID; weights on it are dropped, its commitment and stake stay with the hotkey."""
        self._send(signer, Call.DEREGISTER, {})

    def stake(self, signer: Signer, amount: int) -> None:
        """Add `amount` rao (negative: remove) to this hotkey's stake. The money comes from nowhere."""
        self._send(signer, Call.STAKE, {"amount": amount})

    def weights(self, block: Block | None = None) -> Mapping[Hotkey, Mapping[int, int]]:
        """The weights in force as of a block (None: the finalised one), by the hotkey that set them."""
        number = self.finalised_block() if block is None else block
        self._require_block(number)
        return {hotkey: dict(row) for hotkey, (row, _) in self._state_at(number).weights.items()}

    def lose_weights(self, hotkey: Hotkey, calls: int) -> None:
        """A fault: the next so many `set_weights` of this hotkey, in any process, return as always and do nothing."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO lost_calls VALUES (?, ?)", (bytes(hotkey), calls))

    def emission(self, block: Block | None = None) -> Emission:
        """Who earns what share as of a block (None: the finalised one)."""
        number = self.finalised_block() if block is None else block
        self._require_block(number)
        return self._state_at(number).emission(self.parameters.rules)

    def earnings(self, first: Block, last: Block) -> Mapping[Hotkey, int]:
        """Rao that each hotkey earned in blocks first … last, both included, rounded down once at the end."""
        self._require_block(last)
        changes = self._query(
            "SELECT DISTINCT block FROM extrinsics WHERE block > ? AND block <= ? ORDER BY block", (first, last)
        )
        written = [Block(row[0]) for row in changes]
        revealed = {block for start in (first, *written) for block in reveal_blocks_of(self._state_at(start))}
        starts = [first, *sorted({*written, *(block for block in revealed if first < block <= last)})]
        earned: dict[Hotkey, Fraction] = {}
        for start, end in zip(starts, [*starts[1:], last + 1], strict=True):
            state = self._state_at(start)
            for uid, share in state.emission(self.parameters.rules).share.items():
                hotkey = state.neurons[uid][0]
                amount = share * self.parameters.rules.emission_per_block * (end - start)
                earned[hotkey] = earned.get(hotkey, Fraction(0)) + amount
        return {hotkey: int(amount) for hotkey, amount in earned.items()}

    def now_ms(self) -> int:
        """Chain time, Unix milliseconds: the clock for stores and beacons of a network on one machine."""
        state, head = self._clock()
        return max(state.now_ms(self._wall_clock()), self.parameters.time_of_ms(head))

    @property
    def clock_mode(self) -> ClockMode:
        """What moves this chain's clock."""
        return self._stored_clock()[0].mode

    def advance(self, blocks: int) -> Block:
        """Move a virtual clock by whole blocks, for every process that shares the chain. Returns the new head."""
        return self.advance_ms(blocks * self.parameters.block_time_ms)

    def advance_ms(self, milliseconds: int) -> Block:
        """Move a virtual clock. Returns the new head."""
        if milliseconds < 0:
            raise ValueError("time does not go back")
        with self._transaction() as connection:
            state, _ = self._clock()
            if state.mode is not ClockMode.VIRTUAL:
                raise ChainError(
                    f"only a virtual clock is advanced by hand; this one is {state.mode.value}", where=str(self._path)
                )
            connection.execute("UPDATE clock SET anchor_chain_ms = anchor_chain_ms + ?", (milliseconds,))
        return self._raise_head()

    def rebase_clock(self) -> int:
        """Continue from the last block that anybody saw, as if no time had passed. Returns the chain milliseconds left out.

        Call it when a stopped network starts again, before anything else reads the chain: a read raises the head to the
        clock, and what exists stays. On a network that runs it does nothing.
        """
        with self._transaction() as connection:
            state, head = self._clock()
            wall = self._wall_clock()
            # The last moment of the head's block: no store time that anybody wrote in it lies in the future.
            resumed = self.parameters.time_of_ms(head + 1) - 1
            skipped = state.now_ms(wall) - resumed
            if skipped <= 0 or state.mode is ClockMode.VIRTUAL:
                return 0
            state = state.rebased(resumed, wall)
            connection.execute(
                "UPDATE clock SET anchor_wall_ms = ?, anchor_chain_ms = ?", (state.anchor_wall_ms, state.anchor_chain_ms)
            )
            return skipped

    def nonce(self, hotkey: Hotkey) -> int:
        """How many extrinsics of this hotkey the chain accepted: the nonce of the next one."""
        return int(self._query("SELECT COUNT(*) FROM extrinsics WHERE hotkey = ?", (bytes(hotkey),))[0][0])

    def submit(self, extrinsic: Extrinsic) -> Block:
        """Verify a signed extrinsic and apply it. Returns the block that includes it, the one after the head.

        Raises:
            StaleNonceError: the nonce is not the next one.
            ChainError: the signature or the request is refused; nothing was changed.
        """
        if not extrinsic.is_signed_for(self.genesis_hash, self.netuid):
            raise ChainError("the extrinsic is not signed by its hotkey for this chain", where=_address(extrinsic.hotkey))
        self._raise_head()  # in its own transaction: a refusal below must not take the head back
        with self._transaction() as connection:
            expected = self.nonce(extrinsic.hotkey)
            if extrinsic.nonce != expected:
                raise StaleNonceError(
                    f"the nonce is {extrinsic.nonce}, the next one is {expected}", where=_address(extrinsic.hotkey)
                )
            included = Block(self._clock()[1] + 1)
            apply(self._pending_state(included), extrinsic, included, self.parameters.rules)
            connection.execute(
                "INSERT INTO extrinsics (block, hotkey, nonce, call, arguments, signature) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    included,
                    bytes(extrinsic.hotkey),
                    extrinsic.nonce,
                    extrinsic.call.value,
                    json.dumps(dict(extrinsic.arguments)),
                    bytes(extrinsic.signature),
                ),
            )
            return included

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _send(self, signer: Signer, call: Call, arguments: Arguments) -> Block:
        """Sign and submit, again if another process of the same hotkey was faster."""
        for attempt in range(20):
            try:
                signed = sign_extrinsic(
                    signer,
                    genesis_hash=self.genesis_hash,
                    netuid=self.netuid,
                    call=call,
                    arguments=arguments,
                    nonce=self.nonce(signer.hotkey),
                )
            except ValueError as error:
                raise ChainError(f"the request cannot be encoded: {error}", where=call.value) from error
            try:
                return self.submit(signed)
            except StaleNonceError:
                if attempt == 19:
                    raise
        raise AssertionError("unreachable")

    def _raise_head(self) -> Block:
        """The newest block by the clock, stored so that it exists for everybody and stays."""
        state, head = self._clock()
        elapsed = state.now_ms(self._wall_clock()) - self.parameters.genesis_time_ms
        newest = elapsed // self.parameters.block_time_ms
        if newest <= head:
            return Block(head)
        with self._transaction() as connection:
            connection.execute("UPDATE clock SET head = ? WHERE head < ?", (newest, newest))
            return Block(connection.execute("SELECT head FROM clock").fetchone()[0])

    def _require_block(self, number: int) -> None:
        head = self._raise_head()
        if not 0 <= number <= head:
            raise ChainError(f"there is no block {number} (yet): the newest is {head}", where=str(self._path))

    def _clock(self) -> tuple[ClockState, int]:
        state, head = self._stored_clock()
        wall = self._wall_clock()
        behind = self.parameters.time_of_ms(head) - state.now_ms(wall) if head else 0
        if (
            behind <= _SET_BACK_BLOCKS * self.parameters.block_time_ms
            or state.mode is ClockMode.VIRTUAL
            or self._in_transaction()
        ):
            return state, head
        # The wall clock was set back: the chain goes on from its newest block, and does not stand still until it is caught up.
        with self._transaction() as connection:
            state, head = self._stored_clock()
            state = state.rebased(self.parameters.time_of_ms(head), wall)
            connection.execute(
                "UPDATE clock SET anchor_wall_ms = ?, anchor_chain_ms = ?", (state.anchor_wall_ms, state.anchor_chain_ms)
            )
        return state, head

    def _stored_clock(self) -> tuple[ClockState, int]:
        row = self._query("SELECT mode, anchor_wall_ms, anchor_chain_ms, rate_permille, head FROM clock", ())[0]
        return ClockState(ClockMode(row[0]), row[1], row[2], row[3]), row[4]

    def _in_transaction(self) -> bool:
        with self._lock:
            return self._connection is not None and self._owner == os.getpid() and self._connection.in_transaction

    def _state_at(self, number: int) -> ChainState:
        """State after all extrinsics of blocks up to an existing one. Callers must not change it."""
        with self._lock:
            if number not in self._states:
                base = max((known for known in self._states if known < number), default=-1)
                state = self._states[base].copy() if base >= 0 else ChainState()
                self._replay(state, base, number)
                self._states[number] = state
                if len(self._states) > _STATES_KEPT:
                    self._states.popitem(last=False)
            return self._states[number]

    def _pending_state(self, included: Block) -> ChainState:
        """A copy of the state with everything accepted so far; `included` is the block after the stored head."""
        state = self._state_at(included - 1).copy()
        self._replay(state, included - 1, included)
        return state

    def _replay(self, state: ChainState, after: int, up_to: int) -> None:
        rows = self._query(
            "SELECT block, hotkey, nonce, call, arguments, signature FROM extrinsics"
            " WHERE block > ? AND block <= ? ORDER BY seq",
            (after, up_to),
        )
        for block, hotkey, nonce, call, arguments, signature in rows:
            extrinsic = Extrinsic(Call(call), json.loads(arguments), Hotkey(hotkey), nonce, Signature(signature))
            self._reveal(state, Block(block))
            apply(state, extrinsic, Block(block), self.parameters.rules)
        self._reveal(state, Block(up_to))

    def _reveal(self, state: ChainState, block: Block) -> None:
        if state.pending:
            reveal(state, block, self.parameters.block_hash, self.parameters.rules)

    def _is_lost(self, hotkey: Hotkey) -> bool:
        if not self._query("SELECT 1 FROM lost_calls WHERE hotkey = ? AND calls > 0", (bytes(hotkey),)):
            return False
        with self._transaction() as connection:
            update = "UPDATE lost_calls SET calls = calls - 1 WHERE hotkey = ? AND calls > 0"
            return connection.execute(update, (bytes(hotkey),)).rowcount == 1

    def _read_parameters(self) -> LocalChainParameters:
        hint = "make a network in a new folder (`grail devnet init`, localnet), or check BT_CHAIN_ENDPOINT"
        try:
            rows = self._query("SELECT format, parameters FROM chain", ())
        except (ChainError, DamagedStateError) as error:
            raise ChainError(
                f"the development chain cannot be opened: {error.what}", where=str(self._path), hint=hint
            ) from error
        if not rows or rows[0][0] != FORMAT:
            raise ChainError("this development chain is of another format", where=str(self._path), hint=hint)
        try:
            return LocalChainParameters.from_json(json.loads(rows[0][1]))
        except (ValueError, TypeError, KeyError) as error:
            raise ChainError(
                f"the development chain's parameters are damaged: {error}", where=str(self._path), hint=hint
            ) from error

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():  # a connection does not survive a fork
            self._connection, self._owner = connect(self._path), os.getpid()
        return self._connection

    def _query(self, statement: str, arguments: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock, database_errors(self._path):
            return self._open_connection().execute(statement, arguments).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The write lock of the file. Not to be nested."""
        with self._lock, database_errors(self._path):
            connection = self._open_connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _address(hotkey: Hotkey) -> str:
    return ss58(hotkey) if len(hotkey) == 32 else bytes(hotkey).hex()
