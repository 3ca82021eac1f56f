"""`grail devnet`: a network of one's own on this machine, for whoever wants to see a role work before it matters."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grail_core.commands.options import stop_on_signals, verbose_option

if TYPE_CHECKING:
    from grail_core.devnet.folder import DevnetFolder
    from grail_core.devnet.making import Devnet
    from grail_core.devnet.status import Participant, Status

_FOLDER = click.Path(path_type=Path, file_okay=False)
_ROLES = ["miner", "validator", "trainer"]
_MOST_BLOCKS = 100_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def in_folder(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --dir; the command gets the `folder` of a network as its first argument."""

    @click.option("--dir", "root", type=_FOLDER, default="devnet", show_default=True, help="The network's folder.")
    @functools.wraps(command)
    def wrapped(root: Path, **rest: Any) -> Any:
        return command(_folder(root), **rest)

    return wrapped


@click.group()
@verbose_option
def devnet() -> None:
    """A network of your own on this machine: a chain, a beacon, buckets and wallets, and no money.

    \b
      grail devnet init                          # the network, in ./devnet
      grail devnet up --detach                   # its beacon; blocks come every two seconds
      eval "$(grail devnet env miner-1)"         # a role's settings, in the shell that it shall run in
      grail-miner run
      grail devnet status

    Registration, stake and permits are there from the start. Whoever reads the folder has every key: it is for development.
    """


@devnet.command()
@click.argument("root", metavar="[DIR]", type=_FOLDER, default="devnet")
@click.option("--miner", "miners", multiple=True, metavar="NAME", help="A miner; may be given again (default: miner-1).")
@click.option(
    "--validator",
    "validators",
    multiple=True,
    metavar="NAME",
    help="A validator with stake and permit; may be given again (default: validator-1).",
)
@click.option("--trainer", metavar="NAME", help="The network's trainer (default: trainer).")
@click.option(
    "--clock", type=click.Choice(["real", "manual"]), help="Blocks come by themselves (default), or by `grail devnet advance`."
)
@click.option("--block-time", type=click.FloatRange(0.2, 600), help="Seconds of a block; a window has 30 (default: 2).")
@click.option("--netuid", type=click.IntRange(0, 65_535), help="Of the subnet (default: 81).")
@click.option("--port", type=click.IntRange(1, 65_535), help="Of the beacon's relay, on 127.0.0.1 (default: a free one).")
@click.option("--seed", help="64 hexadecimal digits that every key follows from (default: random).")
@json_option
def init(
    root: Path,
    miners: tuple[str, ...],
    validators: tuple[str, ...],
    trainer: str | None,
    clock: str | None,
    block_time: float | None,
    netuid: int | None,
    port: int | None,
    seed: str | None,
    as_json: bool,
) -> None:
    """Make a network in DIR (default: devnet): keys, chain, registrations, stake, network.json.

    The same call again changes nothing, and finishes one that was interrupted.
    """
    from grail_core.devnet.making import Asked, settle
    from grail_core.devnet.making import init as make

    asked = Asked(
        clock=clock,
        block_time_ms=None if block_time is None else round(block_time * 1000),
        netuid=netuid,
        port=port,
        trainer=trainer,
        validators=validators,
        miners=miners,
        seed=None if seed is None else _seed(seed),
    )
    made = make(_folder(root), asked)
    settle(made)
    _show(made, as_json, f"a development network is in {made.folder.root}")


@devnet.command()
@click.option("--detach", is_flag=True, help="Leave it running and come back, once it serves.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Another port for the relay, from now on; print settings again.")
@json_option
@in_folder
def up(folder: DevnetFolder, detach: bool, port: int | None, as_json: bool) -> None:
    """Serve the network's beacon and let its blocks come, until stopped (Ctrl-C).

    It goes on at the block where it stopped, however it ended. Ends with exit code 18 where it is up already.
    """
    from grail_core.devnet import running

    if detach:
        process = running.start_detached(folder, port)
        if as_json:
            click.echo(json.dumps({"up": True, "process": process, "folder": str(folder.root)}))
        else:
            click.echo(
                f"up: process {process}, which prints to {folder.log}; it ends with: grail devnet down --dir {folder.root}"
            )
        return
    with stop_on_signals() as stop, running.serving(folder, port) as served:
        _show(served, as_json, f"up; beacon {served.description.beacon_url}; Ctrl-C ends it")
        running.follow(served, stop, lambda window, block: None if as_json else _told(window, block))


@devnet.command()
@json_option
@in_folder
def down(folder: DevnetFolder, as_json: bool) -> None:
    """Stop the `up` of this network, wherever it runs on this machine. Roles are not stopped, and nothing is deleted."""
    from grail_core.devnet.presence import running_roles
    from grail_core.devnet.running import stop

    process = stop(folder)
    roles = running_roles(folder)
    if as_json:
        click.echo(json.dumps({"up": False, "process": process, "roles": roles}))
        return
    click.echo("it was not up" if process is None else f"down: process {process} has ended")
    if roles:
        still = ", ".join(f"{name} (process {pid})" for name, pid in roles.items())
        click.echo(f"still running, and without a beacon now: {still}; stop each in its shell, or with kill")


@devnet.command()
@json_option
@in_folder
def status(folder: DevnetFolder, as_json: bool) -> None:
    """Say which block it is, and of every participant its UID, stake, weight and the newest that it did."""
    from grail_core.devnet.making import complete

    _show(complete(folder), as_json, "")


