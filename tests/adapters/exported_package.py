"""An exported environment, really built and installed into a folder of this run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from grail_core.environment import Environment
from grail_envs.adapters.export import export


def install_exported(environment: Environment, tmp: Path, problems: int) -> None:
    """Importable from now on, for this process and for what it starts to hold the package."""
    folder, site = tmp / "package", tmp / "site"
    export(environment, folder, problems)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*command, str(folder)], check=True)
    site.chmod(0o755)
    sys.path.insert(0, str(site))
