"""How hypothesis runs here, and how commands do."""

import sys

import pytest
from hypothesis import settings
from typer.main import get_command

from lfq_cli import cli

settings.register_profile("lfq", deadline=None)  # a busy machine is no failure
settings.load_profile("lfq")

COMMAND = get_command(cli.app)  # once: it takes longer than what most tests run


@pytest.fixture
def lfq(monkeypatch, capsys, tmp_path):
    """lfq(*arguments) -> (exit code, stdout, stderr), in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "app", COMMAND)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lfq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return call
