"""`python -m grail_validator.simulation` is `grail-validator simulate`."""

from grail_core.commands.options import run_cli
from grail_validator.simulation.command import simulate

run_cli(simulate)
