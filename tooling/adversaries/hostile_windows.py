"""Windows full of hostile files before a validator as shipped: fresh hotkeys seal them, all are drawn, one honest miner beside.

    hatch run hostile-windows --files 300 --json

The worst kinds come first (files that end a library's process, files that decode to gigabytes), then mutants of an honest file.
Every window has to be judged, every hostile file to be failed by check 1, and the honest miner to be accepted in each; the exit
code is 1 if not. Peak memory is that of the process that read a file, as it says itself, and of the validator.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from grail_core.files.confined.opening import Confined, Spent
from grail_core.files.window_file import header_of
from grail_core.keys import LocalSigner, ss58
from grail_core.protocol import MinerStatus, Seal, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.constants import MAX_ROW_BYTES, ROLLOUTS_PER_PROBLEM, WINDOW_LENGTH
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import seal_key, verdict_key, window_key
from tooling.adversaries.hostile_parquet import bombs, footers_that_end_a_process
from tooling.adversaries.parquet_mutants import mutant
from tooling.testing.mining import upload
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork

HONEST = "miner-0"
FILES_A_WINDOW = 30
"""With the honest miner no more than the 35 checks that are expected in a window: everybody is drawn."""


@dataclass
class Outcome:
    """What became of all windows."""

    files: int = 0
    windows: int = 0
    windows_scored: int = 0
    honest_accepted: int = 0
    hostile: Counter[str] = field(default_factory=Counter)  # by status
    checks: Counter[str] = field(default_factory=Counter)  # that failed them
    slowest_window_s: float = 0.0
    slowest_reader_s: float = 0.0  # of processor time
    readers_peak_mib: int = 0
    validator_peak_mib: int = 0

    @property
    def holds(self) -> bool:
        # A mutation may leave the sealed rows as they were; nothing else may come through.
        judged = self.hostile.keys() <= {MinerStatus.FAILED.value, MinerStatus.ACCEPTED.value}
        return judged and self.windows == self.windows_scored == self.honest_accepted


def hostile_files(honest: bytes, seed: int) -> Iterator[bytes]:
    """The worst kinds first, then mutants without end; what no seal can promise (no bytes, too many) never gets so far."""
    worst = (*footers_that_end_a_process(honest).values(), *bombs(honest).values())
    files = chain(worst, (mutant(honest, seed, number) for number in count()))
    return (data for data in files if 0 < len(data) <= MAX_ROW_BYTES * ROLLOUTS_PER_PROBLEM)


def run(files: int, seed: int = 0, *, root: Path | None = None) -> Outcome:
    """Judge windows until so many hostile files were drawn."""
    with tempfile.TemporaryDirectory(prefix="grail-hostile-", dir=root) as folder:
        network = SmallNetwork(Path(folder), model=save_byte_model(Path(folder) / "model"), miners=1, validators=1)
        outcome, window = Outcome(), FIRST_WINDOW
        template: bytes | None = None
        while outcome.files < files:
            wanted = min(FILES_A_WINDOW, files - outcome.files)
            fresh = [_register(network, f"fresh-{outcome.files + number}") for number in range(wanted)]
            network.advance_to(window + 1)
            honest = network.mine(network.mining(HONEST), window, range(1))
            upload(network, network.mining(HONEST), HONEST, honest, window)
            if template is None:
                template = honest
                source = hostile_files(template, seed)
            for name in fresh:
                _seal(network, name, next(source), honest, window)
            outcome.files += len(fresh)
            _judge(network, window, fresh, outcome)
            for name in fresh:
                network.chain.deregister(network.signers[name])
            window = Window(window + 2 * WINDOW_LENGTH)  # who has a window is registered at its first block
        outcome.validator_peak_mib = _peak_mib()
        return outcome


def _peak_mib() -> int:
    """The most memory that this program had. `getrusage` would say what whoever started it had, if that was more."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _register(network: SmallNetwork, name: str) -> str:
    signer = LocalSigner.from_seed(hashlib.sha256(name.encode()).digest())
    network.signers[name] = signer
    network.chain.register(signer)
    network.chain.commit(signer, network.directory(name).commitment())
    return name


def _seal(network: SmallNetwork, name: str, data: bytes, honest: bytes, window: Window) -> None:
    """Sealed as properly as a hostile miner can: the header is this hotkey's and window's, whatever the bytes are."""
    participant, signer = network.participant(name), network.signers[name]
    header = dataclasses.replace(header_of(honest), hotkey=signer.hotkey)
    digest = Digest(hashlib.sha256(data).digest())
    message = Seal.message(participant.network_id, "rollouts", header, digest, len(data))
    seal = Seal("rollouts", header, digest, len(data), signer.sign(message))
    participant.own_store.put(window_key(ss58(signer.hotkey), window), data)
    participant.own_store.put(seal_key(ss58(signer.hotkey), window), seal.encode())


def _judge(network: SmallNetwork, window: Window, fresh: list[str], outcome: Outcome) -> None:
    def observe(spent: Spent) -> None:
        outcome.readers_peak_mib = max(outcome.readers_peak_mib, spent.peak_bytes >> 20)
        outcome.slowest_reader_s = max(outcome.slowest_reader_s, spent.processor_seconds)

    validator = network.validator("validator-0")
    validator.confined = Confined(observe=observe)
    network.advance_to(window + WINDOW_LENGTH)
    validator.first_sight.sight(window)
    network.advance_to(window + WINDOW_LENGTH + network.params.challenge_after_D + 6)
    started = time.monotonic()
    validator.advance(window, threading.Event())
    outcome.slowest_window_s = max(outcome.slowest_window_s, time.monotonic() - started)
    raw = validator.participant.own_store.get(verdict_key(window), max_bytes=10**8)
    body: VerdictBody = SignedVerdict.decode(raw).body
    outcome.windows += 1
    outcome.windows_scored += body.status is WindowStatus.SCORED
    honest = body.miner(network.signers[HONEST].hotkey)
    outcome.honest_accepted += honest is not None and honest.status is MinerStatus.ACCEPTED and body.weights[honest.uid] > 0
    for name in fresh:
        miner = body.miner(network.signers[name].hotkey)
        outcome.hostile[miner.status.value if miner is not None else "not seen"] += 1
        if miner is not None:
            outcome.checks[miner.reason.partition(":")[0].partition(" ")[0]] += 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put windows full of hostile files before a validator.")
    parser.add_argument("--files", type=int, default=300, help="hostile files, 30 a window")
    parser.add_argument("--seed", type=int, default=0, help="of the mutants")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    outcome = run(options.files, options.seed)
    said = {**vars(outcome), "hostile": dict(outcome.hostile), "checks": dict(outcome.checks), "holds": outcome.holds}
    print(json.dumps(said) if options.as_json else "\n".join(f"{name:20} {value}" for name, value in said.items()))
    return int(not outcome.holds)


if __name__ == "__main__":
    sys.exit(main())
