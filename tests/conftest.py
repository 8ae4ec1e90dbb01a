"""How hypothesis runs here, and how commands do."""

import sys

import pytest
from hypothesis import settings

from lfq_cli.cli import main

settings.register_profile("lfq", deadline=None)  # a busy machine is no failure
settings.load_profile("lfq")


@pytest.fixture
def lfq(monkeypatch, capsys, tmp_path):
    """lfq(*arguments) -> (exit code, stdout, stderr), in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lfq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return call
