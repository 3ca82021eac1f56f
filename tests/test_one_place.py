"""What is written once stays written once: each test fails where a second place appears (see docs/architecture.md)."""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grail_core.verification.examine import CHECKS
from grail_envs import known_ids
from grail_trainer.metrics import METRICS
from tooling import REPOSITORY
from tooling.localnet.report.collect import PHASES

CORE = Path("packages/grail-core/src/grail_core")
SIMULATED = Path("packages/grail-validator/src/grail_validator/simulation/subnet")


@pytest.fixture(scope="module")
def sources() -> Iterator[dict[Path, ast.Module]]:
    """Every module of ours, parsed once for all tests here and let go after them."""
    folders = (*sorted((REPOSITORY / "packages").glob("*/src")), REPOSITORY / "tooling")
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    collecting = gc.isenabled()
    gc.disable()  # each collection would go through all nodes so far, which takes four times as long as to parse them
    try:
        trees = {path.relative_to(REPOSITORY): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    finally:
        if collecting:
            gc.enable()
    yield trees
    trees.clear()


@pytest.fixture(scope="module")
def texts(sources: dict[Path, ast.Module]) -> dict[Path, frozenset[str]]:
    """The string constants of each."""
    return {path: frozenset(strings(tree)) for path, tree in sources.items()}


def strings(tree: ast.Module) -> Iterator[str]:
    """Every string constant but docstrings, the parts of f-strings among them."""
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def names_in(node: ast.AST) -> set[str]:
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def test_the_order_of_checks_is_written_in_examine_alone(sources: dict[Path, ast.Module]) -> None:
    checks = {"check_schema", "check_prompts", "check_termination", "check_rewards", "sample_statistics"}
    places = {path for path, tree in sources.items() if len(checks & names_in(tree)) > 1}
    assert places == {CORE / "verification/examine.py"}


def test_what_ends_thinking_is_written_with_the_environments_protocol_alone(texts: dict[Path, frozenset[str]]) -> None:
    """Beside the instruction that asks for the tags. Whoever looks for one itself has a rule of its own for what is said."""
    places = {path for path, said in texts.items() if path.parts[0] == "packages" and any("</think>" in one for one in said)}
    assert places == {CORE / "environment.py", CORE / "model/prompts.py"}


def test_waiting_for_a_window_is_written_in_waiting_alone(sources: dict[Path, ast.Module]) -> None:
    """Whoever catches that a beacon round is not there yet, or tries again after a beacon's fault, is waiting for a window."""
    faults = {"BeaconError", "RoundNotYetError"}
    places = {
        path
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None and faults & names_in(node.type)
    }
    asks = {CORE / "beacon/drand.py", Path("tooling/adversaries/family_d_outside.py")}  # the beacon itself, and a relay's test
    assert {path for path in places - asks if not path.is_relative_to(SIMULATED)} == {CORE / "participant/waiting.py"}


def test_block_time_is_reckoned_in_chain_base_alone(sources: dict[Path, ast.Module]) -> None:
    """The development chain makes its blocks and is asked for them like any other; so does the simulated subnet."""
    places = {
        path
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv)
        and any("block_time_ms" in names_in(side) for side in (node.left, node.right))
    }
    made = {path for path in places if path.is_relative_to(CORE / "chain/development") or path.is_relative_to(SIMULATED)}
    assert places - made == {CORE / "chain/base.py"}


# Whatever the layout itself names, and the objects.
PARTS = sorted(
    {"objects"}
    | {
        part
        for text in strings(ast.parse((REPOSITORY / CORE / "storage/layout.py").read_text(encoding="utf-8")))
        for part in re.findall(r"grail/([a-z]+)", text)
    }
)


@pytest.mark.parametrize("part", PARTS)
def test_bucket_keys_are_made_in_the_layout_alone(part: str, texts: dict[Path, frozenset[str]]) -> None:
    """But for an object's, which the trainer signs and the manifest therefore makes; adversaries forge what they like."""
    key = re.compile(rf"grail/{part}\b(?!-)")
    places = {path for path, said in texts.items() if any(map(key.match, said))}
    first = CORE / ("protocol/manifest.py" if part == "objects" else "storage/layout.py")
    assert {path for path in places if not path.is_relative_to("tooling/adversaries")} == {first}


def test_the_bucket_keys_of_the_layout_are_found() -> None:
    assert {"windows", "verdicts", "checkpoints", "training", "probe", "doctor"} < set(PARTS)


def test_the_protocols_table_of_checks_has_their_order() -> None:
    page = (REPOSITORY / "docs/protocol.md").read_text(encoding="utf-8")
    section = page[page.index("## 9. Checks, cheapest first") :].split("\n## ")[0]
    assert tuple(re.findall(r"^\| \d+ \| `([a-z]+)`", section, re.MULTILINE)) == CHECKS


def test_no_package_but_grail_envs_names_an_environment(texts: dict[Path, frozenset[str]]) -> None:
    """Ids reach the others by settings and files; what one environment can do, it says itself (`grail_core.capabilities`)."""
    ids = set(known_ids())
    packages = [(path, said) for path, said in texts.items() if path.parts[0] == "packages" and path.parts[1] != "grail-envs"]
    assert len(packages) > 100
    assert {path: sorted(ids & said) for path, said in packages if ids & said} == {}


def test_every_phase_of_the_report_is_in_its_event(sources: dict[Path, ast.Module], texts: dict[Path, frozenset[str]]) -> None:
    told = {
        path: {*texts[path], *(node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword))}
        for path, tree in sources.items()
        if path.parts[0] == "packages" and path.name != "metrics.py"  # which names what it follows from
    }
    declared = {"window_trained": METRICS.keys()}  # tests/integration/test_training_watched.py holds the event to them
    for event, phases in PHASES.items():
        if event in declared:
            assert {f"seconds_{phase}" for phase in phases} <= declared[event], event
            continue
        makers = [words for words in told.values() if event in words and f"seconds_{phases[0]}" in words]
        assert len(makers) == 1, event
        assert {f"seconds_{phase}" for phase in phases} <= makers[0], event
