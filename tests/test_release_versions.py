"""`hatch run release plan` and `bump`: a version is written wherever it stands, and whoever must follow it follows."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from tooling import REPOSITORY
from tooling.release.__main__ import cli, main
from tooling.release.bump import bump
from tooling.release.faults import ReleaseRefusedError
from tooling.release.history import changes_of_the_tree
from tooling.release.packages import admits, followed, raised, read_packages
from tooling.release.plan import plan, proposed_part
from tooling.testing.documents import blocks, commands
from tooling.testing.release_tree import DATE, commit, make_tree, run_git
from tooling.testing.wheels import PACKAGES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def released(tree: Path) -> Path:
    """The tree with every package released as it stands."""
    for package in PACKAGES:
        bump(tree, package, "release", DATE, allow_dirty=True)
    commit(tree, "chore: release")
    for package in PACKAGES:
        run_git(tree, "tag", f"{package}-v{read_packages(tree)[package].version}")
    return tree


def changed(tree: Path, package: str, subject: str, version: str) -> None:
    """A commit that changes a package, with its line in the changelog."""
    module = tree / "packages" / package / "src" / package.replace("-", "_") / "newer.py"
    module.write_text('"""New."""\n')
    log = tree / "packages" / package / "CHANGELOG.md"
    head, rest = log.read_text("utf-8").split("\n", 1)
    log.write_text(f"{head}\n\n## {version} (unreleased)\n\n- new\n{rest}", "utf-8")
    commit(tree, subject)


def test_before_the_first_release_a_package_is_released_as_it_stands(tree: Path) -> None:
    for one in plan(tree):
        assert (one.part, one.next_version, one.since) == ("release", one.version, None)
        assert one.entries
    done = bump(tree, "grail-core", "release", DATE)
    assert done.version == done.before
    assert read_packages(tree)["grail-core"].changelog.newest.date == DATE
    with pytest.raises(ReleaseRefusedError, match="never released"):
        bump(tree, "grail-envs", "patch", DATE, allow_dirty=True)


def test_after_a_release_nothing_is_proposed_until_something_changed(tree: Path) -> None:
    released(tree)
    assert {one.part for one in plan(tree)} == {None}
    changed(tree, "grail-core", "fix(core): something", "0.1.1")
    core, *others = plan(tree)
    assert (core.since, core.commits, core.part, core.next_version) == (
        "grail-core-v0.1.0",
        ("fix(core): something",),
        "patch",
        "0.1.1",
    )
    assert core.followers == ()
    assert {one.part for one in others} == {None}


def test_a_minor_version_of_core_takes_everybody_with_it(tree: Path) -> None:
    released(tree)
    changed(tree, "grail-core", "feat(core)!: another form", "0.1.1")
    core = plan(tree)[0]
    assert (core.part, core.next_version) == ("minor", "0.2.0")
    assert {one.package for one in core.followers} == set(PACKAGES) - {"grail-core"}
    done = bump(tree, "grail-core", "minor", DATE)
    assert set(done.followers) == {one.package for one in core.followers}
    packages = read_packages(tree)
    assert packages["grail-core"].version == "0.2.0"
    assert packages["grail-core"].changelog.newest.version == "0.2.0"
    for name in done.followers:
        (need,) = (need for need in packages[name].needs if need.startswith("grail-core"))
        assert admits(need, "0.2.0")
        assert not admits(need, "0.1.9")
        assert packages[name].changelog.newest.date is None
        assert need in packages[name].changelog.newest.entries[0]
    assert {line[3:] for line in changes_of_the_tree(tree)} == {str(path.relative_to(tree)) for path in done.files}
    commit(tree, "chore: core 0.2.0")
    follower = next(one for one in plan(tree) if one.package == "grail-miner")
    assert (follower.part, follower.next_version) == ("minor", "0.2.0")
    with pytest.raises(ReleaseRefusedError, match=r"speaks of 0\.2\.0"):
        bump(tree, "grail-miner", "patch", DATE)


def test_a_patch_leaves_dependents_alone_unless_a_floor_is_asked_for(tree: Path) -> None:
    released(tree)
    changed(tree, "grail-core", "fix(core): something", "0.1.1")
    assert bump(tree, "grail-core", "patch", DATE).followers == ()
    run_git(tree, "checkout", "-q", ".")
    assert len(bump(tree, "grail-core", "patch", DATE, floor=True).followers) == 4
    assert "grail-core~=0.1.1" in read_packages(tree)["grail-envs"].needs


def test_the_image_of_a_role_has_its_version(tree: Path) -> None:
    released(tree)
    changed(tree, "grail-validator", "fix(validator): something", "0.1.1")
    assert tree / "deploy/validator/compose.yaml" in bump(tree, "grail-validator", "patch", DATE).files
    text = (tree / "deploy/validator/compose.yaml").read_text("utf-8")
    assert "image: grail-validator:0.1.1\n" in text
    assert ":0.1.0" not in text
    assert "image: grail-miner:0.1.0\n" in (tree / "deploy/miner/compose.yaml").read_text("utf-8")


def test_nothing_is_bumped_in_a_dirty_tree_or_without_a_changelog_entry(tree: Path) -> None:
    before = (tree / "packages/grail-core/pyproject.toml").read_bytes()
    (tree / "new.txt").write_text("x")
    with pytest.raises(ReleaseRefusedError, match="not committed"):
        bump(tree, "grail-core", "release", DATE)
    (tree / "new.txt").unlink()
    released(tree)
    with pytest.raises(ReleaseRefusedError, match="nothing unreleased"):
        bump(tree, "grail-core", "patch", DATE)
    assert (tree / "packages/grail-core/pyproject.toml").read_bytes() == before


def test_two_versions_of_one_package_are_refused(tree: Path) -> None:
    module = tree / "packages/grail-envs/src/grail_envs/__init__.py"
    module.write_text(module.read_text("utf-8").replace('"0.1.0"', '"0.1.7"'), "utf-8")
    with pytest.raises(ReleaseRefusedError, match=r"0\.1\.7"):
        read_packages(tree)


def test_commits_without_a_changelog_line_are_a_problem_of_the_plan(tree: Path) -> None:
    released(tree)
    (tree / "packages/grail-core/src/grail_core/newer.py").write_text('"""New."""\n')
    commit(tree, "fix: quietly")
    core = plan(tree)[0]
    assert core.part is None
    assert core.problem == "1 commits and no line in the changelog"


@pytest.mark.parametrize(
    ("version", "subject", "breaking", "part"),
    [
        ("0.1.0", "feat: a", True, "minor"),
        ("0.1.0", "feat: a", False, "patch"),
        ("1.0.0", "fix: a", True, "major"),
        ("1.0.0", "feat(core): a", False, "minor"),
        ("1.0.0", "fix: a", False, "patch"),
    ],
)
def test_what_breaks_raises_the_part_that_requirements_hold_fast(version: str, subject: str, breaking: bool, part: str) -> None:
    assert proposed_part(version, (subject,), breaking=breaking) == part
    assert admits(followed("grail-core[model]~=0.0.1", version), raised(version, part)) != breaking


def test_commands_answer_in_json_and_name_what_is_wrong(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--source", str(tree), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [one["package"] for one in told["packages"]] == list(PACKAGES)
    main(["bump", "grail-core", "release", "--date", "2026-12-01", "--source", str(tree), "--json"])
    assert json.loads(capsys.readouterr().out)["files"] == ["packages/grail-core/CHANGELOG.md"]
    with pytest.raises(SystemExit) as ended:
        main(["bump", "grail-core", "release", "--source", str(tree)])
    assert ended.value.code == 3
    assert "not committed" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["docs/releases.md", "docs/deployment.md"])
def test_every_release_command_of_a_page_is_one(page: str, tmp_path: Path) -> None:
    named = 0
    for block in blocks(REPOSITORY / page):
        assert block.mark is not None, block
        for words in (words for line in block.lines for words in commands(line)):
            if words[:3] == ("hatch", "run", "release"):
                command = cli.get_command(click.Context(cli), words[3])
                assert command is not None, words
                folder = [str(tmp_path) if word.startswith("release-") else word for word in words[4:]]  # one that is there
                assert not command.make_context(words[3], folder).args
                named += 1
    assert named >= 5 or page != "docs/releases.md"
