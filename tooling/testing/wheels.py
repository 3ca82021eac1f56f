"""Build the five wheels and install each role into a clean environment, as a user would; with `--out DIR`, leave them in DIR.

`--out DIR` installs nothing: it leaves the wheels and a `constraints.txt` that pins them and what they were tried with, for
`pip install --find-links DIR -c DIR/constraints.txt grail-miner`. Ours are installed before that with `--no-index`: of an
index pip prefers a wheel of the same name and version that is tagged for this platform.

Without it, for each role: a fresh virtual environment, the wheels of this tree, `--help` timed, and the promise
that the role pulls in no other role (and grail-core alone no torch). In the miner's the quickstart of docs/inference.md is run,
and grail-core alone checks its receipt. Prints one line a role; exits with 1 at the first broken promise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tooling import REPOSITORY
from tooling.testing.quickstart import run_quickstart, verify_without_model

PACKAGES = ("grail-core", "grail-envs", "grail-miner", "grail-validator", "grail-trainer")
COMMANDS = {"grail-core": "grail"}
CONSTRAINTS = "constraints.txt"
FORBIDDEN = {
    "grail-core": {"torch", "transformers", "grail-envs", "grail-miner", "grail-validator", "grail-trainer"},
    "grail-envs": {"torch", "grail-miner", "grail-validator", "grail-trainer"},
    "grail-miner": {"grail-validator", "grail-trainer"},
    "grail-validator": {"grail-miner", "grail-trainer"},
    "grail-trainer": {"grail-miner", "grail-validator"},
}


def build(target: Path) -> None:
    """The five wheels, and the constraints that an installation from this folder takes."""
    for package in PACKAGES:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
        subprocess.run(command, cwd=REPOSITORY / "packages" / package, check=True, stdout=subprocess.DEVNULL)
    (target / CONSTRAINTS).write_text(constraints(target), "utf-8")


def constraints(wheels: Path) -> str:
    """The repository's constraints, and the versions of the wheels in a folder: of an index, no other of these names is taken.

    Raises:
        RuntimeError: a wheel is missing, or is there in several versions.
    """
    pins = []
    for package in PACKAGES:
        found = sorted(wheels.glob(f"{package.replace('-', '_')}-*.whl"))
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} wheels of {package} in {wheels}, one is needed: empty the folder")
        pins.append(f"{package}=={found[0].name.split('-')[1]}")
    return (REPOSITORY / CONSTRAINTS).read_text("utf-8") + "\n".join(pins) + "\n"


def check(package: str, wheels: Path, folder: Path) -> str:
    """Install and run one role. Returns the line to print; raises RuntimeError on a broken promise."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    start = time.perf_counter()
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        str(wheels / CONSTRAINTS),
        "--find-links",
        str(wheels),
    ]
    if "torch" not in FORBIDDEN[package]:
        # The CPU build lies in pip's find-links where there is one; naming the version keeps newer builds away.
        subprocess.run([*install, "torch==2.13.0"], check=True)
    subprocess.run([*install, package], check=True)
    seconds = time.perf_counter() - start
    listing = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    ).stdout
    installed = {line.split("==")[0].lower() for line in listing.splitlines()}
    foreign = installed & FORBIDDEN[package]
    if foreign:
        raise RuntimeError(f"{package} pulls in {', '.join(sorted(foreign))}")
    command = [str(folder / "bin" / COMMANDS.get(package, package)), "--help"]
    times = []
    for _ in range(4):
        start = time.perf_counter()
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - start)
        if run.returncode != 0 or "Usage" not in run.stdout:
            raise RuntimeError(f"{' '.join(command[-2:])} failed: {run.stderr[-2000:]}")
    return f"{package:16} installed in {seconds:5.1f} s, {len(installed)} packages; --help {min(times):.2f} s"


def _served_and_verified(scratch: Path) -> str:
    """The quickstart by the miner's environment, and its receipt by grail-core's. Returns the line to print."""
    from tooling.testing.serving_node import save_served_model

    miner, model, receipt = scratch / "grail-miner", scratch / "tiny-model", scratch / "receipt.json"
    install = [str(miner / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(REPOSITORY / "constraints.txt"), "openai"]
    subprocess.run(install, check=True)
    start = time.perf_counter()
    run_quickstart(miner, save_served_model(model), scratch)
    verify_without_model(scratch / "grail-core", receipt)
    return f"served, asked by openai's library and verified in {time.perf_counter() - start:.1f} s"


def _leave(out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    for wheel in (path for package in PACKAGES for path in out.glob(f"{package.replace('-', '_')}-*.whl")):
        wheel.unlink()  # of an earlier build
    build(out.absolute())
    for path in sorted(out.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    print(f"ours first:     pip install --no-index --no-deps --find-links {out} grail-core grail-envs grail-miner")
    print(f"install a role: pip install --find-links {out} -c {out / CONSTRAINTS} grail-miner")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="leave wheels and constraints.txt there, and install nothing")
    out: Path | None = parser.parse_args().out
    if out is not None:
        return _leave(out)
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(scratch) / "dist"
        build(wheels)
        print("built " + ", ".join(sorted(wheel.name for wheel in wheels.glob("*.whl"))), flush=True)
        for package in PACKAGES:
            try:
                print(check(package, wheels, Path(scratch) / package), flush=True)
                if package == "grail-miner":
                    print(_served_and_verified(Path(scratch)), flush=True)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                print(f"{package}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