@devnet.command()
@click.argument("blocks", type=click.IntRange(1, _MOST_BLOCKS), default=1)
@click.option("--every", type=click.FloatRange(0, 600), default=0.0, show_default=True, help="Seconds after each block.")
@json_option
@in_folder
def advance(folder: DevnetFolder, blocks: int, every: float, as_json: bool) -> None:
    """Let BLOCKS more blocks come (default: 1), in a network with the manual clock.

    Roles need time for their work: what does not fit between two blocks is late, as on a real chain (--every).
    """
    from grail_core.devnet import running
    from grail_core.devnet.making import complete

    made = complete(folder)
    with stop_on_signals() as stop:
        head = running.advance(made, blocks, every, stop)
    click.echo(json.dumps({"block": head}) if as_json else f"block {head}")


@devnet.command()
@click.argument("role", type=click.Choice(_ROLES))
@click.argument("name")
@json_option
@in_folder
def add(folder: DevnetFolder, role: str, name: str, as_json: bool) -> None:
    """Add a participant called NAME: a wallet, a registration and, for a validator, stake for a permit.

    \b
      grail devnet add miner alice
      eval "$(grail devnet env alice)"
    """
    from grail_core.devnet.folder import Role
    from grail_core.devnet.making import add as more
    from grail_core.devnet.making import settle

    made = more(folder, Role(role), name)
    settle(made)
    _show_one(made, name, as_json)


@devnet.command()
@click.argument("name")
@click.option(
    "--tao", type=click.FloatRange(-1_000_000, 1_000_000), default=1000.0, show_default=True, help="Less than 0: taken away."
)
@json_option
@in_folder
def fund(folder: DevnetFolder, name: str, tao: float, as_json: bool) -> None:
    """Stake to NAME, out of nothing. From 1 TAO on the chain gives a validator permit."""
    from grail_core.devnet.making import RAO, complete, wait_until_in_force
    from grail_core.devnet.making import fund as stake

    made = complete(folder)
    stake(made, name, round(tao * RAO))
    wait_until_in_force(made)
    _show_one(made, name, as_json)


@devnet.command()
@click.argument("name", metavar="ROLE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["shell", "dotenv", "json"]),
    default="shell",
    show_default=True,
    help="Lines for a shell, for a .env file, or one JSON object.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@in_folder
def env(folder: DevnetFolder, name: str, form: str, as_json: bool) -> None:
    """Print the settings of a participant, ROLE by its name: trainer, validator-1, miner-1, …

    There is no secret among them: its keys are in the wallet that they name.

    \b
      eval "$(grail devnet env miner-1)"
      grail devnet env miner-1 --format dotenv > .env
    """
    from grail_core.devnet.folder import read_description, role_named
    from grail_core.devnet.settings import JSON, written

    role_named(folder, name)
    click.echo(written(folder.settings_of(name, read_description(folder)), JSON if as_json else form))


def _folder(root: Path) -> DevnetFolder:
    from grail_core.devnet.folder import DevnetFolder
    from grail_core.participant.settings_fields import expanded

    return DevnetFolder(expanded(root))


def _seed(text: str) -> bytes:
    if len(text) != 64 or not all(char in "0123456789abcdef" for char in text.lower()):
        raise click.UsageError("--seed has 64 hexadecimal digits")
    return bytes.fromhex(text)


def _told(window: int, block: int) -> None:
    click.echo(f"block {block}: window {window} has begun")


def _show(made: Devnet, as_json: bool, first: str) -> None:
    from grail_core.devnet.status import status_of

    found = status_of(made)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))
        return
    from grail_core.telemetry.console import PlainConsole

    console = PlainConsole()
    for line in ([first] if first else []) + _lines(found, console.width if console.is_terminal else None):
        console.say(line)


def _show_one(made: Devnet, name: str, as_json: bool) -> None:
    from grail_core.devnet.status import status_of

    found = next(one for one in status_of(made).participants if one.name == name)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))
        return
    permit = ", with a validator permit" if found.permit else ""
    click.echo(f"{found.name}: {found.role}, UID {found.uid}, stake {found.stake_tao:g} TAO{permit}; hotkey {found.hotkey}")
    click.echo(f'its settings: eval "$(grail devnet env {name} --dir {made.folder.root})"')


def _lines(found: Status, width: int | None) -> list[str]:
    """A table of the participants, or a sentence for each where a terminal of this width has no room for one."""
    state = f"up (process {found.process})" if found.up else f"not up (grail devnet up --dir {found.folder})"
    left = f", the next in {found.next_window_s:.0f} s" if found.next_window_s is not None and found.up else ""
    pace = f"one every {found.block_time_s:g} s" if found.clock == "real" else "moved by `grail devnet advance`"
    lines = [f"{state}; block {found.block}, {pace}; window {found.window}{left}"]
    rows = [("name", "role", "uid", "stake", "permit", "bucket", "weight", "newest"), *map(_row, found.participants)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if width is not None and max(map(len, table)) > width:
        return lines + [_sentence(one) for one in found.participants]
    return lines + table


def _row(one: Participant) -> tuple[str, ...]:
    uid = "-" if one.uid is None else str(one.uid)
    permit, bucket = ("yes" if yes else "-" for yes in (one.permit, one.bucket_committed))
    return one.name, one.role, uid, f"{one.stake_tao:g}", permit, bucket, f"{one.weight:.0%}", _newest(one) or "-"


def _sentence(one: Participant) -> str:
    facts = [one.role, "no UID yet" if one.uid is None else f"uid {one.uid}", f"stake {one.stake_tao:g}"]
    facts += ["permit"] * one.permit + ["bucket"] * one.bucket_committed + [f"weight {one.weight:.0%}"]
    return f"{one.name}: {', '.join(facts)}" + (f"; newest: {_newest(one)}" if _newest(one) else "")


def _newest(one: Participant) -> str:
    return "" if one.newest_window is None else f"{one.newest} of {one.newest_window}"
