"""Writes restored volumes: images in the input's geometry, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_d3gm.data.formats.fastmri import write_submission
from monai_d3gm.data.formats.registry import output_format
from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.engines.evaluator import RestorationEvents
from monai_d3gm.files import OutputError, writable_folder
from monai_d3gm.handlers.panel import save_panel
from monai_d3gm.trust.intervals import CalibratedUncertainty

__all__ = ["FORMATS", "VolumeWriter", "check_outputs"]

FORMATS = ("same", "nifti", "dicom")
"""The formats in which a restored volume can be written."""


def check_outputs(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that cannot be written or existing files; make nothing.

    Raises:
        OutputError: naming the folder or the file.
    """
    for name in names:
        if (folder / name).exists() and not overwrite:
            raise OutputError(f"{folder / name} exists; choose another output_dir, or set overwrite to true.")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        writable_folder(existing)
    except OutputError as error:
        raise OutputError(f"output_dir {folder} cannot be written: {error}") from error


class VolumeWriter:
    """Writes each volume when it is complete: images in the input's geometry, and a picture.

    For an input ``name.nii.gz`` or ``name.h5`` these are ``name_restored.nii.gz``, ``name_std.nii.gz`` where several
    samples were drawn, ``name_interval.nii.gz`` where a `TrustCheck` attached before gave the intervals' half-width,
    ``name_panel.png`` and, if asked for, ``name.h5`` in fastMRI's submission format for k-space files. For a DICOM
    series they are a derived series in the folder ``name_restored``, the parametric maps ``name_std.dcm`` and
    ``name_interval.dcm``, and the picture. For a photograph they are ``name_restored.png``, or ``.tif`` for a TIFF, of
    as many bits and with the same ICC profile, ``name_std.tif`` with the standard deviation of red, green and blue as
    float32, and the picture. Each is written whole or not at all; the folder is made with the first.

    Args:
        output_dir: where to.
        overwrite: replace files that are there (and remove those of an earlier run that are not written again).
        save_h5: also write fastMRI's submission format.
        format: ``same`` as the input (of k-space NIfTI), ``nifti`` whatever it is, or ``dicom``, which raw data with
            the place of the slices and the study in their header allow.
        provenance: what made the images, name -> text, for formats that record it: see `provenance`.

    Raises:
        OutputError: when the engine starts: the folder cannot be written, or a file is there and ``overwrite`` is
            False.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> from monai_d3gm.data import KspaceSliceDataset, bundled_epi_path
        >>> (source,) = KspaceSliceDataset(bundled_epi_path(), slices=1).volumes
        >>> image = np.ones((1, 128, 96), np.float32)
        >>> volume = RestoredVolume(source, {"zero-filled": image, METHOD: image}, None, None)
        >>> folder = Path(tempfile.mkdtemp())
        >>> VolumeWriter(folder).write(SimpleNamespace(state=SimpleNamespace(volume=volume)))
        >>> sorted(path.name for path in folder.iterdir())
        ['example4d_panel.png', 'example4d_restored.nii.gz']
    """

    def __init__(
        self,
        output_dir: str | PathLike[str],
        overwrite: bool = False,
        save_h5: bool = False,
        format: str = "same",
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"format is {format!r}; accepted: {', '.join(FORMATS)}.")
        self.folder = Path(str(output_dir))
        self.overwrite = overwrite
        self.save_h5 = save_h5
        self.format = format
        self.provenance = dict(provenance or {})

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, self.write)

    def check(self, engine: Any) -> None:
        """Refuse to start if the results cannot be written."""
        names: list[str] = []
        for source in engine.volumes:
            output = output_format(source.format, self.format)
            output.check(source)
            names += [*output.outputs(source).values(), _panel(source), *self._submission(source)]
        check_outputs(self.folder, names, self.overwrite)

    def write(self, engine: Any) -> None:
        """Write the completed volume."""
        volume: RestoredVolume = engine.state.volume
        source = volume.source
        folder = writable_folder(self.folder)
        half_width = getattr(engine.state, "uncertainty", CalibratedUncertainty()).half_width
        images = {"restored": volume.images[METHOD], "std": volume.std, "interval": half_width}
        output = output_format(source.format, self.format)
        for what, name in output.outputs(source).items():
            slices = images[what]
            if slices is None:
                (folder / name).unlink(missing_ok=True)
            else:
                output.write(folder / name, what, slices, source, provenance=self.provenance, overwrite=self.overwrite)
        save_panel(folder / _panel(source), volume, half_width, overwrite=self.overwrite)
        for name in self._submission(source):
            restored = np.moveaxis(source.as_volume(volume.images[METHOD]), -1, 0)
            write_submission(folder / name, restored, overwrite=self.overwrite)

    def _submission(self, source: InputVolume) -> list[str]:
        return [f"{source.stem}.h5"] if self.save_h5 and source.measured_kspace else []


def _panel(source: InputVolume) -> str:
    return f"{source.stem}_panel.png"
