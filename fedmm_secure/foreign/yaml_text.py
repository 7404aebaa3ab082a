"""YAML of somebody else: values without code, keys that are there once, of bounded size once aliases are followed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from privacy.foreign import MAX_DEPTH, ForeignFileError, utf8_text

MAX_YAML_BYTES = 2**20
MAX_NODES = 100_000
_MOST_DIGITS = 80  # of an integer: 64 bits in base 2 have that many, with a prefix and a few underscores
MAX_SCALAR = 10_000  # characters of one value: some forms of number take quadratic time
_SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DIRECTIVE = re.compile("[\r\n\x85\u2028\u2029]\ufeff?%")  # wherever YAML begins a line
_OPENS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSES = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


class _Loader(_SAFE):  # type: ignore[misc, valid-type]
    """Refuses a key that is there twice."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            problem = "a key that is no text"
            if isinstance(key_node, yaml.ScalarNode):
                name = str(key_node.value)[:100]
                problem = f"the name {name} has to stand in quotes, '{name}': without them YAML reads {key!r}"
            raise yaml.MarkedYAMLError(None, None, problem, key_node.start_mark)
        line = key_node.start_mark.line + 1
        if key in found:
            both = f"{key[:100]!r} is there twice, in lines {lines[key]} and {line}"
            raise yaml.MarkedYAMLError(None, None, both, key_node.start_mark)
        lines[key] = line
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _integer(loader: Any, node: yaml.ScalarNode) -> int:
    """In time that does not grow with its digits, nor with its parts in sixtieths."""
    if len(node.value) <= _MOST_DIGITS:
        found = int(loader.construct_yaml_int(node))
        if -(2**63) <= found < 2**63:
            return found
    raise yaml.MarkedYAMLError(None, None, f"{node.value[:30]} is an integer of more than 64 bits", node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(data: bytes, where: Path | str, *, aliases: bool = False) -> Any:
    """A YAML value.

    Args:
        data: UTF-8.
        where: names the file.
        aliases: whether it may hold them, for files of one's own; no run writes one. What they stand for is bounded.

    Raises:
        ForeignFileError: naming the line at fault.
    """
    text = utf8_text(data, where)
    _refuse_directives(text, where)
    try:
        nodes = _nodes(text, where, aliases=aliases)
        found = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark else str(where)
        problem = getattr(error, "problem", None) or error
        raise ForeignFileError(f"{line}: not valid YAML: {str(problem).splitlines()[0][:200]}") from error
    if aliases and nodes <= MAX_NODES:
        _refuse_expansion(found, where)
    return found


def _refuse_directives(text: str, where: Path | str) -> None:
    """No run writes one, and each is compared with all before it: libyaml takes quadratic time for them."""
    for mark in ("%", "\ufeff%"):
        if text.startswith(mark):
            raise ForeignFileError(f"{where}:1: holds a YAML directive; no run writes one")
    found = _DIRECTIVE.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 2
        raise ForeignFileError(f"{where}:{line}: holds a YAML directive; no run writes one")


def _nodes(text: str, where: Path | str, *, aliases: bool) -> int:
    """The number of values, none of which is built yet."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_SAFE):
        nodes += 1
        if isinstance(event, _OPENS):
            depth += 1
        elif isinstance(event, _CLOSES):
            depth -= 1
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise ForeignFileError(f"{where}:{line}: holds a YAML alias; no run writes one")
        too_long = isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR
        if depth > MAX_DEPTH or nodes > MAX_NODES or too_long:
            raise ForeignFileError(f"{where}:{line}: nested too deep, or too long")
    return nodes


def _refuse_expansion(found: Any, where: Path | str) -> None:
    """Aliases stand for the value that they name: what is read by walking it may not go on for ever."""
    waiting, seen = [found], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen + len(waiting) > MAX_NODES:
            raise ForeignFileError(f"{where}: its YAML aliases stand for more than {MAX_NODES} values")
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
