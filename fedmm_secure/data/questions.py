"""What a file leaves open, for its owner to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NONE = "none"  # answers that there is no such column
YES, NO = "yes", "no"


@dataclass(frozen=True)
class OpenQuestion:
    """What a file leaves open.

    Attributes:
        key: what is asked for: a role, ``separator``, ``header``, ``quoting`` or ``time_unit``.
        text: the question, which names the file.
        answers: those that can be given; the names or positions of columns, or words.
    """

    key: str
    text: str
    answers: tuple[str, ...]


class UndecidedError(Exception):
    """Two answers fit; ``question`` says which."""

    def __init__(self, question: OpenQuestion) -> None:
        super().__init__(question.text)
        self.question = question


Answers = Mapping[str, Sequence[str]]  # by key; of a role's names, the one that a file has counts
