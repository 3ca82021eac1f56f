"""What `hatch run attacks --quick` is: what it leaves out, and what it therefore says nothing about. Loads no model."""

from __future__ import annotations

UNDECIDED = frozenset(
    {
        "previous checkpoint, lr 1e-6",
        "previous checkpoint, lr 3e-6",
        "4-bit generation, right prefill",
        "8-bit generation, right prefill",
        "8-bit generation by groups of 64 with zero point, right prefill",
        "steering, 1 flip per 1,000 tokens",
        "steering, 3 flips per 1,000 tokens",
    }
)
"""Deviations that one window of the quick model does not reliably tell from honest work."""

E10_RUNS = 300

NOTE = (
    "quick run: families A and B with a model trained for seconds and one file a deviation. It is not the model of "
    "docs/power.json, so nothing is compared with a published power; what this size does not decide is listed, not claimed."
)

HELP = "\n".join(
    [
        "with --quick, at most five minutes for all ids:",
        "  A, B   a model trained for seconds instead of the published one; 1 file a deviation instead of 2",
        f"  E10    {E10_RUNS} flaky runs instead of 10,000",
        "  C5, C7 to C10, X3, X5",
        "         1,440 windows a cell instead of 20,480; X3 without p = 1 and the best of many; X5 with 40 windows of one",
        "         network instead of 320, and 50 hotkeys instead of 50 and 150",
        "  I      the same model; 1 receipt of each deviation instead of 4; I19 with 60 connections instead of 1,000",
        "  power  nothing is compared with docs/power.json: its figures are those of the published models",
        "  D4     every third bomb; X1 and X2 have them all",
        "  E3     every second fault; E9: a quarter of the programs",
        "  E6     5 kills of a validator instead of 24",
        "  other rows of C, D and E, and every check, are whole",
        "not decided at that size (tried and counted, claimed neither way):",
        *(f"  {name}" for name in sorted(UNDECIDED)),
    ]
)
