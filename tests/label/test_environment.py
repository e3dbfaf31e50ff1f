"""What a server's environment must hold."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from monai_d3gm.bundle import BundleError
from monai_d3gm.label.environment import check_environment

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"monailabel": "0.8.5", "pydicom": "2.4.4", "pynetdicom": "2.1.1", "numpy": "1.26.4"}


def installed(versions: dict[str, str]):
    def find(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return find


def test_what_the_constraints_pin_is_accepted() -> None:
    lines = (ROOT / "constraints-label.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    check_environment(installed({name: pins[name] for name in GOOD}), python=(3, 11))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("monailabel", "0.9.0"),
        ("monailabel", "0.8.4"),
        ("pydicom", "3.0.2"),
        ("pynetdicom", "3.0.0"),
        ("numpy", "2.4.6"),
    ],
)
def test_another_version_is_refused_by_name(name: str, version: str) -> None:
    with pytest.raises(BundleError, match=f"{name} is {version}, accepted: ") as refusal:
        check_environment(installed(GOOD | {name: version}), python=(3, 11))
    assert str(refusal.value).count("accepted") == 1


def test_all_that_is_missing_is_named() -> None:
    with pytest.raises(BundleError) as refusal:
        check_environment(installed({"numpy": "1.26.4"}), python=(3, 13))
    for words in ("Python is 3.13", "monailabel is not installed", "pydicom is not installed", "README"):
        assert words in str(refusal.value)
    assert "numpy is" not in str(refusal.value)
