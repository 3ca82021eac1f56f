"""One typed tree of settings: flags > environment > `.env` > TOML file > defaults.

The names are public interface. Each field says here, once, what it is called, what it means, what it is when nobody sets it
and who reads it; `.env.example`, the table in docs/operations.md, `--show-settings` and every error are made of that. Nothing
here opens anything: `deployment` turns settings into chain, store, beacon and keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from grail_core.addresses import HIDDEN, all_without_access
from grail_core.errors import ConfigurationError
from grail_core.participant.settings_fields import (
    BUCKETS,
    CHAIN,
    EVERYBODY,
    MACHINE,
    NETWORK,
    NETWORKED,
    ROLES,
    DeviceName,
    FilePath,
    HexDigest,
    WholeNumber,
    expanded,
    setting,
    wanted,
)
from grail_core.participant.settings_monitoring import MonitoringSettings
from grail_core.participant.settings_pipeline import PipelineSettings
from grail_core.participant.settings_serving import ServingSettings
from grail_core.participant.settings_sources import Given, Unknown, clean, read_sources

QUICKNET_HASH = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"  # relays serve several drand chains
QUICKNET_RELAYS = ("api.drand.sh", "api2.drand.sh", "drand.cloudflare.com")


def _default_cache_dir() -> Path:
    return _home_folder("XDG_CACHE_HOME", "~/.cache", "GRAIL_CACHE_DIR")


def _default_state_dir() -> Path:
    return _home_folder("XDG_STATE_HOME", "~/.local/state", "GRAIL_STATE_DIR")


def _home_folder(variable: str, otherwise: str, setting: str) -> Path:
    try:
        return expanded(Path(os.environ.get(variable) or otherwise) / "grail")
    except ValueError as error:
        raise ConfigurationError(str(error), where=setting, hint="set it, or HOME") from None


class _SharedSettings(BaseModel):
    """What several roles read, and what one of them reads without being a miner."""

    bt_network: str = setting(
        "BT_NETWORK", CHAIN, NETWORKED, "`finney`, `test`, `custom`, or `local`: a development chain", default="finney"
    )
    bt_chain_endpoint: str = setting(
        "BT_CHAIN_ENDPOINT",
        CHAIN,
        NETWORKED,
        "websocket URLs, separated by commas, the first preferred; for `local` the chain's SQLite file",
        default="",
    )
    netuid: WholeNumber = setting("NETUID", CHAIN, NETWORKED, "the subnet", default=81, ge=0, le=65_535)
    wallet_path: FilePath = setting(
        "BT_WALLET_PATH", CHAIN, ROLES, "folder of wallets, in bittensor's layout", default=Path("~/.bittensor/wallets")
    )
    wallet_cold: str = setting("BT_WALLET_COLD", CHAIN, ROLES, "name of the coldkey", default="default")
    wallet_hot: str = setting("BT_WALLET_HOT", CHAIN, ROLES, "name of the hotkey", default="default")

    network: str = setting(
        "GRAIL_NETWORK",
        NETWORK,
        NETWORKED,
        "a named network, or a JSON file of network parameters: its path (`grail devnet` and localnet write one) or https URL",
        default="subnet-81",
    )
    network_digest: HexDigest = setting(
        "GRAIL_NETWORK_DIGEST",
        NETWORK,
        NETWORKED,
        "digest that the parameters must have; a URL needs it (`grail network` shows a file's)",
        wanted="64 hexadecimal digits",
        default="",
    )
    beacon_urls: str = setting(
        "GRAIL_BEACON_URLS",
        NETWORK,
        ROLES,
        "relays, separated by commas, each with the drand chain's hash",
        default=",".join(f"https://{host}/{QUICKNET_HASH}" for host in QUICKNET_RELAYS),
        shown="three public quicknet relays",
    )

    # A bucket (R2, S3 or compatible), or a folder that the participants of one machine share
    storage_root: FilePath | None = setting(
        "GRAIL_STORAGE_ROOT",
        BUCKETS,
        NETWORKED,
        "folder of buckets that the participants of one machine share; unset: `R2_*`",
        default=None,
    )
    storage_bucket: str = setting("GRAIL_STORAGE_BUCKET", BUCKETS, NETWORKED, "own bucket in that folder", default="")
    r2_bucket_id: str = setting("R2_BUCKET_ID", BUCKETS, NETWORKED, "own bucket", default="")
    r2_account_id: str = setting("R2_ACCOUNT_ID", BUCKETS, NETWORKED, "its account", default="")
    r2_read_access_key_id: str = setting(
        "R2_READ_ACCESS_KEY_ID",
        BUCKETS,
        NETWORKED,
        "the key that others read with; it is committed on chain, so it is public",
        default="",
    )
    r2_read_secret_access_key: SecretStr = setting(
        "R2_READ_SECRET_ACCESS_KEY", BUCKETS, NETWORKED, "its secret part, which is committed with it", default=SecretStr("")
    )
    r2_write_access_key_id: SecretStr = setting(
        "R2_WRITE_ACCESS_KEY_ID", BUCKETS, NETWORKED, "the key that writes; it never leaves this machine", default=SecretStr("")
    )
    r2_write_secret_access_key: SecretStr = setting(
        "R2_WRITE_SECRET_ACCESS_KEY", BUCKETS, NETWORKED, "its secret part", default=SecretStr("")
    )
    r2_endpoint_url: str = setting(
        "R2_ENDPOINT_URL",
        BUCKETS,
        NETWORKED,
        "only needed to choose another of the hosts that the network allows",
        default="",
        shown="built from account and network",
    )
    r2_region: str = setting("R2_REGION", BUCKETS, NETWORKED, "the region that requests are signed for", default="auto")
    keep_window_files: WholeNumber = setting(
        "GRAIL_KEEP_WINDOW_FILES",
        BUCKETS,
        "miner, validator",
        "windows for which own window files and seals (a validator: its copies of drawn files) are kept",
        default=48,
        ge=8,
        le=1_000_000,
    )
    keep_evidence: WholeNumber = setting(
        "GRAIL_KEEP_EVIDENCE",
        BUCKETS,
        "validator",
        "windows for which own evidence is kept",
        default=480,
        ge=8,
        le=1_000_000,
    )

    cache_dir: FilePath = setting(
        "GRAIL_CACHE_DIR",
        MACHINE,
        EVERYBODY,
        "checkpoints, beacon rounds, files being judged: what can be fetched again, safe to delete",
        default_factory=_default_cache_dir,
        shown="~/.cache/grail",
    )
    checkpoint_cache_gib: WholeNumber = setting(
        "GRAIL_CHECKPOINT_CACHE_GIB",
        MACHINE,
        NETWORKED,
        "GiB of checkpoints kept below it, for each network; the oldest go before more are written",
        default=200,
        ge=1,
        le=1_000_000,
    )
    file_cache_gib: WholeNumber = setting(
        "GRAIL_FILE_CACHE_GIB",
        MACHINE,
        "validator",
        "GiB of others' files kept below it; the oldest go before more are written",
        default=16,
        ge=1,
        le=1_000_000,
    )
    state_dir: FilePath = setting(
        "GRAIL_STATE_DIR",
        MACHINE,
        EVERYBODY,
        "ledgers, journals, the trainer's masters: what cannot be fetched again; keep it",
        default_factory=_default_state_dir,
        shown="~/.local/state/grail",
    )
    data_dir: FilePath | None = setting(
        "GRAIL_DATA_DIR", MACHINE, "every role; `grail-envs`, from the environment alone", "folder of data sets", default=None
    )
    device: DeviceName = setting(
        "GRAIL_DEVICE",
        MACHINE,
        ROLES,
        "torch device of the proof model; a miner's, unless it is set, is a GPU where CUDA devices are visible",
        default="cpu",
        wanted="cpu, cuda, or a device with its index (cuda:0)",
    )
    calibration: FilePath | None = setting(
        "GRAIL_CALIBRATION",
        MACHINE,
        ROLES,
        "where else to have the calibration table from that the checkpoint in force pins; a file of another digest is refused",
        default=None,
    )
    log_file: FilePath | None = setting("GRAIL_LOG_FILE", MACHINE, EVERYBODY, "JSON log lines are appended here", default=None)


class Settings(
    MonitoringSettings, ServingSettings, PipelineSettings, _SharedSettings
):  # on the pages the last base's fields come first
    """Every field's alias is its environment variable, its key in the TOML file and its name in `.env`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class Declaration:
    """One setting as the pages show it."""

    name: str
    default: str  # as one would write it, "" where there is none
    in_words: str  # the default told otherwise, "" where `default` tells it
    meaning: str
    section: str
    read_by: str
    secret: bool


