"""The real server on a free loopback port: its answers are those of ``python -m monai.bundle run``, bit for bit.

Both run on the CPU with one thread.

Skipped where MONAI Label is not installed; ``.ci/label`` makes the environment and runs it.
"""

from __future__ import annotations

import gc
import gzip
import json
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
from label_server import FAST, Server, needs_monai_label, start, stop
from PIL import Image
from small_bundle import BUNDLES, full_kspace, magnitude, make_bundle, write_nifti

from monai_d3gm.cli.main import main
from monai_d3gm.data.formats.fastmri import write_kspace
from monai_d3gm.label import client

pytestmark = needs_monai_label


def written(folder: Path, kind: str) -> nibabel.Nifti1Image:
    """What a run wrote of a kind."""
    return nibabel.load(next(folder.glob(f"*_{kind}.nii.gz")))


def assert_same(path: Path, expected: nibabel.Nifti1Image) -> None:
    """Equal values and geometry."""
    found = nibabel.load(path)
    assert np.array_equal(found.get_fdata(), expected.get_fdata())
    assert np.array_equal(found.affine, expected.affine)
    for code in ("qform_code", "sform_code"):
        assert found.header[code] == expected.header[code]


def test_info_says_what_is_served(server: Server) -> None:
    info = client.info(server.address)
    assert set(info["models"]) == {"mri_sr", "mri_recon", "own_bundle", "derain", "calibrated"}
    config = json.loads((BUNDLES / "mri_sr" / "configs" / "inference.json").read_text())
    model = info["models"]["mri_sr"]
    assert model["type"] == "others" and model["labels"] == []
    for name in ("num_inference_steps", "num_samples", "fidelity", "seed", "factor"):
        assert model["config"][name] == config[name]
    assert model["config"]["sampler"]["t_min"] == config["sampler"]["t_min"]
    assert "Research use only" in model["description"]
    assert info["datastore"]["total"] >= 2


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("mri_sr", FAST | {"seed": 3}),
        ("mri_sr", {"num_samples": 1, "fidelity": 1.0, "factor": 4}),
        ("mri_recon", FAST | {"acceleration": 8, "fidelity": 0.5}),
        ("own_bundle", FAST | {"plane": "through", "seed": 1}),
    ],
)
def test_an_image_of_the_datastore_is_restored_as_by_monai_bundle_run(
    server: Server,
    home: Path,
    tmp_path: Path,
    run_bundle: Callable[..., Path],
    model: str,
    settings: dict[str, Any],
) -> None:
    root = home / model if (home / model).exists() else BUNDLES / model
    expected = run_bundle(root, server.studies / "sub-01_T1w.nii.gz", **settings)
    result = server.restore(model, tmp_path / "served.nii.gz", image="sub-01_T1w", parameters=settings)
    assert_same(result.path, written(expected, "restored"))
    recorded = result.details["parameters"]
    assert settings.items() <= {**recorded, "num_inference_steps": recorded["sampler"]["steps"]}.items()
    assert result.details["checkpoint"]["sha256"] and isinstance(result.details["warnings"], list)
    if settings["num_samples"] == 1:
        assert result.details["std"] is None and not list(expected.glob("*_std*"))
        return
    assert result.details["std"] == {"image": "sub-01_T1w", "tag": "std"}
    std = client.download(server.address, tmp_path / "std.nii.gz", **result.details["std"])
    assert_same(std, written(expected, "std"))
    settings = settings | {"output": "std"}
    asked = server.restore(model, tmp_path / "asked.nii.gz", image="sub-01_T1w", parameters=settings)
    assert_same(asked.path, written(expected, "std"))


def test_options_of_the_sampler_are_those_of_the_bundle(
    server: Server, tmp_path: Path, run_bundle: Callable[..., Path]
) -> None:
    keys = {"sampler::eta": 1.0, "sampler::order": 1}
    expected = run_bundle(BUNDLES / "mri_sr", server.studies / "sub-01_T1w.nii.gz", **FAST, **keys)
    settings = FAST | {"sampler": {"eta": 1.0, "order": 1}}
    result = server.restore("mri_sr", tmp_path / "served.nii.gz", image="sub-01_T1w", parameters=settings)
    assert_same(result.path, written(expected, "restored"))
    recorded = result.details["parameters"]["sampler"]
    assert recorded["eta"] == 1.0 and recorded["order"] == 1


