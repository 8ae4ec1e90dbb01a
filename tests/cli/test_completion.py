"""`lfq --install-completion`: what shells then complete, in a home folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = {"bash": ".bash_completions/lfq.sh", "zsh": ".zfunc/_lfq"}
STARTED_BY = {"bash": ".bashrc", "zsh": ".zshrc"}


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".bashrc").write_text("export KEPT=1\n")
    (tmp_path / ".zshrc").write_text("export KEPT=1\n")
    return tmp_path


def run(home, *command, **environment):
    variables = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
        **environment,
    }
    done = subprocess.run(command, cwd=home, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(home, shell):
    """The script, installed from within the shell, which is recognised; once more changes nothing."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    for _ in range(2):
        output = run(home, shell, "-c", "lfq --install-completion; true")
        assert f"{shell} completion installed in {home / SCRIPTS[shell]}" in output
    started = (home / STARTED_BY[shell]).read_text()
    assert started.startswith("export KEPT=1\n")
    assert started.count("bash_completions/lfq.sh" if shell == "bash" else "fpath+=~/.zfunc") == 1
    return home / SCRIPTS[shell]


def completed_by_bash(home, script, *words):
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    call = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _lfq_completion lfq; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return run(home, "bash", "-c", f"source '{script}'; {call}").split()


def test_bash_completes_commands_and_options(home):
    script = installed(home, "bash")
    assert completed_by_bash(home, script, "lfq", "enc") == ["encode"]
    assert completed_by_bash(home, script, "lfq", "encode", "--compute") == ["--compute-dtype"]
    assert {"decode", "stats", "verify"} <= set(completed_by_bash(home, script, "lfq", ""))


def test_bash_completes_paths_itself(home):
    script = installed(home, "bash")
    assert completed_by_bash(home, script, "lfq", "encode", "lat") == []
    assert "complete -o default -F _lfq_completion lfq" in script.read_text()


def test_zsh_completes_commands_and_options(home):
    script = installed(home, "zsh")
    run(home, "zsh", "-n", str(script))
    assert script.read_text().startswith("#compdef lfq\n")
    for line, expected in {"lfq enc": "encode", "lfq encode --compute": "--compute-dtype"}.items():
        offered = run(home, "zsh", "-c", "lfq", _LFQ_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
        assert offered.startswith("_arguments ")
        assert f'"{expected}":' in offered


def test_python_m_installs_it_for_the_command(home):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    output = run(home, "bash", "-c", f"{sys.executable} -m lfq_cli --install-completion; true")
    assert str(home / SCRIPTS["bash"]) in output
    assert "_LFQ_COMPLETE=complete_bash" in (home / SCRIPTS["bash"]).read_text()


def test_completing_waits_for_neither_numpy_nor_torch(home):
    listed = run(
        home,
        sys.executable,
        "-c",
        "import sys; from lfq_cli.__main__ import main\n"
        "try: main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules})",
        _LFQ_COMPLETE="complete_bash",
        COMP_WORDS="lfq encode --",
        COMP_CWORD="2",
    )
    assert "--compute-dtype" in listed
    assert not {"numpy", "torch", "safetensors", "einops"} & set(listed.split())
