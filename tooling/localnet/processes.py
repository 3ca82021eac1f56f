"""The command line and the settings of every process of a localnet.

The roles get nothing that an operator would not set too: public environment variables and public command lines. Variables of
the person who started the localnet that would reach into it (BT_*, R2_*, GRAIL_*, NETUID) are left out.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path

from grail_core.devnet.settings import Places, folder_bucket, role_settings
from grail_core.disk import write_atomically
from grail_envs.adapters.consent import typed_here
from tooling import REPOSITORY
from tooling.localnet.conductor import SAFETY_BLOCKS
from tooling.localnet.on_simulated_chain import SETTINGS, VIRTUAL_NAP_S, on_simulated_chain
from tooling.localnet.plan import BITTENSOR_SIM, GRADIENT, GROUPS, HONEST, QUICK_GROUPS, SHAPED_STEPS, Layout, Plan
from tooling.localnet.remote_stores import RemoteStores, remote_stores_of
from tooling.localnet.setup import COLDKEY, TRAINER, Network, derive_seed
from tooling.localnet.supervisor import ProcessSpec

PRIVATE_PREFIXES = ("BT_", "R2_", "GRAIL_", "KERNEL_EVAL_", "WANDB_")
PRIVATE_NAMES = frozenset({"NETUID"})
BEACON = "beacon"
STORE = "store"
STORE_LINE = "store-line"
PRESET = "tiny"  # of gradient work: its rounds are one window
BATCH_SEQUENCES = 4  # of an inner step, the least of that preset: a virtual clock has no time to measure steps by


def base_environment() -> dict[str, str]:
    """This process's environment without what belongs to another deployment; one thread per process.

    The package of a foreign environment that was typed at this command is named to the roles, as their operators would.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(PRIVATE_PREFIXES) and k not in PRIVATE_NAMES}
    own = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return kept | own | typed_here()


def store_server(layout: Layout) -> ProcessSpec:
    """The S3 server of a run that uses one: it is there before anybody begins, and until the report is written."""
    files = ("--stores", layout.remote_stores, "--chain", layout.chain, "--folder", layout.store)
    argv = (*_module("tooling.localnet.s3_on_chain_time"), *map(str, files))
    return _with_tooling(ProcessSpec(STORE, STORE, argv, base_environment(), layout.logs / f"{STORE}.log"))


def store_line(layout: Layout, stores: RemoteStores, faults: str) -> ProcessSpec:
    """The faulty line to it."""
    upstream = f"http://127.0.0.1:{stores.port}"
    argv = (*_module("tooling.testing.faulty_proxy"), "--upstream", upstream, "--faults", faults, "--port", str(stores.line))
    return _with_tooling(ProcessSpec(STORE_LINE, STORE, argv, base_environment(), layout.logs / f"{STORE_LINE}.log"))


