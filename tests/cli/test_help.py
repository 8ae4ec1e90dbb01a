"""Every command's help: options in groups, two examples that the command takes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lfq_cli.cli import COMMANDS, app_for
from lfq_cli.cli.help import EXAMPLES, GROUPS

ROOT = typer.main.get_command(app_for([]))


@pytest.fixture(scope="module")
def texts():
    """Command -> its help, from real processes."""
    return {
        name: subprocess.run(
            [sys.executable, "-m", "lfq_cli", name, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for name in COMMANDS
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_in_a_group_once(texts, name):
    sections = re.split(r"^(\w.*):$", texts[name].split("\nArguments:", 1)[1], flags=re.MULTILINE)
    headings = ["Arguments", *sections[1::2]]
    assert headings == [heading for heading in [*GROUPS, "Examples"] if heading in headings]
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", "".join(sections[2:-1:2]), flags=re.MULTILINE)
    options = [p.opts[0] for p in ROOT.commands[name].params if p.param_type_name == "option"]
    assert sorted(shown) == sorted([*options, "--help"])


def test_no_group_names_an_option_that_no_command_has():
    options = {name for command in ROOT.commands.values() for p in command.params for name in p.opts}
    grouped = [name for names in GROUPS.values() for name in names]
    assert set(grouped) - options <= {"--help"}
    assert len(set(grouped)) == len(grouped)


def test_a_group_of_the_command_itself_goes_before_the_table(texts):
    assert texts["stats"].index("--codebook-dims") < texts["stats"].index("\nOutput:")
    assert texts["decode"].index("--codebook-dims") > texts["decode"].index("\nCheckpoint facts")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_two_examples_that_the_command_takes(texts, name):
    lines = texts[name].rstrip("\n").splitlines()
    assert lines[-3:] == ["Examples:", *(f"  {line}" for line in EXAMPLES[name])]
    for line in EXAMPLES[name]:
        program, command, *words = shlex.split(line)
        assert (program, command) == ("lfq", name)
        ROOT.commands[name].make_context(name, words)  # raises for an option or a value that it does not know


def test_the_list_of_commands_shows_whole_sentences():
    text = subprocess.run([sys.executable, "-m", "lfq_cli", "-h"], capture_output=True, text=True, check=True).stdout
    listed = text.split("\nCommands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_is_that_of_the_readme(texts, name):
    usage = " ".join(texts[name].partition("\n\n")[0].split())
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    arguments = re.search(rf"\n\| `lfq {name} ([^`]*?)(?: -o [^`]*| \[--[^`]*)?`", readme)[1]
    assert usage == f"Usage: lfq {name} [OPTIONS] {arguments}"