def test_one_sample_has_intervals_where_the_bundle_is_calibrated(server: Server, tmp_path: Path) -> None:
    """Without an error map or a spread they have one width."""
    image = client.upload(server.address, write_nifti(tmp_path / "one_T1w.nii.gz", magnitude(36, 30, 2)))
    options: dict[str, Any] = {"image": image, "parameters": FAST}
    server.restore("own_bundle", tmp_path / "before.nii.gz", **options)
    one = {"num_inference_steps": 2, "num_samples": 1, "output": "interval"}
    result = server.restore("calibrated", tmp_path / "interval.nii.gz", image=image, parameters=one)
    width = nibabel.load(result.path).get_fdata()
    assert width.shape == (72, 60, 2) and np.ptp(width) == 0 and width[0, 0, 0] > 0
    assert result.details["interval"] == {"image": image, "tag": "interval"} and result.details["std"] is None
    stored = client.download(server.address, tmp_path / "stored.nii.gz", **result.details["interval"])
    assert stored.read_bytes() == result.path.read_bytes()
    with pytest.raises(client.ServerError, match="404: nothing is stored"):  # of the first restoration
        client.download(server.address, tmp_path / "std.nii.gz", image, "std")
    several = one | {"num_samples": 2}
    words = (
        "400: output is 'interval', which there is not for one_T1w.nii.gz: no intervals: calibrated for num_samples 1"
    )
    with pytest.raises(client.ServerError, match=words):
        server.restore("calibrated", tmp_path / "none.nii.gz", image=image, parameters=several)


def test_a_file_that_is_sent_is_restored_under_its_name(
    server: Server, tmp_path: Path, run_bundle: Callable[..., Path]
) -> None:
    """Its noise is that of its name, so that it is restored as it would be at home."""
    sent = write_nifti(tmp_path / "sub.03_flair.nii.gz", magnitude(36, 30, 2))
    expected = run_bundle(BUNDLES / "mri_sr", sent, **FAST)
    before = client.info(server.address)["datastore"]
    result = server.restore("mri_sr", tmp_path / "served.nii.gz", file=sent, parameters=FAST)
    assert_same(result.path, written(expected, "restored"))
    assert result.details["std"] is None and result.details["stored"] is None
    assert client.info(server.address)["datastore"] == before


def test_an_image_can_be_uploaded_and_its_restoration_stored(server: Server, tmp_path: Path) -> None:
    sent = write_nifti(tmp_path / "sub-04_T1w.nii.gz", magnitude(36, 30, 2))
    image = client.upload(server.address, sent)
    assert image == "sub-04_T1w"
    options: dict[str, Any] = {"image": image, "parameters": FAST | {"store": True}}
    result = server.restore("own_bundle", tmp_path / "served.nii.gz", **options)
    assert result.details["stored"] == "sub-04_T1w_restored"
    stored = client.download(server.address, tmp_path / "stored.nii.gz", "sub-04_T1w_restored")
    assert stored.read_bytes() == result.path.read_bytes()
    assert result.details["std"] == {"image": "sub-04_T1w_restored", "tag": "std"}
    std = client.download(server.address, tmp_path / "std.nii.gz", **result.details["std"])
    assert nibabel.load(std).shape == nibabel.load(stored).shape == (72, 60, 2)
    with pytest.raises(client.ServerError, match="409: image 'sub-04_T1w_restored' is in the datastore"):
        server.restore("own_bundle", tmp_path / "again.nii.gz", **options)
    assert not (tmp_path / "again.nii.gz").exists()


