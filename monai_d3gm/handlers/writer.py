"""Writes restored volumes: images in the input's geometry, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from monai_d3gm.data.formats.fastmri import write_submission
from monai_d3gm.data.formats.images import write_image, write_map
from monai_d3gm.data.formats.nifti import write_volume
from monai_d3gm.data.restoration.inputs import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.engines.evaluator import RestorationEvents
from monai_d3gm.files import OutputError, writable_folder
from monai_d3gm.handlers.panel import save_panel
from monai_d3gm.trust.calibration import CalibratedUncertainty

__all__ = ["FORMATS", "VolumeWriter", "check_outputs"]

FORMATS = ("same", "nifti")
"""In which format a restored volume can be written."""

_LABELS = {"std": "standard deviation", "interval": "half-width of the interval"}


def check_outputs(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that cannot be written or files that are there; make nothing.

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
        format: ``same`` as the input, or ``nifti`` whatever it is.
        provenance: what made the images, name -> text, for formats that record it: see `provenance`.

    Raises:
        OutputError: when the engine starts: the folder cannot be written, or a file is there and ``overwrite`` is
            False.
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
        """Refuse to start where the results could not be written."""
        from monai_d3gm.data.formats.dicom import check_identity

        for source in engine.volumes:
            if self._as_dicom(source):
                check_identity(source.dicom)
        names = [name for source in engine.volumes for name in self._names(source)]
        check_outputs(self.folder, names, self.overwrite)

    def write(self, engine: Any) -> None:
        """Write the volume that is complete."""
        volume: RestoredVolume = engine.state.volume
        source = volume.source
        folder = writable_folder(self.folder)
        if source.kind == "image":
            self._write_photograph(folder, volume)
            return
        half_width = getattr(engine.state, "uncertainty", CalibratedUncertainty()).half_width
        images = {"restored": volume.images[METHOD], "std": volume.std, "interval": half_width}
        for kind, slices in images.items():
            path = folder / self._name(source, kind)
            if slices is None:
                path.unlink(missing_ok=True)
            elif self._as_dicom(source):
                self._write_dicom(path, kind, volume.as_volume(slices), source)
            else:
                write_volume(path, volume.as_volume(slices), source.affine, source.header)
        save_panel(folder / self._name(source, "panel"), volume, overwrite=self.overwrite)
        if self._submits(source):
            restored = np.moveaxis(volume.as_volume(volume.images[METHOD]), -1, 0)
            write_submission(folder / f"{source.stem}.h5", restored, overwrite=self.overwrite)

    def _write_photograph(self, folder: Path, volume: RestoredVolume) -> None:
        source = volume.source
        paths = {kind: folder / self._name(source, kind) for kind in ("restored", "std", "panel")}
        if volume.std is None:
            paths["std"].unlink(missing_ok=True)
        else:
            write_map(paths["std"], volume.std[0], overwrite=self.overwrite)
        image = np.moveaxis(volume.images[METHOD][0], -1, 0)
        write_image(paths["restored"], image, **source.attributes, overwrite=self.overwrite)
        save_panel(paths["panel"], volume, overwrite=self.overwrite)

    def _write_dicom(self, path: Path, kind: str, data: NDArray[np.float32], source: InputVolume) -> None:
        from monai_d3gm.data.formats.dicom import write_parametric_map, write_series  # with the extra "dicom" alone

        assert source.dicom is not None
        options: dict[str, Any] = {"provenance": self.provenance, "overwrite": self.overwrite}
        if kind == "restored":
            write_series(path, data, source.affine, source.dicom, **options)
        else:
            write_parametric_map(path, data, source.affine, source.dicom, label=_LABELS[kind], **options)

    def _as_dicom(self, source: InputVolume) -> bool:
        return source.kind == "dicom" and self.format == "same"

    def _submits(self, source: InputVolume) -> bool:
        return self.save_h5 and source.kind == "kspace"

    def _name(self, source: InputVolume, kind: str) -> str:
        """The name of the file, or of the folder of a series, that holds this kind of image."""
        suffix = {"restored": ".nii.gz", "std": ".nii.gz", "interval": ".nii.gz", "panel": ".png"}
        if source.kind == "image":
            tiff = source.path.suffix.lower() in (".tif", ".tiff")
            suffix |= {"restored": ".tif" if tiff else ".png", "std": ".tif"}
        elif self._as_dicom(source):
            suffix |= {"restored": "", "std": ".dcm", "interval": ".dcm"}
        return f"{source.stem}_{kind}{suffix[kind]}"

    def _names(self, source: InputVolume) -> list[str]:
        kinds = ("restored", "std", "panel") if source.kind == "image" else ("restored", "std", "interval", "panel")
        names = [self._name(source, kind) for kind in kinds]
        return names + ([f"{source.stem}.h5"] if self._submits(source) else [])
