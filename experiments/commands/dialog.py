"""Questions that files leave open: answered by options, by what was answered before, or at the terminal."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import typer

from experiments.commands.options import FINDING
from experiments.presentation.console import one_line, say
from fedmm_secure.data.questions import Answers, OpenQuestion, UndecidedError

T = TypeVar("T")
SPELLED = {"\\t": "\t", "tab": "\t", "blank": " "}  # of separators, on the command line
_SHOWN = {"\t": "tab", " ": "blank"}
_FLAGS = {("header", "no"): "--no-header", ("quoting", "no"): "--no-quoting"}


class Dialog:
    """Settles questions one by one.

    Without a terminal nothing is asked: what is open is collected, and ``refusal`` says which options answer it.
    """

    def __init__(self, given: Mapping[str, Sequence[str]], *, interactive: bool | None = None) -> None:
        self._given = given
        self._interactive = sys.stdin.isatty() and sys.stderr.isatty() if interactive is None else interactive
        self._before: dict[tuple[str, tuple[str, ...]], str] = {}
        self._open: list[OpenQuestion] = []

    def settle(self, step: Callable[[Answers], T]) -> T | None:
        """What ``step`` makes of the answers; ``None`` where a question stays open."""
        answers = {key: list(values) for key, values in self._given.items()}
        while True:
            try:
                return step(answers)
            except UndecidedError as undecided:
                question = undecided.question
                alike = (question.key, question.answers)
                if not self._interactive:
                    self._open.append(question)
                    return None
                if alike not in self._before:
                    self._before[alike] = _ask(question)
                answers.setdefault(question.key, []).append(self._before[alike])

    @property
    def is_open(self) -> bool:
        """Whether a question stayed open."""
        return bool(self._open)

    def refusal(self) -> typer.Exit:
        """Say what is open and which options answer it; how the command ends."""
        for question in self._open:
            options = " | ".join(_option(question.key, answer) for answer in question.answers)
            say(one_line(f"fedmm: {question.text} {options}"), error=True)
        say("fedmm: nothing was written; run it again with these options, or at a terminal, which asks", error=True)
        return typer.Exit(FINDING)


def _option(key: str, answer: str) -> str:
    """What answers a question on the command line."""
    if key in ("header", "quoting"):
        return _FLAGS.get((key, answer), f"--{key}")
    return f"--{key.replace('_', '-')} {shlex.quote(_SHOWN.get(answer, answer))}"


def _ask(question: OpenQuestion) -> str:
    say(question.text, error=True)
    for number, answer in enumerate(question.answers, start=1):
        say(f"  {number}  {_SHOWN.get(answer, answer)}", error=True)
    while True:
        typed = typer.prompt("number", err=True, default="1" if len(question.answers) == 1 else None)
        if typed in question.answers:
            return str(typed)
        if str(typed).isdecimal() and 1 <= int(typed) <= len(question.answers):
            return question.answers[int(typed) - 1]
        say(f"a number from 1 to {len(question.answers)}", error=True)