@pytest.mark.parametrize("coils", [0, 4])
def test_kspace_is_reconstructed_into_the_datastore(
    server: Server, tmp_path: Path, run_bundle: Callable[..., Path], coils: int
) -> None:
    kspace = full_kspace(64, 64)
    if coils:
        phases = np.exp(1j * np.linspace(0, 3, kspace.shape[-1]))
        kspace = np.stack([kspace * phases**coil / np.sqrt(coils) for coil in range(coils)], axis=1)
    scan = tmp_path / f"scan_{coils}.h5"
    write_kspace(scan, kspace.astype(np.complex64), recon_size=(64, 64))
    settings = FAST | {"acceleration": 2}
    expected = run_bundle(BUNDLES / "mri_recon", scan, **settings)
    result = server.restore("mri_recon", tmp_path / "served.nii.gz", file=scan, parameters=settings | {"store": True})
    assert_same(result.path, written(expected, "restored"))
    assert result.details["stored"] == f"scan_{coils}_restored"
    std = client.download(server.address, tmp_path / "std.nii.gz", **result.details["std"])
    assert_same(std, written(expected, "std"))
    stored = client.download(server.address, tmp_path / "stored.nii.gz", result.details["stored"])
    assert_same(stored, written(expected, "restored"))
    assert result.details["protocol"]["data"].startswith("measured")


