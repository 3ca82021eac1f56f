"""I19: slow readers, thousands of open streams, one client: bounded queues, limits of each client, and others unharmed.

A node as an operator runs it, in a process of its own with its model in a child. A try is one way in which a client with a
token wears the node out; it got through if another client's question is not answered meanwhile, if the node gives more than it
may, if it goes on for nobody, or if it needs more memory than MEMORY_MIB beyond what it began with. The honest twins are the
other client's questions. How fast they are answered is a figure of the row (`rates`, tokens a second) and no rule.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx

from grail_miner.serving.edge import MAX_BODIES
from grail_miner.serving.new_token import add_client
from tooling.adversaries.hostile_clients import connections, drip, request_bytes, statuses_of
from tooling.adversaries.rows import Row, Try
from tooling.testing.serving_node import save_served_model
from tooling.testing.serving_process import NodeProcess, node_process

MEMORY_MIB: Final = 256
"""That the server may grow by, its models' process left out. 1,024 heads of 64 KiB and 64 bodies of 1 MiB are half of it."""
CONCURRENT: Final = 8
"""Open requests of each client here."""
STREAMS, QUICK_STREAMS = 1_000, 60
_QUESTIONS: Final = 3  # of the honest client, beside each attack
_TOKENS: Final = 64
_SETTLED_S: Final = 120.0
_TRIES_OF_A_TWIN: Final = 20  # a busy node says when to come back, and a client of OpenAI's library does

_ENDLESS: Final = {"model": "tiny", "prompt": "Once", "max_tokens": 900, "n": 16, "stream": True}


class Siege:
    """A node, a client with a token that besieges it, and an honest one."""

    def __init__(self, node: NodeProcess, evil: str, honest: str, *, size: int) -> None:
        self.node, self.evil, self.honest, self.size = node, evil, honest, size
        self.row = Row("I19", "siege by a client")
        self.began_with = node.memory()
        self.files = node.files()
        self.rates: dict[str, float] = {}

    async def others_are_answered(self, while_: str) -> str:
        """The honest client's questions, and how fast they were answered. Returns what went wrong; "" where nothing."""
        began, tokens, before = time.monotonic(), 0, self.row.honest_false_rejects
        for number in range(_QUESTIONS):
            answer = await asyncio.to_thread(self._ask, number)
            self.row.honest_tries += 1
            self.row.honest_false_rejects += answer.status_code != 200
            tokens += answer.json()["usage"]["completion_tokens"] if answer.status_code == 200 else 0
        self.rates[while_] = round(tokens / (time.monotonic() - began), 1)
        lost = self.row.honest_false_rejects - before
        return f"{lost} of {_QUESTIONS} questions of another client were not answered" if lost else ""

    def _ask(self, number: int) -> httpx.Response:
        asked = {"model": "tiny", "prompt": f"question {number}", "max_tokens": _TOKENS}
        for _ in range(_TRIES_OF_A_TWIN):
            answer = self.node.post("/v1/completions", asked, self.honest)
            if answer.status_code != 503:
                break
            time.sleep(int(answer.headers.get("retry-after", "1")))
        return answer

    def raw(self, body: Any = _ENDLESS) -> bytes:
        return request_bytes(self.node.port, body, self.evil)

    def tried(self, name: str, problem: str, caught_by: str, told: str = "") -> None:
        """`problem`: what the attack reached; "" where nothing."""
        self.row.tries.append(Try(name, bool(problem), caught_by, problem or told))

    async def settled(self, name: str) -> None:
        """Once the besiegers are gone nothing is drawn, held or kept for them."""
        end = time.monotonic() + _SETTLED_S
        while (left := self._left()) and time.monotonic() < end:
            await asyncio.sleep(0.2)
        self.tried(f"{name}: what is left of it", left, "end")
        grown = self.node.memory("VmHWM") - self.began_with
        self.tried(f"{name}: memory", f"grew by {grown} MiB" if grown > MEMORY_MIB else "", "memory", f"grew by {grown} MiB")

    def _left(self) -> str:
        page = self.node.get("/metrics", self.honest).text
        values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        open_streams, queue = float(values["grail_open_streams"]), float(values["grail_queue_length"])
        files = self.node.files() - self.files
        return (
            "" if open_streams == queue == 0 and files < CONCURRENT else f"{open_streams} streams, {queue} wait, {files} files"
        )


async def many_streams(siege: Siege) -> None:
    """That nobody reads: of all that one client opens only as many run as it may have open."""
    async with connections(siege.node.port, [siege.raw()] * siege.size) as opened:
        asking = asyncio.ensure_future(siege.others_are_answered("streams"))
        statuses = await statuses_of(opened)
        await asking
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    refused = statuses[429] + statuses[503]
    fair = 0 < statuses[200] <= CONCURRENT and refused + statuses[200] == siege.size
    siege.tried(f"{siege.size} streams of one client", "" if fair else told, "concurrent", told)


async def half_heads(siege: Siege) -> None:
    async with connections(siege.node.port, [siege.raw()[:40]] * siege.size):
        problem = await siege.others_are_answered("half heads")
    siege.tried(f"{siege.size} half heads", problem, "connections")


