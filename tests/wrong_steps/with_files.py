"""Wrong files and names: what a command is given, and what lies where it looks."""

from __future__ import annotations

from tests.wrong_steps.steps import Place, Step
from tests.wrong_steps.with_settings import MINER, TRAINER, VALIDATOR


def other_network(place: Place) -> None:
    """Parameters that differ from those which the trainer's manifests were signed for."""
    place.network_file(name="another")


def broken_ledger(place: Place) -> None:
    path = place.network.participant("validator-0").state.ledger
    ledger = place.folder / "state" / path.relative_to(place.network.root / "state" / "validator-0")
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"this was a ledger\n" * 1000)


STEPS = (
    Step("parameters of another network", MINER, 3, ("another network", "GRAIL_NETWORK"), before=other_network),
    Step(
        "parameters of another network, of a validator",
        VALIDATOR,
        3,
        ("another network", "GRAIL_NETWORK"),
        before=other_network,
        role="validator-0",
    ),
    Step("a cache that is a file", MINER, 3, ("GRAIL_CACHE_DIR",), before=lambda p: p.write("cache", "")),
    Step(
        "a cache that is a file, of a validator",
        VALIDATOR,
        3,
        ("GRAIL_CACHE_DIR",),
        before=lambda p: p.write("cache", ""),
        role="validator-0",
    ),
    Step("a state that is a file", MINER, 3, ("GRAIL_STATE_DIR",), before=lambda p: p.write("state", "")),
    Step(
        "a cache below a file",
        TRAINER,
        3,
        ("GRAIL_CACHE_DIR",),
        {"GRAIL_CACHE_DIR": "file/cache"},
        lambda p: p.write("file", ""),
        role="trainer",
    ),
    Step("a ledger that is broken", VALIDATOR, 3, ("ledger is damaged",), before=broken_ledger, role="validator-0"),
    Step("a model that is not there", "grail-trainer run --model nothing", 6, ("no such model folder",), role="trainer"),
    Step("a model folder that is empty", "grail-trainer publish --model .", 6, ("model",), role="trainer"),
    Step("no such environment", f"{TRAINER} --env chess", 7, ("chess",), role="trainer"),
    Step("an environment without its data", f"{TRAINER} --env gsm8k", 7, ("gsm8k",), {"GRAIL_DATA_DIR": "."}, role="trainer"),
    Step(
        "a folder that is not empty",
        "grail-trainer init --out .",
        3,
        ("empty",),
        before=lambda p: p.write("a", ""),
        role="trainer",
    ),
    Step("an evaluation of nothing", "grail-trainer evaluate --model nothing", 6, ("nothing",), role="trainer"),
    Step(
        "a window file that is none",
        "grail-miner check a.parquet",
        11,
        ("a.parquet",),
        before=lambda p: p.write("a.parquet", "hello"),
    ),
    Step("an explanation without a ledger", "grail-validator explain 30", 3, ("no validator has run", "--ledger")),
    Step("scores of no bucket", "grail scores --from nothing", 3, ("nothing",)),
    Step(
        "a receipt that is none",
        "grail verify a.json --model model",
        13,
        ("receipt",),
        before=lambda p: p.write("a.json", "[1]"),
    ),
    Step("a receipt that is not there", "grail verify a.json --model model", 15, ("a.json",)),
    Step("a node that is not there", "grail ask hello --node http://127.0.0.1:9 --model model", 5, ("127.0.0.1:9",)),
    Step("an option of another type", f"{MINER} --windows many", 2, ("--windows",)),
    Step("an option that is not there", f"{MINER} --widnows 3", 2, ("--widnows",)),
)