def test_a_photograph_is_restored(server: Server, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rain.png")
    result = server.restore("derain", tmp_path / "served.png", file=tmp_path / "rain.png", parameters=FAST)
    with Image.open(result.path) as restored:
        assert restored.size == (48, 40) and restored.mode == "RGB"


# MONAI Label 0.8's client imports cgi and leaves its connections open
@pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning", "ignore:unclosed <socket:ResourceWarning")
def test_the_client_of_monai_label_is_answered(server: Server, tmp_path: Path) -> None:
    from monailabel.client import MONAILabelClient

    own = MONAILabelClient(server.address, str(tmp_path))
    sent = write_nifti(tmp_path / "theirs.nii.gz", magnitude(36, 30, 2))
    assert own.upload_image(str(sent), "theirs")["image"] == "theirs"
    assert "theirs" in own.datastore()["objects"]
    file, told = own.infer("own_bundle", "theirs", FAST)
    assert nibabel.load(file).shape == (72, 60, 2) and told["std"] == {"image": "theirs", "tag": "std"}
    assert nibabel.load(own.download_label("theirs", "std")).shape == (72, 60, 2)
    assert own.save_label("theirs", str(sent), "final", {})["label"] == "theirs"
    assert own.info()["datastore"]["completed"] >= 1
    assert own.next_sample("random", {})["id"] in own.datastore()["objects"]
    gc.collect()


def test_results_in_the_datastore_say_what_made_them(server: Server, tmp_path: Path) -> None:
    result = server.restore("mri_sr", tmp_path / "served.nii.gz", image="sub-01_T1w", parameters=FAST | {"seed": 5})
    query = {"label": "sub-01_T1w", "tag": "std"}
    made = requests.get(f"{server.address}/datastore/label/info", query).json()
    assert made["model"] == "mri_sr" and made["of"] == "sub-01_T1w"
    assert made["weights"] == result.details["checkpoint"]["sha256"]
    assert made["parameters"] == result.details["parameters"] and made["parameters"]["seed"] == 5
    assert made["warnings"] == result.details["warnings"] and made["warnings"]


def test_the_pages_of_the_interface_need_no_network(server: Server) -> None:
    """Every address in /docs is the server's own, and is there."""
    text = requests.get(f"{server.address}/docs").text
    places = re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    assert len(places) >= 3 and all(place.startswith("/") for place in places)
    for place in (*places, "/openapi.json", "/", "/page/page.js", "/page/page.css"):
        assert requests.get(f"{server.address}{place}").status_code == 200, place


def test_the_answer_can_be_the_file_or_the_words_alone(server: Server) -> None:
    query = {"image": "sub-01_T1w"}
    data = {"params": json.dumps(FAST)}
    image = requests.post(f"{server.address}/infer/own_bundle", params={**query, "output": "image"}, data=data)
    assert 'filename="sub-01_T1w_restored.nii.gz"' in image.headers["content-disposition"]
    assert nibabel.Nifti1Image.from_bytes(gzip.decompress(image.content)).shape == (80, 72, 3)
    words = requests.post(f"{server.address}/infer/own_bundle", params={**query, "output": "json"}, data=data).json()
    assert words["model"] == "own_bundle" and words["std"] == {"image": "sub-01_T1w", "tag": "std"}
    assert str(server.studies.parent) not in json.dumps(words)


def requests_that_fail(folder: Path) -> dict[str, tuple[dict[str, Any], int, str]]:
    """Name -> what is sent, the status, words of the answer."""
    broken, empty = folder / "broken.nii.gz", folder / "empty.nii.gz"
    whole = write_nifti(folder / "whole.nii.gz", magnitude()).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    (folder / "text.nii").write_text("no volume")
    (folder / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    scan = folder / "scan.h5"
    write_kspace(scan, full_kspace(), recon_size=(32, 24))
    write_nifti(folder / "nan.nii.gz", magnitude() * np.float32("nan"))
    known = {"model": "mri_sr", "image": "sub-01_T1w"}
    return {
        "unknown model": (known | {"model": "mri_srr"}, 404, "no model 'mri_srr'; there are: mri_sr, "),
        "unknown image": (known | {"image": "sub-99"}, 404, "no image 'sub-99'"),
        "a path of the server": (known | {"image": "/etc/hostname"}, 404, "no image '/etc/hostname'"),
        "a path out of the folder": (known | {"image": "../studies/sub-01_T1w"}, 404, "no image"),
        "no input": ({"model": "mri_sr"}, 400, "no input"),
        "half a file": ({"model": "mri_sr", "file": broken}, 400, "broken.nii.gz: "),
        "an empty file": ({"model": "mri_sr", "file": empty}, 400, "empty.nii.gz"),
        "a text": ({"model": "mri_sr", "file": folder / "text.nii"}, 400, "text.nii"),
        "not finite": ({"model": "mri_sr", "file": folder / "nan.nii.gz"}, 400, "NaN"),
        "cut k-space": ({"model": "mri_recon", "file": folder / "cut.h5"}, 400, "cut.h5: "),
        "k-space for another bundle": ({"model": "mri_sr", "file": scan}, 400, "bundle mri_sr accepts: NIfTI"),
        "no JSON": (known | {"params": "{seed: 1}"}, 400, "params is no JSON"),
        "no object": (known | {"params": "[1]"}, 400, "accepted: a JSON object"),
        "deep JSON": (known | {"params": "[" * 50000}, 400, "params is no JSON: too deep"),
        "long JSON": (known | {"params": '{"a": "' + "x" * 70000 + '"}'}, 400, "accepted: at most 65536"),
        "a huge integer": (known | {"params": '{"seed": 1' + "0" * 3000 + "}"}, 400, "seed is 1e+3000; accepted: "),
        "too many digits": (known | {"params": '{"seed": 1' + "0" * 9000 + "}"}, 400, "params is no JSON"),
        "a large factor": (known | {"params": '{"factor": -1e308}'}, 400, "factor is -1e+308; accepted: "),
        "a negative factor": (known | {"params": '{"factor": -2}'}, 400, "factor is -2; accepted: 2, 4"),
        "infinite": (known | {"params": '{"snr": Infinity}'}, 400, "snr is inf; accepted: "),
        "a long id": (known | {"image": "x" * 300}, 404, "no image"),
        "two inputs": (known | {"file": broken}, 400, "no input, or two"),
        "a format": (known | {"params": '{"format": "png"}'}, 400, "format is 'png'; accepted: same, nifti"),
        "an unknown parameter": (known | {"params": '{"sead": 1}'}, 400, "unknown parameter 'sead'"),
        "an input in the parameters": (known | {"params": '{"image": "/etc/hostname"}'}, 400, "unknown parameter"),
        "another kind": (known | {"params": '{"num_samples": "many"}'}, 400, "num_samples is 'many'"),
        "out of range": (known | {"params": '{"fidelity": 2}'}, 400, "accepted: a number in [0, 1]"),
        "no factor": (known | {"params": '{"factor": 3}'}, 400, "factor is 3; accepted: 2, 4"),
        "an expression": (known | {"params": '{"plane": "$1/0"}'}, 400, "plane is '$1/0'"),
        "an option of the sampler": (known | {"params": '{"sampler": {"etta": 1}}'}, 400, "unknown option 'etta'"),
        "a bad order": (known | {"params": '{"sampler": {"order": 4}}'}, 400, "order is 4; accepted: 1, 2 or 3"),
        "std of one sample": (known | {"params": '{"num_samples": 1, "output": "std"}'}, 400, "num_samples above 1"),
        "no interval": (
            known | {"model": "own_bundle", "params": '{"output": "interval"}'},
            400,
            "output is 'interval', which there is not here: bundle own_bundle is not calibrated; there are: restored",
        ),
    }


def test_bad_requests_are_answered_with_their_reason_and_the_server_goes_on(server: Server, tmp_path: Path) -> None:
    studies = sorted(path for path in server.studies.iterdir())
    for name, (sent, status, words) in requests_that_fail(tmp_path).items():
        files = {"file": (sent["file"].name, sent["file"].read_bytes())} if "file" in sent else None
        query = {"image": sent["image"]} if "image" in sent else {}
        data = {"params": sent.get("params", "{}")}
        reply = requests.post(f"{server.address}/infer/{sent['model']}", params=query, data=data, files=files)
        assert reply.status_code == status and words in reply.json()["detail"], (name, reply.status_code, reply.text)
        assert str(server.scratch) not in reply.text and str(server.studies) not in reply.text, (name, reply.text)
    assert requests.get(f"{server.address}/datastore/label", {"label": "sub-02_T2w", "tag": "std"}).status_code == 404
    for name in ("../x", "a/b", "x" * 300, "a\nb", "a\x1bb", ".a"):
        reply = requests.put(
            f"{server.address}/datastore/image", params={"image": name}, files={"file": ("x.nii", b"x")}
        )
        assert reply.status_code == 400 and "image is " in reply.json()["detail"], name
        reply = requests.post(f"{server.address}/infer/mri_sr", files={"file": (f"{name}.nii", b"x")})
        assert reply.status_code == 400, name
    outside = {"image": "sub-01_T1w", "tag": "../../x"}
    reply = requests.put(f"{server.address}/datastore/label", params=outside, files={"label": ("x.nii", b"x")})
    assert reply.status_code == 400 and "tag is '../../x'" in reply.text
    absent = requests.delete(f"{server.address}/datastore/image", params={"id": "sub-99"})
    assert absent.status_code == 404 and "sub-99" in absent.json()["detail"]
    assert sorted(path for path in server.studies.iterdir()) == studies
    assert server.restore("own_bundle", tmp_path / "after.nii.gz", image="sub-02_T2w", parameters=FAST).path.exists()


def test_twenty_parallel_requests_are_answered_as_serial_ones_and_memory_is_steady(
    server: Server, tmp_path: Path
) -> None:
    jobs = [("mri_sr", "sub-01_T1w"), ("own_bundle", "sub-02_T2w"), ("mri_recon", "sub-02_T2w")]
    jobs = [(model, image, FAST | {"seed": seed}) for seed in (0, 1) for model, image in jobs]

    def volume(number: int, name: str) -> np.ndarray:
        model, image, parameters = jobs[number % len(jobs)]
        path = tmp_path / f"{name}_{number}.nii.gz"
        return nibabel.load(server.restore(model, path, image=image, parameters=parameters).path).get_fdata()

    serial = [volume(number, "serial") for number in range(len(jobs))]
    assert len({array.tobytes() for array in serial}) == len(jobs)
    used = []
    for turn in range(3):
        with ThreadPoolExecutor(20) as pool:
            parallel = [pool.submit(volume, number, f"parallel{turn}") for number in range(20)]
            answered_meanwhile = client.info(server.address)
            for number, result in enumerate(parallel):
                assert np.array_equal(result.result(), serial[number % len(jobs)])
        assert answered_meanwhile["name"] == "monai_d3gm"
        used.append(server.memory())
    print(f"resident memory after each 20 requests, MB: {[round(x) for x in used]}")
    assert used[2] - used[0] < 100
    assert client.info(server.address)["datastore"]["label_tags"]["std"] >= 2
    for _ in range(100):  # they are removed after the answer
        if not list(server.scratch.glob("d3gm-label-*/request-*")):
            break
        time.sleep(0.1)
    assert not list(server.scratch.glob("d3gm-label-*/request-*"))


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Server]:
    """A server that runs one request, lets one wait, and has little memory to give."""
    (tmp_path / "studies").mkdir()
    write_nifti(tmp_path / "studies" / "small.nii.gz", magnitude())
    large = np.zeros((512, 512, 60), dtype=np.uint8)
    large[100:400, 100:400] = 1
    nibabel.save(nibabel.Nifti1Image(large, np.eye(4)), tmp_path / "studies" / "large.nii.gz")
    bundle = make_bundle(tmp_path / "own_bundle", "mri_sr")
    started = start(tmp_path, "bundles", str(bundle), "device", "cpu", "queue", "1", "memory", "0.5", "short", "1")
    yield started
    stop(started)


def test_limits_and_the_stop(narrow: Server, tmp_path: Path) -> None:
    words = r"413: large.nii.gz: restoring it would take about \d+\.\d GB"
    with pytest.raises(client.ServerError, match=words) as refusal:
        narrow.restore("own_bundle", tmp_path / "large.nii.gz", image="large")
    assert "accepted: 0.5 GB (the server's setting memory)" in refusal.value.reason
    assert not (tmp_path / "large.nii.gz").exists()

    long = {"num_inference_steps": 20, "num_samples": 20}

    def restore(number: int, parameters: dict[str, int] = long) -> str | np.ndarray:
        path = tmp_path / f"result_{number}.nii.gz"
        try:
            narrow.restore("own_bundle", path, image="small", parameters=parameters)
        except client.ServerError as error:
            assert error.status == 503
            return error.reason
        return nibabel.load(path).get_fdata()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(restore, range(8)))
    refused = [result for result in results if isinstance(result, str)]
    answered = [result for result in results if not isinstance(result, str)]
    assert len(answered) >= 3 and refused
    assert all("3 requests are running or waiting" in reason for reason in refused)
    assert all(np.array_equal(result, answered[0]) for result in answered)

    short = {"num_inference_steps": 20, "num_samples": 4}  # a stop waits a minute for what runs
    before = restore(8, short)
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(restore, 9, short)
        for _ in range(600):
            if list(narrow.scratch.glob("d3gm-label-*/request-*")):
                break
            time.sleep(0.05)
        narrow.process.send_signal(signal.SIGTERM)
        assert np.array_equal(last.result(), before)
    assert narrow.process.wait(120) == 0
    assert "Traceback" not in narrow.log.read_text()
    assert not list(narrow.scratch.glob("d3gm-label-*"))
    with pytest.raises(requests.ConnectionError):
        client.info(narrow.address)