class Processes:
    """Specifications of the processes of one run."""

    def __init__(self, plan: Plan, layout: Layout, network: Network, beacon_url: str) -> None:
        self._plan = plan
        self._layout = layout
        self._network = network
        self._beacon_url = beacon_url

    def beacon(self, port: int) -> ProcessSpec:
        key = self._layout.root / "beacon.key"
        argv = (
            *_module("grail_core.commands.development_beacon"),
            "--port",
            str(port),
            "--key-file",
            str(key),
            "--chain",
            str(self._layout.chain),
        )
        return ProcessSpec(BEACON, BEACON, argv, base_environment(), self._log(BEACON))

    def trainer(self) -> ProcessSpec:
        plan = self._plan
        if plan.work == GRADIENT:
            return self._role(TRAINER, TRAINER, [*_script("grail_trainer"), "run"])
        argv = [*_script("grail_trainer"), "run", "--model", str(self.model_folder), "--env", plan.env_id]
        argv.append("--uncovered")  # a model beyond the table is tried here too; the report says what is not enforced then
        argv += ["--windows", str(plan.windows)]
        if plan.learning_rate is not None:
            argv += ["--learning-rate", plan.learning_rate]
        return self._role(TRAINER, TRAINER, argv)

    def miner(self, name: str, strategy: str) -> ProcessSpec:
        if strategy == HONEST:
            argv = [*_script("grail_miner"), "run"]
        else:
            module = "cheating_gradient_miner" if self._plan.work == GRADIENT else "cheating_miner"
            argv = [*_module(f"tooling.adversaries.{module}"), "--cheat", strategy]
        spec = self._role(name, "miner", [*argv, *self._mining_options()])
        return spec if strategy == HONEST else _with_tooling(spec)

    def validator(self, name: str) -> ProcessSpec:
        if name != self._plan.doomed:
            return self._role(name, "validator", [*_script("grail_validator"), "run"])
        argv = [*_module("tooling.localnet.doomed"), str(self._layout.deaths), str(self._plan.seed)]
        return dataclasses.replace(_with_tooling(self._role(name, "validator", argv)), mortal=True)

    def begin(self) -> ProcessSpec:
        """What makes the first checkpoint of a network of gradient work, and publishes it."""
        argv = [*_script("grail_trainer"), "init", "--work", GRADIENT, "--preset", PRESET, "--out", str(self._layout.model)]
        return self._role(TRAINER, TRAINER, [*argv, "--seed", str(model_seed(self._plan))])

    @property
    def model_folder(self) -> Path:
        return Path(self._plan.model).expanduser() if self._plan.model else self._layout.model

    def write_settings(self) -> None:
        """Each role's settings as a file for a shell, so that a person can run its other commands: `set -a; . FILE`.

        With a simulated chain too they name its file: no command of a person's reaches simulated nodes.
        """
        for name in (TRAINER, *self._plan.validator_names(), *(name for name, _ in self._plan.miner_strategies())):
            settings = {**self.role_settings(name), "GRAIL_LOG_FILE": ""}
            lines = [f"{key}={shlex.quote(value)}\n" for key, value in settings.items() if value]
            # Write keys are in it: for this user alone, as wallets are.
            write_atomically(self._layout.root / "settings" / f"{name}.env", "".join(lines).encode(), mode=0o600)

    def role_settings(self, name: str) -> dict[str, str]:
        """The settings of one participant."""
        layout = self._layout
        places = Places(
            layout.chain,
            layout.network,
            layout.wallets,
            cache=layout.cache(name),
            state=layout.state_of(name),
            log=self.event_file(name),
        )
        netuid = self._network.params.netuid
        settings = role_settings(name, places, netuid=netuid, coldkey=COLDKEY, beacon_url=self._beacon_url)
        settings |= self._bucket_settings(name)
        safety_blocks = self._plan.safety_blocks or (None if self._plan.real_time else SAFETY_BLOCKS)
        if safety_blocks is not None:
            settings["GRAIL_MINER_SAFETY_BLOCKS"] = str(safety_blocks)
        if self._plan.data_dir:
            settings["GRAIL_DATA_DIR"] = self._plan.data_dir
        return settings

    def _bucket_settings(self, name: str) -> dict[str, str]:
        stores = remote_stores_of(self._layout)
        if stores is not None:
            return stores.settings_of(name)
        return folder_bucket(self._layout.store, name)

    def event_file(self, name: str) -> Path:
        return self._layout.logs / f"{name}.jsonl"

    def _role(self, name: str, role: str, argv: list[str]) -> ProcessSpec:
        spec = ProcessSpec(name, role, tuple(argv), base_environment() | self.role_settings(name), self._log(name))
        if self._plan.chain != BITTENSOR_SIM:
            return spec
        nap_s = 0.0 if self._plan.real_time and self._plan.clock_rate == 1.0 else VIRTUAL_NAP_S
        wrapped = on_simulated_chain(spec.argv, self._layout.chain, nap_s)
        return _with_tooling(dataclasses.replace(spec, argv=wrapped, env={**spec.env, **SETTINGS}))

    def _mining_options(self) -> list[str]:
        if self._plan.work == GRADIENT:
            return ["--batch-sequences", str(BATCH_SEQUENCES)]
        groups = self._plan.groups or (QUICK_GROUPS if self._plan.quick else GROUPS)
        return ["--groups", str(groups), "--batch", str(min(groups, 8))]

    def _log(self, name: str) -> Path:
        return self._layout.logs / f"{name}.log"


def _with_tooling(spec: ProcessSpec) -> ProcessSpec:
    """No wheel contains cheats, nor validators that kill themselves."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return dataclasses.replace(spec, env={**spec.env, "PYTHONPATH": path})


def model_seed(plan: Plan) -> int:
    return int.from_bytes(derive_seed(plan.seed, "model")[:4], "big")


def init_command(plan: Plan, layout: Layout) -> tuple[str, ...]:
    """`grail-trainer init` for this plan."""
    argv = [*_script("grail_trainer"), "init", "--env", plan.env_id, "--out", str(layout.model)]
    argv += ["--seed", str(model_seed(plan))]
    if plan.model_shape is not None:
        argv += ["--shape", plan.model_shape, "--most-steps", str(SHAPED_STEPS)]
    return tuple([*argv, "--quick"] if plan.quick else argv)


def evaluate_command(plan: Plan, folder: Path) -> tuple[str, ...]:
    """`grail-trainer evaluate` of one checkpoint folder."""
    argv = [*_script("grail_trainer"), "evaluate", "--model", str(folder), "--env", plan.env_id]
    return (*argv, "--problems", str(plan.evaluation_problems), "--json")


def audit_argv() -> tuple[str, ...]:
    """`grail-trainer audit` of every window that is still there."""
    return (*_script("grail_trainer"), "audit", "--all", "--json")


def init_environment(plan: Plan) -> dict[str, str]:
    environment = base_environment()
    environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(os.cpu_count() or 1)  # it runs alone
    if cache := os.environ.get("GRAIL_CACHE_DIR"):
        environment["GRAIL_CACHE_DIR"] = cache  # where models of earlier runs are kept
    return environment | ({"GRAIL_DATA_DIR": plan.data_dir} if plan.data_dir else {})


def _script(package: str) -> tuple[str, ...]:
    """A role's command line by its module, so that no PATH decides which installation runs."""
    command = package.replace("_", "-")
    return (sys.executable, "-c", f"import sys; sys.argv[0] = {command!r}; from {package}.cli import main; main()")


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)
