"""A corpus of broken and hostile files over all formats, and what the command makes of it.

    python tests/corpus/corpus.py [FOLDER] [--every N]

writes the files (every N-th of each kind), restores each tree with a small untrained network in a process of its own,
and prints a table; the exit status is 1 where a line of it is wrong. Nothing is stored: the files are functions of a
fixed seed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_series import head, write_classic, write_enhanced
from small_bundle import full_kspace, magnitude, make_bundle, write_nifti

from monai_d3gm.data.formats.fastmri import encoding_header_xml, write_kspace

__all__ = ["Case", "Verdict", "cases", "run"]

MEMORY = 4 * 2**30
"""Bytes that a run may take."""
PATIENCE = 1800.0
"""Seconds that a tree may take, on a machine that does other work too."""

Write = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A file.

    Attributes:
        bundle: the bundle whose input it is meant to be.
        name: of the file, with the folder that it lies in.
        write: writes it.
        refused: whether it has to be refused; None where it may be read as well.
    """

    bundle: str
    name: str
    write: Write
    refused: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a tree.

    Attributes:
        files: number of files.
        counts: of inputs by what became of them.
        faults: what is wrong, each with the file's name; none where all is right.
        memory: largest resident size in bytes.
    """

    files: int
    counts: Counter[str]
    faults: tuple[str, ...]
    memory: int


# --- whole files ------------------------------------------------------------------------------------------------------


def _made(name: str, write: Write) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        made = write(path)
        return Path(made if isinstance(made, Path) else path).read_bytes()


def _dicom(path: Path, **options: object) -> Path:
    return write_classic(path.parent, head((24, 20, 1)), **options)[0]  # type: ignore[arg-type]


def _deflated(path: Path) -> Path:
    import pydicom

    dataset = pydicom.dcmread(_dicom(path))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    return path


def _chunked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=full_kspace(), chunks=(1, 32, 24), compression="gzip")
        file["ismrmrd_header"] = encoding_header_xml((32, 24), (32, 24))


def _raw(path: Path) -> None:
    import ismrmrd

    with ismrmrd.Dataset(path) as file:
        file.write_xml_header(encoding_header_xml((32, 24), (32, 24)))
        for line in range(24):
            values = np.ascontiguousarray(full_kspace()[:1, :, line])
            acquisition = ismrmrd.Acquisition.from_array(values, center_sample=16)
            acquisition.idx.kspace_encode_step_1 = line
            file.append_acquisition(acquisition)


def _picture(**options: object) -> Write:
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return lambda path: Image.fromarray(values).save(path, **options)


VOLUME = magnitude(24, 20, 2)
WHOLE: dict[str, tuple[str, str, Write]] = {
    "nii": ("mri_recon", ".nii", lambda path: write_nifti(path, VOLUME)),
    "gz": ("mri_recon", ".nii.gz", lambda path: write_nifti(path, VOLUME)),
    "h5": ("mri_recon", ".h5", lambda path: write_kspace(path, full_kspace(), recon_size=(32, 24))),
    "chunked": ("mri_recon", ".h5", _chunked),
    "raw": ("mri_recon", ".h5", _raw),
    "explicit": ("mri_sr", ".dcm", _dicom),
    "rle": ("mri_sr", ".dcm", lambda path: _dicom(path, syntax="1.2.840.10008.1.2.5")),
    "deflated": ("mri_sr", ".dcm", _deflated),
    "enhanced": ("mri_sr", ".dcm", lambda path: write_enhanced(path, [head((24, 20, 2))])),
    "volume": ("mri_sr", ".nii.gz", lambda path: write_nifti(path, VOLUME)),
    "png": ("derain", ".png", _picture()),
    "jpg": ("derain", ".jpg", _picture(quality=90)),
    "tif": ("derain", ".tif", _picture(compression="tiff_adobe_deflate")),
    "plain": ("derain", ".tiff", _picture()),
}


def _may_pass(damaged: bytes, whole: bytes, suffix: str, place: int) -> bool:
    """Whether damage from a byte on may go unseen: no checksum covers it, or it is in bits that say nothing."""
    if suffix == ".nii.gz":  # some bits of compressed data are padding
        try:
            return gzip.decompress(damaged) == gzip.decompress(whole)
        except (OSError, EOFError, zlib.error):
            return False
    return suffix != ".png" or damaged == whole or place < 8


# --- damage -----------------------------------------------------------------------------------------------------------


def _text(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def _damaged(whole: bytes, generator: random.Random) -> Iterator[tuple[str, bytes, int]]:
    """A name, the damaged bytes and the first one that differs."""
    size = len(whole)
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
        yield f"cut{share:g}", whole[: int(share * size)], int(share * size)
    for cut in (1, 4, 9):
        yield f"cut-{cut}", whole[:-cut], size - cut
    for number in range(9):
        place = generator.randrange(size)
        yield f"bit{number}", whole[:place] + bytes([whole[place] ^ 1 << number % 8]) + whole[place + 1 :], place
    for value in (0, 255):
        for number in range(2):
            place = generator.randrange(max(1, size - 40))
            yield f"run{value}-{number}", whole[:place] + bytes([value]) * 40 + whole[place + 40 :], place
    yield "shuffled", bytes(generator.sample(list(whole), size)), 0
    yield "empty", b"", 0


def _damages() -> Iterator[Case]:
    generator = random.Random(0)
    for kind, (bundle, suffix, write) in WHOLE.items():
        whole = _made(f"a{suffix}", write)
        for name, content, place in _damaged(whole, generator):
            refused = None if content and _may_pass(content, whole, suffix, place) else True
            # copies of one instance stay apart in folders of their own
            place_of = f"{kind}_{name}/a{suffix}" if suffix == ".dcm" else f"{kind}_{name}{suffix}"
            yield Case(bundle, place_of, _text(content), refused)


# --- hostile files ----------------------------------------------------------------------------------------------------


def _header(**values: object) -> Write:
    """A NIfTI file whose header says something else."""

    def write(path: Path) -> None:
        content = bytearray(nibabel.Nifti1Image(VOLUME, np.eye(4)).to_bytes())
        header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
        for name, value in values.items():
            header[name] = value
        content[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))

    return write


def _bomb(path: Path) -> None:
    """A NIfTI volume of 30000 x 30000 x 30 zeros in some tens of megabytes would be: its first megabytes of them."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30))
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(path, "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(64):
            file.write(bytes(1 << 20))


def _kspace(**datasets: object) -> Write:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, value in ({"kspace": full_kspace()} | datasets).items():
                if callable(value):
                    value(file)
                elif value is not None:
                    file[name] = value

    return write


def _unwritten(file: h5py.File) -> None:
    file.create_dataset("kspace", (1 << 20, 640, 372), np.complex64, chunks=(1, 640, 372))


def _one_chunk(file: h5py.File) -> None:
    shape = (1, 32, 1024, 4096)
    file.create_dataset("kspace", shape, np.complex64, chunks=shape, compression=9)[0, 0, 0, 0] = 1


def _table(file: h5py.File) -> None:
    file["dataset/xml"] = encoding_header_xml((32, 24), (32, 24))
    kind = np.dtype(
        [("head", np.void, 340), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32))]
    )
    file.create_dataset("dataset/data", (1 << 30,), kind, chunks=(1,))


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">&a;</ismrmrdHeader>'


