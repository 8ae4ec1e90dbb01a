"""What tests of commands share."""

import sys

import pytest

from lfq_cli.cli import main


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
