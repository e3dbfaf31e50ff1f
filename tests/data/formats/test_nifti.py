"""Reading NIfTI: every byte of a compressed file counts, and odd geometry is read as what it says, or refused."""

from __future__ import annotations

import gzip
import random
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_d3gm.data.formats.nifti import VolumeFileError, files_of, read_magnitude
from monai_d3gm.files import MEMORY_VARIABLE, TooLargeError

VOLUME = np.random.default_rng(0).integers(0, 999, (9, 8, 7)).astype(np.int16)
AFFINE = np.array([[2, 0, 0, -60], [0, 2, 0, -70], [0, 0, 3, 10], [0, 0, 0, 1.0]])


def save(path: Path, data: np.ndarray = VOLUME, affine: np.ndarray = AFFINE, **values: object) -> Path:
    """A file with the affine in both forms, and then some values of the header changed."""
    image = nibabel.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    content = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in values.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


# --- every byte of a compressed file --------------------------------------------------------------------------------


def test_a_damaged_compressed_file_is_never_read(tmp_path: Path) -> None:
    """Single bits, cuts and sums: all that gzip's checksum covers, which is all behind its header of 10 bytes."""
    whole = save(tmp_path / "a.nii.gz").read_bytes()
    generator, target = random.Random(0), tmp_path / "b.nii.gz"
    damaged = [whole[: len(whole) - cut] for cut in range(1, 10)]
    for _ in range(40):
        place = generator.randrange(10, len(whole))
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :])
    for content in damaged:
        target.write_bytes(content)
        with pytest.raises(VolumeFileError, match=r"b\.nii\.gz: "):
            read_magnitude(target)


@pytest.mark.parametrize("count", [1, 3])
def test_the_checksum_counts_whichever_volume_is_wanted(count: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.stack([VOLUME + i for i in range(count)], axis=-1))
    for index in range(count):
        np.testing.assert_array_equal(read_magnitude(path, index).data, VOLUME + index)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(VolumeFileError, match="CRC check failed"):
        read_magnitude(path)


def test_a_file_of_several_gzip_members_is_one(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(b"".join(gzip.compress(content[i : i + 200]) for i in range(0, 2000, 200)))
    np.testing.assert_array_equal(read_magnitude(tmp_path / "b.nii.gz").data, VOLUME)


# --- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_an_sform_that_is_none_leaves_the_qform(value: float, tmp_path: Path) -> None:
    rows = {f"srow_{axis}": np.full(4, value, np.float32) for axis in "xyz"}
    volume = read_magnitude(save(tmp_path / "a.nii", **rows))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.warnings == ("the sform is no affine; the qform is taken",)


def test_without_either_the_voxel_size_is_left(tmp_path: Path) -> None:
    rows = {f"srow_{axis}": np.zeros(4, np.float32) for axis in "xyz"}
    volume = read_magnitude(save(tmp_path / "a.nii", qform_code=0, **rows))
    assert np.linalg.norm(volume.affine[:3, :3], axis=0).tolist() == [2, 2, 3]
    assert "place and orientation are unknown" in volume.warnings[0]
    with pytest.raises(VolumeFileError, match=r"b\.nii: the sform is no affine.*accepted: an sform or a qform"):
        read_magnitude(save(tmp_path / "b.nii", qform_code=0, pixdim=np.full(8, np.nan, np.float32), **rows))


@pytest.mark.parametrize("excess", [0, 4.7e-7, 5e-4])
def test_a_rounded_quaternion_is_read(excess: float, tmp_path: Path) -> None:
    """b^2 + c^2 = 1 + excess: half a turn about an axis in the plane, whose real part is 0."""
    b, c = np.sqrt(1 + excess) * np.array([0.6, 0.8])
    volume = read_magnitude(save(tmp_path / "a.nii", sform_code=0, quatern_b=b, quatern_c=c, quatern_d=0))
    turn = np.array([[-0.28, 0.96, 0], [0.96, 0.28, 0], [0, 0, -1]])  # 2 v v^T - 1
    np.testing.assert_allclose(volume.affine[:3, :3], turn * [2, 2, 3], atol=1e-5)
    assert not volume.warnings


def test_a_wrong_quaternion_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", sform_code=0, quatern_b=1, quatern_c=1)
    assert "the qform is no affine" in read_magnitude(path).warnings[0]


@pytest.mark.parametrize("end", [(), (1,), (1, 1), (1, 1, 1, 1)])
def test_trailing_axes_of_length_one_are_none(end: tuple[int, ...], tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_magnitude(save(tmp_path / "a.nii", VOLUME.reshape(9, 8, 7, *end))).data, VOLUME)
    with pytest.raises(VolumeFileError, match="accepted: 2 to 4"):
        read_magnitude(save(tmp_path / "b.nii", np.stack([VOLUME] * 2, -1).reshape(9, 8, 7, 1, 2)))


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffixes", [(".hdr", ".img"), (".hdr.gz", ".img.gz")])
def test_a_pair_is_one_volume(suffixes: tuple[str, str], tmp_path: Path) -> None:
    header, voxels = (tmp_path / f"a{suffix}" for suffix in suffixes)
    nibabel.save(nibabel.Nifti1Pair(VOLUME, AFFINE), voxels)
    assert files_of(header) == files_of(voxels) == (header, voxels)
    for path in (header, voxels):
        volume = read_magnitude(path)
        np.testing.assert_array_equal(volume.data, VOLUME)
        np.testing.assert_allclose(volume.affine, AFFINE)
    voxels.unlink()
    with pytest.raises(VolumeFileError, match="the header of a NIfTI pair; accepted: with its voxels"):
        read_magnitude(header)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("size", [3, 4, 100, 3640])
def test_more_voxels_than_there_are_are_refused(name: str, size: int, tmp_path: Path) -> None:
    path = save(tmp_path / name, dim=[3, size * 9, 32767 if size > 4 else 8, 7, 1, 1, 1, 1])
    with pytest.raises((VolumeFileError, TooLargeError), match="are described|missing|takes .* GiB|Expected"):
        read_magnitude(path)


def test_the_limit_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9 x 8 x 7 voxels of 2 bytes, and three times as many of 4."""
    path, size = save(tmp_path / "a.nii"), 9 * 8 * 7 * (2 + 3 * 4)
    for limit, fits in ((size + 1, True), (size - 1, False)):
        monkeypatch.setenv(MEMORY_VARIABLE, repr(limit / 2**30))
        if fits:
            read_magnitude(path)
            continue
        with pytest.raises(TooLargeError, match=r"a\.nii: a volume of 9 x 8 x 7 voxels takes .* accepted: up to"):
            read_magnitude(path)
    for text in ("0", "much", "nan", "-1"):
        monkeypatch.setenv(MEMORY_VARIABLE, text)
        with pytest.raises(ValueError, match=f"{MEMORY_VARIABLE} is '{text}'; accepted: a number of GiB above 0"):
            read_magnitude(path)


def test_what_follows_the_voxels_is_bounded(tmp_path: Path) -> None:
    """A mebibyte may follow; the bomb behind the volume is not inflated to its end."""
    content = save(tmp_path / "a.nii").read_bytes()
    compress = zlib.compressobj(wbits=31)
    bomb = compress.compress(content + bytes(2**22)) + compress.flush()
    (tmp_path / "b.nii.gz").write_bytes(bomb)
    with pytest.raises(VolumeFileError, match="more than 1048576 bytes follow the voxels"):
        read_magnitude(tmp_path / "b.nii.gz")
