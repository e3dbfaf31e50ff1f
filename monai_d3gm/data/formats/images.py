"""Photographs on disk: PNG, JPEG and TIFF of 8 or 16 bit, read as float32 RGB in [0, 1] and written whole.

A file may hold more than red, green and blue:

- the EXIF orientation, 1 to 8, is applied, and not written again;
- greyscale is read as three equal channels and written as RGB;
- an alpha channel is left out;
- the ICC profile is kept as it is: values are neither converted to sRGB nor to linear light. One that is not of RGB,
  such as that of a greyscale picture, is left out, since RGB is written;
- the checksums of PNG and of deflated TIFF are compared before a pixel is used;
- a multi-picture JPEG, as telephones write it, is its first picture.

Anything else is refused by an `ImageFileError`: CMYK and other colour spaces, 32-bit and floating-point values, several
pages or frames, more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (read in the header, before anything is decoded).
"""

from __future__ import annotations

import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFile

from monai_d3gm.data.formats.base import ImageFormat
from monai_d3gm.data.formats.volumes import Extent, InputVolume
from monai_d3gm.files import TooLargeError, atomic_path, check_memory

__all__ = ["SUFFIXES", "ImageFileError", "Photograph", "read_image", "write_image", "write_map"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Names of files that are taken from a folder."""

MIN_SIDE = 16
"""The smallest width and height that is read."""

_PIXEL_BYTES = 80
"""Memory that a pixel takes when it is read, and again when it is written: measured, and rounded up."""

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FORMATS = ("PNG", "JPEG", "TIFF")
_DEEP_GREY = ("I;16", "I;16B", "I;16L")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", *_DEEP_GREY)
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_BLOCK = 1 << 20
_ROWS_AT_ONCE = 256
_BYTES_PER_PIXEL = 3 * 4 * 3
"""Three channels of float32, three times: as read, turned upright, and as it is restored."""

_DEFLATED = (8, 32946)
_COMPRESSION, _STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 259, 273, 279, 324, 325
_PNG = b"\x89PNG\r\n\x1a\n"


class ImageFileError(ValueError):
    """A file is no photograph that can be read; the message begins with its path."""


@dataclass(frozen=True)
class Photograph:
    """A photograph, and its properties that a written one keeps.

    Attributes:
        data: float32 (3, H, W) in [0, 1], upright.
        bits: 8 or 16, of each channel in the file.
        icc_profile: the colour profile in the file, or None.
        remarks: which parts of the file were left out.
    """

    data: NDArray[np.float32]
    bits: int
    icc_profile: bytes | None
    remarks: tuple[str, ...]


def read_image(path: str | os.PathLike[str]) -> Photograph:
    """Read a photograph, as the module describes.

    Raises:
        ImageFileError: it cannot be read, or is not accepted.
        TooLargeError: it would take more memory than is allowed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> write_image(file, np.full((3, 16, 24), 0.5, np.float32), bits=16)
        >>> photograph = read_image(file)
        >>> photograph.data.shape, photograph.bits, float(photograph.data.max())
        ((3, 16, 24), 16, 0.50000...)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _read(Path(path))
    except (ImageFileError, TooLargeError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageFileError(f"{path}: too large: {error} Accepted: {Image.MAX_IMAGE_PIXELS} pixels.") from error
    except Exception as error:  # Pillow's plugins raise many kinds for files that are damaged or none of theirs
        reason = str(error).replace(f"{str(path)!r}", "it") or type(error).__name__
        raise ImageFileError(f"{path}: no PNG, JPEG or TIFF photograph that can be read: {reason}") from error


def _read(path: Path) -> Photograph:
    with Image.open(path, formats=_FORMATS) as image:
        _check(path, image)
        _check_sums(path, image)
        deep = _rawmode(path, image)
        image.load()
        transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
        profile, remarks = _fitting_profile(image.info.get("icc_profile"))
        orientation = image.getexif().get(_ORIENTATION, 1)  # after loading: Pillow turns a TIFF upright itself
        values = _values(image)
    if deep is not None:
        values = (values.astype(np.uint16) << 8) | _low_bytes(path, deep)
    data = np.moveaxis(values, -1, 0) / np.float32(np.iinfo(values.dtype).max)
    return Photograph(
        data=np.ascontiguousarray(_upright(data, orientation)),
        bits=8 * values.itemsize,
        icc_profile=profile,
        remarks=(*(("the alpha channel was left out",) if transparent else ()), *remarks),
    )


def _check(path: Path, image: Image.Image) -> None:
    """Refuse a photograph by its header."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageFileError(f"{path}: it has {frames} frames or pages; accepted: a single picture.")
    if image.mode not in _MODES:
        raise ImageFileError(f"{path}: its mode is {image.mode}; accepted: greyscale and RGB of 8 or 16 bit.")
    if min(image.size) < MIN_SIDE:
        width, height = image.size
        raise ImageFileError(f"{path}: it has {width} x {height} pixels; accepted: {MIN_SIDE} or more along each side.")

    width, height = image.size
    check_memory(path, f"a picture of {width} x {height} pixels", width * height * _BYTES_PER_PIXEL)


def _check_sums(path: Path, image: Image.Image) -> None:
    """Compare the checksums of a PNG's chunks, and inflate the pixels of PNG and TIFF to theirs, which is at the end.

    Pillow stops reading where it has all pixels, and does not look at the sums of the chunks that hold them.
    """
    width, height = image.size
    most = 2 * (8 * width + 64) * (height + 8)  # bytes of four 16-bit channels, interlaced or in tiles
    if image.format == "PNG":
        _inflate_whole(path, _pixels_of_png(path), most)
    elif image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if tags.get(_COMPRESSION) in _DEFLATED:
            starts, sizes = (
                tags.get(strips) or tags.get(tiles) or ()
                for strips, tiles in ((_STRIP_OFFSETS, _TILE_OFFSETS), (_STRIP_SIZES, _TILE_SIZES))
            )
            with path.open("rb") as file:
                for start, size in zip(starts, sizes, strict=True):
                    file.seek(start)
                    _inflate_whole(path, [file.read(min(size, path.stat().st_size))], most)


def _pixels_of_png(path: Path) -> Iterator[bytes]:
    """The content of the chunks that hold pixels; every chunk's sum is compared."""
    left = path.stat().st_size - len(_PNG)
    with path.open("rb") as file:
        file.seek(len(_PNG))
        while True:
            head = file.read(8)
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            left -= 12 + size
            if len(head) < 8 or left < 0:
                raise ImageFileError(f"{path}: the file ends before the end of the picture.")
            content = file.read(size)
            if zlib.crc32(kind + content) != int.from_bytes(file.read(4), "big"):
                raise ImageFileError(f"{path}: damaged: the checksum of a {kind.decode('latin-1')!r} chunk is wrong.")
            if kind == b"IDAT":
                yield content
            if kind == b"IEND":
                return


def _inflate_whole(path: Path, parts: Iterable[bytes], most: int) -> None:
    """Inflate a zlib stream to its end, where its checksum is, a block at a time."""
    inflate, size = zlib.decompressobj(), 0
    try:
        for part in parts:
            while part:
                size += len(inflate.decompress(part, _BLOCK))
                part = inflate.unconsumed_tail
                if size > most:
                    raise ImageFileError(f"{path}: the pixels inflate to more than {most} bytes; accepted: that many.")
    except zlib.error as error:
        raise ImageFileError(f"{path}: damaged: the pixels cannot be inflated: {error}") from error
    if not inflate.eof:
        raise ImageFileError(f"{path}: damaged: the compressed pixels have no end.")


def _fitting_profile(profile: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """An ICC profile of RGB; of any other none, and a remark."""
    if not profile:
        return None, ()
    space = profile[16:20]
    if len(profile) >= 128 and profile[36:40] == b"acsp" and space == b"RGB ":
        return profile, ()
    of = space.decode("latin-1").strip() if len(profile) >= 128 and space.isascii() else "none"
    return None, (f"the ICC profile (colour space {of}) does not fit RGB and was left out",)


def _rawmode(path: Path, image: Image.Image) -> str | None:
    """How the samples of a 16-bit colour image lie in the file, of which Pillow keeps the high bytes; else None."""
    assert isinstance(image, ImageFile.ImageFile)
    arguments = image.tile[0][3]
    mode = arguments if isinstance(arguments, str) else str(arguments[0] if arguments else "")
    if re.fullmatch("(RGB|RGBA|RGBX);16[BLN]", mode):
        return mode
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    if image.mode not in _DEEP_GREY and (max(bits) > 8 or ";16" in mode):
        raise ImageFileError(f"{path}: 16-bit samples in the layout {mode!r}; accepted: greyscale, interleaved RGB(A).")
    return None


def _low_bytes(path: Path, rawmode: str) -> NDArray[np.uint8]:
    """The low bytes of 16-bit samples: the high bytes of samples of the other byte order."""
    order = rawmode[-1] if rawmode[-1] != "N" else {"little": "L", "big": "B"}[sys.byteorder]
    other = rawmode[:-1] + {"L": "B", "B": "L"}[order]
    with Image.open(path, formats=_FORMATS) as image:
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = [
            ImageFile._Tile(codec, extents, offset, other if isinstance(given, str) else (other, *(given or ())[1:]))
            for codec, extents, offset, given in image.tile
        ]
        return _values(image)


def _values(image: Image.Image) -> NDArray[Any]:
    """uint8 or uint16 (H, W, 3)."""
    if image.mode in _DEEP_GREY:
        return np.repeat(np.asarray(image).astype(np.uint16)[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def _upright(data: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Turn (3, H, W) as the EXIF orientation, 1 to 8, says; another value says nothing."""
    if orientation not in range(1, 9):
        return data
    data = data.swapaxes(1, 2) if orientation >= 5 else data
    data = data[:, ::-1] if orientation in (3, 4, 7, 8) else data
    return data[:, :, ::-1] if orientation in (2, 3, 6, 7) else data


def write_image(
    path: str | os.PathLike[str],
    data: NDArray[np.floating],
    bits: int = 8,
    icc_profile: bytes | None = None,
    overwrite: bool = True,
) -> None:
    """Write a photograph as PNG or TIFF, whole or not at all.

    Args:
        path: its suffix, .png, .tif or .tiff, is the format.
        data: (3, H, W); values are clipped to [0, 1].
        bits: 8 or 16, of each channel.
        icc_profile: the colour profile that the values are meant in.
        overwrite: False refuses to replace a file.

    Raises:
        ValueError: another suffix, shape or number of bits.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.tif"
        >>> write_image(file, np.full((3, 16, 24), 0.25, np.float32))
        >>> round(float(read_image(file).data[0, 0, 0]) * 255)
        64
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise ValueError(f"{path}: accepted names of a photograph to write: .png, .tif, .tiff.")
    if data.ndim != 3 or len(data) != 3:
        raise ValueError(f"data has shape {data.shape}; accepted: (3, H, W).")
    if bits not in (8, 16):
        raise ValueError(f"bits is {bits}; accepted: 8 or 16.")
    values = np.empty((*data.shape[1:], 3), dtype=np.uint8 if bits == 8 else np.uint16)
    for channel, plane in enumerate(data):
        values[..., channel] = np.rint(np.clip(plane, 0, 1) * (2**bits - 1))
    with atomic_path(path, overwrite=overwrite) as temporary:
        if suffix != ".png":
            tifffile.imwrite(temporary, values, photometric="rgb", compression="zlib", iccprofile=icc_profile)
        elif bits == 8:
            Image.fromarray(values).save(temporary, format="PNG", icc_profile=icc_profile)
        else:
            _write_deep_png(temporary, values, icc_profile)


def write_map(path: str | os.PathLike[str], data: NDArray[np.floating], overwrite: bool = True) -> None:
    """Write values (H, W, 3) as they are, as a float32 TIFF, whole or not at all.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "std.tif"
        >>> write_map(file, np.full((16, 24, 3), 0.125))
        >>> float(tifffile.imread(file).max())
        0.125
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        tifffile.imwrite(temporary, np.asarray(data, dtype=np.float32), photometric="rgb", compression="zlib")


def _write_deep_png(path: Path, values: NDArray[np.uint16], icc_profile: bytes | None) -> None:
    """Write uint16 (H, W, 3) as PNG, which Pillow cannot; each row is filtered by the one above it (PNG, filter 2)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)))
        if icc_profile is not None:
            file.write(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
        compress = zlib.compressobj()
        above = np.zeros((1, 6 * width), dtype=np.uint8)
        for first in range(0, height, _ROWS_AT_ONCE):
            rows = values[first : first + _ROWS_AT_ONCE].astype(">u2").reshape(-1, 3 * width).view(np.uint8)
            filtered = rows - np.concatenate([above, rows[:-1]])
            above = rows[-1:]
            file.write(chunk(b"IDAT", compress.compress(np.insert(filtered, 0, 2, axis=1).tobytes())))
        file.write(chunk(b"IDAT", compress.flush()) + chunk(b"IEND", b""))


class Images(ImageFormat):
    """Photographs as PNG, JPEG or TIFF. A TIFF's result is a TIFF, any other's a PNG, of as many bits."""

    name = "image"
    title = "PNG, JPEG or TIFF"
    suffixes = SUFFIXES

    def recognise(self, path: Path, start: bytes) -> bool:
        """By the magic of PNG, JPEG, TIFF or BigTIFF."""
        return start.startswith(_MAGIC)

    def extent(self, path: Path) -> Extent:
        """Width and height as the header has them."""
        with Image.open(path) as image:
            return Extent((image.height, image.width, 1), voxel_bytes=_PIXEL_BYTES)

    def read(self, path: Path) -> Photograph:
        """`read_image`."""
        return read_image(path)

    def outputs(self, volume: InputVolume) -> Mapping[str, str]:
        """The photograph, and its standard deviation as a TIFF of float32."""
        suffix = ".tif" if volume.path.suffix.lower() in (".tif", ".tiff") else ".png"
        return {"restored": f"{volume.stem}_restored{suffix}", "std": f"{volume.stem}_std.tif"}

    def write(
        self,
        path: Path,
        what: str,
        slices: NDArray[np.float32],
        volume: InputVolume,
        *,
        provenance: Mapping[str, str],
        overwrite: bool,
    ) -> None:
        """`write_image` with the bits and the profile of the input, or `write_map`."""
        if what == "restored":
            write_image(path, np.moveaxis(slices[0], -1, 0), **volume.attributes, overwrite=overwrite)
        else:
            write_map(path, slices[0], overwrite=overwrite)
