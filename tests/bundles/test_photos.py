"""The bundles derain and dehaze with a small untrained network: what they take, write and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, load, verify_net_in_out
from PIL import Image, ImageCms
from small_bundle import SMALL, Run, evaluation_files, logging_kept

from monai_d3gm.bundle import EVALUATION, INFERENCE
from monai_d3gm.cli.main import main
from monai_d3gm.data import bundled_photographs, read_image, write_image
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.metrics import LpipsWeightsError, evaluate_photograph, lpips
from monai_d3gm.networks.checkpoint import save_checkpoint
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import D3GMProcess, Sampler

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = ("derain", "dehaze")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COFFEE = read_image(bundled_photographs(["coffee.png"])[0]).data[:, 100:172, 200:264]


def network(seed: int = 0) -> ConditionalNAFNet:
    """Untrained, but not zero where the blocks begin as the identity."""
    torch.manual_seed(seed)
    net = ConditionalNAFNet(in_channels=6, out_channels=3, patch_size=2, attention_window=128, **SMALL)
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def photo_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_photo_bundle(tmp_path_factory.mktemp("bundles") / name) for name in NAMES}


@pytest.fixture(params=NAMES)
def photo_bundle(request: pytest.FixtureRequest, photo_bundles: dict[str, Path]) -> Path:
    return photo_bundles[request.param]


def make_photo_bundle(root: Path) -> Path:
    """A copy of the bundle of this name with a small network."""
    shutil.copytree(BUNDLES / root.name / "configs", root / "configs")
    file = root / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"].update(SMALL)
    config |= {"progress": False, "num_inference_steps": 2, "num_samples": 2}
    file.write_text(json.dumps(config))
    (root / "models").mkdir()
    process = D3GMProcess(tau=config["process"]["tau"])
    scheduler = D3GMScheduler(process, sigma_data=config["scheduler"]["sigma_data"])
    save_checkpoint(root / "models" / "model.pt", network(), scheduler, {}, {"steps": 0})
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inputs = tmp_path / "in"
    inputs.mkdir()
    write_image(inputs / "deep.png", COFFEE, bits=16, icc_profile=PROFILE)
    write_image(inputs / "scan.tif", COFFEE[:, :50])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(inputs / "scan.tif").save(inputs / "turned.jpg", exif=exif)
    return inputs


def test_a_folder_is_restored_as_it_came(
    photo_bundle: Path, folder: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    """Bits, profile, format and orientation are the input's; the std is that of red, green and blue."""
    config = photo_bundle / "configs" / "inference.json"
    out = tmp_path / "out"
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", folder, "--output_dir", out)
    assert run.status == 0, run.err
    names = {f"deep_{k}" for k in ("restored.png", "std.tif", "panel.png")}
    names |= {f"scan_{k}" for k in ("restored.tif", "std.tif", "panel.png")}
    names |= {f"turned_{k}" for k in ("restored.png", "std.tif", "panel.png")} | {"metrics.json"}
    assert {path.name for path in out.iterdir()} == names
    deep, scan, turned = (
        read_image(out / name) for name in ("deep_restored.png", "scan_restored.tif", "turned_restored.png")
    )
    assert (deep.bits, scan.bits, turned.bits) == (16, 8, 8) and deep.icc_profile == PROFILE
    assert deep.data.shape == COFFEE.shape and scan.data.shape == (3, 50, 64) and turned.data.shape == (3, 64, 50)
    std = tifffile.imread(out / "deep_std.tif")
    assert std.shape == (72, 64, 3) and std.dtype == np.float32 and 0 < std.mean() < 0.5
    report = json.loads((out / "metrics.json").read_text())
    assert report["inputs"]["scan"]["protocol"]["data"] == "photograph"
    assert (
        f"trained on synthetic {'rain' if photo_bundle.name == 'derain' else 'haze'} alone"
        in report["inputs"]["scan"]["warnings"]
    )


