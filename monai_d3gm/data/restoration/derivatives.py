"""Results of a BIDS data set as a derivative data set (https://bids-specification.readthedocs.io, "BIDS Derivatives").

A restored ``sub-01_T1w.nii.gz`` becomes ``sub-01_desc-restored_T1w.nii.gz`` in the same folders, with a sidecar that
names its source. Pictures and reports, which the standard does not know, are named in ``.bidsignore``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_d3gm import __version__
from monai_d3gm.data.formats.sidecar import DESCRIPTION, read_sidecar
from monai_d3gm.files import load_json

__all__ = ["BIDS_IGNORE", "derivative_description", "derivative_name", "derivative_sidecar", "passed_over"]

BIDS_IGNORE = "*_panel.png\n*_metrics.json\nsummary.json\n.d3gm/\n"
"""The content of ``.bidsignore``."""

_NAME = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+")
_OTHERS = ("derivatives", "sourcedata", "code", "stimuli")
_ANATOMY = ("anat",)
_KEPT = (
    *("Modality", "MagneticFieldStrength", "Manufacturer", "ManufacturersModelName", "BodyPart", "SkullStripped"),
    *("ProtocolName", "SeriesDescription", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle"),
    *("ContrastBolusIngredient", "ScanningSequence", "SequenceVariant", "MRAcquisitionType"),
)
_WHAT = {
    "restored": "Restored magnitude image; research use only.",
    "std": "Standard deviation over samples of the restoration, in the image's units; research use only.",
    "interval": "Half-width of the calibrated interval, in the image's units; research use only.",
}


def passed_over(relative: Path) -> str | None:
    """Why a file of a BIDS data set is not restored, or None: it is no anatomical image of the data set's own.

    Args:
        relative: its path below the data set.

    Example:
        >>> passed_over(Path("sub-01/anat/sub-01_T1w.nii.gz")) is None
        True
        >>> passed_over(Path("derivatives/other/sub-01_T1w.nii.gz"))
        'in derivatives; accepted: images of the data set itself'
    """
    first, *_ = relative.parts
    if first in _OTHERS:
        return f"in {first}; accepted: images of the data set itself"
    if len(relative.parts) > 2 and first.startswith("sub-") and (kind := relative.parent.name) not in _ANATOMY:
        return f"of the kind {kind}; accepted: anatomical images (anat)"
    if "_part-" in relative.name and "_part-mag" not in relative.name:
        return "a part of complex images; accepted: magnitude images"
    return None


def derivative_name(stem: str, name: str) -> str:
    """The name that a result has in a derivative data set.

    Args:
        stem: of the input, without suffix.
        name: of the result, ``stem_what.nii.gz``; anything else keeps its name.

    Example:
        >>> derivative_name("sub-01_T1w", "sub-01_T1w_restored.nii.gz")
        'sub-01_desc-restored_T1w.nii.gz'
        >>> derivative_name("sub-01_desc-clean_T1w", "sub-01_desc-clean_T1w_std.nii.gz")
        'sub-01_desc-cleanStd_T1w.nii.gz'
        >>> derivative_name("sub-01_T1w", "sub-01_T1w_panel.png")
        'sub-01_T1w_panel.png'
    """
    what = name.removeprefix(f"{stem}_").removesuffix(".nii.gz")
    if what not in _WHAT or name != f"{stem}_{what}.nii.gz" or not _NAME.fullmatch(stem):
        return name
    entities, _, suffix = stem.rpartition("_")
    before, _, described = entities.partition("_desc-")
    return f"{before}_desc-{described + what.capitalize() if described else what}_{suffix}.nii.gz"


def derivative_sidecar(source: Path, dataset: Path, what: str) -> dict[str, Any]:
    """The sidecar of a result: its kind, its sources, and the fields of the source that still hold.

    Args:
        source: the input.
        dataset: its BIDS data set.
        what: ``restored``, ``std`` or ``interval``.
    """
    fields = read_sidecar(source)
    return {
        "Description": _WHAT[what],
        "Sources": [f"bids:raw:{source.relative_to(dataset).as_posix()}"],
        **{name: fields[name] for name in _KEPT if name in fields},
    }


def derivative_description(dataset: Path, output: Path, bundle: str) -> Mapping[str, Any]:
    """The content of the derivative's ``dataset_description.json``.

    Args:
        dataset: the source's BIDS data set.
        output: the folder of the results.
        bundle: name of the bundle that made them.
    """
    source = load_json(dataset / DESCRIPTION)
    name = source.get("Name")
    return {
        "Name": f"{name if isinstance(name, str) and name else dataset.name}, restored",
        "BIDSVersion": str(source["BIDSVersion"]),
        "DatasetType": "derivative",
        **({"License": source["License"]} if isinstance(source.get("License"), str) else {}),
        "GeneratedBy": [
            {"Name": "monai_d3gm", "Version": __version__, "Description": f"bundle {bundle}; research use only"}
        ],
        "DatasetLinks": {"raw": Path(os.path.relpath(dataset, output)).as_posix()},
    }
