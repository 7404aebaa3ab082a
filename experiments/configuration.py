"""Find, override and resolve a configuration."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fedmm_secure.config import Config, config_from_data, load_yaml
from fedmm_secure.errors import ConfigError

QUICKSTART = "quickstart"
DATA_VARIABLE = "FEDMM_DATA"


def shipped(folder: str = "configs") -> list[str]:
    """Names of the configurations, or of other YAML files in a folder, that come with the package."""
    entries = (resources.files("experiments") / folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def resolve(name_or_file: str, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """A validated configuration with absolute paths.

    Args:
        name_or_file: name of a shipped configuration, or a YAML file.
        overrides: ``key.sub=value`` with values in YAML.
        values: by ``key.sub``; weaker than ``overrides``.

    Raises:
        ConfigError: one line that names file, key and, where there is one, the nearest valid name.
    """
    path = locate(name_or_file)
    data = load_yaml(path)
    for key, value in (values or {}).items():
        _put(data, key, value, source=key)
    for override in overrides:
        _put(data, *_parse(override), source=f"--set {override}")
    source = str(path) if not overrides else f"{path} with --set"
    config = config_from_data(data, source=source)
    root = os.environ.get(DATA_VARIABLE) or config.data.root or Path()
    absolute = config.data.model_copy(update={"root": Path(root).absolute() if config.data.markets else None})
    return config.model_copy(update={"data": absolute})


def locate(name_or_file: str, folder: str = "configs", what: str = "configuration") -> Path:
    """The file behind a shipped name, or a file's own path.

    Raises:
        ConfigError: neither; with the nearest shipped name.
    """
    names = shipped(folder)
    if name_or_file in names:
        return Path(str(resources.files("experiments") / folder / f"{name_or_file}.yaml"))
    path = Path(name_or_file)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_file, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped {what}s: {', '.join(names)}"
    raise ConfigError(f"{name_or_file}: no such file or {what}; {hint}")


def _parse(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected KEY=VALUE, e.g. --set privacy.epsilon=8")
    try:
        return key.strip(), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error


def _put(data: Any, key: str, value: Any, *, source: str) -> None:
    *parents, last = key.split(".")
    section = data
    for part in parents:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: {part} is a value, not a section")
    section[last] = value
