"""Settings that every process shares, and how a settings class is filled.

- One class per process; `PENSTOCK_HOME` and the store addresses are common, a process's own keys carry its section:
  `PENSTOCK_FLOW_WINDOW_SECONDS` in the environment, `window_seconds` under `[flow]` in `penstock.toml`.
- The environment wins over the file. An unknown key in either is an error that names it.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from online_models.errors import SettingsError

SECTIONS = ("flow", "worker", "serving")
"""Sections of the processes; what is not in one of them belongs to every process."""

CONFIG_NAME = "penstock.toml"

TEST_KEYS = frozenset({"PENSTOCK_DATA"})
"""Read by tests and benchmarks only: the directory of recorded public logs."""


class Settings(BaseSettings):
    """Base of every settings class: frozen, strict about keys, filled by `load`."""

    section: ClassVar[str] = ""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="PENSTOCK_")

    @classmethod
    def load(cls, config: Path | None = None) -> Self:
        """Read the environment and `penstock.toml` (in the working directory unless `config` is given).

        Raises
        ------
        SettingsError
            When a key is unknown or a value is out of range; the message names the key.
        """
        refuse_unknown_environment(cls, os.environ)
        table = section_of(config or Path(CONFIG_NAME), cls.section)
        prefix = env_prefix(cls)
        overridden = {key for key in table if prefix + key.upper() in os.environ}
        try:
            return cls(**{key: setting for key, setting in table.items() if key not in overridden})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'all'}: {each['msg']}" for each in error.errors())
            raise SettingsError(f"settings [{cls.section or 'penstock'}]: {wrong}") from error


class StoreSettings(Settings):
    """Where data lives; read by all processes.

    home : directory of embedded servers, artifacts, live segments and dead letters
    redis_url, postgres_dsn : a server's address; empty starts the embedded one under `home`
    """

    home: Path = Path(".penstock")
    redis_url: str = ""
    postgres_dsn: str = ""

    @property
    def artifacts(self) -> Path:
        """Directory of model artifacts."""
        return self.home / "artifacts"

    @property
    def snapshots(self) -> Path:
        """Directory of training data, as they were read."""
        return self.home / "snapshots"

    @property
    def segments(self) -> Path:
        """Directory of the live event log."""
        return self.home / "events"


def env_prefix(cls: type[Settings]) -> str:
    """Prefix of a settings class's environment variables."""
    return str(cls.model_config.get("env_prefix", ""))


def section_of(config: Path, section: str) -> Mapping[str, Any]:
    """The table of one section of a configuration file; the top level for the shared one; empty without a file."""
    if not config.exists():
        return {}
    try:
        document = tomllib.loads(config.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config}: not valid TOML: {error}") from error
    unknown = [key for key, entry in document.items() if isinstance(entry, dict) and key not in SECTIONS]
    if unknown:
        raise SettingsError(f"{config}: unknown section {unknown[0]!r}; known are {', '.join(SECTIONS)}")
    if section:
        table: Mapping[str, Any] = document.get(section, {})
        return table
    return {key: entry for key, entry in document.items() if key not in SECTIONS}


def refuse_unknown_environment(cls: type[Settings], environment: Mapping[str, str]) -> None:
    """Raise `SettingsError` for a `PENSTOCK_*` variable of this class's section that is not a field of it."""
    prefix = env_prefix(cls)
    known = {prefix + field.upper() for field in cls.model_fields} | TEST_KEYS
    foreign = tuple(f"PENSTOCK_{section.upper()}_" for section in SECTIONS if section != cls.section)
    for name in environment:
        if name.startswith(prefix) and name not in known and not name.startswith(foreign):
            raise SettingsError(f"unknown setting {name} in the environment; known are {', '.join(sorted(known))}")
