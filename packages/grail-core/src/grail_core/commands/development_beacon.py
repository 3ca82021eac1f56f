"""Serve the rounds of a development beacon: the relay of a network on one machine.

python -m grail_core.commands.development_beacon --key-file beacon.key --port 8801 --chain chain.sqlite
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.clock import wall_clock_ms
from grail_core.commands.options import run_cli


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="64 hexadecimal digits.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0: any free port.")
@click.option("--genesis", type=click.IntRange(min=0), default=0, show_default=True, help="Unix time of round 1, seconds.")
@click.option("--period", type=click.IntRange(min=1), default=1, show_default=True, help="Seconds between rounds.")
@click.option(
    "--chain", "chain_file", type=click.Path(path_type=Path, dir_okay=False), help="Follow this development chain's clock."
)
def command(key_file: Path, port: int, genesis: int, period: int, chain_file: Path | None) -> None:
    """Serve the rounds of a development beacon over HTTP until stopped."""
    clock = wall_clock_ms
    if chain_file is not None:
        from grail_core.chain.development.local import LocalChain

        clock = LocalChain.open(chain_file).now_ms
    relay = Relay(DevelopmentKey.load(key_file), genesis_time_s=genesis, period_s=period, port=port, clock=clock)
    for number in (signal.SIGINT, signal.SIGTERM):
        # shutdown() waits for serve_forever(), which this very thread runs
        signal.signal(number, lambda *_: threading.Thread(target=relay.shutdown).start())
    click.echo(f"beacon relay at {relay.url}")
    with relay:
        relay.serve_forever(poll_interval=0.1)


def main() -> None:
    run_cli(command)


if __name__ == "__main__":
    main()
