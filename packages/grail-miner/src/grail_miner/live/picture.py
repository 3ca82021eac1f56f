"""The live view's picture: a `Scene` in, something that Rich draws out. Pure; every text goes out through `PlainConsole`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM, WINDOW_LENGTH
from grail_miner.live.state import Heard, Outcome, Rates, Scene
from grail_miner.pipeline.progress import Progress

NOTHING = "–"


def picture(scene: Scene) -> RenderableType:
    """About twenty lines, as wide as the terminal; below 80 columns the longest texts are cut."""
    parts: list[RenderableType] = [_head(scene), _stages(scene), _facts(scene)]
    if scene.heard.windows:
        parts.append(_windows(list(scene.heard.windows)))
    return Group(*parts)


def _head(scene: Scene) -> Panel:
    heard, chain = scene.heard, scene.chain
    line = Text(no_wrap=True, overflow="ellipsis")
    if chain is not None:
        bar = "━" * chain.window_block + "─" * (WINDOW_LENGTH - chain.window_block)
        line.append(f"block {chain.block}", style="bold")
        line.append(f"  window {chain.window} ")
        line.append(bar, style="cyan")
        line.append(f" {_deadline(chain.seconds_to_deadline)}")
    else:
        line.append("the chain has not been asked yet", style="dim")
    if scene.chain_trouble:
        line.append(f"  no answer from the chain: {scene.chain_trouble}", style="yellow")
    doing = "starts" if scene.window is None else f"window {scene.window}: {scene.doing}"
    who = [heard.network, "" if heard.uid is None else f"uid {heard.uid}", heard.hotkey]
    below = Text(doing, no_wrap=True, overflow="ellipsis")
    title = Text("grail-miner  " + "  ".join(part for part in who if part))
    return Panel(Group(line, below), title=title, title_align="left", border_style="cyan")


def _deadline(seconds: float) -> str:
    return f"{seconds:.0f} s to the deadline" if seconds >= 0 else f"deadline passed {-seconds:.0f} s ago"


def _stages(scene: Scene) -> Table:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("groups", justify="right", no_wrap=True)
    table.add_column("in front of it", justify="right", no_wrap=True)
    table.add_column("rate", ratio=1, overflow="ellipsis", no_wrap=True)
    done, rates = scene.progress, scene.rates
    if done is None:
        for name in ("generate", "judge", "prove"):
            table.add_row(name, NOTHING, NOTHING, NOTHING)
    else:
        drawn = f"{done.generated} of {done.begun}"
        table.add_row("generate", drawn, NOTHING, _generated(rates, done))
        table.add_row("judge", str(done.judged), str(done.waiting_to_judge), _groups(rates.judged, done.judge_seconds))
        table.add_row("prove", str(done.proved), str(done.waiting_to_prove), _groups(rates.proved, done.prove_seconds))
    table.add_row("upload", NOTHING, NOTHING, _upload(scene.heard))
    return table


def _generated(rates: Rates, done: Progress) -> str:
    tokens = "" if rates.tokens is None else f"{rates.tokens:,.0f} tokens/s, "
    return tokens + _groups(rates.generated, done.generate_seconds)


def _groups(rate: float | None, seconds: float | None) -> str:
    told = NOTHING if rate is None else f"{rate:.2f} groups/s"
    return told if seconds is None else f"{told}  ({seconds:.2f} s a group)"


def _upload(heard: Heard) -> str:
    if not heard.uploaded_bytes:
        return NOTHING
    told = f"last: {heard.uploaded_bytes / 1e6:.2f} MB in {heard.upload_seconds:.2f} s"
    return told if heard.upload_seconds <= 0 else f"{told}, {heard.uploaded_bytes / 1e6 / heard.upload_seconds:.1f} MB/s"


def _facts(scene: Scene) -> Table:
    table = Table(expand=True, box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    done = scene.progress
    table.add_row("time", _time(done))
    table.add_row("groups", NOTHING if done is None else _counts(done))
    table.add_row("reward", _reward(done))
    table.add_row("engine", _engine(scene))
    table.add_row("own check", _sample(scene))
    return table


def _time(done: Progress | None) -> str:
    if done is None:
        return NOTHING
    if done.seconds_left <= 0:
        return "the upload is due"
    told = f"{done.seconds_left:.0f} s to the upload, of which {done.reserve_seconds:.1f} s are kept for it"
    if done.no_more or done.begun >= done.max_groups:
        return f"{told}; no more groups are begun"
    if done.more_that_fit is None:
        return f"{told}; the first group tells how many fit"
    return f"{told}; {done.more_that_fit} more groups fit"


def _counts(done: Progress) -> str:
    return (
        f"{done.whole} done, {done.in_flight} under way, {done.dropped} dropped, {done.cancelled} cancelled"
        f" (at most {done.max_groups})"
    )


def _reward(done: Progress | None) -> str:
    if done is None or not done.rollouts:
        return NOTHING
    return f"mean {done.reward_sum / done.rollouts:.3f} of {done.rollouts} rollouts"


def _engine(scene: Scene) -> Text:
    heard = scene.heard
    serves = f"serves {scene.serves[:16]}" if scene.serves else "serves nothing"
    told = [f"{heard.backend or NOTHING} {serves}"]
    if heard.engine_starts > 1:
        told.append(f"restarts {heard.engine_starts - 1}")
    if heard.rolled_in is not None:
        told.append(f"last roll {heard.rolled_in:.1f} s")
    if heard.proofs:
        told.append(f"proofs {heard.proofs}")
    if heard.workers_replaced:
        told.append(f"{heard.workers_replaced} workers replaced")
    if heard.engine_trouble:
        told.append(f"trouble: {heard.engine_trouble}")
    return Text(", ".join(told), style="yellow" if heard.engine_trouble else "")


def _sample(scene: Scene) -> Text:
    sample = scene.sample
    if sample is None:
        return Text(NOTHING)
    rows = sample.groups * ROLLOUTS_PER_PROBLEM
    if sample.fault:
        return Text(
            f"window {sample.window}: of its first {rows} rollouts a validator would say: {sample.fault}", style="bold red"
        )
    return Text(f"window {sample.window}: its first {rows} rollouts pass what a validator asks of every row", style="green")


def _windows(outcomes: Sequence[Outcome]) -> Table:
    """The latest first."""
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    table.add_column("window", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    table.add_column("", ratio=1, overflow="ellipsis", no_wrap=True)
    for outcome in reversed(outcomes):
        table.add_row(str(outcome.window), Text(outcome.what, style="green" if outcome.good else "yellow"), outcome.why)
    return table
