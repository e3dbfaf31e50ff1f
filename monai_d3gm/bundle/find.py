"""Finds a bundle's folder and reads its files."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai_d3gm.bundle.command_line import command_line_options
from monai_d3gm.bundle.errors import BundleError, did_you_mean
from monai_d3gm.files import load_json

__all__ = ["EVALUATION", "INFERENCE", "find_bundle_root", "find_bundles", "read_config", "read_json"]

INFERENCE = ("inference.json",)
"""The config files of a restoration."""

EVALUATION = ("inference.json", "evaluate.json")
"""The config files of an evaluation: the second is an overlay over the first."""

_CONFIG = "configs/inference.json"
_PACKAGE = Path(__file__).resolve().parents[1]


def find_bundle_root(name: str | PathLike[str]) -> str:
    """The folder of a bundle, with its ``configs/inference.json``. It is searched in this order: the folder of the
    config file on MONAI's command line; ``name`` itself as a folder; the current folder, where it has this name;
    ``bundles/<name>`` in the current folder, then in the folder that the package was installed from, or in the
    installed package.

    Args:
        name: name or folder of a bundle.

    Raises:
        BundleError: no bundle is found.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "configs").mkdir()
        >>> _ = (folder / "configs" / "inference.json").write_text("{}")
        >>> find_bundle_root(folder) == str(folder)
        True
    """
    here = Path.cwd()
    places = [Path(file).parent.parent for file in command_line_options().get("config_file", [])[:1]]
    places += [Path(name)]
    if not Path(name).is_absolute():
        places += [here] if here.name == str(name) else []
        places += [base / "bundles" / name for base in (here, _PACKAGE.parent, _PACKAGE)]
    for place in places:
        if (place / _CONFIG).is_file():
            return str(place)
    searched = ", ".join(str(place) for place in dict.fromkeys(places))
    hint = did_you_mean(str(name), find_bundles())
    raise BundleError(f"no bundle {str(name)!r}: none of {searched} has a file {_CONFIG}; {hint}")


def find_bundles() -> dict[str, Path]:
    """The bundles that `find_bundle_root` finds by name alone, name -> folder, by name.

    Example:
        >>> sorted({"mri_recon", "mri_sr", "derain", "dehaze"} - set(find_bundles()))
        []
    """
    found: dict[str, Path] = {}
    for base in (Path.cwd(), _PACKAGE.parent, _PACKAGE):
        for file in (base / "bundles").glob(f"*/{_CONFIG}"):
            found.setdefault(file.parents[1].name, file.parents[1])
    return dict(sorted(found.items()))


def read_config(root: Path, configs: Sequence[str]) -> dict[str, Any]:
    """Config files of a bundle as one, a later one over an earlier one, as MONAI's command line takes them.

    Args:
        root: the bundle's folder.
        configs: names of files in its folder ``configs``.

    Raises:
        BundleError: one is missing, or no JSON object.

    Example:
        >>> root = find_bundles()["mri_recon"]
        >>> read_config(root, ["inference.json"])["network_def"]["_target_"]
        'monai_d3gm.networks.nets.ConditionalNAFNet'
    """
    from monai.bundle import ConfigParser

    files = [root / "configs" / name for name in configs]
    for file in files:
        read_json(file)
    return dict(ConfigParser.load_config_files([str(file) for file in files]))


def read_json(file: Path) -> dict[str, Any]:
    """A config file of a bundle.

    Raises:
        BundleError: it is missing, or no JSON object.

    Example:
        >>> read_json(find_bundles()["mri_recon"] / "configs" / "metadata.json")["task"]
        'Reconstruction of MR images from undersampled Cartesian k-space'
    """
    try:
        content = load_json(file)
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{file}: not a JSON object.")
    return content
