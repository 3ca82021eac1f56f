"""How much a client may ask: requests and tokens in any minute, and requests that are open at the same time.

Pure: a clock is handed in, and so is who is told of what ended. A request's tokens are reserved when it is admitted, prompt and
longest completion together, and stay reserved while it is open; at its end what was really used takes their place for a minute.
So in no 60 seconds more tokens are used than the limit, however long answers take. What is refused is not counted: whoever
keeps asking is served again as soon as who waits. Minutes are reckoned in whole seconds, which keeps a client's memory bounded
and errs, by less than a second, to its disadvantage.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from grail_miner.serving.clients import MAX_CLIENTS, Client
from grail_miner.serving.refusals import RefusedRequestError, bad_request

MINUTE_S: Final = 60
_OPEN_RETRY_S: Final = 5
"""Where it hangs on the client's own open requests, whose end nobody knows."""
_MAX_STATES: Final = 2 * MAX_CLIENTS


@dataclass(frozen=True)
class Ended:
    """A request that was admitted, at its end. `seconds`: since its admission."""

    client: Client
    route: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass
class _Minute:
    """Amounts of the last 60 to 61 seconds, one sum a second."""

    sums: deque[list[int]] = field(default_factory=deque)  # [second, amount], oldest first
    total: int = 0

    def add(self, second: int, amount: int) -> None:
        if amount == 0:
            return
        if self.sums and self.sums[-1][0] >= second:
            self.sums[-1][1] += amount
        else:
            self.sums.append([second, amount])
        self.total += amount

    def forget(self, now: float) -> None:
        while self.sums and self.sums[0][0] + 1 + MINUTE_S <= now:
            self.total -= self.sums.popleft()[1]

    def free_at(self, amount: int, most: int) -> float | None:
        """The time from which `amount` more is within `most`; None where no waiting brings it."""
        if amount > most:
            return None
        left = self.total
        for second, gone in self.sums:
            left -= gone
            if left + amount <= most:
                return float(second + 1 + MINUTE_S)
        return None


@dataclass
class _State:
    requests: _Minute = field(default_factory=_Minute)
    tokens: _Minute = field(default_factory=_Minute)
    reserved: int = 0
    open: int = 0


def _nobody_is_told(*_: object) -> None:
    pass


class Limits:
    """Safe to call from several threads.

    Args:
        clock: monotonic seconds.
        ended: told once of every admitted request, at its end; it may take its time, and its errors are raised by `end`.
        refused: told the client and route of every request that a limit refused, before the refusal is raised.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        ended: Callable[[Ended], None] = _nobody_is_told,
        refused: Callable[[Client, str], None] = _nobody_is_told,
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._refused = refused
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()

    def begin(self, client: Client, tokens: int, *, route: str = "other") -> Lease:
        """Admit a request. The lease must be ended, whatever becomes of the request.

        Args:
            tokens: of the prompt, and of all its completions at their longest.

        Raises:
            RefusedRequestError: 429 `rate_limit_exceeded`, with the seconds after which it would be admitted (where that hangs
                on the client's own open requests: after which to ask again); 400 `limit_too_small`, where it asks for more than
                the client may ever have in a minute.
        """
        with self._lock:
            now = self._clock()
            state = self._state(client.name, now)
            refusal = _refusal(client, tokens, state, now)
            if refusal is None:
                state.open += 1
                state.reserved += tokens
                state.requests.add(math.floor(now), 1)
        if refusal is not None:
            self._refused(client, route)
            raise refusal
        return Lease(self, client, route, tokens, now)

    def require_room(self, client: Client, *, route: str = "other") -> None:
        """Refuse, as `begin` would, a client whose smallest request would be refused now: before its request costs anything."""
        with self._lock:
            now = self._clock()
            refusal = _refusal(client, 1, self._state(client.name, now), now)
        if refusal is not None:
            self._refused(client, route)
            raise refusal

    def _end(self, lease: Lease, prompt_tokens: int, completion_tokens: int, outcome: str) -> None:
        with self._lock:
            if lease.ended:
                return
            lease.ended = True
            now = self._clock()
            state = self._states[lease.client.name]  # not forgotten while a request is open
            state.open -= 1
            state.reserved -= lease.tokens
            state.tokens.forget(now)
            state.tokens.add(math.floor(now), prompt_tokens + completion_tokens)
        self._ended(Ended(lease.client, lease.route, outcome, prompt_tokens, completion_tokens, now - lease.began))

    def _state(self, name: str, now: float) -> _State:
        if name not in self._states and len(self._states) >= _MAX_STATES:  # names of former files
            for one in self._states.values():
                _forget(one, now)
            self._states = {key: one for key, one in self._states.items() if one.open or one.requests.total or one.tokens.total}
        state = self._states.setdefault(name, _State())
        _forget(state, now)
        return state


class Lease:
    """An admitted request's place within its client's limits."""

    def __init__(self, limits: Limits, client: Client, route: str, tokens: int, began: float) -> None:
        self.client, self.route, self.tokens, self.began = client, route, tokens, began
        self.ended = False
        self._limits = limits

    def end(self, prompt_tokens: int, completion_tokens: int, outcome: str) -> None:
        """Give the place back and count what was used; the first call alone does anything.

        Args:
            outcome: one of `metrics.OUTCOMES`.

        Raises:
            StorageError, and what else who is told of the end raises: the place is given back all the same.
        """
        self._limits._end(self, prompt_tokens, completion_tokens, outcome)


def _forget(state: _State, now: float) -> None:
    state.requests.forget(now)
    state.tokens.forget(now)


def _refusal(client: Client, tokens: int, state: _State, now: float) -> RefusedRequestError | None:
    most = client.tokens_per_minute
    if most is not None and tokens > most:
        what = f"prompt and completions may have {tokens} tokens together, and this client has {most} a minute"
        return bad_request(
            f"{what} (tokens_per_minute); ask for fewer by max_tokens or n", param="max_tokens", code="limit_too_small"
        )
    waits: list[tuple[int, str]] = []
    if client.concurrent is not None and state.open >= client.concurrent:
        waits.append((_OPEN_RETRY_S, f"{client.concurrent} requests of this client are open, as many as may (concurrent)"))
    each = client.requests_per_minute
    if each is not None and state.requests.total >= each:
        seconds = _seconds_to(state.requests.free_at(1, each), now)
        waits.append((seconds, f"this client may ask {each} times a minute (requests_per_minute)"))
    if most is not None and state.tokens.total + state.reserved + tokens > most:
        seconds = _seconds_to(state.tokens.free_at(tokens + state.reserved, most), now)
        what = f"this client has {most} tokens a minute (tokens_per_minute), and this request may need {tokens}"
        waits.append((seconds, what))
    if not waits:
        return None
    longest, what = max(waits)  # after which it is within the others too
    return RefusedRequestError(
        HTTPStatus.TOO_MANY_REQUESTS, f"{what}; try again in {longest} s", "rate_limit_exceeded", retry_after_s=longest
    )


def _seconds_to(free: float | None, now: float) -> int:
    return _OPEN_RETRY_S if free is None else max(1, math.ceil(free - now))
