"""Finding bundles, and reading MONAI's command line as Fire does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_d3gm.bundle import BundleError, check_command_line, find, find_bundle_root, root_cause
from monai_d3gm.sde import D3GMProcess


def make(folder: Path, **config: object) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Keep the hook that a command line sets."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    return monkeypatch


def given(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    import monai.bundle

    program = str(Path(monai.bundle.__file__).with_name("__main__.py"))
    monkeypatch.setattr(sys, "argv", [program, "run", *map(str, arguments)])


def test_a_bundle_is_found_by_folder_by_name_and_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "bundles" / "some_bundle")
    assert find_bundle_root(root) == str(root)
    monkeypatch.chdir(tmp_path)
    assert Path(find_bundle_root("some_bundle")).samefile(root)
    assert Path(find_bundle_root("bundles/some_bundle")).samefile(root)
    monkeypatch.chdir(root)
    assert Path(find_bundle_root("some_bundle")).samefile(root)
    monkeypatch.chdir(root.parent)
    assert Path(find_bundle_root("some_bundle")).samefile(root)
    with pytest.raises(BundleError, match="no bundle 'other_bundle'"):
        find_bundle_root("other_bundle")


def test_an_installed_copy_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "monai_d3gm"
    root = make(package / "bundles" / "some_bundle")
    monkeypatch.setattr(find, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert Path(find_bundle_root("some_bundle")).samefile(root)


def test_the_config_file_on_the_command_line_decides(tmp_path: Path, command_line: pytest.MonkeyPatch) -> None:
    make(tmp_path / "bundles" / "some_bundle")
    copy = make(tmp_path / "copy")
    command_line.chdir(tmp_path)
    for form in (f"--config_file={copy}/configs/inference.json", f"['{copy}/configs/inference.json','x.json']"):
        given(command_line, *([form] if form.startswith("--") else ["--config_file", form]))
        assert find_bundle_root("some_bundle") == str(copy)
    command_line.setattr(sys, "argv", ["serve.py", "--config_file", f"{copy}/configs/inference.json"])
    assert Path(find_bundle_root("some_bundle")).samefile(tmp_path / "bundles" / "some_bundle")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--steps", 3],
        ["--steps=3"],
        ["--part::depth", 2, "--part#width", 4, "--_meta_::version", "2"],
        ["--steps", "$1 + 1"],
        ["--flag"],
        ["--flag", "False", "--share", "0.5", "--share", -1],
        ["--run_id", "run", "--logging_file", "False"],
        ["--name", "false"],
    ],
)
def test_known_keys_pass(arguments: list[object], tmp_path: Path, command_line: pytest.MonkeyPatch) -> None:
    file = make(tmp_path, steps=1, part={}, flag=True, share=1.0, name="a", run=[]) / "configs" / "inference.json"
    given(command_line, "--config_file", file, *arguments)
    check_command_line()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", 3], "unknown key --step; did you mean --steps?"),
        (["--entirely_else", 3], "unknown key --entirely_else; accepted: "),
        (["-stepz=3"], "unknown key --stepz"),
        (["--steps", "many"], "steps is 'many'; accepted: a number."),
        (["--steps", "True"], "steps is True; accepted: a number."),
        (["--sampler::temprature", 3], "unknown key sampler::temprature; did you mean temperature?"),
        (["--sampler::nothing_like_it", 3], "unknown key sampler::nothing_like_it; accepted: clip, eta, grid"),
        (["--flag", "no"], "flag is 'no'; accepted: True or False."),
        (["--flag", "1"], "flag is 1; accepted: True or False."),
    ],
)
def test_others_are_refused(
    arguments: list[object], words: str, tmp_path: Path, command_line: pytest.MonkeyPatch
) -> None:
    sampler = {"_target_": "monai_d3gm.sde.Sampler"}
    file = make(tmp_path, steps=1, flag=True, sampler=sampler) / "configs" / "inference.json"
    given(command_line, "--config_file", file, *arguments)
    with pytest.raises(BundleError) as error:
        check_command_line()
    assert str(error.value).startswith(words)


def test_keys_of_every_config_file_and_of_the_args_file_count(tmp_path: Path, command_line: pytest.MonkeyPatch) -> None:
    first = make(tmp_path, steps=1) / "configs" / "inference.json"
    second, arguments = first.with_name("more.json"), first.with_name("args.json")
    second.write_text(json.dumps({"steps::deep": 1, "nodes": 2}))
    given(command_line, "--config_file", f"['{first}','{second}']", "--nodes", 3)
    check_command_line()
    arguments.write_text(json.dumps({"config_file": [str(first)], "nodes": 3}))
    given(command_line, "--args_file", arguments)
    with pytest.raises(BundleError, match="unknown key --nodes"):
        check_command_line()


def test_the_last_line_on_stderr_is_the_cause(
    tmp_path: Path, command_line: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(command_line, "--config_file", make(tmp_path) / "configs" / "inference.json")
    check_command_line()
    causes = ((lambda: D3GMProcess(tau=0.5), "error: tau is 0.5; accepted"), (lambda: {}["a\nb"], "error: 'a\\nb'"))
    for component, expected in causes:
        with pytest.raises(RuntimeError) as caught:
            ConfigParser({"x": {"_target_": component}, "y": "$@x"}).get_parsed_content("y")
        sys.excepthook(caught.type, caught.value, caught.tb)
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith(expected)
        assert (len(lines) == 1) == ("tau" in expected)  # what the package refuses needs no traceback


def test_without_monais_command_line_nothing_is_touched(command_line: pytest.MonkeyPatch) -> None:
    command_line.setattr(sys, "argv", ["serve.py", "run", "--config_file", "x", "--anything", "1"])
    check_command_line()
    assert sys.excepthook is sys.__excepthook__


def test_the_cause_of_other_errors_is_themselves() -> None:
    error = ValueError("a")
    error.__cause__ = KeyError("b")
    assert root_cause(error) is error