@pytest.mark.filterwarnings("ignore")  # of MONAI Label's imports
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--studies", "no/such/folder"], "studies is "),
        (["--conf", "bundle", "mri_sr"], "unknown setting 'bundle'; accepted: bundles, "),
        (["--conf", "bundles", "mri_srr"], "no bundle 'mri_srr'"),
        (["--conf", "bundles", "mri_sr,mri_sr"], "two of the name mri_sr"),
        (["--conf", "workers", "0"], "workers is '0'; accepted: an integer of at least 1"),
        (["--conf", "queue", "1000"], "workers and queue are 1001 together; accepted: at most 1000"),
        (["--conf", "upload", "0"], "upload is '0'; accepted: a number of GB above 0"),
        (["--conf", "keep", "nan"], "keep is 'nan'; accepted: a number of minutes above 0"),
        (["--studies", "http://127.0.0.1:9/dicom-web"], "http://127.0.0.1:9/dicom-web cannot be reached"),
        (["--conf", "memory", "much"], "memory is 'much'; accepted: a number of GB"),
        (["--conf", "device", "abacus"], "device is 'abacus'"),
        (["--host", "192.0.2.1"], "192.0.2.1:"),
    ],
)
def test_what_cannot_be_started_is_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    assert main(["label", "start", "--studies", str(tmp_path), "--port", port, *arguments]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("d3gm: error: ") and words in last


@pytest.mark.filterwarnings("ignore")  # of MONAI Label's imports
def test_a_bundle_without_weights_or_with_those_of_another_is_refused(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "broken", "mri_sr")
    weights = bundle / "models" / "model.pt"
    contents = ((None, "the checkpoint file cannot be read"), ("derain", "the checkpoint does not fit the network"))
    for content, words in contents:
        if content is None:
            weights.unlink()
        else:
            shutil.copy(home / content / "models" / "model.pt", weights)
        arguments = ["label", "start", "--studies", str(tmp_path), "--port", "0", "--conf", "bundles", str(bundle)]
        assert main(arguments) == 2
        last = capfd.readouterr().err.splitlines()[-1]
        assert "bundle broken cannot be served" in last and words in last