def test_the_rest_of_a_folder_is_done_and_the_status_is_not_0(
    photo_bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_image(folder / "good.png", COFFEE)
    (folder / "text.png").write_text("no image")
    Image.new("CMYK", (32, 32)).save(folder / "print.jpg")
    config = photo_bundle / "configs" / "inference.json"
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", folder, "--output_dir", tmp_path / "out")
    assert run.status == 1 and (tmp_path / "out" / "good_restored.png").is_file()
    last = run.err.strip().splitlines()[-1]
    assert last.startswith("error: 2 not restored") and "text.png" in last and "print.jpg" in last


def test_evaluate_takes_pairs_and_the_dial(
    photo_bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    """The figures of the input are those of the files; fidelity 1 has one evaluation and no other seeds."""
    for name, image in (("rain/x.png", COFFEE**2), ("norain/x.png", COFFEE)):
        (tmp_path / "pairs" / name).parent.mkdir(parents=True)
        write_image(tmp_path / "pairs" / name, image)
    config = evaluation_files(photo_bundle)
    for fidelity in (0, 1):
        run = monai_bundle(
            "run", "--config_file", config, "--dataset_dir", tmp_path / "pairs", "--output_dir", tmp_path / "out",
            "--fidelity", fidelity, "--report", f"{fidelity}.json",
        )  # fmt: skip
        assert run.status == 0, run.err
    reports = [json.loads((tmp_path / "out" / f"{fidelity}.json").read_text()) for fidelity in (0, 1)]
    entries = [report["inputs"]["x"] for report in reports]
    degraded, clean = (
        np.moveaxis(read_image(tmp_path / "pairs" / n).data, 0, -1) for n in ("rain/x.png", "norain/x.png")
    )
    expected = evaluate_photograph(degraded, clean)
    found = {name: entries[0]["figures"]["input"][name] for name in expected}
    assert found == pytest.approx(expected)
    assert entries[0]["figures"]["D3GM"] != entries[1]["figures"]["D3GM"]
    assert any(text.startswith("no LPIPS: ") for text in entries[0]["warnings"])
    assert not list((tmp_path / "out").glob("*.png"))
    (tmp_path / "pairs" / "norain" / "x.png").rename(tmp_path / "pairs" / "norain" / "y.png")
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", tmp_path / "pairs", "--output_dir", tmp_path)
    assert run.status == 1 and "x.png has no partner" in run.err and "y.png has no partner" in run.err


def test_the_command_line_names_pairs_by_patterns(
    photo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `--degraded` and `--clean` say, whatever the layout; a value that is not accepted ends in one line."""
    write_image(tmp_path / "wet_7.png", COFFEE**2)
    write_image(tmp_path / "dry_7.png", COFFEE)
    patterns = ["--degraded", "wet_{id}.png", "--clean", "dry_{id}.png"]
    command = ["evaluate", str(photo_bundle), str(tmp_path), str(tmp_path / "out"), "--no-progress"]
    with logging_kept():
        assert main([*command, *patterns]) == 0
        assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())["inputs"]) == ["wet_7"]
        capsys.readouterr()
        assert main([*command, *patterns, "--overwrite", "--benchmark", "rain9"]) == 1
        assert "rain9" in capsys.readouterr().err
        assert main(["evaluate", str(photo_bundle), str(tmp_path), "--synthetic", "--amount", "1", "1.5"]) == 1
        assert "1.5" in capsys.readouterr().err


def test_the_demo_is_of_photographs_that_were_not_trained_on(photo_bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(photo_bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(photo_bundle)
    dataset = parser.get_parsed_content("dataset")
    assert [volume.path.name for volume in dataset.volumes] == ["astronaut.png", "coffee.png", "rocket.jpg"]
    assert all(volume.has_truth and volume.simulated for volume in dataset.volumes)
    train = ConfigParser.load_config_file(photo_bundle / "configs" / "train.json")
    assert not {volume.path.name for volume in dataset.volumes} & set(train["scikit_image"])
    assert not {"05", "11", "19", "24"} & set(train["kodak"])


@pytest.mark.parametrize("name", NAMES)
def test_the_configs_describe_one_model(name: str) -> None:
    configs = [
        ConfigParser.load_config_file(BUNDLES / name / "configs" / f"{kind}.json") for kind in ("inference", "train")
    ]
    for key in ("network_def", "process", "scheduler"):
        assert configs[0][key] == configs[1][key]
    metadata = ConfigParser.load_config_file(BUNDLES / name / "configs" / "metadata.json")
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("configs", [INFERENCE, EVALUATION])
def test_monai_finds_its_properties(configs: tuple[str, ...], photo_bundle: Path) -> None:
    with logging_kept():
        files = [str(photo_bundle / "configs" / name) for name in configs]
        workflow = ConfigWorkflow(files, workflow_type="inference", logging_file=False, bundle_root=str(photo_bundle))
        workflow.initialize()
        assert workflow.check_properties() == []


@pytest.mark.parametrize("name", NAMES)
def test_monai_verifies_the_networks_input_and_output(name: str) -> None:
    configs = BUNDLES / name / "configs"
    verify_net_in_out(
        "network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu", p=1, n=4
    )


def test_monai_loads_the_network_with_its_weights(photo_bundle: Path) -> None:
    with logging_kept(), pytest.warns(UserWarning, match="parsing config_file"):
        options = {"workflow_type": "inference", "device": "cpu"}
        loaded = load(photo_bundle.name, bundle_dir=photo_bundle.parent, **options)
    assert all(torch.equal(value, network().state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("roi", [64, 96, 128])
def test_tiles_change_little_and_leave_no_seam(roi: int) -> None:
    """Against the whole image: 5e-3 of the range apart at most, 1e-4 on average; no edge where tiles meet."""
    photograph = read_image(bundled_photographs(["rocket.jpg"])[0]).data[None, :, 100:356, 100:420]
    mu = torch.from_numpy(photograph)
    scheduler = D3GMScheduler(D3GMProcess(tau=2.5), sigma_data=0.125)
    sampler = Sampler(steps=2, order=1, eta=1.0, clip=(0.0, 1.0))
    whole = RestorationInferer(scheduler, sampler, seed=3)(mu, network())
    tiled = RestorationInferer(scheduler, sampler, seed=3, roi_size=roi)(mu, network())
    difference = (tiled - whole).abs()
    assert float(difference.max()) < 5e-3 and float(difference.mean()) < 1e-4
    columns = (tiled - whole).diff(dim=-1).abs().mean(dim=(0, 1, 2))
    borders = np.arange(roi * 3 // 4, mu.shape[-1] - roi // 4, roi * 3 // 4)
    at_borders = float(columns[borders - 1].mean())
    assert at_borders < 3 * float(columns.mean()) + 1e-6


def test_lpips_with_weights_of_the_right_shape(tmp_path: Path) -> None:
    """Random weights in place of AlexNet's: equal photographs are 0 apart, others more, symmetric."""
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    torch.manual_seed(0)
    state = {}
    for number, (out, into, size) in shapes.items():
        state[f"features.{number}.weight"] = torch.randn(out, into, size, size) / (into * size**2) ** 0.5
        state[f"features.{number}.bias"] = torch.zeros(out)
    torch.save(state, tmp_path / "alexnet.pth")
    photograph = np.moveaxis(COFFEE[:, :64, :64], 0, -1)
    other = np.ascontiguousarray(photograph[::-1])
    assert lpips(photograph, photograph, tmp_path / "alexnet.pth") == 0
    distance = lpips(photograph, other, tmp_path / "alexnet.pth")
    assert distance > 0 and distance == pytest.approx(lpips(other, photograph, tmp_path / "alexnet.pth"))
    with pytest.raises(LpipsWeightsError, match="no LPIPS"):
        lpips(photograph, other, tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="64 x 64"):
        lpips(photograph[:32], other[:32])
