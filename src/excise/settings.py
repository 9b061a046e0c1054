"""Every setting of a run, from a TOML file, the environment and the command line, in that order."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from excise.errors import SettingsError

PREFIX = "EXCISE_"


class RunSettings(BaseModel):
    """Settings of `excise run`. Unknown keys are errors; every field can be a TOML key, EXCISE_FIELD, or --field."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    model: str | None = None
    """Local folder or hub id; None: the packaged demo model."""
    behaviour: str = "refusal"
    """Name of a packaged behaviour, or a TOML file."""
    target: str | None = None
    """Own prompts that should show the behaviour; None: the behaviour's packaged ones."""
    neutral: str | None = None
    """Own prompts that should not."""
    keep: str | None = None
    """Prompts whose answers must stay as they are; None: those that draw the other packaged behaviours."""
    prompts: Literal["packaged", "field"] = "packaged"
    """"field": the field's usual hub data sets in place of the packaged prompts."""
    column: str | None = None
    """Column of the prompts in .csv, .parquet and data sets."""
    seed: int = Field(0, ge=0)
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"
    thinking: Literal["auto", "closed", "open", "none"] = "auto"
    system: str | None = None
    micro_batch: int | None = Field(None, ge=1)
    directions: Literal["difference-of-means", "top-k"] = "difference-of-means"
    k: int = Field(1, ge=1, le=8)
    """Directions for each writer at the start of the search."""
    positions: int | None = Field(None, ge=1)
    """Last prompt positions that are measured; None: the post-instruction tokens, at most 8."""
    winsor: float | None = Field(None, gt=0.5, lt=1)
    """Quantile at which outlier channels are clamped while measuring."""
    search: Literal["gradient", "sampler"] = "gradient"
    norm: Literal["none", "columns", "rows"] = "none"
    """Which norms of the edited matrices are kept."""
    max_rate: float = Field(0.02, ge=0, le=1)
    """Behaviour that may be left."""
    max_drift: float = Field(0.02, gt=0)
    """Largest KL per token on neutral prompts, nats."""
    rounds: int = Field(4, ge=1)
    trials: int = Field(60, ge=1)
    """Of the sampler."""
    time_limit: float | None = Field(None, gt=0)
    """Seconds after which the search begins nothing new."""
    max_tokens: int = Field(64, ge=4)
    """Longest answer that is generated and judged."""

    @model_validator(mode="after")
    def _fit_together(self) -> RunSettings:
        if self.k > 1 and self.directions != "top-k":
            raise ValueError(f"k = {self.k} needs directions = top-k (difference-of-means gives one direction)")
        if self.norm != "none" and self.search != "sampler":
            raise ValueError(f"norm = {self.norm} needs search = sampler (descent is for plain ablation)")
        return self


def load_settings(file: Path | None, given: Mapping[str, Any]) -> RunSettings:
    """TOML file < environment (EXCISE_*) < `given`; None in `given` means not given.

    Raises SettingsError naming the key, what was expected and, for an unknown key, the nearest known one.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_toml(file))
    values.update(_from_environment())
    values.update({key: value for key, value in given.items() if value is not None})
    return parse(values, str(file) if file else "settings")


def parse(values: Mapping[str, Any], where: str) -> RunSettings:
    """Validate a mapping. Raises SettingsError."""
    for key in values:
        if key not in RunSettings.model_fields:
            raise SettingsError(f"{where}: unknown setting {key!r}.{nearest(key, list(RunSettings.model_fields))}")
    try:
        return RunSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from error
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{where}: {name}: {first['msg']}, found {first['input']!r}.") from error


def nearest(name: str, known: list[str]) -> str:
    """ " Did you mean ...?" for the nearest known name, or the empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."


def _from_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{file}: expected a settings file, found nothing there.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{file}: expected TOML, found: {error}.") from error


def _from_environment() -> dict[str, Any]:
    names = {PREFIX + name.upper(): name for name in RunSettings.model_fields}
    for key in os.environ:
        if key.startswith(PREFIX) and key not in names:
            raise SettingsError(f"environment: unknown setting {key}.{nearest(key, list(names))}")
    return {name: os.environ[key] for key, name in names.items() if key in os.environ}