def _changed(**values: object) -> Write:
    def write(path: Path) -> None:
        made = _dicom(path, extra=values)
        made.rename(path)

    return write


def _png(width: int, height: int, pixels: bytes) -> Write:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return lambda path: path.write_bytes(start + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def _described(kind: str, shape: tuple[int, ...]) -> Write:
    """A NumPy file that describes an array and holds none of it."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})

    return write


def _zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kspace", bytes(1 << 20))


def _hostile() -> Iterator[Case]:
    for name, dim in {
        "dim3": [3, 32767, 32767, 32767, 1, 1, 1, 1],
        "dim7": [7, *[32767] * 7],
        "dim0": [0, 1, 1, 1, 1, 1, 1, 1],
        "negative": [3, -5, 4, 4, 1, 1, 1, 1],
        "nine": [9, 4, 4, 4, 1, 1, 1, 1],
    }.items():
        for suffix in (".nii", ".nii.gz"):
            yield Case("mri_recon", f"nifti_{name}{suffix}", _header(dim=dim), True)
    for name, values in {
        "offset": {"vox_offset": 1e18},
        "before": {"vox_offset": -400},
        "complex": {"datatype": 32, "bitpix": 64},
        "rgb": {"datatype": 128, "bitpix": 24},
        "unknown": {"datatype": 7777},
        "slope": {"scl_slope": float("inf")},
        "nowhere": {"sform_code": 0, "qform_code": 0, "pixdim": [float("nan")] * 8},
    }.items():
        yield Case("mri_recon", f"nifti_{name}.nii", _header(**values), True)
    for name, data in {
        "nan": VOLUME * np.nan,
        "zero": VOLUME * 0,
        "below": VOLUME - 1e6,
        "infinite": np.where(VOLUME > 50, np.inf, VOLUME).astype(np.float32),
    }.items():
        yield Case("mri_recon", f"nifti_{name}.nii", lambda path, d=data: write_nifti(path, d), True)  # type: ignore[misc]
    yield Case("mri_recon", "nifti_bomb.nii.gz", _bomb, True)
    yield Case("mri_recon", "nifti_text.nii.gz", _text(gzip.compress(b"text" * 999)), True)
    bad = full_kspace()
    bad[1, 3, 3] = np.nan
    for name, datasets in {
        "unwritten": {"kspace": _unwritten},
        "chunk": {"kspace": _one_chunk},
        "nan": {"kspace": bad},
        "zero": {"kspace": 0 * bad[:1]},
        "real": {"kspace": np.ones((2, 32, 24))},
        "flat": {"kspace": bad[0]},
        "group": {"kspace": lambda file: file.create_group("kspace")},
        "link": {"kspace": h5py.ExternalLink("/etc/passwd", "/kspace")},
        "loop": {"kspace": h5py.SoftLink("/kspace")},
        "mask": {"mask": np.ones(23, bool)},
        "wide": {"mask": np.zeros(1 << 23, bool)},
        "nothing": {"mask": np.zeros(24, bool)},
        "entities": {"ismrmrd_header": ENTITIES},
        "header": {"ismrmrd_header": b"<" * (1 << 22)},
        "number": {"ismrmrd_header": 7},
        "huge": {"ismrmrd_header": encoding_header_xml((32, 24), (10**9, 10**9))},
        "table": {"kspace": None, "dataset": _table},
    }.items():
        yield Case("mri_recon", f"kspace_{name}.h5", _kspace(**datasets), True)
    for name, write in {
        "giant.npy": _described("<c8", (1 << 20, 640, 372)),
        "axes.npy": lambda path: np.save(path, full_kspace()),
        "start.mat": _text(b"MATLAB 5.0 MAT-file"),
        "noise.mat": _text(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + random.Random(2).randbytes(3000)),
        "later.mat": _text(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + random.Random(3).randbytes(999)),
        "alone.cfl": _text(bytes(4096)),
    }.items():
        yield Case("mri_recon", f"array_{name}", write, True)
    yield Case("mri_recon", "array_real.npy", lambda path: np.save(path, np.ones((4, 4))), False)
    for name, values in {
        "rows": {"Rows": 65535, "Columns": 65535},
        "none": {"Rows": 0},
        "frames": {"NumberOfFrames": 2**31 - 1},
        "bits": {"BitsStored": 17},
        "colour": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        "place": {"ImagePositionPatient": None},
        "turn": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        "spacing": {"PixelSpacing": ["0", "-1"]},
        "study": {"StudyInstanceUID": None},
        "instance": {"SOPInstanceUID": None},
        "phase": {"ImageType": ["ORIGINAL", "PRIMARY", "P"]},
    }.items():
        yield Case(
            "mri_sr",
            f"{name}/dicom_{name}.dcm",
            _changed(**values),
            True,
        )
    yield Case("mri_sr", "dicom_prefix.dcm", _text(bytes(128) + b"DICM"), True)
    for name, write in {
        "wide.png": _png(2**31 - 1, 16, b""),
        "giant.png": _png(60_000, 60_000, zlib.compress(bytes(1 << 16))),
        "bomb.png": _png(32, 24, zlib.compress(bytes(1 << 26))),
        "short.png": _png(32, 24, zlib.compress(b"1")),
        "tiny.png": lambda path: Image.new("RGB", (1, 1)).save(path),
        "cmyk.jpg": lambda path: Image.new("CMYK", (32, 24)).save(path),
        "float.tif": lambda path: Image.fromarray(np.ones((24, 32), np.float32)).save(path),
        "gif.png": lambda path: Image.new("RGB", (32, 24)).save(path, format="GIF"),
    }.items():
        yield Case("derain", f"photo_{name}", write, True)
    for bundle, suffix in (("mri_recon", ".nii"), ("mri_recon", ".h5"), ("mri_sr", ".dcm"), ("derain", ".png")):
        kind = suffix[1:]
        yield Case(bundle, f"text_{kind}{suffix}", _text(b"neither of these\n" * 99), True)
        yield Case(bundle, f"zip_{kind}{suffix}", _zipped, True)
        yield Case(bundle, f"noise_{kind}{suffix}", _text(random.Random(1).randbytes(3000)), True)
        yield Case(bundle, f"loop_{kind}{suffix}", lambda path: path.symlink_to(path.name), True)
        yield Case(bundle, f"pipe_{kind}{suffix}", lambda path: os.mkfifo(path), True)
        yield Case(bundle, f"nowhere_{kind}{suffix}", lambda path: path.symlink_to("nothing"), True)
        yield Case(bundle, f"{'n' * (255 - len(suffix) - 1)}{kind[0]}{suffix}", _text(b""), True)
        yield Case(bundle, f"esc\x1b[2J_{kind}{suffix}", _text(b"x"), True)
        yield Case(bundle, os.fsdecode(b"caf\xe9_") + kind + suffix, _text(b"x"), True)
        yield Case(bundle, f"note_{kind}.txt", _text(b"no input"), False)


def cases() -> list[Case]:
    """All files, in a fixed order."""
    return [*_damages(), *_hostile()]


# --- running ----------------------------------------------------------------------------------------------------------


def run(bundle: str, chosen: list[Case], folder: Path) -> Verdict:
    """Write the files of a bundle, restore the tree in a process of its own, and judge what became of it."""
    tree, output = folder / "inputs", folder / "outputs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is out of the standards
        for case in chosen:
            path = tree / case.name
            path.parent.mkdir(parents=True, exist_ok=True)
            case.write(path)
    root = make_bundle(folder / bundle, bundle)
    code = "import sys; from monai_d3gm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        "restore",
        root,
        tree,
        output,
        "--steps",
        "1",
        "--samples",
        "1",
    ]
    command += ["--no-baseline", "--no-progress", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "D3GM_DEBUG": ""}
    try:
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            timeout=PATIENCE,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Verdict(len(chosen), Counter(), ("hangs",), 0)
    memory = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    faults, counts = _judge(chosen, output, done)
    if memory > MEMORY:
        faults.append(f"{memory / 2**30:.1f} GiB of memory")
    return Verdict(len(chosen), counts, tuple(faults), memory)


def _judge(chosen: list[Case], output: Path, done: subprocess.CompletedProcess[str]) -> tuple[list[str], Counter[str]]:
    from monai_d3gm.files import printable

    faults = ["a traceback"] * ("Traceback" in done.stdout + done.stderr)
    if not (output / "summary.json").is_file():
        return [*faults, f"no summary: exit status {done.returncode}, {done.stderr[-300:]}"], Counter()
    inputs = json.loads((output / "summary.json").read_text())["inputs"]
    became = {file: entry for entry in inputs for file in entry["files"]}
    for case in chosen:
        entry = became.get(printable(case.name))
        if entry is None:
            faults.append(f"{printable(case.name)}: not named")
        elif case.refused is True and entry["status"] != "failed":
            faults.append(f"{printable(case.name)}: {entry['status']}")
        elif case.refused is False and entry["status"] != "skipped":
            faults.append(f"{printable(case.name)}: {entry['status']}")
        elif entry["status"] != "restored" and not entry.get("reason"):
            faults.append(f"{printable(case.name)}: no reason")
    failed = any(entry["status"] == "failed" for entry in inputs)
    if done.returncode != int(failed):
        faults.append(f"exit status {done.returncode}")
    whole = {output / place for entry in inputs for place in entry.get("outputs", ())}
    for file in output.rglob("*"):
        known = file in whole or whole.intersection(file.parents) or file.name == "summary.json"
        if file.is_file() and not known and file.parent.name != ".d3gm":
            faults.append(f"{file.relative_to(output)}: left behind")
        if file.name.endswith("partial"):
            faults.append(f"{file.name}: left behind")
    faults += [f"{place}: missing" for place in whole if not place.exists()]
    return faults, Counter(entry["status"] for entry in inputs)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the files are written; a temporary folder")
    parser.add_argument("--every", type=int, default=1, help="take every N-th file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        right = True
        for bundle in ("mri_recon", "mri_sr", "derain"):
            chosen = [case for case in cases() if case.bundle == bundle][:: arguments.every]
            (folder / bundle).mkdir(parents=True)
            verdict = run(bundle, chosen, folder / bundle)
            counts = ", ".join(f"{count} {status}" for status, count in sorted(verdict.counts.items()))
            print(f"{bundle:<10} {verdict.files:>4} files: {counts}; {verdict.memory / 2**30:.2f} GiB", flush=True)
            for fault in verdict.faults:
                print(f"  {fault}", flush=True)
            right &= not verdict.faults
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
