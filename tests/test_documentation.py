"""What the README and the tutorials say is so: their examples run, their options and files exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from small_bundle import full_kspace, logging_kept, magnitude, write_nifti

from monai_d3gm.bundle import EVALUATION, INFERENCE
from monai_d3gm.cli import main
from monai_d3gm.cli.options import given_options
from monai_d3gm.data import write_kspace

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts)
PAGES += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("bundles/*/docs/README.md"))


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language in a Markdown file of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """The commands of a page, each as its words; variables that are set before one are left out."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" && ")]
    words = [shlex.split(part, comments=True) for part in parts]
    return [[word for word in each if not re.match(r"[A-Z_0-9]+=", word)] for each in words if each]


def test_the_readme_shows_how_it_is_used_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block runs as it stands, but for fewer evaluations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python"])
    for page in ("README.md", "docs/tutorials/python.md"):
        block = blocks(page, "python")[0]
        assert "acceleration=4" in block
        names: dict[str, Any] = {}
        fast = block.replace("acceleration=4", "acceleration=4, num_inference_steps=1, num_samples=1, baseline=False")
        with logging_kept():
            exec(compile(fast, page, "exec"), names)
        assert names["scan"].image.shape == (1, 232, 230) and (tmp_path / "scan.png").stat().st_size > 10_000


def test_the_example_by_hand_runs() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(blocks("docs/tutorials/python.md", "python")[1], "python.md", "exec"), names)
    assert names["image"].shape == (1, 2, 64, 64) and torch.isfinite(names["image"]).all()


PROGRAMS = {"pip", "pytest", "sphinx-build", "torchrun", "docker", "curl", "python3", "python3.11"}
"""Programs whose arguments are not this package's."""


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_has_options_that_exist(page: str) -> None:
    """Options of ``d3gm`` are parsed, keys of ``monai.bundle`` looked up in the configurations, scripts on the disk."""
    for words in commands(page):
        program = words[0].rpartition("/")[2]
        if program == "d3gm":
            check_options(words[1:])
        elif program == "python" and words[1:4] == ["-m", "monai.bundle", "run"]:
            check_keys(words[4:])
        elif program == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), words
        else:
            assert program in PROGRAMS or words[1:3] == ["-m", "venv"] or "pytest" in words, words


def check_options(arguments: list[str]) -> None:
    """The command line of ``d3gm`` can be parsed, and a bundle that it names has the options."""
    if "--help" in arguments:
        return
    parsed, unknown = main.make_parser().parse_known_args(arguments)
    assert not unknown, arguments
    root = ROOT / "bundles" / getattr(parsed, "bundle", "none")
    if arguments[0] in ("restore", "evaluate", "calibrate") and root.is_dir():
        given_options(parsed, root, INFERENCE if arguments[0] == "restore" else EVALUATION)


def check_keys(arguments: list[str]) -> None:
    """The configurations exist and have the keys."""
    files = re.findall(r"[\w/.-]+\.json", arguments[arguments.index("--config_file") + 1])
    known = set(ConfigParser.load_config_files([str(ROOT / file) for file in files]))
    overlaid = any(file.endswith("train.json") and "ixi" in file for file in files)
    for key in (word[2:] for word in arguments if word.startswith("--")):
        assert key == "config_file" or re.split("::|#", key)[0] in known or overlaid, key


def test_the_keys_of_the_card_exist_in_the_bundle() -> None:
    for bundle in sorted((ROOT / "bundles").iterdir()):
        card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
        table = re.search(r"^\| key \| what \| default \|\n(.*?)\n\n", card, re.DOTALL | re.MULTILINE)
        assert table is not None, bundle.name
        first = [line.split("|")[1] for line in table.group(1).splitlines()[1:]]
        keys = {key for cell in first for key in re.findall(r"`(\w+)`", cell)}
        config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
        assert len(keys) > 10 and keys <= set(config), keys - set(config)


def test_the_test_command_is_the_one_of_the_checks() -> None:
    checks = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert ".venv/bin/pytest -n 2" in checks
    assert "&& .venv/bin/pytest -n 2\n" in README


PLACES = {
    "/path/to/scan.h5": "scan.h5",
    "/path/to/study": "volumes",
    "/path/to/folder": "volumes",
    "/path/to/fine/volumes": "volumes",
    "/path/to/volumes": "volumes",
    "/path/to/photographs": "photographs",
    "/path/to/results": "results",
    "misty.jpg": "photographs/street.png",
    "FOLDER": "volumes",
}


@pytest.mark.documentation
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_run(page: str, tmp_path: Path) -> None:
    """Commands that restore, evaluate or tell run as printed, on small inputs; the trained weights are used.

    An experiment takes hours: its dry run has to go through, where the development data are.
    """
    for name in ("bundles", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("volumes", "photographs"):
        (tmp_path / name).mkdir()
    write_nifti(tmp_path / "volumes" / "sub-01_T1w.nii.gz", magnitude(64, 64, 2))
    Image.fromarray(np.full((64, 80, 3), 90, np.uint8)).save(tmp_path / "photographs" / "street.png")
    write_kspace(tmp_path / "scan.h5", full_kspace(64, 48, 1), recon_size=(64, 48))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for number, words in enumerate(commands(page)):
        program, arguments = words[0].rpartition("/")[2], [PLACES.get(word, word) for word in words[1:]]
        if any(word.startswith(("/path", "/data", "dicomweb")) for word in arguments):
            continue  # needs what is not here: a data set, a server
        if "train.json" in " ".join(arguments):
            continue  # takes hours
        if re.search("derain|dehaze", " ".join(arguments)):
            arguments = ["photographs" if word == "volumes" else word for word in arguments]
        if program == "d3gm" and arguments[0] == "compare":
            if "D3GM_DATA" not in os.environ:
                continue
            arguments.append("--dry-run")
        told = ("restore", "evaluate", "diagnose", "list", "info", "doctor", "compare")
        if program == "d3gm" and arguments[0] in told:
            command = [sys.executable, "-c", "import sys; from monai_d3gm.cli.main import main; sys.exit(main())"]
        elif program == "python" and arguments[:3] == ["-m", "monai.bundle", "run"]:
            command = [sys.executable]
        else:
            continue
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        for path in tmp_path.iterdir():
            if not path.name.startswith("run"):
                (folder / path.name).symlink_to(path)
        run = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, f"{words}\n{run.stdout}\n{run.stderr}"


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "bundles/mri_recon/docs/README.md"])
def test_linked_files_exist(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not re.match(r"https?://", target):
            assert ((ROOT / path).parent / target).exists(), f"{path} links {target}"
