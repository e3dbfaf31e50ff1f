"""The datastore over HTTP: ids, replacing, what is refused, and a server that is killed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
from dicom_series import head, write_classic
from label_server import FAST, Server, needs_monai_label, start, stop
from small_bundle import magnitude, make_bundle, write_nifti

from monai_d3gm.label import client
from monai_d3gm.label.archive import pack

pytestmark = needs_monai_label


@pytest.fixture
def named(server: Server, tmp_path: Path) -> Callable[[str, float], Path]:
    """Write a volume of its own values under a name."""
    return lambda name, factor: write_nifti(tmp_path / name, factor * magnitude(36, 30, 2))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, which takes little; the last test kills it."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "studies").mkdir()
    bundle = make_bundle(folder / "own_bundle", "mri_sr")
    started = start(folder, "bundles", str(bundle), "device", "cpu", "upload", "0.001")
    yield started
    started.process.kill()
    started.process.wait(60)


def values(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).get_fdata())


def test_dotted_names_are_images_of_their_own(
    server: Server, tmp_path: Path, named: Callable[[str, float], Path]
) -> None:
    sent = {name: named(f"{name}.nii.gz", factor) for name, factor in (("1.2.840.A", 1.0), ("1.2.840.B", 2.0))}
    for name, path in sent.items():
        assert client.upload(server.address, path) == name
    for name, path in sent.items():
        got = client.download(server.address, tmp_path / f"got-{name}.nii.gz", name)
        assert got.read_bytes() == path.read_bytes()
        result = server.restore("own_bundle", tmp_path / f"r-{name}.nii.gz", image=name, parameters=FAST)
        assert result.details["std"] == {"image": name, "tag": "std"}
    with pytest.raises(client.ServerError, match="409: image '1.2.840.A' is in the datastore"):
        client.upload(server.address, sent["1.2.840.B"], "1.2.840.A")


def test_a_map_of_the_image_before_is_not_served_for_the_new_one(
    server: Server, tmp_path: Path, named: Callable[[str, float], Path]
) -> None:
    image = client.upload(server.address, named("replaced.nii.gz", 1.0))
    server.restore("own_bundle", tmp_path / "before.nii.gz", image=image, parameters=FAST)
    before = client.download(server.address, tmp_path / "std.nii.gz", image, "std")
    other = named("other.nii.gz", 3.0)
    with pytest.raises(client.ServerError, match="409"):
        client.upload(server.address, other, image)
    client.download(server.address, tmp_path / "still.nii.gz", image, "std")
    assert client.upload(server.address, other, image, overwrite=True) == image
    with pytest.raises(client.ServerError, match="404: nothing is stored"):
        client.download(server.address, tmp_path / "stale.nii.gz", image, "std")
    # in place of the file, behind the server's back
    server.restore("own_bundle", tmp_path / "after.nii.gz", image=image, parameters=FAST)
    after = client.download(server.address, tmp_path / "new.nii.gz", image, "std")
    assert not np.array_equal(values(before), values(after))
    shutil.copy(named("third.nii.gz", 5.0), server.studies / "replaced.nii.gz")
    with pytest.raises(client.ServerError, match="404: nothing is stored"):
        client.download(server.address, tmp_path / "stale.nii.gz", image, "std")
    tags = requests.get(f"{server.address}/datastore/", {"output": "all"}).json()["objects"][image]["labels"]
    assert tags == {}


def test_an_image_that_is_removed_takes_what_is_stored_with_it(
    server: Server, tmp_path: Path, named: Callable[[str, float], Path]
) -> None:
    image = client.upload(server.address, named("removed.nii.gz", 1.0))
    label = {"label": ("seg.nii.gz", named("seg.nii.gz", 1.0).read_bytes())}
    query = {"image": image, "tag": "final"}
    assert requests.put(f"{server.address}/datastore/label", params=query, files=label).json()["label"] == image
    where = {"label": image, "tag": "final"}
    assert requests.head(f"{server.address}/datastore/label", params=where).status_code == 200
    assert requests.delete(f"{server.address}/datastore/image", params={"id": image}).status_code == 200
    assert requests.head(f"{server.address}/datastore/image", params={"image": image}).status_code == 404
    assert not list(server.studies.rglob("removed*"))


def test_an_upload_that_is_refused_leaves_no_file(server: Server, tmp_path: Path) -> None:
    before = sorted(server.studies.rglob("*"))
    (tmp_path / "text.nii.gz").write_text("no volume")
    (tmp_path / "text.txt").write_text("no image")
    pack(tmp_path / "text.zip", {"text.txt": tmp_path / "text.txt"})
    for name, words in {
        "text.nii.gz": "text.nii.gz",
        "text.txt": "text.txt: not an input",
        "text.zip": "no DICOM",
    }.items():
        with pytest.raises(client.ServerError, match=words) as refused:
            client.upload(server.address, tmp_path / name)
        assert refused.value.status == 400
    assert sorted(server.studies.rglob("*")) == before
    assert not list(server.scratch.glob("d3gm-label-*/*-*"))


def test_a_zip_of_a_series_becomes_an_image(server: Server, tmp_path: Path) -> None:
    files = write_classic(tmp_path / "series", head((20, 24, 4)), number=11)
    (tmp_path / "series" / "notes.txt").write_text("no image")
    pack(tmp_path / "sent.zip", {"any/where": tmp_path / "series"})
    image = client.upload(server.address, tmp_path / "sent.zip")
    info = requests.get(f"{server.address}/datastore/image/info", {"image": image}).json()
    assert info["SeriesInstanceUID"] == image and info["files"] == 4 and info["kind"] == "dicom"
    assert len(list((server.studies / "sent").rglob("*.*"))) <= len(files)
    with pytest.raises(client.ServerError, match="409"):
        client.upload(server.address, tmp_path / "sent.zip", "again")
    assert not (server.studies / "again").exists()


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_larger_than_the_limit_is_refused_before_it_is_kept(
    killed: Server, tmp_path: Path, chunked: bool
) -> None:
    """The limit is 0.001 GB, and a form may have 1 MB beside."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
    body = iter([head, *(bytes(100_000) for _ in range(60))]) if chunked else head + bytes(6_000_000)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = requests.put(f"{killed.address}/datastore/image", data=body, headers=kind)
    assert reply.status_code == 413 and "the server's setting upload" in reply.json()["detail"]