async def half_heads_left(siege: Siege) -> None:
    """Held for as long as the node lets them be."""
    async with connections(siege.node.port, [siege.raw()[:40]] * siege.size) as opened:
        statuses = await statuses_of(opened)
    held = siege.size - statuses[0]
    siege.tried(f"{siege.size} half heads, held", f"{held} are answered" if held else "", "connections", "all were cut")


async def unfinished_bodies(siege: Siege) -> None:
    async with connections(siege.node.port, [siege.raw()[:-1]] * MAX_BODIES) as opened:
        await siege.others_are_answered("unfinished bodies")
        statuses = await statuses_of(opened)
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    each = MAX_BODIES // 4
    fair = (statuses[503], statuses[408]) == (MAX_BODIES - each, each)
    siege.tried(f"{MAX_BODIES} unfinished bodies", "" if fair else told, "bodies of each client", told)


async def dripping_readers(siege: Siege) -> None:
    async with connections(siege.node.port, [siege.raw()] * CONCURRENT) as opened:
        dripping = asyncio.ensure_future(drip(opened, 5.0))
        problem = await siege.others_are_answered("a byte now and then")
        await dripping
    siege.tried("readers of a byte now and then", problem, "concurrent")


async def vanishing_clients(siege: Siege) -> None:
    """In mid-token, while the prompt is read, or before anything: again and again."""
    for _ in range(max(2, siege.size // 100)):
        async with connections(siege.node.port, [siege.raw()] * CONCURRENT) as opened:
            await statuses_of(opened)
        whole = {name: value for name, value in _ENDLESS.items() if name != "stream"}
        async with connections(siege.node.port, [siege.raw(whole)] * CONCURRENT):
            pass
    problem = await siege.others_are_answered("after clients that vanish")
    siege.tried("clients that vanish", problem, "cancel")


async def large_bodies(siege: Siege) -> None:
    """A prompt of 1 MB that is taken as a body, and one that is not: each refused by name."""
    for characters, expected in ((1_000_000, 400), (1 << 20, 413)):
        raw = siege.raw({"model": "tiny", "prompt": "x" * characters})
        async with connections(siege.node.port, [raw] * (MAX_BODIES // 4)) as opened:
            asking = asyncio.ensure_future(siege.others_are_answered(f"bodies of {characters:,} characters"))
            statuses = await statuses_of(opened)
            await asking
        strange = set(statuses) - {expected, 503, 429}
        told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        siege.tried(f"a prompt of {characters:,} characters", told if strange else "", str(expected), told)


async def many_receipts(siege: Siege) -> None:
    """The largest receipt there is here, asked for by as many as there are connections, and read by nobody."""
    whole = {name: value for name, value in _ENDLESS.items() if name != "stream"} | {"logprobs": 0}
    grail = (await asyncio.to_thread(siege.node.post, "/v1/completions", whole, siege.evil)).json()["grail"]
    path = f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}"
    size = len((await asyncio.to_thread(siege.node.get, path)).content)
    asked = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{siege.node.port}\r\n\r\n".encode()
    async with connections(siege.node.port, [asked] * siege.size) as opened:
        statuses = await statuses_of(opened)
        problem = await siege.others_are_answered("receipts that nobody reads")
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    siege.tried(f"{siege.size} receipts of {size:,} bytes", problem, "pieces", told)


Attack = Callable[[Siege], Awaitable[None]]
ATTACKS_OF_CLIENTS: Final[dict[str, Attack]] = {
    "streams": many_streams,
    "half heads": half_heads,
    "unfinished bodies": unfinished_bodies,
    "dripping": dripping_readers,
    "vanishing": vanishing_clients,
    "receipts": many_receipts,
    "large bodies": large_bodies,
}


def i19(*, quick: bool = False) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clients = root / "clients.toml"
        tokens = []
        for name in ("evil", "honest"):
            tokens.append(add_client(clients, name))
            clients.write_text(clients.read_text() + _LIMITS)
        clients.write_text(clients.read_text() + "metrics = true\n")
        (root / "state").mkdir()
        with node_process(save_served_model(root / "tiny"), root / "state", clients) as node:
            siege = Siege(node, *tokens, size=QUICK_STREAMS if quick else STREAMS)
            asyncio.run(_besiege(siege, held=not quick))
            loud = [line for line in node.said if "Traceback" in line]
    siege.tried("the log", "".join(loud), "log")
    return siege.row.to_json() | {"rates": siege.rates}


_LIMITS: Final = f"requests_per_minute = 1000000\ntokens_per_minute = 1000000000\nconcurrent = {CONCURRENT}\n"


async def _besiege(siege: Siege, *, held: bool) -> None:
    await siege.others_are_answered("alone")
    for name, attack in ATTACKS_OF_CLIENTS.items():
        await attack(siege)
        await siege.settled(name)
    if held:
        await half_heads_left(siege)
        await siege.settled("half heads, held")


ATTACKS = {"I19": i19}
