"""Photographs on disk: what is read, against Pillow, tifffile and known values; what is refused; what is written."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from monai.transforms import Compose, RandScaleIntensity, RandZoom
from PIL import Image, ImageCms

from monai_d3gm.data import (
    EstimatedWeatherDataset,
    ImageDataset,
    ImageFileError,
    ImagePairCropDataset,
    ImagePairDataset,
    SimulatedWeatherDataset,
    read_image,
    write_image,
)
from monai_d3gm.data.collections.pairs import ImagePair
from monai_d3gm.data.collections.samples import bundled_photographs
from monai_d3gm.data.formats.images import MIN_SIDE
from monai_d3gm.data.restoration.inputs import find_inputs
from monai_d3gm.files import MEMORY_VARIABLE, OutputError, TooLargeError
from monai_d3gm.transforms.weather import DarkChannelPrior, SimulateHaze, SimulateRain

SHAPE = (24, 32, 3)
BYTES = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
WORDS = np.random.default_rng(1).integers(0, 65536, SHAPE, dtype=np.uint16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_bad(name: str, folder: Path) -> Path:
    """A file that must be refused, by the name of what is wrong with it."""
    image = Image.fromarray(BYTES)
    path = folder / name
    match path.stem:
        case "text":
            path.write_text("no image at all")
        case "empty":
            path.touch()
        case "truncated":
            image.save(path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        case "corrupt":
            image.save(path)
            content = bytearray(path.read_bytes())
            content[60:90] = bytes(30)
            path.write_bytes(content)
        case "cmyk":
            image.convert("CMYK").save(path)
        case "animated":
            image.save(path, save_all=True, append_images=[Image.fromarray(255 - BYTES)])
        case "pixel":
            Image.new("RGB", (1, 1)).save(path)
        case "gigapixel":
            header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        case "float":
            tifffile.imwrite(path, BYTES[..., 0].astype(np.float32))
        case "planar":
            tifffile.imwrite(path, np.moveaxis(WORDS, -1, 0), photometric="rgb", planarconfig="separate")
        case "gif":
            image.save(path, format="GIF")
    return path


BAD = {
    "text.png": "no PNG, JPEG or TIFF",
    "empty.jpg": "no PNG, JPEG or TIFF",
    "truncated.png": "ends before the end",
    "truncated.jpg": "truncated",
    "truncated.tif": "no PNG, JPEG or TIFF",
    "corrupt.png": "checksum of a 'IDAT' chunk is wrong",
    "cmyk.jpg": "its mode is CMYK",
    "cmyk.tif": "its mode is CMYK",
    "animated.png": "2 frames or pages",
    "animated.tif": "2 frames or pages",
    "pixel.png": "1 x 1 pixels; accepted: 16",
    "gigapixel.png": "too large",
    "float.tif": "its mode is F",
    "planar.tif": "16-bit samples in the layout",
    "gif.png": "no PNG, JPEG or TIFF",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    path = write_bad(name, tmp_path)
    with pytest.raises(ImageFileError, match=BAD[name]) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff"])
@pytest.mark.parametrize(("bits", "values"), [(8, BYTES), (16, WORDS)])
def test_what_is_written_is_read_again(name: str, bits: int, values: np.ndarray, tmp_path: Path) -> None:
    file, profile = tmp_path / name, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = np.moveaxis(values, -1, 0) / np.float32(2**bits - 1)
    write_image(file, data, bits, profile)
    photograph = read_image(file)
    assert photograph.bits == bits and photograph.icc_profile == profile and photograph.remarks == ()
    np.testing.assert_array_equal(photograph.data, data)
    if name != "a.png":
        np.testing.assert_array_equal(tifffile.imread(file), values)
    elif bits == 8:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), values)


def test_sixteen_bit_png_of_many_rows_and_its_high_bytes(tmp_path: Path) -> None:
    """More rows than are written at once; Pillow reads the high bytes."""
    values = np.random.default_rng(2).integers(0, 65536, (600, 17, 3), dtype=np.uint16)
    write_image(tmp_path / "a.png", np.moveaxis(values, -1, 0) / 65535.0, bits=16)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), values >> 8)
    np.testing.assert_array_equal(np.rint(read_image(tmp_path / "a.png").data * 65535), np.moveaxis(values, -1, 0))


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}]
)
def test_sixteen_bit_tiff_in_every_order_of_bytes(options: dict, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", WORDS, photometric="rgb", **options)
    np.testing.assert_array_equal(np.rint(read_image(tmp_path / "a.tif").data * 65535), np.moveaxis(WORDS, -1, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_exif_orientation_is_applied_as_pillow_does(orientation: int, name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(BYTES).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as image:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(image))
    data = read_image(tmp_path / name).data
    assert data.shape[1:] == ((32, 24) if orientation >= 5 else (24, 32))
    np.testing.assert_array_equal(np.rint(data * 255), np.moveaxis(expected, -1, 0))
    write_image(tmp_path / "b.png", data)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").data, data)


@pytest.mark.parametrize(
    ("mode", "remark"), [("L", False), ("1", False), ("P", False), ("RGBA", True), ("LA", True), ("I;16", False)]
)
def test_grey_palette_and_alpha(mode: str, remark: bool, tmp_path: Path) -> None:
    if mode == "I;16":
        image = Image.fromarray(WORDS[..., 0])
        expected = np.repeat(WORDS[..., :1], 3, axis=-1) / np.float32(65535)
    else:
        image = Image.fromarray(BYTES).convert(mode)
        expected = np.asarray(image.convert("RGB")) / np.float32(255)
    image.save(tmp_path / "a.png")
    photograph = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photograph.data, np.moveaxis(expected, -1, 0))
    assert bool(photograph.remarks) == remark


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(BYTES).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.moveaxis(read_image(tmp_path / "a.png").data, 0, -1) * 255, BYTES)


@pytest.mark.parametrize("space", ["LAB", "GRAY", "none"])
def test_a_profile_that_does_not_fit_is_left_out(space: str, tmp_path: Path) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = f"{space:<4}".encode()
    content = b"short" if space == "none" else bytes(profile)
    Image.fromarray(BYTES).save(tmp_path / "a.png", icc_profile=content)
    photograph = read_image(tmp_path / "a.png")
    assert photograph.icc_profile is None
    assert photograph.remarks == (f"the ICC profile (colour space {space}) does not fit RGB and was left out",)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_every_byte_of_compressed_pixels_counts(name: str, tmp_path: Path) -> None:
    """Each byte behind a PNG's signature, and each of a TIFF's deflated strip, which begins the file's pixels."""
    path = tmp_path / name
    write_image(path, np.moveaxis(BYTES, -1, 0) / np.float32(255))
    whole = path.read_bytes()
    places = range(8, len(whole))
    if name == "a.tif":
        with tifffile.TiffFile(path) as file:
            (start,), (size,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
        places = range(start, start + size)
    for place in list(places)[:: max(1, len(places) // 60)] + list(places)[-12:]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises((ImageFileError, TooLargeError)):
            read_image(path)


def test_pixels_that_inflate_without_an_end_are_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 32, 24, 8, 2, 0, 0, 0)
    bomb = zlib.compress(bytes(2**20))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bomb) + chunk(b"IEND", b""))
    with pytest.raises(ImageFileError, match="the pixels inflate to more than"):
        read_image(path)