def test_killed_in_the_middle_nothing_is_mixed_up_and_nothing_is_left(killed: Server, tmp_path: Path) -> None:
    """Two images are replaced and restored in turn by many requests when the server is killed."""
    sources = [write_nifti(tmp_path / f"{n}.nii.gz", (1 + n) * magnitude(36, 30, 2)) for n in range(2)]
    known = {}
    for n, source in enumerate(sources):
        client.upload(killed.address, source, "image", overwrite=True)
        killed.restore("own_bundle", tmp_path / f"restored-{n}.nii.gz", image="image", parameters=FAST)
        std = client.download(killed.address, tmp_path / f"std-{n}.nii.gz", "image", "std")
        known[source.read_bytes()] = values(std)

    def work(number: int) -> None:
        try:
            if number % 3:
                killed.restore("own_bundle", tmp_path / f"x-{number}.nii.gz", image="image", parameters=FAST)
            else:
                client.upload(killed.address, sources[number // 3 % 2], "image", overwrite=True)
        except (client.ServerError, requests.RequestException):
            pass

    with ThreadPoolExecutor(12) as pool:
        for number in range(24):
            pool.submit(work, number)
            if number == 12:
                killed.restore("own_bundle", tmp_path / "once.nii.gz", file=sources[0], parameters=FAST)
                killed.process.send_signal(signal.SIGKILL)
    assert killed.process.wait(60) == -signal.SIGKILL
    left = list(killed.scratch.glob("d3gm-label-*"))
    assert left
    home = killed.studies.parent
    again = start(home, "bundles", str(home / "own_bundle"), "device", "cpu")
    try:
        assert not [place for place in left if place.exists()]
        assert "which a server that was killed had left" in again.log.read_text()
        assert not list((again.studies / ".d3gm").glob("staging/*"))
        current = client.download(again.address, tmp_path / "current.nii.gz", "image").read_bytes()
        assert current in known
        if "std" in requests.get(f"{again.address}/datastore/", {"output": "all"}).json()["objects"]["image"]["labels"]:
            std = client.download(again.address, tmp_path / "now.nii.gz", "image", "std")
            assert np.array_equal(values(std), known[current])
    finally:
        stop(again)
