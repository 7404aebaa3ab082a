"""Every help can be read, and says what each argument and option is for; wrong usage takes one line."""

import re

import click
import pytest
import typer.main

from experiments.cli import app
from tests.command_line import fedmm

ROOT = typer.main.get_command(app)


def commands(command=ROOT, words=()):
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*words, name))


EVERY = dict(commands())


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_help_is_complete(words, capsys):
    command = EVERY[words]
    status, out, err = fedmm(capsys, *words, "--help")
    assert (status, err) == (0, "")
    assert "\\[" not in out
    assert "..." not in out.partition("Commands:")[2], "a summary is cut"
    titles = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert sum("rgument" in title for title in titles) == any(
        isinstance(one, click.Argument) for one in command.params
    ), "arguments are listed once"
    for parameter in command.params:
        record = parameter.get_help_record(click.Context(command))
        assert parameter.help, f"{words}: {parameter.name} has no text"
        assert record[1].startswith(parameter.help), "and its text is printed"
        assert not parameter.secondary_opts or parameter.default is not False, (
            f"{words}: {parameter.name} is no plain flag"
        )


def test_brackets_of_a_help_are_escaped_elsewhere():
    """What is undone here: Typer's own option has the backslash."""
    own = typer.core.TyperOption(param_decls=["--k"], default=1, show_default=True, help="Items.")
    assert own.get_help_record(click.Context(click.Command("x")))[1] == "Items.  \\[default: 1]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "joyn"], "fedmm: no such command 'joyn'. Did you mean 'join'? (fedmm bench --help)"),
        (["recommend"], "fedmm: missing argument 'RUN' (fedmm recommend --help)"),
        (["joyn"], "fedmm: no such command 'joyn'. Did you mean 'join'? (fedmm --help)"),
        (["--jsn"], "fedmm: no such option '--jsn' (fedmm --help)"),
        (["recommend", "x", "--market", "m", "-k", "0"], "'-k' / '--top': 0 is not in the range x>=1"),
        (["recommend", "x", "--market", "m"], "fedmm: recommend to whom? name them with --user"),
        (["verify", "nope"], "fedmm: nope: neither a run directory nor a report: there is no such file"),
        (["verify", __file__], f"fedmm: {__file__}: neither a run directory nor a report: not valid JSON"),
        (["budget", "quickstart", "--set", "privacy=null"], "privacy: a section of keys is expected, not null"),
    ],
    ids=" ".join,
)
def test_wrong_usage_takes_one_line(words, said, capsys):
    status, out, err = fedmm(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
