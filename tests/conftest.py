"""How hypothesis runs here, and how commands do."""

import sys
from importlib.util import find_spec

import pytest
from typer.main import get_command

from lfq_cli import cli

if find_spec("hypothesis") is not None:  # `make gpu` runs where it may be missing
    from hypothesis import settings

    settings.register_profile("lfq", deadline=None)  # a busy machine is not a failure
    settings.load_profile("lfq")

COMMAND = get_command(cli.app_for([]))  # once: it takes longer than what most tests run


@pytest.fixture
def lfq(monkeypatch, capsys, tmp_path):
    """lfq(*arguments) -> (exit code, stdout, stderr), in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "app_for", lambda _: COMMAND)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lfq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call
