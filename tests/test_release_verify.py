"""A release is built to the same bytes, signed and verified from its files; whatever is done to the folder is named."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tooling.release.__main__ import main
from tooling.release.build import _taken_out, build_release, sign_folder, sums
from tooling.release.bump import bump
from tooling.release.contents import RELEASE, SIGNATURE, SUMS
from tooling.release.dry_run import SIGNER, dry_run, throwaway_key
from tooling.release.faults import NotTheReleaseError, ReleaseRefusedError
from tooling.release.history import changes_of_the_tree, head
from tooling.release.verify import MAX_FILE_BYTES, MAX_TEXT_BYTES, verify_folder
from tooling.release.wheel_archive import MAX_FILE_BYTES as MAX_UNPACKED
from tooling.release.wheel_archive import WheelArchive
from tooling.testing.release_tree import DATE, commit, make_tree
from tooling.testing.wheels import PACKAGES

CORE = "grail_core-0.1.0-py3-none-any.whl"


@dataclass(frozen=True)
class Operator:
    """A tree with dates, its signed release, and the key that signed it."""

    tree: Path
    folder: Path
    key: Path
    signers: Path


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    place = tmp_path_factory.mktemp("release")
    tree = make_tree(place / "tree")
    for package in PACKAGES:
        bump(tree, package, "release", DATE, allow_dirty=True)
    commit(tree, "chore: release")
    key, signers = throwaway_key(place)
    build_release(tree, place / "out")
    sign_folder(place / "out", key)
    return Operator(tree, place / "out", key, signers)


@pytest.fixture
def copy(operator: Operator, tmp_path: Path) -> Path:
    """The folder, to be broken."""
    return Path(shutil.copytree(operator.folder, tmp_path / "copy"))


def signed_again(folder: Path, operator: Operator) -> None:
    """As an operator signs a folder whose files contradict each other."""
    (folder / SUMS).write_bytes(sums(folder))
    sign_folder(folder, operator.key)


def test_a_signed_release_is_verified_from_its_files_alone(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    verified = verify_folder(operator.folder, operator.signers)
    assert verified.signer == SIGNER
    assert sorted(verified.release.packages) == sorted(PACKAGES)
    assert verified.release.protocol_version == 1
    main(["verify", str(operator.folder), "--signers", str(operator.signers), "--json"])
    assert json.loads(capsys.readouterr().out)["signer"] == SIGNER
    by_hand = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=operator.folder, capture_output=True, check=False)
    assert by_hand.returncode == 0


def test_one_commit_gives_the_same_bytes_wherever_and_whenever_it_is_built(operator: Operator, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(operator.tree, tmp_path / "deeper" / "elsewhere"))
    (elsewhere / "packages/grail-core/src/grail_core/ignored.pyc").write_bytes(b"in the working tree alone")
    for path in elsewhere.rglob("*.py"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    before = os.umask(0o077)
    try:
        build_release(elsewhere, tmp_path / "again")
    finally:
        os.umask(before)
    names = {path.name for path in operator.folder.iterdir()} - {SIGNATURE}
    assert names == {path.name for path in (tmp_path / "again").iterdir()}
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (operator.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    "configuration", ["[core]\nautocrlf = true\n", "[core]\nattributesFile = ATTRIBUTES\n", "[log]\nshowSignature = true\n"]
)
def test_no_configuration_of_a_persons_git_is_in_the_bytes(
    operator: Operator, configuration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attributes").write_text("*.py text eol=crlf\n*.md export-ignore\n")
    (tmp_path / ".gitconfig").write_text(configuration.replace("ATTRIBUTES", str(tmp_path / "attributes")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as a hook of another repository has it
    with _taken_out(operator.tree, head(operator.tree)) as source:
        for path in ("packages/grail-core/src/grail_core/text.py", "packages/grail-core/CHANGELOG.md"):
            assert (source / path).read_bytes() == (operator.tree / path).read_bytes()


def test_untracked_files_make_a_tree_dirty_whatever_a_person_wants_to_see(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Path(shutil.copytree(operator.tree, tmp_path / "tree"))
    (tmp_path / ".gitconfig").write_text("[status]\nshowUntrackedFiles = no\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tree / "packages/grail-core/src/grail_core/more.py").touch()
    assert changes_of_the_tree(tree)


def test_an_archive_whose_directory_alone_is_huge_is_refused_before_it_is_read() -> None:
    names = 50_000
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, *[0] * 7, 6, *[0] * 6)
    directory = b"".join(entry + b"%06d" % number for number in range(names))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, names, names, len(directory), 4, 0)
    with pytest.raises(NotTheReleaseError, match="its directory is larger"):
        WheelArchive(CORE, b"PK\3\4" + directory + end)


def test_a_bill_names_the_wheel_and_what_it_asks_for(operator: Operator) -> None:
    bill = json.loads((operator.folder / "grail_core-0.1.0.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    digest = hashlib.sha256((operator.folder / CORE).read_bytes()).hexdigest()
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    components = {one["name"]: one for one in bill["components"]}
    assert components["torch"]["purl"] == "pkg:pypi/torch@2.13.0"
    assert components["torch"]["scope"] == "optional"
    assert {"name": "grail:extra", "value": "model"} in components["torch"]["properties"]
    assert components["numpy"]["scope"] == "required"
    assert "version" not in components["numpy"]


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _written(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


def _linked(folder: Path) -> None:
    (folder / CORE).rename(folder.parent / "elsewhere.whl")
    (folder / CORE).symlink_to(folder.parent / "elsewhere.whl")


def _fifo(folder: Path) -> None:
    (folder / CORE).unlink()
    os.mkfifo(folder / CORE)


def _sparse(folder: Path) -> None:
    with (folder / CORE).open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)


def _long_bill(folder: Path) -> None:
    with (folder / "grail_core-0.1.0.cdx.json").open("wb") as stream:
        stream.truncate(MAX_TEXT_BYTES + 1)


def _many(folder: Path) -> None:
    for number in range(80):
        (folder / f"more-{number}").touch()


def _flipped(folder: Path) -> None:
    data = bytearray((folder / CORE).read_bytes())
    data[5_000] ^= 1
    (folder / CORE).write_bytes(data)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (_without(SIGNATURE), "nobody signed it"),
        (_written(SIGNATURE, b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"), "no allowed signer"),
        (_written(SUMS, b""), "no allowed signer"),
        (_without(RELEASE), "release.json is not there"),
        (_without(CORE), f"{CORE} is listed and not there"),
        (_written("more.txt", b"x"), "more.txt is there and not listed"),
        (_written("a\n", b"x"), "a name that no file of a release has"),
        (_written("-rf", b"x"), "a name that no file of a release has"),
        (_written("a\x1b[31m", b"x"), "a name that no file of a release has"),
        (_flipped, f"{CORE} has another digest"),
        (_linked, "cannot be opened as a file"),
        (_fifo, "it is no regular file"),
        (_sparse, "it is larger than"),
        (_long_bill, f"it is larger than {MAX_TEXT_BYTES:,} bytes"),
        (_many, "more than 64 files"),
        (lambda folder: shutil.rmtree(folder), "cannot be read"),
    ],
)
def test_a_folder_that_was_changed_on_its_way_is_refused(
    copy: Path, operator: Operator, broken: Callable[[Path], None], told: str
) -> None:
    broken(copy)
    with pytest.raises(NotTheReleaseError) as caught:
        verify_folder(copy, operator.signers)
    assert told in str(caught.value)


def test_another_key_and_a_signature_for_another_purpose_are_no_signature(
    copy: Path, operator: Operator, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other, others = throwaway_key(tmp_path / "other")
    sign_folder(copy, other)
    with pytest.raises(NotTheReleaseError, match="no allowed signer"):
        verify_folder(copy, operator.signers)
    assert verify_folder(copy, others).signer == SIGNER
    (copy / SIGNATURE).unlink()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(operator.key), str(copy / SUMS)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(NotTheReleaseError, match="no allowed signer"):
        verify_folder(copy, operator.signers)


def repacked(folder: Path, change: Callable[[dict[str, bytes]], None], *, record: bool = True) -> None:
    """The core wheel with other files, its RECORD made right again unless asked otherwise, and release.json told of it."""
    with zipfile.ZipFile(folder / CORE) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    listing = "grail_core-0.1.0.dist-info/RECORD"
    if record:
        rows = io.StringIO()
        for name in files:
            digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
            csv.writer(rows).writerow((name, "", "") if name == listing else (name, f"sha256={digest}", len(files[name])))
        files[listing] = rows.getvalue().encode()
    with zipfile.ZipFile(folder / CORE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    told(folder, lambda release: release["packages"]["grail-core"].update(_of(folder / CORE)))
    bill = json.loads((folder / "grail_core-0.1.0.cdx.json").read_text())
    bill["metadata"]["component"]["hashes"][0]["content"] = _of(folder / CORE)["sha256"]
    (folder / "grail_core-0.1.0.cdx.json").write_text(json.dumps(bill))


def _of(wheel: Path) -> dict[str, object]:
    return {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "bytes": wheel.stat().st_size}


def told(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    release = json.loads((folder / RELEASE).read_text())
    change(release)
    (folder / RELEASE).write_text(json.dumps(release))


def _put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: content})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_put("grail_core/tests/test_a.py", b"a"), "a file that is not to be shipped"),
        (_put("grail_core/.env", b"a"), "a file that is not to be shipped"),
        (_put("grail_core/lib.so", b"a"), "a kind of file that is not to be shipped"),
        (_put("other/__init__.py", b"a"), "a file outside of grail_core/"),
        (_put("../outside.py", b"a"), "a name that no file of a wheel has"),
        (_put("/grail_core/a.py", b"a"), "a name that no file of a wheel has"),
        (_put("grail_core/a.py", b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"A" * 64), "it holds a private key"),
        (_put("grail_core/a.py", b"KEY = 'AKIAIOSFODNN7EXAMPLE'"), "it holds an access key"),
        (_put("grail_core/a.py", b"P = '/home/someone/grail'"), "it holds a path of somebody's machine"),
        (_put("grail_core/a.json", b"0" * (MAX_UNPACKED + 1)), "unpacked it is larger"),
        (_put("grail_core/protocol/constants.py", b"PROTOCOL_VERSION: int = 7\n"), "speaks protocol version 7"),
        (_put("grail_core/protocol/constants.py", b"import os\n"), "names no protocol version"),
        (_put("grail_core/protocol/constants.py", b"PROTOCOL_VERSION: int = {[]: 1}\n"), "constants.py: it cannot be read"),
        (_put("grail_core/protocol/constants.py", b"PROTOCOL_VERSION: int = 1\n" + b"#" * 2**20), "it is larger than"),
        (_put("grail_core-0.1.0.dist-info/a\n", b"a"), "a name that no file of a wheel has"),
        (
            _put(
                "grail_core-0.1.0.dist-info/METADATA",
                b"Metadata-Version: 2.1\nName: grail-core\nVersion: 0.1.0\nRequires-Dist: x @ https://example.org/x.whl\n",
            ),
            "it requires a file of its own choice: x",
        ),
        (
            _put("grail_core-0.1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: evil\nVersion: 0.1.0\n"),
            "metadata say evil",
        ),
        (
            _put("grail_core-0.1.0.dist-info/WHEEL", b"Root-Is-Purelib: false\nTag: py3-none-any\n"),
            "a wheel of Python alone",
        ),
    ],
)
def test_a_wheel_with_what_no_wheel_of_ours_has_is_refused_even_if_it_is_signed(
    copy: Path, operator: Operator, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    repacked(copy, change)
    signed_again(copy, operator)
    with pytest.raises(NotTheReleaseError) as caught:
        verify_folder(copy, operator.signers)
    assert said in str(caught.value)


def _record(change: Callable[[str], str]) -> Callable[[dict[str, bytes]], None]:
    name = "grail_core-0.1.0.dist-info/RECORD"
    return lambda files: files.update({name: change(files[name].decode()).encode()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_put("grail_core/text.py", b"changed"), "grail_core/text.py: RECORD lists another digest"),
        (_put("grail_core/newer.py", b"new"), "grail_core/newer.py: RECORD does not list it"),
        (lambda files: files.pop("grail_core/text.py"), "grail_core/text.py: RECORD lists it, and it is not there"),
        (_record(lambda text: text + "a,b\n"), "RECORD has a line that it cannot have"),
    ],
)
def test_a_record_that_is_not_the_archives_is_named(
    copy: Path, operator: Operator, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    repacked(copy, change, record=False)
    signed_again(copy, operator)
    with pytest.raises(NotTheReleaseError) as caught:
        verify_folder(copy, operator.signers)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda release: release.update(more=1), "no release"),
        (lambda release: release.update(format=2), "no release"),
        (lambda release: release["packages"].pop("grail-envs"), "not the five"),
        (lambda release: release["packages"]["grail-core"].update(version="0.1.1"), "calls files of grail-core otherwise"),
        (lambda release: release["packages"]["grail-miner"].update(requires=[]), "it requires"),
        (lambda release: release["packages"]["grail-miner"].update(sha256="0" * 64), "is not the wheel"),
        (lambda release: release["packages"]["grail-miner"].update(unreleased=True), "has no date"),
        (lambda release: release.update(clean=False), "changes that no commit has"),
        (lambda release: release.update(protocol_version=2), "speaks protocol version 1"),
    ],
)
def test_a_release_json_that_is_not_of_these_files_is_refused(
    copy: Path,
    operator: Operator,
    change: Callable[[dict], None],  # type: ignore[type-arg]
    said: str,
) -> None:
    told(copy, change)
    signed_again(copy, operator)
    with pytest.raises(NotTheReleaseError) as caught:
        verify_folder(copy, operator.signers)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("CHANGELOG-grail-core.md", b"# Changelog of grail-core\n\n## 0.2.0 (2026-12-01)\n\n- x\n", "says nothing of 0.1.0"),
        ("CHANGELOG-grail-core.md", b"\xff", "CHANGELOG-grail-core.md"),
        ("grail_core-0.1.0.cdx.json", b"{}", "not CycloneDX 1.6"),
        ("grail_core-0.1.0.cdx.json", b"[" * 100_000, "bill of materials"),
        ("constraints.txt", b"grail-core==0.0.1\n", "does not pin grail-core==0.1.0"),
        (CORE, b"PK\x05\x06" + bytes(18), "it holds 0 files"),
        (CORE, b"no archive", "it is no archive"),
        ("release.json", b"[" * 100_000, "no release"),
    ],
)
def test_what_lies_beside_the_wheels_is_held_against_them(
    copy: Path, operator: Operator, name: str, data: bytes, said: str
) -> None:
    (copy / name).write_bytes(data)
    signed_again(copy, operator)
    with pytest.raises(NotTheReleaseError) as caught:
        verify_folder(copy, operator.signers)
    assert said in str(caught.value)


def archive_of(*entries: tuple[zipfile.ZipInfo | str, bytes], before: bytes = b"", comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
        archive.comment = comment
    return before + stream.getvalue()


def test_links_bombs_twins_and_what_stands_around_an_archive_are_refused() -> None:
    link = zipfile.ZipInfo("grail_core/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    lying = bytearray(archive_of(("grail_core/a.json", b"0" * (MAX_UNPACKED + 1))))
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = lying.index(mark) + offset
        lying[place : place + 4] = (10).to_bytes(4, "little")
    for data, said in (
        (archive_of((link, b"/etc/passwd")), "no regular file"),
        (archive_of(("grail_core/a.py", b"a"), ("grail_core/A.py", b"b")), "a name twice"),
        (archive_of(("grail_core/a.py", b"a"), before=b"#!/bin/sh\n"), "something stands before"),
        (archive_of(("grail_core/a.py", b"a"), comment=b"x"), "something stands behind"),
        (archive_of(*((f"grail_core/{number}.json", bytes(MAX_UNPACKED)) for number in range(9))), "unpacked it is larger"),
        (bytes(lying), "it is no archive"),
    ):
        with pytest.raises(NotTheReleaseError) as caught:
            WheelArchive(CORE, data)
        assert said in str(caught.value)


def test_a_dry_run_does_all_of_it_and_says_what_a_real_one_waits_for(operator: Operator, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(operator.tree, tmp_path / "tree"))
    log = tree / "packages/grail-envs/CHANGELOG.md"
    log.write_text(log.read_text("utf-8").replace("(2026-12-01)", "(unreleased)"), "utf-8")
    run = dry_run(tree, allow_dirty=True)
    assert sorted(run.uploads) == sorted(path.name for path in operator.folder.glob("*.whl"))
    assert "grail-core-v0.1.0" in run.tags
    assert run.waits == (
        "grail-envs 0.1.0 has no date in its changelog",
        "the tree has changes that no commit has",
    )
    with pytest.raises(ReleaseRefusedError, match="not committed"):
        build_release(tree, tmp_path / "out")
    with pytest.raises(ReleaseRefusedError, match="unreleased"):
        build_release(tree, tmp_path / "out", allow_dirty=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_and_a_key_that_is_none_are_refused(
    operator: Operator, copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ReleaseRefusedError, match="not empty"):
        build_release(operator.tree, copy)
    (tmp_path / "key").write_text("no key")
    with pytest.raises(ReleaseRefusedError, match="ssh-keygen did not sign"):
        sign_folder(copy, tmp_path / "key")
    (copy / "more.txt").write_text("x")
    with pytest.raises(ReleaseRefusedError, match="changed since it was built"):
        sign_folder(copy, operator.key)
    with pytest.raises(ReleaseRefusedError, match="no file of allowed signers"):
        verify_folder(operator.folder, tmp_path / "nobody")
