"""The quickstart of docs/inference.md in an environment that has the wheels and nothing of this tree: serve, ask, verify.

`hatch run wheels` runs it in the miner's environment; the client is the `openai` library, installed there for it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Final

_ASK: Final = """
import json, sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
model = client.models.list().data[0].id
answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "2 + 2?"}], max_tokens=8)
assert answer.usage.completion_tokens >= 1
print(json.dumps(answer.grail))
"""


def run_quickstart(environment: Path, model: Path, scratch: Path) -> None:
    """The three commands, by an environment's own programs.

    Raises:
        RuntimeError, subprocess.CalledProcessError: one of them does not do what the page says.
    """
    programs = environment / "bin"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"GRAIL_STATE_DIR": str(scratch / "state"), "GRAIL_LOG_FILE": str(scratch / "serve.log")}
    serve = [str(programs / "grail-miner"), "serve", "--model", str(model), "--listen", "127.0.0.1:0", "--json-logs"]
    with subprocess.Popen(serve, env=clean, cwd=scratch, stderr=subprocess.PIPE, text=True) as node:
        try:
            address = _address(node)
            asked = [str(programs / "python"), "-c", _ASK, address]
            said = json.loads(subprocess.run(asked, env=clean, check=True, capture_output=True, text=True).stdout)
            receipt = scratch / "receipt.json"
            with urllib.request.urlopen(f"{said['receipt_url']}?token={said['receipt_token']}") as answer:
                receipt.write_bytes(answer.read())
        finally:
            node.terminate()
    verify = [str(programs / "grail"), "verify", str(receipt), "--json"]
    accepted = subprocess.run([*verify, "--model", str(model)], env=clean, check=True, capture_output=True, text=True)
    if json.loads(accepted.stdout)["outcome"] != "accept":
        raise RuntimeError(f"the receipt is not accepted: {accepted.stdout[-2000:]}")


def verify_without_model(environment: Path, receipt: Path) -> None:
    """`grail-core` alone reads a receipt and checks what needs no model: exit code 15, and no check rejects.

    Raises:
        RuntimeError: it ends otherwise.
    """
    verify = [str(environment / "bin" / "grail"), "verify", str(receipt), "--json"]
    ended = subprocess.run(verify, check=False, capture_output=True, text=True)
    if ended.returncode != 15 or json.loads(ended.stdout)["outcome"] != "inconclusive":
        raise RuntimeError(f"grail-core alone says {ended.returncode} of a receipt: {(ended.stdout + ended.stderr)[-2000:]}")


def _address(node: subprocess.Popen[str]) -> str:
    """What the node says when it is ready."""
    lines = []
    for line in node.stderr or ():
        lines.append(line)
        found = re.search(r"http://127\.0\.0\.1:[0-9]+", line)
        if found is not None and "serving" in line:
            return found[0]
    raise RuntimeError(f"the node did not start: {''.join(lines)[-2000:]}")