def test_pictures_are_measured_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(BYTES).save(tmp_path / "a.png")
    monkeypatch.setenv(MEMORY_VARIABLE, repr(32 * 24 * 36 / 2**30 / 2))
    with pytest.raises(TooLargeError, match=r"a\.png: a picture of 32 x 24 pixels takes"):
        read_image(tmp_path / "a.png")


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    data = np.zeros((3, MIN_SIDE, MIN_SIDE), np.float32)
    write_image(tmp_path / "a.png", data)
    with pytest.raises(OutputError, match="exists"):
        write_image(tmp_path / "a.png", data, overwrite=False)
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(tmp_path / "missing" / "a.png", data)
    for arguments, message in [
        (("a.jpg", data), "accepted names"),
        (("b.png", data[:2]), "accepted: \\(3, H, W\\)"),
        (("b.png", data, 12), "bits is 12; accepted: 8 or 16"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_image(tmp_path / arguments[0], *arguments[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_with_bad_files_is_done_without_them(tmp_path: Path) -> None:
    write_image(tmp_path / "good.png", np.moveaxis(BYTES, -1, 0) / 255.0)
    (tmp_path / "notes.txt").write_text("passed over")
    for name in ("cmyk.jpg", "text.png", "gigapixel.png"):
        write_bad(name, tmp_path)
    dataset = ImageDataset(tmp_path)
    assert [volume.stem for volume in dataset.volumes] == ["good"] and len(dataset.refused) == 3
    with pytest.raises(ImageFileError, match="3 not restored: .*cmyk.jpg.*gigapixel.png.*text.png"):
        dataset.check_refused()
    (tmp_path / "good.png").unlink()
    with pytest.raises(ImageFileError, match="3 not restored"):
        ImageDataset(tmp_path)


def test_inputs_are_found_and_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder has no input; accepted: PNG, JPEG or TIFF"):
        find_inputs(tmp_path, ("image",))
    with pytest.raises(ValueError, match="no such file or folder"):
        find_inputs(tmp_path / "a.png", ("image",))
    for name in ("b.PNG", "a.jpg", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in find_inputs(tmp_path, ("image",))] == ["a.jpg", "b.PNG"]
    (tmp_path / "b.tif").touch()
    with pytest.raises(ValueError, match="same output"):
        find_inputs(tmp_path, ("image",))
    with pytest.raises(ValueError, match="without the photograph nothing.png"):
        bundled_photographs(["nothing.png"])


def test_items_of_clean_photographs_are_functions_of_seed_and_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", np.moveaxis(BYTES, -1, 0) / 255.0)
    first, again, other = (ImageDataset(tmp_path, SimulateRain(), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0]["mu"], again[0]["mu"])
    assert not (first[0]["mu"] == first[1]["mu"]).all() and not (first[0]["mu"] == other[0]["mu"]).all()
    np.testing.assert_array_equal(first[0]["reference"], ImageDataset(tmp_path)[0]["mu"])
    assert first.volumes[0].has_truth and first.volumes[0].warnings == (
        "synthetic rain: figures are not those of real weather",
    )


def test_training_items_are_functions_of_seed_and_index() -> None:
    files = bundled_photographs(["chelsea.png", "camera.png"])
    datasets = [SimulatedWeatherDataset(files, 8, SimulateHaze(), seed, crop=32) for seed in (0, 0, 1)]
    for name in ("image", "mu"):
        np.testing.assert_array_equal(datasets[0][5][name], datasets[1][5][name])
        assert not (datasets[0][5][name] == datasets[2][5][name]).all()
    assert {datasets[0][i]["key"].split(":")[0] for i in range(8)} == {"chelsea", "camera"}
    with pytest.raises(IndexError):
        datasets[0][8]


def test_an_estimate_takes_the_place_of_the_degraded_photograph(tmp_path: Path) -> None:
    """Of simulated weather and of pairs; a file that is there is estimated as it is."""
    files, estimate = bundled_photographs(["chelsea.png"]), DarkChannelPrior()
    plain, estimated = (ImageDataset(files, SimulateHaze(), 0, e)[0] for e in (None, estimate))
    np.testing.assert_array_equal(estimated["degraded"], plain["mu"])
    np.testing.assert_array_equal(estimated["mu"], estimate(plain["mu"]))
    write_image(tmp_path / "hazy.png", plain["mu"].numpy())
    pair = ImagePairDataset([ImagePair("a", tmp_path / "hazy.png", files[0])], estimate)[0]
    for name in ("degraded", "mu", "reference"):
        np.testing.assert_array_equal(pair[name], estimated[name])


def test_training_crops_are_cut_from_estimates_of_whole_photographs(tmp_path: Path) -> None:
    """With an estimate that returns its input, mu is a crop of a whole photograph in one weather: the four items of a
    photograph agree where their crops overlap, and items do not depend on which were asked for before."""
    shape = (40, 48)
    ramp = np.broadcast_to(np.linspace(0, 1, shape[0] * shape[1]).reshape(1, *shape), (3, *shape))
    write_image(tmp_path / "ramp.png", ramp, bits=16)
    seen = []

    def estimate(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return image

    dataset = EstimatedWeatherDataset([tmp_path / "ramp.png"], 8, SimulateHaze((1, 1)), estimate, 0, 32, crops=4)
    items = [dataset[i] for i in range(8)]
    assert len(seen) == 2 and seen[0].shape == (3, *shape)
    for number, item in enumerate(items):
        hazy = dict(zip(seen[number // 4][0].reshape(-1).tolist(), range(shape[0] * shape[1]), strict=False))
        assert set(item["mu"][0].reshape(-1).tolist()) <= set(hazy)
    again = EstimatedWeatherDataset([tmp_path / "ramp.png"], 8, SimulateHaze((1, 1)), estimate, 0, 32, crops=4)
    for i in (6, 1):
        for name in ("image", "mu"):
            np.testing.assert_array_equal(again[i][name], items[i][name])
    with pytest.raises(ValueError, match="crops is 0; accepted: 1 or more"):
        EstimatedWeatherDataset([tmp_path / "ramp.png"], 8, SimulateHaze(), estimate, crop=32, crops=0)


def test_the_exposure_of_estimates_can_be_the_clean_photographs() -> None:
    files = bundled_photographs(["chelsea.png"])
    options = {"crop": 300, "estimate": lambda x: 0.5 * x, "crops": 1}
    plain, matched = (
        EstimatedWeatherDataset(files, 4, SimulateHaze((0, 0)), match_exposure=match, **options)[1]
        for match in (False, True)
    )
    ratio = matched["mu"] / plain["mu"]
    assert float(ratio.std()) < 1e-5 and 1.5 < float(ratio.mean()) < 2  # thin haze brightens a little
    np.testing.assert_array_equal(matched["image"], plain["image"])


def test_the_augmentation_is_of_the_clean_photograph_and_goes_by_seed_and_index(tmp_path: Path) -> None:
    """A random gain before the weather: the crop is the file's times it, the same whenever the item is drawn."""
    write_image(tmp_path / "flat.png", np.full((3, 40, 40), 0.25))
    flat = float(read_image(tmp_path / "flat.png").data[0, 0, 0])

    def drawn(index: int) -> torch.Tensor:
        augment = Compose([RandScaleIntensity(factors=(-0.5, 0.0), prob=1.0)])
        files, haze = [tmp_path / "flat.png"], SimulateHaze((0, 0))
        return EstimatedWeatherDataset(files, 8, haze, lambda x: x, 0, 32, 2, augment)[index]["image"]

    images = [drawn(i) for i in range(8)]
    gains = [float(image.mean()) / flat for image in images]
    assert all(float(image.std()) < 1e-6 for image in images) and all(0.5 <= gain <= 1 for gain in gains)
    assert len({round(gain, 6) for gain in gains}) == 4  # two items of each photograph
    assert torch.equal(images[5], drawn(5))
    small = Compose([RandZoom(min_zoom=0.5, max_zoom=0.5, prob=1.0, keep_size=False)])
    with pytest.raises(ValueError, match="flat.png: augment leaves 20 x 20 pixels; accepted: from crop, 32, up"):
        EstimatedWeatherDataset([tmp_path / "flat.png"], 8, SimulateHaze(), lambda x: x, 0, 32, 2, small)[0]


def test_crops_of_pairs_are_cut_from_estimates_of_whole_photographs() -> None:
    (path,) = bundled_photographs(["chelsea.png"])
    seen = []

    def negative(image: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(image.shape))
        return 1 - image

    item = ImagePairCropDataset([ImagePair("chelsea", path, path)], 4, crop=32, estimate=negative)[2]
    assert seen == [(3, 300, 451)] and torch.equal(item["mu"], 1 - item["image"])


def test_training_arguments_are_checked() -> None:
    files = bundled_photographs(["chelsea.png"])
    with pytest.raises(ValueError, match="photographs is empty"):
        SimulatedWeatherDataset([], 1, SimulateHaze())
    with pytest.raises(ValueError, match="length is 0"):
        SimulatedWeatherDataset(files, 0, SimulateHaze())
    with pytest.raises(ValueError, match="chelsea.png: 451 x 300 pixels; accepted: from crop, 400"):
        SimulatedWeatherDataset(files, 1, SimulateHaze(), crop=400)
