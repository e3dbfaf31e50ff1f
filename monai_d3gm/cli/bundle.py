"""``d3gm list`` and ``d3gm bundle``: list the bundles, and make an archive of one."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from monai_d3gm.bundle import find_bundle_root, find_bundles, read_json
from monai_d3gm.cli.options import add_bundle
from monai_d3gm.files import OutputError, atomic_path

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

PACKED = ("LICENSE", "configs/*", "docs/*", "models/model.pt", "models/*.json", "models/train_log.csv")
"""The files of a bundle, without the outputs of runs and trainings."""

_TIME = (1980, 1, 1, 0, 0, 0)
"""The time of every file in an archive, so that the same bundle gives the same bytes."""


def add_parser(commands: Commands) -> None:
    """Add ``list`` and ``bundle`` to the commands."""
    listing = commands.add_parser("list", help="name the bundles that are found", description=show.__doc__)
    listing.set_defaults(command=show)
    parser = commands.add_parser("bundle", help="make a bundle's archive, or new weights part of it")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    packing = actions.add_parser("pack", help="write a bundle as a zip archive", description=pack.__doc__)
    packing.set_defaults(command=pack)
    add_bundle(packing)
    packing.add_argument("archive", metavar="ARCHIVE", help="the file to write, such as mri_recon.zip")
    packing.add_argument("--overwrite", action="store_true", help="replace an archive that is there")
    finishing = actions.add_parser("finish", help="make new weights part of a bundle", description=finish.__doc__)
    finishing.set_defaults(command=finish)
    add_bundle(finishing)


def show(arguments: argparse.Namespace) -> int:
    """Print the name, version and task of each bundle that is found by name."""
    bundles = find_bundles()
    width = max(map(len, bundles), default=0)
    for name, root in bundles.items():
        metadata = read_json(root / "configs" / "metadata.json")
        print(f"{name:<{width}}  {metadata.get('version', '-'):<6}  {metadata.get('task', '')}")
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Write BUNDLE as a zip archive with one folder, as MONAI's tools download and unpack it.

    The same bundle gives the same bytes.
    """
    root = Path(find_bundle_root(arguments.bundle)).absolute()
    files = [file for pattern in PACKED for file in sorted(root.glob(pattern)) if file.is_file()]
    if not any(file.suffix == ".pt" for file in files):
        raise OutputError(f"{root / 'models' / 'model.pt'}: the bundle has no weights to pack.")
    with atomic_path(arguments.archive, overwrite=arguments.overwrite) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                entry = zipfile.ZipInfo(f"{root.name}/{file.relative_to(root).as_posix()}", _TIME)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    print(f"Written: {arguments.archive}, {len(files)} files, {Path(arguments.archive).stat().st_size / 1e6:.1f} MB")
    return 0


def finish(arguments: argparse.Namespace) -> int:
    """Make new weights part of BUNDLE. Run it after d3gm calibrate.

    The weights are stored where monai.bundle.load finds them. The hashes in models/*.json are updated. Then a small
    input is restored, and the result is recorded in models/reference.json for d3gm doctor.
    """
    from monai_d3gm.bundle.reference import write_reference
    from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash, write_checkpoint

    models = Path(find_bundle_root(arguments.bundle)) / "models"
    before = weights_hash(models / "model.pt")
    content = read_checkpoint(models / "model.pt")
    write_checkpoint(models / "model.pt", content["model"], content["d3gm"])
    after = weights_hash(models / "model.pt")
    for file in sorted(models.glob("*.json")):
        text = file.read_text(encoding="utf-8")
        if before != after and before in text:
            with atomic_path(file, overwrite=True) as temporary:
                temporary.write_text(text.replace(before, after), encoding="utf-8")
            print(f"Written: {file}")
    print(f"Written: {write_reference(models.parent)}")
    return 0
