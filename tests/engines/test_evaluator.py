"""The restoring engine: what its handlers get is what the inferer gives, in the file's units and orientation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import fastmri
import numpy as np
import pytest
import torch
from small_bundle import full_kspace, magnitude, write_nifti
from torch.utils.data import DataLoader

from monai_d3gm.baselines import l1_wavelet
from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.data import KspaceSliceDataset, VolumeBatchSampler, collate_slices, open_kspace, write_kspace
from monai_d3gm.data.restoration.restored import RestoredVolume
from monai_d3gm.engines import ResidualError, RestorationEvaluator, RestorationEvents, kspace_consistency
from monai_d3gm.handlers import RestorationFigures
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.metrics import evaluate_images
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import Sampler
from monai_d3gm.transforms.kspace.functional import simulate_kspace
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight


@pytest.fixture(scope="module")
def network() -> ConditionalNAFNet:
    torch.manual_seed(0)
    return ConditionalNAFNet(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), patch_size=2).eval()


def evaluator(dataset: KspaceSliceDataset, network: Any, batch_size: int = 2, **options: Any) -> RestorationEvaluator:
    sampler = VolumeBatchSampler(dataset, batch_size)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_slices)
    choices = {key: options.pop(key) for key in ("num_samples",) if key in options}
    inferer = RestorationInferer(D3GMScheduler(), Sampler(steps=2), **choices)
    return RestorationEvaluator("cpu", loader, network, inferer, progress=False, **options)


def run(engine: RestorationEvaluator) -> list[RestoredVolume]:
    """Every volume that the engine gives."""
    volumes: list[RestoredVolume] = []
    engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, lambda e: volumes.append(e.state.volume))
    engine.run()
    return volumes


def test_mean_and_standard_deviation_are_those_of_the_samples(tmp_path: Path, network: ConditionalNAFNet) -> None:
    """The samples are drawn again, one by one, with the inferer alone; magnitude of the mean, std of magnitudes."""
    write_nifti(tmp_path / "a.nii", magnitude())
    dataset = KspaceSliceDataset(tmp_path, acceleration=2)
    volume = run(evaluator(dataset, network, num_samples=3))[0]
    for index, item in enumerate(dataset):
        samples: list[torch.Tensor] = []
        batch = collate_slices([item])
        RestorationInferer(D3GMScheduler(), Sampler(steps=2), num_samples=3).moments(
            batch["mu"],
            network,
            data_consistency=kspace_consistency(batch),
            items=batch["key"],
            of=lambda x, samples=samples: samples.append(x.clone()) or x,
        )
        stack = torch.cat(samples).double()
        assert len(stack) == 3
        scale = float(item["scale"])
        np.testing.assert_allclose(volume.images["D3GM"][index], scale * stack.mean(0).norm(dim=0), atol=1e-4 * scale)
        std = scale * stack.norm(dim=1).std(0, unbiased=True)
        assert volume.std is not None
        np.testing.assert_allclose(volume.std[index], std, atol=1e-4 * scale)


def test_zero_filling_and_l1_wavelet_are_in_the_files_units(tmp_path: Path, network: ConditionalNAFNet) -> None:
    write_kspace(tmp_path / "a.h5", 1e-3 * full_kspace(), recon_size=(20, 20))
    dataset = KspaceSliceDataset(tmp_path, acceleration=2)
    volume = run(evaluator(dataset, network))[0]
    assert volume.std is None and volume.reference is not None
    truth = 1e-3 * np.moveaxis(magnitude(32, 24, 2), -1, 0)[:, 6:26, 2:22]
    np.testing.assert_allclose(volume.reference, truth, atol=1e-6)
    item = dataset[1]
    measured = item["kspace"][None], item["phase"][None]  # the phase reference takes the place of the maps
    weight = phase_constraint_weight(measured[0], item["mask"], measured[1], item["noise_std"])
    expected = item["scale"] * l1_wavelet(*measured, mask=item["mask"], phase_weight=weight).abs()[:, 2:22]
    assert item["kspace"].shape == (20, 24)  # the readout is cropped before, the columns after
    np.testing.assert_allclose(volume.images["L1-wavelet"][1], expected, rtol=1e-5)
    expected = item["scale"] * ifft2c(item["kspace"]).abs()[:, 2:22]
    np.testing.assert_allclose(volume.images["zero-filled"][1], expected, rtol=1e-5, atol=1e-8)


def turned_inputs(folder: Path, coils: int) -> list[Path]:
    """One fully sampled file, and the same times exp(i), under the same name in two folders."""
    kspace = torch.stack(
        [
            simulate_kspace(magnitude(64, 48, 1)[..., 0], np.random.default_rng(s), snr=80.0, phase=1.0, coils=coils)[0]
            for s in range(2)
        ]
    )
    paths = [folder / "as it is" / "a.h5", folder / "turned" / "a.h5"]
    for path, turn in zip(paths, (1.0, np.exp(1j)), strict=True):
        path.parent.mkdir()
        write_kspace(path, (turn * kspace).to(torch.complex64), recon_size=(64, 48))
    return paths


@pytest.mark.parametrize(("coils", "noise_std"), [(1, 0.0), (1, 2.0), (4, 0.5), (4, 2.0)])
@pytest.mark.parametrize("axis", ["phase", "frequency"])
def test_a_global_phase_of_the_input_does_not_matter(
    tmp_path: Path, network: ConditionalNAFNet, coils: int, axis: str, noise_std: float
) -> None:
    """Nor does it with several coils, whose sensitivities are estimated. The network does something here."""
    network = copy.deepcopy(network)
    torch.manual_seed(1)
    torch.nn.init.normal_(network.outro.weight, std=0.3)
    volumes = []
    for path in turned_inputs(tmp_path, coils):
        dataset = KspaceSliceDataset(path, acceleration=2, axis=axis, noise_std=noise_std)
        volumes.append(run(evaluator(dataset, network, num_samples=2))[0])
    one, two = volumes
    assert one.std is not None and two.std is not None and one.reference is not None and two.reference is not None
    assert one.images["D3GM"].shape == (2, 64, 48)
    scale = float(one.reference.max())
    assert np.abs(one.images["D3GM"] - one.images["zero-filled"]).max() > 0.02 * scale  # it is restored indeed
    for name in ("D3GM", "zero-filled", "L1-wavelet"):
        np.testing.assert_allclose(one.images[name], two.images[name], atol=1e-3 * scale)
    np.testing.assert_allclose(one.std, two.std, atol=1e-3 * scale)
    np.testing.assert_allclose(one.reference, two.reference, atol=1e-5 * scale)


def test_several_coils_end_to_end(tmp_path: Path, network: ConditionalNAFNet) -> None:
    """A multi-coil file: the estimate with its maps and phase is nearer the truth, and the rows are what they say."""
    path = turned_inputs(tmp_path, 4)[0]
    dataset = KspaceSliceDataset(path, acceleration=2)
    volume = run(evaluator(dataset, network))[0]
    item = dataset[0]
    assert item["sensitivity_maps"].shape == item["kspace"].shape == (4, 64, 48)
    assert item["phase"].shape == (64, 48) and item["mu"].shape == item["zero_filled"].shape == (2, 64, 48)
    zero_filled = (item["sensitivity_maps"].conj() * ifft2c(item["kspace"])).sum(0).abs()
    factor = item["scale"] * item["intensity"]  # back to the file's own coils
    np.testing.assert_allclose(volume.images["zero-filled"][0], factor * zero_filled, rtol=1e-5, atol=1e-4)
    assert volume.coils[0]["coils"] == 4 and volume.coils[0]["unexplained"] < 0.05
    assert volume.reference is not None
    own = fastmri.rss(ifft2c(open_kspace(path).read_kspace(0)).abs())
    np.testing.assert_allclose(volume.reference[0], own, rtol=1e-4)
    assert volume.images["D3GM"].shape == (2, 64, 48) and np.isfinite(volume.images["D3GM"]).all()
    for item in dataset:
        errors = [(item[name].norm(dim=0) - item["reference"]).square().mean() for name in ("mu", "zero_filled")]
        assert errors[0] < errors[1]


def test_volumes_of_different_shapes_come_whole_and_in_order(tmp_path: Path, network: ConditionalNAFNet) -> None:
    write_nifti(tmp_path / "a.nii", magnitude(40, 36, 3))
    write_nifti(tmp_path / "b.nii", magnitude(24, 44, 1))
    write_kspace(tmp_path / "c.h5", full_kspace(32, 24, 5), recon_size=(32, 24))
    dataset = KspaceSliceDataset(tmp_path, acceleration=2)
    volumes = run(evaluator(dataset, network, baseline=False))
    assert [volume.source.stem for volume in volumes] == ["a", "b", "c"]
    shapes = [(3, 40, 36), (1, 24, 44), (5, 32, 24)]
    for volume, shape in zip(volumes, shapes, strict=True):
        assert set(volume.images) == {"zero-filled", "D3GM"}
        assert volume.images["D3GM"].shape == shape
        assert volume.source.as_volume(volume.images["D3GM"]).shape == (*shape[1:], shape[0])


def test_exchanged_axes_are_exchanged_back(tmp_path: Path, network: ConditionalNAFNet) -> None:
    """The reference is the file's image, whichever axis is undersampled; SNR changes it only by the band's crop."""
    write_nifti(tmp_path / "a.nii", magnitude())
    references = []
    for axis in ("phase", "frequency"):
        dataset = KspaceSliceDataset(tmp_path, acceleration=2, axis=axis)
        references.append(run(evaluator(dataset, network, baseline=False))[0].reference)
    np.testing.assert_allclose(references[0], np.moveaxis(magnitude(), -1, 0), atol=1e-3)
    np.testing.assert_allclose(references[1], references[0], atol=1e-3)


def test_slices_that_were_not_asked_for_are_zero_in_the_volume(tmp_path: Path, network: ConditionalNAFNet) -> None:
    write_nifti(tmp_path / "a.nii", magnitude(40, 36, 5))
    volume = run(evaluator(KspaceSliceDataset(tmp_path, acceleration=2, slices=2), network, baseline=False))[0]
    whole = volume.source.as_volume(volume.images["D3GM"])
    assert [s for s in range(5) if whole[:, :, s].any()] == list(volume.source.slices) == [1, 3]


def test_figures_are_those_of_the_metrics_and_their_means_the_engines(
    tmp_path: Path, network: ConditionalNAFNet
) -> None:
    for name, rows in (("a", 40), ("b", 44)):
        write_nifti(tmp_path / f"{name}.nii", magnitude(rows, 36, 2))
    figures = RestorationFigures()
    engine = evaluator(KspaceSliceDataset(tmp_path, acceleration=2), network, val_handlers=[figures])
    volumes = run(engine)
    for volume in volumes:
        assert volume.reference is not None
        for method, image in volume.images.items():
            for protocol in ("slice", "volume"):
                expected = evaluate_images(image, volume.reference, protocol)
                assert expected.items() <= figures.by_input[volume.source.stem][method].items()
    name = "psnr/volume/whole"
    mean = np.mean([figures.by_input[stem]["D3GM"][name] for stem in "ab"])
    assert engine.state.metrics[name] == pytest.approx(mean)
    engine.run()  # a second run, as in training, starts afresh
    assert set(figures.by_input) == {"a", "b"} and engine.state.metrics[name] == pytest.approx(mean)


def test_a_volume_too_small_for_figures_is_restored_all_the_same(tmp_path: Path, network: ConditionalNAFNet) -> None:
    write_kspace(tmp_path / "a.h5", full_kspace(32, 24, 1), recon_size=(6, 6))
    figures = RestorationFigures()
    dataset = KspaceSliceDataset(tmp_path, acceleration=2)
    assert len(run(evaluator(dataset, network, val_handlers=[figures]))) == 1
    assert figures.by_input == {} and "7 x 7" in figures.problems["a"]


def test_a_device_that_is_not_there_is_named(tmp_path: Path, network: ConditionalNAFNet) -> None:
    write_nifti(tmp_path / "a.nii", magnitude())
    loader = DataLoader(KspaceSliceDataset(tmp_path), collate_fn=collate_slices)
    with pytest.raises(ValueError, match="device is 'cpu:x'"):
        RestorationEvaluator("cpu:x", loader, network, RestorationInferer(D3GMScheduler()))


@pytest.mark.parametrize("worst_residual", [None, 2.0])
def test_an_image_far_from_its_measurement_is_an_error(
    tmp_path: Path, network: ConditionalNAFNet, worst_residual: float | None
) -> None:
    """Without consistency's pull a network that makes noise ends further from the data than its input."""
    noisy = copy.deepcopy(network)
    torch.manual_seed(1)
    torch.nn.init.normal_(noisy.outro.weight, std=3.0)
    write_nifti(tmp_path / "a.nii", magnitude())
    dataset = KspaceSliceDataset(tmp_path, acceleration=2)

    class Unheeded:
        """Measures the residual, and corrects nothing."""

        def __init__(self, batch: Any, device: Any) -> None:
            self.residual = kspace_consistency(batch, device).residual
            self.noise_std = kspace_consistency(batch, device).noise_std

        def __call__(self, x: Any, t: Any) -> Any:
            return x

        def select(self, indices: Any) -> Any:
            return self

    run_it = evaluator(dataset, noisy, baseline=False, worst_residual=worst_residual, data_consistency=Unheeded)
    if worst_residual is None:
        assert run(run_it)[0].residual.max() > 2
    else:
        with pytest.raises(ResidualError, match=r"a:\d+: the restored image is further from its measurement than"):
            run_it.run()