def declarations() -> Iterator[Declaration]:
    """Every setting, in the order of the pages."""
    for field in Settings.model_fields.values():
        about = cast("dict[str, str]", field.json_schema_extra)
        secret, shown = field.annotation is SecretStr, about["shown"]
        default = "" if secret or field.default_factory or field.default is None else _as_written(field.default)
        yield Declaration(
            name=str(field.alias),
            default=shown if field.default_factory else default,
            in_words="" if field.default_factory else shown,
            meaning=str(field.description),
            section=about["section"],
            read_by=about["read_by"],
            secret=secret,
        )


@dataclass(frozen=True)
class Resolution:
    """The settings, where each that is not a default comes from, and the names to warn of."""

    settings: Settings
    origins: Mapping[str, str]
    unknown: tuple[Unknown, ...]

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, origin) of every setting, secrets masked."""
        from grail_core.beacon.chains import PUBLIC_PATHS  # verification's library is slow to import

        rows = []
        for field_name, field in Settings.model_fields.items():
            value, name = getattr(self.settings, field_name), str(field.alias)
            if isinstance(value, SecretStr):
                value = HIDDEN if value.get_secret_value() else ""
            written = "" if value is None else _as_written(value)
            rows.append((name, all_without_access(written, PUBLIC_PATHS), self.origins.get(name, "default")))
        return rows


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_settings(**flags: Any) -> Settings:
    """The resolved tree; see `resolve`."""
    return resolve(**flags).settings


def resolve(**flags: Any) -> Resolution:
    """Resolve the tree. `flags` are given by field name; None means not given.

    Raises:
        ConfigurationError: a file does not parse or a value is malformed; it names the variable and where it stands.
    """
    fields = Settings.model_fields
    given, unknown = read_sources(os.environ, [str(field.alias) for field in fields.values()])
    for field_name, value in flags.items():
        if field_name not in fields:
            raise ConfigurationError(f"there is no setting called {field_name}", hint=f"one of {', '.join(fields)}")
        if value is not None:
            name = str(fields[field_name].alias)
            given[name] = Given(clean(name, value, "flag") if isinstance(value, str) else value, "flag")
    try:
        settings = Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as error:
        raise _malformed(error, given) from None  # pydantic's error holds every value, the secret ones too
    return Resolution(settings, {name: one.origin for name, one in given.items()}, tuple(unknown))


def resolve_what_can_be(**flags: Any) -> tuple[Resolution, tuple[ConfigurationError, ...]]:
    """As `resolve`, for who tells all that is wrong: what cannot be read is as if nobody had set it, and is told in the errors.

    Raises:
        ConfigurationError: there is no home folder, and the default of a setting needs one.
    """
    fields, faults = Settings.model_fields, list[ConfigurationError]()
    given, unknown = read_sources(os.environ, [str(field.alias) for field in fields.values()], faults)
    given |= {str(fields[name].alias): Given(value, "flag") for name, value in flags.items() if value is not None}
    while True:
        try:
            settings = Settings.model_validate({name: one.value for name, one in given.items()})
            break
        except ValidationError as error:
            wrong = {str(one["loc"][0]) for one in error.errors(include_input=False, include_context=False)}
            for name in sorted(wrong):
                try:
                    Settings.model_validate({name: given[name].value})
                except ValidationError as alone:
                    faults.append(_malformed(alone, given))
                del given[name]
    return Resolution(settings, {name: one.origin for name, one in given.items()}, tuple(unknown)), tuple(faults)


def _malformed(error: ValidationError, given: Mapping[str, Given]) -> ConfigurationError:
    """One error for all wrong values, so that nobody has to start once for each."""
    wrong = error.errors(include_input=False, include_context=False, include_url=False)
    told, places = [], []
    words = ""
    for one in reversed({str(one["loc"][0]): one for one in reversed(wrong)}.values()):
        name = str(one["loc"][0])
        words = wanted(next(field for field in Settings.model_fields.values() if field.alias == name))
        own = one["type"] == "value_error"  # a validator of ours has said it, and may not have said what is wanted
        why = str(one["msg"]).removeprefix("Value error, ") if own else f"it is not {words}"
        told.append((name, why, f"; set it to {words}" if own else ""))
        places.append(given[name].origin)
    if len(told) == 1:
        name, why, _ = told[0]
        return ConfigurationError(f"{name}: {why}", where=places[0], hint=f"set {name} to {words}, or leave it unset")
    lines = [f"\n    {place}: {name}: {why}{also}" for (name, why, also), place in zip(told, places, strict=True)]
    files = dict.fromkeys(place.partition(", line ")[0] for place in places)
    return ConfigurationError(
        f"{len(told)} settings have values that they cannot have:{''.join(lines)}",
        where=", ".join(files),
        hint="set each to what its line says, or leave it unset",
    )
