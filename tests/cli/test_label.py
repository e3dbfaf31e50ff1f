"""``d3gm label start`` where the server cannot start."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from monai_d3gm.cli.main import main

absent = importlib.util.find_spec("monailabel") is None


@pytest.mark.skipif(not absent, reason="MONAI Label is installed")
def test_another_environment_is_refused_with_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "start", "--studies", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("d3gm: error: MONAI Label cannot run here: ") and error.count("\n") == 1
    assert "monailabel is not installed" in error and "README" in error


def test_the_command_is_parsed_without_anything_heavy() -> None:
    code = (
        "import sys\nfrom monai_d3gm.cli.main import main\n"
        "try: main(['label', 'start', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'monai', 'monailabel', 'fastapi'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    assert "--studies FOLDER" in run.stdout and "127.0.0.1" in run.stdout
