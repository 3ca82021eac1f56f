"""What a long command says where nobody watches: nothing at first, then a line every 30 seconds, at the end the last state."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from grail_core.telemetry.progress import Lines, progress


@dataclass
class Watch:
    now: float = 0.0
    lines: list[str] = field(default_factory=list)

    def progress(self) -> Lines:
        return Lines(self.lines.append, clock=lambda: self.now)


def test_a_command_that_is_done_before_30_seconds_says_its_end_alone() -> None:
    watch = Watch()
    lines = watch.progress()
    for second in range(29):
        watch.now = second
        lines.told("sampling", second, 28)
        lines.tick()
    assert watch.lines == []
    lines.end()
    lines.end()
    assert watch.lines == ["28/28 sampling, 28 s so far"]


def test_a_line_comes_every_30_seconds_and_one_at_the_end_however_often_it_is_told() -> None:
    watch = Watch()
    lines = watch.progress()
    for second in range(101):
        watch.now = second
        lines.told("sampling sat", second, 100, "loss 0.5")
    lines.end()
    assert watch.lines == [
        "30/100 sampling sat, 30 s so far, loss 0.5",
        "60/100 sampling sat, 60 s so far, loss 0.5",
        "90/100 sampling sat, 90 s so far, loss 0.5",
        "100/100 sampling sat, 100 s so far, loss 0.5",
    ]


def test_a_step_that_takes_long_is_not_silence() -> None:
    watch = Watch()
    lines = watch.progress()
    lines.tick()
    watch.now = 31
    lines.tick()
    lines.told("proving", 1, 2)
    watch.now = 60
    lines.tick()
    watch.now = 61
    lines.tick()
    assert watch.lines == ["working, 31 s so far", "1/2 proving, 61 s so far"]


def test_what_others_wrote_acts_on_no_terminal_and_the_helper_ends_its_thread(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(now=0)
    lines = watch.progress()
    watch.now = 40
    lines.told("\x1b[2Jname", 1, 2)
    assert "\x1b" not in watch.lines[0]
    with progress() as told:
        told("quick", 1, 1)
    assert capsys.readouterr().err == "1/1 quick, 0 s so far\n"
