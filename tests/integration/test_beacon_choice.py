"""Every role's `run` knows --use-drand and --no-drand, and refuses what its network's parameters do not say."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from grail_core.errors import ConfigurationError
from grail_core.protocol.network import LOCALNET
from grail_miner.cli import cli as miner
from grail_trainer.cli import cli as trainer
from grail_validator.cli import cli as validator


@pytest.mark.parametrize("role", [miner, validator, trainer], ids=["miner", "validator", "trainer"])
@pytest.mark.parametrize(("policy", "option"), [("required", "--no-drand"), ("off", "--use-drand")])
def test_no_role_runs_with_another_beacon_than_its_networks(
    tmp_path: Path, role: click.Command, policy: str, option: str
) -> None:
    path = tmp_path / "network.json"
    path.write_text(json.dumps({**LOCALNET.to_json(), "beacon_policy": policy}))
    ran = CliRunner().invoke(role, ["run", option], env={"GRAIL_NETWORK": str(path)})
    assert isinstance(ran.exception, ConfigurationError)
    assert ran.exception.exit_code == 3
    assert ran.exception.where == option
