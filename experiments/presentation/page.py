"""What all pages share: templates, self-contained."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from experiments.presentation.console import printable
from experiments.presentation.text import audit_text, difference_text, estimate_text, figure_text, interval_text
from privacy.accounting.text import delta_text, epsilon_text
from privacy.files import write_atomic


def render(template: str, **values: Any) -> str:
    """A page; it loads nothing from anywhere. Raises on a name that the template lacks."""
    return _environment().get_template(template).render(**values)


@cache  # compiling the templates takes longer than filling them in
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("experiments")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,  # markup of our own is no plain text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "epsilon": epsilon_text,
        "delta": delta_text,
        "audit": lambda found: audit_text(found.verdict, found.detects),
        "estimate": estimate_text,
        "difference": difference_text,
        "figure": figure_text,
        "interval": interval_text,
        "shell": shlex.quote,
    }
    return environment


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page; returns its path."""
    write_atomic(path, render(template, **values).encode())
    return path
