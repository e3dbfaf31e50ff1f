"""The IXI data set (https://brain-development.org/ixi-dataset, CC BY-SA 3.0): its names, and the split of the paper.

IXI holds T1, T2, PD, MRA and DTI volumes of nearly 600 healthy subjects from three London hospitals: HH (Hammersmith,
Philips 3 T), Guys (Philips 1.5 T) and IOP (Institute of Psychiatry, GE 1.5 T).
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_d3gm.transforms.kspace.functional import keyed_generator

logger = logging.getLogger(__name__)

SITES = ("HH", "Guys", "IOP")
"""The hospitals by their names in IXI's files."""

MANIFEST = Path(__file__).parent / "manifests" / "ixi_t2.json"
"""The split of the paper, as far as it is published: see its entry ``selection``."""

_NAME = re.compile(rf"(IXI\d+)-({'|'.join(SITES)})-(\w+)-(T1|T2|PD|MRA|DTI(?:-\d+)?)\.nii(?:\.gz)?")


class IxiError(ValueError):
    """A file, a folder or a manifest does not fit IXI or the split; the message names it."""


@dataclass(frozen=True)
class IxiFile:
    """A volume of IXI: its ``path``, ``subject`` (IXI012), ``site``, ``scan`` (1211) and ``contrast``."""

    path: Path
    subject: str
    site: str
    scan: str
    contrast: str


def parse_name(path: str | os.PathLike[str]) -> IxiFile:
    """Read the name of a volume.

    Raises:
        IxiError: it is no name of IXI's.

    Example:
        >>> file = parse_name("IXI012-HH-1211-T2.nii.gz")
        >>> file.subject, file.site, file.scan, file.contrast
        ('IXI012', 'HH', '1211', 'T2')
    """
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise IxiError(f"{path} has no name of IXI's; accepted: such as IXI012-HH-1211-T2.nii.gz.")
    return IxiFile(Path(path), *match.groups())


def find_ixi(folder: str | os.PathLike[str], contrast: str = "T2") -> list[IxiFile]:
    """Return the volumes of one contrast in a folder and those below it, one per subject, by subject.

    NIfTI files with other names, and the later scans of a subject who has several, are left out with a warning.

    Raises:
        IxiError: there is no such folder, or no such volume in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("IXI012-HH-1211-T2.nii.gz", "IXI012-HH-1211-PD.nii.gz", "IXI002-Guys-0828-T2.nii.gz"):
        ...     (folder / name).touch()
        >>> [file.subject for file in find_ixi(folder)]
        ['IXI002', 'IXI012']
    """
    if not Path(folder).is_dir():
        raise IxiError(f"{folder}: no such folder; accepted: IXI's, with files such as IXI012-HH-1211-T2.nii.gz.")
    found: dict[str, IxiFile] = {}
    left_out = []
    for path in sorted(Path(folder).rglob("*.nii*")):
        if path.name.startswith("."):
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            left_out.append(path.name)
        elif match[4] == contrast and found.setdefault(match[1], parse_name(path)).path != path:
            left_out.append(path.name)
    if left_out:
        logger.warning("%s: %d files are left out: %s", folder, len(left_out), _few(left_out))
    if not found:
        raise IxiError(
            f"{folder}: no {contrast} volume of IXI; accepted: files such as IXI012-HH-1211-{contrast}.nii.gz."
        )
    return [found[subject] for subject in sorted(found)]


def ixi_split(folder: str | os.PathLike[str], manifest: str | os.PathLike[str] = MANIFEST) -> dict[str, list[IxiFile]]:
    """Divide IXI's volumes as a manifest says, by subject.

    A split of the manifest has a ``site``, and as ``subjects`` their names or their number. Named subjects come first;
    a number is taken from the site's others in the order of a hash of (seed, site, subject), so that a missing subject
    changes little. The others belong to no split.

    Args:
        folder: IXI's, or one above it.
        manifest: JSON file like `MANIFEST`.

    Returns:
        The volumes of each split, by subject; no subject is in two.

    Raises:
        IxiError: a site has too few subjects, a subject named is missing or in two splits, or the manifest has a site
            that IXI does not have.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(12):
        ...     (folder / f"IXI{number:03}-HH-1000-T2.nii.gz").touch()
        >>> splits = {"train": {"site": "HH", "subjects": 7}, "test": {"site": "HH", "subjects": ["IXI003", "IXI005"]}}
        >>> _ = (folder / "split.json").write_text(json.dumps({"contrast": "T2", "seed": 0, "splits": splits}))
        >>> {name: len(files) for name, files in ixi_split(folder, folder / "split.json").items()}
        {'train': 7, 'test': 2}
    """
    content = _read_manifest(manifest)
    sites: dict[str, dict[str, IxiFile]] = defaultdict(dict)
    for file in find_ixi(folder, content["contrast"]):
        sites[file.site][file.subject] = file
    chosen = _choose({site: set(files) for site, files in sites.items()}, content, folder)
    return {
        name: [sites[content["splits"][name]["site"]][subject] for subject in sorted(subjects)]
        for name, subjects in chosen.items()
    }


def ixi_paths(folder: str | os.PathLike[str], split: str, manifest: str | os.PathLike[str] = MANIFEST) -> list[str]:
    """Return the files of one split of `ixi_split`, for a bundle's config.

    Raises:
        IxiError: the manifest has no such split, or as `ixi_split`.

    Example:
        >>> ixi_paths(".", "holiday")
        Traceback (most recent call last):
        monai_d3gm.data.collections.ixi.IxiError: split is 'holiday'; accepted: train, validation, test, ...
    """
    names = _read_manifest(manifest)["splits"]
    if split not in names:
        raise IxiError(f"split is {split!r}; accepted: {', '.join(names)}.")
    return [str(file.path) for file in ixi_split(folder, manifest)[split]]


def _read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        sites = {split["site"] for split in content["splits"].values() if split["subjects"]}
        content["contrast"], int(content["seed"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise IxiError(f"{path}: no manifest such as {MANIFEST.name}: {type(error).__name__}: {error}") from error
    if not sites <= set(SITES):
        raise IxiError(f"{path} has the sites {', '.join(sorted(sites))}; accepted: {', '.join(SITES)}.")
    return content


def _choose(
    sites: Mapping[str, set[str]], content: Mapping[str, Any], folder: str | os.PathLike[str]
) -> dict[str, list[str]]:
    """The subjects of each split, from those of each site."""
    splits: Mapping[str, Mapping[str, Any]] = content["splits"]
    chosen: dict[str, list[str]] = {name: [] for name in splits}
    rest = {site: set(sites.get(site, ())) for site in SITES}
    for name, split in splits.items():
        if isinstance(split["subjects"], list):
            missing = [subject for subject in split["subjects"] if subject not in rest[split["site"]]]
            if missing:
                raise IxiError(f"{folder}: of the split {name}, {_few(missing)} are missing or in an earlier split.")
            chosen[name] = split["subjects"]
            rest[split["site"]] -= set(split["subjects"])
    for site, subjects in rest.items():
        counts = {n: s["subjects"] for n, s in splits.items() if s["site"] == site and isinstance(s["subjects"], int)}
        wanted = sum(counts.values())
        if wanted > len(subjects):
            raise IxiError(
                f"{folder}: {len(subjects)} subjects of {site} with a {content['contrast']} volume; the splits "
                f"{', '.join(counts)} need {wanted}."
            )
        order = iter(sorted(subjects, key=lambda s: keyed_generator(content["seed"], site, s).random()))
        for name, count in counts.items():
            chosen[name] = [next(order) for _ in range(count)]
    return chosen


def _few(names: list[str]) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
