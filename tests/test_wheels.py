"""`hatch run wheels --out`: five wheels and a constraints.txt that takes these and no others of their names."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.testing.wheels import PACKAGES, constraints


def test_the_folder_that_is_left_installs_its_own_wheels_and_has_the_template(tmp_path: Path) -> None:
    out = tmp_path / "dist"
    out.mkdir()
    (out / "grail_core-0.0.9-py3-none-any.whl").write_bytes(b"of an earlier build")
    command = [sys.executable, "-m", "tooling.testing.wheels", "--out", str(out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    pins = (out / "constraints.txt").read_text()
    assert f"pip install --find-links {out} -c {out}/constraints.txt" in done.stdout
    assert len(list(out.glob("*.whl"))) == len(PACKAGES)
    for package in PACKAGES:
        assert f"{package}==0.1.0\n" in pins
    assert "torch==" in pins
    with zipfile.ZipFile(next(out.glob("grail_envs-*.whl"))) as wheel:
        assert "grail_envs/template/sums.py" in wheel.namelist()
    # By pip itself: what it would take of these names, and nothing is installed.
    resolve = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index", "--ignore-installed"]
    taken = subprocess.run(
        [*resolve, "--find-links", str(out), "-c", str(out / "constraints.txt"), *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert taken.returncode == 0, taken.stderr
    assert all(f"{package}-0.1.0" in taken.stdout.replace("_", "-") for package in PACKAGES)


def test_a_folder_without_one_of_the_wheels_gets_no_constraints(tmp_path: Path) -> None:
    (tmp_path / "grail_core-0.1.0-py3-none-any.whl").touch()
    with pytest.raises(RuntimeError, match="0 wheels of grail-envs"):
        constraints(tmp_path)
