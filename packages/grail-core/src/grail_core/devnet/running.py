"""Running a development network: its beacon relay, its blocks, and how the process that serves them is found and ended.

`up` holds the folder's lock and serves the relay; chain and buckets are files, and need nobody. While it runs it follows the
blocks, so that a clock that nobody reads is not taken for one that stood.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grail_core.beacon.development import Relay
from grail_core.chain.development.clock import ClockMode
from grail_core.devnet.folder import DevnetFolder, read_description, seed_of, write_description
from grail_core.devnet.making import Devnet, complete, settle
from grail_core.devnet.network import beacon_key
from grail_core.devnet.presence import is_free, is_up, process_of
from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError, GrailError
from grail_core.participant.state import AlreadyRunningError, only_process
from grail_core.protocol import window_of
from grail_core.protocol.types import Block, Window

READY_S = 60.0  # for a detached process to listen: it imports, and waits for two blocks at most
_LOOK_S = 0.05
_UP_ALREADY = "this development network is up already"


class NotUpError(GrailError):
    """A detached network did not come up, or does not end. `code`: the exit code of its process, where it has ended."""

    def __init__(self, what: str, *, where: str, hint: str, code: int = 1) -> None:
        super().__init__(what, where=where, hint=hint)
        self.exit_code = code  # type: ignore[misc]


@contextmanager
def serving(folder: DevnetFolder, port: int | None) -> Iterator[Devnet]:
    """The network with its relay, for as long as the block lasts.

    Args:
        port: another one than the description says; it is written there, and settings that were printed before are out of date.

    Raises:
        AlreadyRunningError: another process serves it, and which.
        ConfigurationError: the port is taken.
    """
    with only_process(folder.lock, _UP_ALREADY, hint=_hint(folder)):
        devnet = complete(folder)
        description = devnet.description if port is None else dataclasses.replace(devnet.description, port=port)
        beacon = devnet.params.beacon
        relay = Relay(
            beacon_key(seed_of(folder)),
            genesis_time_s=beacon.genesis_time_s,
            period_s=beacon.period_s,
            port=description.port,
            clock=devnet.chain.now_ms,
        )
        with relay:
            if description != devnet.description:  # once it is ours
                write_description(folder, description)
                devnet = dataclasses.replace(devnet, description=description)
            thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.1}, name="relay", daemon=True)
            thread.start()
            try:
                settle(devnet)
                yield devnet
            finally:
                relay.shutdown()
                thread.join()


def follow(devnet: Devnet, stop: threading.Event, told: Callable[[Window, Block], None]) -> None:
    """Wait for block after block until stopped, and tell of each window that begins."""
    block = devnet.chain.current_block()
    window = window_of(block)
    while devnet.chain.wait_for_block(Block(block + 1), stop=stop):
        block = devnet.chain.current_block()
        if window_of(block) != window:
            window = window_of(block)
            told(window, block)


def advance(devnet: Devnet, blocks: int, every_s: float, stop: threading.Event) -> Block:
    """Move a manual clock block by block, with a pause after each in which roles can work. Returns the newest block.

    Errors: ConfigurationError where the clock is real.
    """
    if devnet.chain.clock_mode is not ClockMode.VIRTUAL:
        raise ConfigurationError(
            "this network's clock is real: its blocks come by themselves",
            where=str(devnet.folder.root),
            hint="a network that is advanced by hand is made by `grail devnet init DIR --clock manual`",
        )
    head = devnet.chain.current_block()
    for _ in range(blocks):
        if stop.is_set():
            break
        head = devnet.chain.advance(1)
        stop.wait(every_s)
    return head


def start_detached(folder: DevnetFolder, port: int | None) -> int:
    """Run `grail devnet up` as a process that outlives this one, and wait until it serves. Returns its process id.

    Raises:
        AlreadyRunningError: it is up already.
        NotUpError: it ended; with the last lines that it printed.
    """
    described = read_description(folder)
    if is_up(folder):
        raise AlreadyRunningError(f"{_UP_ALREADY}: process {process_of(folder)}", where=str(folder.root), hint=_hint(folder))
    argv = [sys.executable, "-P", "-m", "grail_core.commands.grail", "devnet", "up", "--dir", str(folder.root)]
    argv += [] if port is None else ["--port", str(port)]
    with storage_errors(folder.log):
        folder.log.parent.mkdir(parents=True, exist_ok=True)
        with folder.log.open("wb") as out:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder.root, start_new_session=True
            )
    until = time.monotonic() + READY_S
    served = described if port is None else dataclasses.replace(described, port=port)
    while process.poll() is None and time.monotonic() < until:
        if is_up(folder, served) and process_of(folder) == process.pid:
            return process.pid
        time.sleep(_LOOK_S)
    if process.poll() is None:
        process.kill()
    with storage_errors(folder.log):
        said = folder.log.read_bytes()[-2000:].decode(errors="replace").strip()
    code = process.wait()
    raise NotUpError(
        f"the development network did not come up:\n{said}", where=str(folder.log), hint="see its log", code=max(code, 1)
    )


def stop(folder: DevnetFolder, patience_s: float = 20.0) -> int | None:
    """End the process that runs it, kindly. Returns its id, None where it was not up.

    Errors: NotUpError where it does not end in time.
    """
    pid = process_of(folder)
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it ended by itself
    except PermissionError as error:
        raise ConfigurationError("it is another user's process", where=f"process {pid}", hint="ask that user") from error
    until = time.monotonic() + patience_s
    while not is_free(folder.lock):
        if time.monotonic() > until:
            raise NotUpError("the development network does not end", where=f"process {pid}", hint=f"kill -9 {pid}")
        time.sleep(_LOOK_S)
    return pid


def _hint(folder: DevnetFolder) -> str:
    return f"use it, or stop it with: grail devnet down --dir {folder.root}"
