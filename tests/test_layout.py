"""Where things stand in this repository: what a package's tests may import, and what is built in one place only.

Import contracts hold the arrows between the packages' sources (`.importlinter`); these tests hold what those do not see.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tooling import REPOSITORY

ROLES = {"grail_miner", "grail_validator", "grail_trainer"}
PACKAGES = {"grail_core", "grail_envs"} | ROLES
BELOW: dict[str, set[str]] = {
    "grail_core": set(),
    "grail_envs": {"grail_core"},
    **{role: {"grail_core", "grail_envs"} for role in ROLES},
}


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in it that stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            module = node.module or ""
            below = [f"{module}.{alias.name}" for alias in node.names]
            yield from [name for name in below if source_of(name)] or [module]


def source_of(module: str) -> Path | None:
    """The file of a module of `tooling`."""
    place = REPOSITORY.joinpath(*module.split("."))
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found[0] if found and module.split(".")[0] == "tooling" else None


def packages_behind(module: str, seen: set[str]) -> set[str]:
    """The five packages that a module is of, or that the kit's module needs, however many imports away."""
    root = module.split(".")[0]
    if root in PACKAGES:
        return {root}
    source = source_of(module)
    if source is None or module in seen:
        return set()
    seen.add(module)
    return {package for name in imported(source) for package in packages_behind(name, seen)}


def foreign_imports(tests: Path, package: str) -> list[str]:
    """What one test file imports and a package's tests may not, one line each."""
    faults = []
    for module in imported(tests):
        if module.startswith("tooling.") and not module.startswith("tooling.testing."):
            faults.append(f"{module} is not of the test kit")
        foreign = packages_behind(module, set()) - BELOW[package] - {package}
        faults += [f"{module} needs {name}" for name in sorted(foreign)]
    return faults


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_packages_tests_need_the_package_what_is_below_it_and_the_kit_but_no_other_role(package: str) -> None:
    faults = {}
    for path in python_files(REPOSITORY / "packages" / package.replace("_", "-") / "tests"):
        if found := foreign_imports(path, package):
            faults[path.relative_to(REPOSITORY).as_posix()] = found
    assert faults == {}, "what needs several roles belongs to tests/integration"


def test_an_import_by_way_of_the_kit_is_seen(tmp_path: Path) -> None:
    test = tmp_path / "test_something.py"
    test.write_text("def test():\n    from tooling.testing import small_network\n")
    assert foreign_imports(test, "grail_trainer") == [
        "tooling.testing.small_network needs grail_miner",
        "tooling.testing.small_network needs grail_validator",
    ]
    test.write_text("from tooling.testing.network import Network\nfrom tooling.localnet import run\n")
    assert "tooling.localnet.run is not of the test kit" in foreign_imports(test, "grail_trainer")
    assert all("testing.network" not in fault for fault in foreign_imports(test, "grail_trainer"))


def names(path: Path) -> set[str]:
    """Every name that a file uses or imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name)
    return found


def test_a_small_qwen2_is_configured_by_the_kit_and_by_the_shipped_tiny_models_alone() -> None:
    shipped = (
        REPOSITORY / "packages/grail-trainer/src/grail_trainer/tiny",
        REPOSITORY / "packages/grail-miner/src/grail_miner/bench/synthetic.py",  # roles do not import each other
    )
    files = [path for folder in ("packages", "tests", "tooling") for path in python_files(REPOSITORY / folder)]
    users = [path for path in files if "Qwen2Config" in names(path) and not any(map(path.is_relative_to, shipped))]
    assert users == [REPOSITORY / "tooling/testing/models/tiny_qwen2.py"], "take it from tooling.testing.models.tiny_qwen2"


CORE = REPOSITORY / "packages/grail-core/src/grail_core"


def room_of(module: str) -> str:
    return module.removeprefix("grail_core.").split(".")[0]


def rooms() -> dict[str, set[str]]:
    """Every room of core and the rooms it imports from, wherever in a file an import stands."""
    found: dict[str, set[str]] = {}
    for path in python_files(CORE):
        room = path.relative_to(CORE).with_suffix("").parts[0]
        if room == "__init__":
            continue
        of_core = {room_of(name) for name in imported_of_core(path)}
        found.setdefault(room, set()).update(of_core - {room, "grail_core"})
    return found


def imported_of_core(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("grail_core."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "grail_core":
            module = node.module or ""
            yield from [module] if "." in module else [f"{module}.{alias.name}" for alias in node.names]


def floors(imports: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by the longest way down to the ground. Raises AssertionError, naming the rooms, where there is a circle."""
    left, built = {room: set(below) for room, below in imports.items()}, []
    while left:
        floor = sorted(room for room, below in left.items() if not below & left.keys())
        assert floor, f"a circle among {', '.join(sorted(left))}"
        built.append(floor)
        left = {room: below for room, below in left.items() if room not in floor}
    return built


def test_core_stands_on_floors_without_a_circle_and_nothing_stands_on_its_command_lines() -> None:
    imports = rooms()
    built = floors(imports)
    for number, floor in enumerate(built):
        print(f"{number}  {' · '.join(floor)}")
    assert not {"api", "commands"} & set().union(*imports.values())
    assert {"text", "clock"} <= set(built[0])
    assert {"errors"} <= set(built[1])
    assert {"protocol"} <= set(built[2])


def test_a_circle_is_named() -> None:
    with pytest.raises(AssertionError, match="a circle among a, b"):
        floors({"a": {"b"}, "b": {"a"}, "c": set()})


def test_every_room_of_core_has_its_row_in_the_architecture() -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## grail-core, room by room") : page.index("## grail-trainer, room by room")]
    named = {
        word.strip("`/") for line in table.splitlines() if line.startswith("| `") for word in line.split("|")[1].split(", ")
    }
    assert {word.strip(" `/") for word in named} == set(rooms())
