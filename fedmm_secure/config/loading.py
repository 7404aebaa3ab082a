"""Read a configuration: an unknown or ill-typed key is refused with the nearest valid name."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.config.run import Config
from fedmm_secure.config.sections import READING_KEYS, DataConfig
from fedmm_secure.errors import ConfigError
from fedmm_secure.foreign.yaml_text import MAX_YAML_BYTES, parse_yaml
from privacy.accounting.lines import canonical_json
from privacy.foreign import ForeignFileError, read_bytes


def config_from_data(data: Any, *, source: str) -> Config:
    """Validate a mapping.

    Raises:
        ConfigError: one line with the source, the key and what to do.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a mapping of keys to values is expected, not {type(data).__name__}")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_problem(error)}") from error


def load_yaml(path: Path) -> Any:
    """Parse a YAML file of the caller's own, aliases and all; raises ``ConfigError`` with the line at fault."""
    try:
        return parse_yaml(read_bytes(path, MAX_YAML_BYTES), path, aliases=True) or {}
    except ForeignFileError as error:
        raise ConfigError(str(error)) from error


def foreign_config(directory: Path, name: str) -> Config:
    """The configuration that a run was made with, as far as a reader takes its word.

    A run names no path that its reader opens: where its account and its data were is left out of what this returns,
    and comes from the reader. Nor is the reader bound to the run's device: a GPU serves where he has one.

    Raises:
        ConfigError: no such file, or no configuration.
    """
    path = directory / name
    try:
        data = parse_yaml(read_bytes(path, MAX_YAML_BYTES, below=directory), path) or {}
    except ForeignFileError as error:
        raise ConfigError(str(error)) from error
    config = config_from_data(data, source=str(path))
    privacy = config.privacy.model_copy(update={"account": None})
    rows = config.data.model_copy(update={"root": None})
    device = "cpu" if config.device == "cpu" else "auto"
    return config.model_copy(update={"privacy": privacy, "data": rows, "device": device})


def data_of_newcomer(federation: DataConfig, own: DataConfig, market: str) -> DataConfig:
    """A federation's choices for the rows of one more market, which are read as its own configuration says.

    Raises:
        ConfigError: they cannot be had of these rows.
    """
    reading = {key: getattr(own, key) for key in READING_KEYS}
    if own.markets:
        reading["markets"] = {market: own.markets[market]}
    try:
        return DataConfig.model_validate({**dict(federation), **reading})
    except ValidationError as error:
        raise ConfigError(f"market {market} cannot join: {_first_problem(error)}") from error


def configuration_hash(config: Config) -> bytes:
    """Hash of all that the parties must agree on: everything but where data, accounts and processors are."""
    fields = config.model_dump(mode="json", exclude={"workers": True, "device": True, "data": {"markets", "root"}})
    fields["privacy"].pop("account")
    if config.audit == AuditConfig():  # runs from before there was such a section keep their hash
        fields.pop("audit")
    if config.privacy.ceiling is None:
        fields["privacy"].pop("ceiling")
    return hashlib.sha256(canonical_json(fields)).digest()


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"]]
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], _sibling_keys(parts[:-1]), n=1, cutoff=0.5)
        known = ", ".join(_sibling_keys(parts[:-1]))
        return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known keys: {known}")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] in ("model_type", "dict_type"):
        found = "null" if problem["input"] is None else repr(problem["input"])
        return f"{key}: a section of keys is expected, not {found}"
    got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{key}: {message[0].lower()}{message[1:]}{got}"


def _sibling_keys(parents: list[str]) -> list[str]:
    model: Any = Config
    for part in parents:
        if isinstance(model, type) and issubclass(model, BaseModel):
            annotation = model.model_fields[part].annotation if part in model.model_fields else None
        else:
            annotation = model  # the values of a mapping: data.markets.<name>
        model = _inner_model(annotation)
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = getattr(annotation, "__args__", ())
    models = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
    return models[0] if models else None
