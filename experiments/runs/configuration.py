"""Find, override and resolve a configuration."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config, DataConfig, config_from_data, load_yaml
from fedmm_secure.config.choices import is_shipped
from fedmm_secure.errors import ConfigError
from fedmm_secure.foreign.yaml_text import parse_yaml
from privacy.foreign import ForeignFileError, is_inside

QUICKSTART, SYNTHETIC = "quickstart", "synthetic"
DATA_VARIABLE = "FEDMM_DATA"


def shipped(folder: str = "configs") -> list[str]:
    """Names of the configurations, or of other YAML files in a folder, that come with the package."""
    entries = (resources.files("experiments") / folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def resolve(
    name_or_file: str,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    kept: Mapping[str, Any] | None = None,
) -> Config:
    """A validated configuration with absolute paths.

    Args:
        name_or_file: name of a shipped configuration, or a YAML file.
        overrides: ``key.sub=value`` with values in YAML.
        values: by ``key.sub``; weaker than ``overrides``.
        kept: what files hold, by name; where this is given, no other file is opened than one that ships.

    Raises:
        ConfigError: one line that names file, key and, where there is one, the nearest valid name.
    """
    if kept is None or name_or_file in shipped():
        path = locate(name_or_file)
        data = load_yaml(path)
    else:
        path, data = Path(name_or_file), deepcopy(kept.get(name_or_file))
        if not isinstance(data, dict):
            raise ConfigError(f"{name_or_file}: the sweep does not hold this configuration; resume it once to keep it")
    for key, value in (values or {}).items():
        _put(data, key, value, source=key)
    for override in overrides:
        _put(data, *_parse(override), source=f"--set {override}")
    source = str(path) if not overrides else f"{path} with --set"
    config = config_from_data(data, source=source)
    root = os.environ.get(DATA_VARIABLE) or config.data.root or Path()
    absolute = config.data.model_copy(update={"root": Path(root).absolute() if config.data.markets else None})
    return config.model_copy(update={"data": absolute})


def readers_data(data: DataConfig, root: Path | None) -> DataConfig:
    """Where the markets' files of somebody's run are, by the reader's word.

    Args:
        data: of the run, whose paths count below ``root`` alone.
        root: folder; by default that of the environment variable ``FEDMM_DATA``.

    Raises:
        ConfigError: nobody says where they are, or a path leads out of the folder.
    """
    if not data.markets:
        return data
    named = os.environ.get(DATA_VARIABLE)
    root = root or (Path(named) if named else None)
    if root is None:
        raise ConfigError(
            f"where are the markets' files? give their folder with --data, or in {DATA_VARIABLE}: what a run's own "
            "config.yaml says of it is not followed"
        )
    root = root.absolute()
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; --data, or {DATA_VARIABLE}, names that of the markets' files")
    for name, file in data.markets.items():
        for path in (file.path, file.catalogue):
            if path is not None and not (_is_below(path, root) or is_shipped(path)):
                raise ConfigError(f"data.markets.{name}: {str(path)[:200]!r} is no file of the folder {root}")
    return data.model_copy(update={"root": root})


def _is_below(path: Path, root: Path) -> bool:
    return is_inside(path.as_posix()) or (path.is_relative_to(root) and ".." not in path.parts)


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
        return key.strip(), parse_yaml(text.encode(), f"--set {override}")
    except ForeignFileError as error:
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
