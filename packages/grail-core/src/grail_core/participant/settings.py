"""One typed tree of settings: flags > environment > `.env` > TOML file > defaults.

The names are public interface (docs/operations.md). Nothing here opens anything: `deployment` turns settings into chain,
store, beacon and keys.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from grail_core.errors import ConfigurationError

DEFAULT_TOML = Path("grail.toml")
QUICKNET_HASH = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"  # relays serve several drand chains


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "grail"


def _default_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "grail"


class Settings(BaseSettings):
    """Every field's alias is its environment variable, its key in the TOML file and its name in `.env`."""

    model_config = SettingsConfigDict(
        extra="ignore", populate_by_name=True, env_file=".env", case_sensitive=True, env_ignore_empty=True
    )

    # Chain and keys
    bt_network: str = Field("finney", alias="BT_NETWORK", description="finney, test, custom, or local (a development chain)")
    bt_chain_endpoint: str = Field("", alias="BT_CHAIN_ENDPOINT", description="websocket URL; for local the chain's file")
    netuid: int = Field(81, alias="NETUID", ge=0, le=65_535)
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), alias="BT_WALLET_PATH")
    wallet_cold: str = Field("default", alias="BT_WALLET_COLD")
    wallet_hot: str = Field("default", alias="BT_WALLET_HOT")

    # Network
    network: str = Field("subnet-81", alias="GRAIL_NETWORK", description="a named network, or a file of its parameters")
    beacon_urls: str = Field(
        ",".join(f"https://{host}/{QUICKNET_HASH}" for host in ("api.drand.sh", "api2.drand.sh", "drand.cloudflare.com")),
        alias="GRAIL_BEACON_URLS",
        description="drand relays with the chain's hash, separated by commas",
    )

    # Storage: a bucket (R2, S3 or compatible), or a folder that the participants of one machine share
    storage_root: Path | None = Field(None, alias="GRAIL_STORAGE_ROOT", description="folder of filesystem buckets")
    storage_bucket: str = Field("", alias="GRAIL_STORAGE_BUCKET", description="own bucket in that folder")
    r2_bucket_id: str = Field("", alias="R2_BUCKET_ID")
    r2_account_id: str = Field("", alias="R2_ACCOUNT_ID")
    r2_read_access_key_id: str = Field("", alias="R2_READ_ACCESS_KEY_ID")
    r2_read_secret_access_key: SecretStr = Field(SecretStr(""), alias="R2_READ_SECRET_ACCESS_KEY")
    r2_write_access_key_id: SecretStr = Field(SecretStr(""), alias="R2_WRITE_ACCESS_KEY_ID")
    r2_write_secret_access_key: SecretStr = Field(SecretStr(""), alias="R2_WRITE_SECRET_ACCESS_KEY")
    r2_endpoint_url: str = Field("", alias="R2_ENDPOINT_URL")
    r2_region: str = Field("auto", alias="R2_REGION")

    # This machine
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        alias="GRAIL_STATE_DIR",
        description="ledger, journal, masters: what must not be lost, one folder per network and hotkey",
    )
    cache_dir: Path = Field(
        default_factory=_default_cache_dir,
        alias="GRAIL_CACHE_DIR",
        description="checkpoints, beacon rounds, files being judged: what can be fetched again, safe to delete",
    )
    data_dir: Path | None = Field(None, alias="GRAIL_DATA_DIR", description="folder of data sets")
    device: str = Field("cpu", alias="GRAIL_DEVICE", description="torch device of the proof model")
    calibration: Path | None = Field(
        None,
        alias="GRAIL_CALIBRATION",
        description="table to judge with instead of the shipped one; all validators of a network should use the same",
    )
    log_file: Path | None = Field(None, alias="GRAIL_LOG_FILE", description="JSON lines are appended here")

    # Own bucket
    keep_window_files: int = Field(
        48, alias="GRAIL_KEEP_WINDOW_FILES", ge=8, description="windows for which own window files and accepted files are kept"
    )
    keep_evidence: int = Field(
        480, alias="GRAIL_KEEP_EVIDENCE", ge=8, description="windows for which a validator's own evidence is kept"
    )

    # Miner
    miner_safety_blocks: int = Field(2, alias="GRAIL_MINER_SAFETY_BLOCKS", ge=0, le=20)
    pipeline_backend: Literal["hf", "sglang", "vllm"] = Field("hf", alias="GRAIL_PIPELINE_BACKEND")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls, _toml_file())


def load_settings(**flags: Any) -> Settings:
    """Resolve the tree. `flags` are given by field name; None means not given.

    Raises:
        ConfigurationError: a value is malformed; the message names the variable.
    """
    toml = _toml_file()
    if os.environ.get("GRAIL_CONFIG") and not toml.is_file():
        raise ConfigurationError("there is no such settings file", where=str(toml), hint="check GRAIL_CONFIG")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise ConfigurationError(
            f"{name}: {first['msg']}", where=origins(flags).get(name, "settings"), hint="run with --show-settings"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"the settings file does not parse: {error}", where=str(toml)) from error


def origins(flags: Mapping[str, Any]) -> dict[str, str]:
    """Where each variable that is not a default comes from, by alias."""
    sources: list[tuple[str, PydanticBaseSettingsSource]] = [
        ("TOML " + str(_toml_file()), TomlConfigSettingsSource(Settings, _toml_file())),
        (".env", DotEnvSettingsSource(Settings, env_file=".env")),
        ("environment", EnvSettingsSource(Settings, case_sensitive=True)),
        ("flag", InitSettingsSource(Settings, {name: value for name, value in flags.items() if value is not None})),
    ]
    found: dict[str, str] = {}
    for label, source in sources:
        for name in source():
            field = Settings.model_fields.get(name)
            found[field.alias if field is not None and field.alias else name] = label
    return found


def describe(settings: Settings, flags: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, origin) of every setting, secrets masked."""
    known = origins(flags)
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        text = ("***" if value.get_secret_value() else "") if isinstance(value, SecretStr) else str(value)
        alias = field.alias or name
        rows.append((alias, text, known.get(alias, "default")))
    return rows


def unknown_names(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """GRAIL_* variables that no setting has, each with the nearest known name."""
    known = [field.alias for field in Settings.model_fields.values() if field.alias] + ["GRAIL_CONFIG"]
    strange = sorted(name for name in environ if name.startswith("GRAIL_") and name not in known)
    return [(name, next(iter(difflib.get_close_matches(name, known, 1)), None)) for name in strange]


def _toml_file() -> Path:
    return Path(os.environ.get("GRAIL_CONFIG") or DEFAULT_TOML)
