"""Reference pages, generated from what the code says of itself: commands, configuration, grids, schema, docstrings."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import click
import typer
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
PACKAGES = ("fedmm_secure", "privacy", "attacks", "experiments")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to those of the docs folder."""
    pages = {
        "commands": commands_page(),
        "configuration": configuration_page(),
        "grids": grids_page(),
        "compliance-schema": schema_page(),
        "python": "# Python\n\n::: fedmm_secure.api\n",
        "contributing": _linked_from_docs((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "changes": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        **{package: package_page(package) for package in PACKAGES},
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def _linked_from_docs(text: str) -> str:
    """Links of a page that stands beside ``docs/``, as they are from ``docs/reference/``."""
    return text.replace("](docs/", "](../")


def commands_page() -> str:
    """Every command with its help, as ``--help`` prints it."""
    from experiments.cli import app

    command = typer.main.get_command(app)
    context = click.Context(command, info_name="fedmm", terminal_width=100, max_content_width=100)
    status = "0 success, 1 a finding, or no memory or disk left, 2 bad usage or input, 130 stopped by Ctrl-C"
    parts = ["# Commands\n", f"Exit status: {status}.\n"]
    for name, help_text in _commands(command, context, "fedmm"):
        parts.append(f"## `{name}`\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def _commands(command: Any, context: Any, name: str) -> Iterator[tuple[str, str]]:
    if not hasattr(command, "list_commands"):
        yield name, command.get_help(context)
        return
    for child in command.list_commands(context):
        found = command.get_command(context, child)
        inner = click.Context(found, info_name=child, parent=context, terminal_width=100, max_content_width=100)
        yield from _commands(found, inner, f"{name} {child}")


def configuration_page() -> str:
    """Every key of a configuration, with type, default and meaning."""
    from fedmm_secure.config import Config

    head = (
        "# Configuration\n\nKeys of a YAML file, of `--set KEY=VALUE`, and of the sections that `FedMM(...)` takes.\n"
    )
    return head + "\n".join(_sections(Config, ""))


def grids_page() -> str:
    """The keys of a grid file, and the grids that ship."""
    from experiments.sweep.grid import SweepGrid, shipped_grids

    folder = ROOT / "experiments" / "grids"
    texts = {name: (folder / f"{name}.yaml").read_text(encoding="utf-8") for name in shipped_grids()}
    shipped = "".join(f"## `{name}`\n\n```yaml\n{text}```\n\n" for name, text in texts.items())
    return "# Grids\n\nWhat `fedmm sweep` takes.\n\n" + "\n".join(_sections(SweepGrid, "")) + "\n" + shipped


def schema_page() -> str:
    """The published JSON Schema."""
    from experiments.compliance.document import schema_text

    head = "# Compliance schema\n\nJSON Schema (2020-12) of `compliance.json`; `fedmm report --schema` prints it.\n\n"
    return f"{head}```json\n{schema_text()}```\n"


def package_page(package: str) -> str:
    """The public names of every module of a package, from their docstrings."""
    found = import_module(package)
    names = [module.name for module in pkgutil.walk_packages(found.__path__, f"{package}.") if not module.ispkg]
    chosen = [name for name in names if "flower_app" not in name]
    return f"# {package}\n\n{found.__doc__ or ''}\n\n" + "\n".join(f"::: {name}\n" for name in chosen)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    rows, inner = [], []
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        if nested is not None:
            inner.append((f"{prefix}{name}", nested[0], nested[1]))
            continue
        default = "required" if field.default is PydanticUndefined and field.default_factory is None else _text(field)
        rows.append(
            f"| `{prefix}{name}` | {_type(field.annotation)}{_limits(field)} | {default} | {field.description or ''} |"
        )
    if rows:
        title = prefix.removesuffix(".") or "top level"
        yield f"\n## {title}\n\n{(model.__doc__ or '').splitlines()[0] if model.__doc__ else ''}\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for name, section, many in inner:
        yield from _sections(section, f"{name}.{many}")


def _nested(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """The section behind a key, and what stands between the key and the section's own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            between = {dict: "NAME.", tuple: "[].", list: "[]."}.get(get_origin(annotation) or type(None), "")
            return part, between
    return None


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if str(origin) == "typing.Literal":
        return " \\| ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " \\| ".join(_type(part) for part in parts)
    if origin in (tuple, list):
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "mapping"
    if str(origin) == "typing.Annotated" or hasattr(annotation, "__metadata__"):
        return _type(parts[0])
    return getattr(annotation, "__name__", str(annotation))


def _limits(field: Any) -> str:
    """The bounds of a number, or of how many a list holds."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least", "max_length": "at most"}
    found = [
        f"{sign} {value:,}"
        for part in field.metadata
        for key, sign in signs.items()
        if (value := getattr(part, key, None)) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def _text(field: Any) -> str:
    value = field.default if field.default_factory is None else field.default_factory()
    if value is None:
        return "null"
    if isinstance(value, tuple | list):
        return ", ".join(f"`{part}`" for part in value) or "empty"
    return f"`{value}`" if value != {} else "empty"
