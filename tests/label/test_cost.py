"""The estimates of a request's memory, above what is measured, and of its work, from headers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_series import head, write_classic
from PIL import Image
from small_bundle import BUNDLES, full_kspace, magnitude, write_nifti

from monai_d3gm.data.formats.fastmri import write_kspace
from monai_d3gm.data.formats.registry import read_extent
from monai_d3gm.data.formats.volumes import Extent
from monai_d3gm.data.restoration.units import find_units
from monai_d3gm.label.cost import estimate_bytes, estimate_pixels, read_extents

MEASURE = """
import re, sys
from pathlib import Path
from monai_d3gm.bundle import INFERENCE, make_workflow, run_workflow

root, source, output = map(Path, sys.argv[1:])
status = Path("/proc/self/status")  # the maximum of getrusage is inherited from the process that started this one
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1])
settings = {"inputs": [source], "dataset_dir": source.parent, "output_dir": output, "device": "cpu", "progress": False}
settings |= {"num_inference_steps": 1, "num_samples": 2}
make_workflow(root, INFERENCE, settings).parser.get_parsed_content("inferer")  # all is imported
before = peak()
run_workflow(root, INFERENCE, settings)
print(peak() - before)
"""


def write_input(folder: Path, bundle: str) -> Path:
    if bundle == "mri_sr":
        return write_nifti(folder / "volume.nii.gz", magnitude(96, 96, 4))
    coils = np.exp(1j * np.arange(6))[:, None, None] / np.sqrt(6)
    kspace = (full_kspace(96, 96, 2)[:, None] * coils).astype(np.complex64)
    write_kspace(folder / "scan.h5", kspace, recon_size=(96, 96))
    return folder / "scan.h5"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("bundle", ["mri_sr", "mri_recon"])
def test_the_estimate_is_above_what_a_restoration_takes(bundle: str, tmp_path: Path) -> None:
    source = write_input(tmp_path, bundle)
    arguments = [str(BUNDLES / bundle), str(source), str(tmp_path / "output")]
    run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    taken = int(run.stdout.splitlines()[-1])
    config = json.loads((BUNDLES / bundle / "configs" / "inference.json").read_text())
    assert 0 < taken < estimate_bytes(read_extent(source), config)


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    assert read_extent(write_nifti(tmp_path / "a.nii.gz", magnitude(12, 10, 3))) == Extent((12, 10, 3))
    series = np.zeros((6, 5, 4, 7), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(series, np.eye(4)), tmp_path / "series.nii")
    assert read_extent(tmp_path / "series.nii") == Extent((6, 5, 4))
    write_kspace(tmp_path / "k.h5", np.ones((2, 4, 8, 6), np.complex64), recon_size=(8, 6))
    assert read_extent(tmp_path / "k.h5") == Extent((8, 6, 2), coils=4)
    Image.new("RGB", (9, 7)).save(tmp_path / "p.png")
    assert read_extent(tmp_path / "p.png") == Extent((7, 9, 1), voxel_bytes=80)


def test_a_header_is_believed_before_anything_is_read(tmp_path: Path) -> None:
    """A file of a few hundred bytes that announces 10^12 voxels is too large, not read."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((10000, 10000, 10000))
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(8))
    assert estimate_bytes(read_extent(tmp_path / "huge.nii"), {}) > 10**12


@pytest.mark.parametrize("name", ["cut.nii.gz", "cut.h5", "cut.png", "notes.txt"])
def test_what_has_no_header_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=name):
        read_extent(tmp_path / name)


def test_more_of_anything_takes_more() -> None:
    """Tiles of a fixed extent bound what goes through the network."""
    base = estimate_bytes(Extent((128, 128, 20)), {"batch_size": 4})
    assert estimate_bytes(Extent((128, 128, 20)), {"batch_size": 8}) > base
    assert estimate_bytes(Extent((256, 128, 20)), {"batch_size": 4}) > base
    assert estimate_bytes(Extent((128, 128, 20)), {"batch_size": 4, "factor": 2, "plane": "in"}) > base
    assert estimate_bytes(Extent((128, 128, 20), coils=8), {"batch_size": 4}) > base
    assert estimate_bytes(Extent((128, 128, 20)), {"batch_size": 4, "roi_size": 64}) < base


def test_the_volumes_of_a_series_are_measured_by_its_headers(tmp_path: Path) -> None:
    write_classic(tmp_path / "one", head((24, 20, 5)))
    write_classic(tmp_path / "one", head((12, 10, 3)), number=9)
    units, problems = find_units(tmp_path)
    assert not problems
    assert [read_extents(unit) for unit in units] == [[Extent((20, 24, 5))], [Extent((10, 12, 3))]]


def test_work_is_counted_in_pixels_that_go_through_the_network() -> None:
    options = {"num_inference_steps": 5, "num_samples": 4}
    assert estimate_pixels(Extent((10, 20, 30)), options) == 10 * 20 * 30 * 5 * 4
    assert estimate_pixels(Extent((10, 20, 30)), options | {"factor": 2}) == 4 * 10 * 20 * 30 * 5 * 4
    assert estimate_pixels(Extent((10, 20, 30)), options | {"factor": 2, "plane": "through"}) == 2 * 10 * 20 * 30 * 20
    assert estimate_pixels(Extent((10, 20, 30)), options | {"slices": 3}) == 10 * 20 * 3 * 5 * 4
