"""`grail-miner serve` as an operator runs it: a process of its own, with its model in a child of that."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tooling.testing.serving_node import PATIENCE_S

_CODE = "import sys; sys.argv[0] = 'grail-miner'; from grail_miner.cli import main; main()"


@dataclass(frozen=True)
class NodeProcess:
    url: str
    pid: int
    said: list[str]
    """Lines of its log so far."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, token: str = "") -> httpx.Response:
        return httpx.get(self.url + path, headers=bearer(token), timeout=PATIENCE_S, trust_env=False)

    def post(self, path: str, body: object, token: str = "") -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=bearer(token), timeout=PATIENCE_S, trust_env=False)

    def memory(self, which: str = "VmRSS") -> int:
        """MiB of the server alone, without its child; `VmHWM` is the most so far."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{which}:\s+([0-9]+) kB", text)
        assert found is not None
        return int(found[1]) >> 10

    def files(self) -> int:
        """Descriptors that it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self) -> list[int]:
        """Process ids; the model process is the only one."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def node_process(folder: Path, state: Path, clients: Path) -> Iterator[NodeProcess]:
    """Serves this model's folder, by the folder's name, while the block lasts; then it is told to stop and must."""
    environment = {**os.environ, "HOME": str(state), "GRAIL_STATE_DIR": str(state / "state"), "NO_COLOR": "1"}
    command = [
        sys.executable,
        "-c",
        _CODE,
        "serve",
        "--model",
        str(folder),
        "--listen",
        "127.0.0.1:0",
        "--tokens",
        str(clients),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=state, env=environment) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        said: list[str] = []
        address = None
        try:
            for line in lines:
                said.append(line)
                address = re.search(r" serving .*address=(http://127\.0\.0\.1:[0-9]+)", line)
                if address is not None:
                    break
            assert address is not None, "".join(said)
            reader = threading.Thread(target=lambda: said.extend(lines), daemon=True)
            reader.start()
            yield NodeProcess(address[1], process.pid, said)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, "".join(said)
            reader.join()
        finally:
            process.kill()
