"""Measures of processes on pairs, and the command that takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_bundle import magnitude, write_nifti
from torch import Tensor

from monai_d3gm.cli.main import main
from monai_d3gm.comparison import diagnose_process, draw_trajectories
from monai_d3gm.comparison.diagnosis import Pair
from monai_d3gm.sde import D3GMProcess, OrnsteinUhlenbeckBridge, VariancePreservingProcess

INFORMATION = {"prediction_type": "sample", "sigma_data": 0.1, "rho_range": [-3.0, 9.0]}


class Shift(torch.nn.Module):
    """Predicts mu + 0.1, by the second half of its input; stretches mu by 1 and the state by 0."""

    def forward(self, x: Tensor, timesteps: Any = None, context: Any = None) -> Tensor:
        return x[:, 1:] + 0.1


def pair(rms: float = 0.1) -> Pair:
    mu = torch.full((1, 1, 16, 16), 0.5)
    return Pair(mu + rms, mu)


def test_measures_of_a_process() -> None:
    """The D3GM's closed forms of the theory's section on discrepancy; what the bridge has no law for is None."""
    found = diagnose_process(D3GMProcess(tau=2.0), [pair()])
    s, a = 2 * 10 / 255, 0.005
    assert found.kl_per_pixel == pytest.approx((a**2 * 0.01 / s**2 - a**2 - np.log1p(-(a**2))) / 2, rel=1e-4)
    assert found.w2_per_pixel == pytest.approx(np.sqrt(a**2 * 0.01 + s**2 * (1 - np.sqrt(1 - a**2)) ** 2), rel=1e-4)
    assert found.cocycle_defect < 1e-9
    assert found.tau == pytest.approx(2.0, abs=0.03)  # rms d of 0.1
    assert found.lipschitz is None and found.round_trip == {}
    bridge = diagnose_process(OrnsteinUhlenbeckBridge(), [pair()])
    assert bridge.kl_per_pixel is None and bridge.w2_per_pixel == 0 and bridge.cocycle_defect > 1
    with pytest.raises(ValueError, match="pairs is empty"):
        diagnose_process(D3GMProcess(), [])


def test_round_trips_come_back_with_the_network_s_image() -> None:
    """The network always says mu + 0.1: right for the first pair, 0.1 off for the other, range 0.7: 16.9 dB."""
    right = diagnose_process(D3GMProcess(), [pair()], Shift(), INFORMATION)
    assert set(right.round_trip) == {"1", "0.75", "0.5", "0.25"} and min(right.round_trip.values()) > 60
    off = diagnose_process(D3GMProcess(), [pair(0.2)], Shift(), INFORMATION)
    assert list(off.round_trip.values()) == pytest.approx([20 * np.log10(0.7 / 0.1)] * 4, abs=1e-3)
    assert right.lipschitz == pytest.approx(1.0) and right.refused is None
    refused = diagnose_process(VariancePreservingProcess(), [pair()], Shift(), INFORMATION)
    assert refused.round_trip == {} and refused.lipschitz is None
    assert refused.refused is not None and "was trained for rho" in refused.refused


def test_each_process_has_its_forward_law_and_sampling_or_why_not() -> None:
    methods = {
        "D3GM": (D3GMProcess(), Shift(), INFORMATION),
        "SGM": (VariancePreservingProcess(), Shift(), INFORMATION),
    }
    figure = draw_trajectories(methods, pair(), steps=8)
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels == ["D3GM\nforward law", "D3GM\nsampling", "SGM\nforward law", "SGM\nsampling"]  # like beside like
    last = figure.axes[13].get_images()[0].get_array()  # the result, over the truth's range
    assert np.allclose(last, 1.0, atol=1e-3)
    assert not figure.axes[21].get_images() and "was trained for rho" in figure.axes[21].texts[0].get_text()
    assert not figure.axes[21].texts[0].get_in_layout()  # the columns keep one width
    alone = draw_trajectories({"D3GM": (D3GMProcess(), None, None)}, pair(), steps=8)
    assert [axis.get_ylabel() for axis in alone.axes if axis.get_ylabel()] == ["D3GM\nforward law"]
    turned = draw_trajectories(methods, pair(), steps=8, view=lambda image: image.T[::-1])
    first, drawn = (each.axes[1].get_images()[0].get_array() for each in (figure, turned))
    assert np.array_equal(np.asarray(first).T[::-1], drawn)
    with pytest.raises(ValueError, match="steps is 6"):
        draw_trajectories(methods, pair(), steps=6)


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = write_nifti(tmp_path / "volume.nii.gz", magnitude())
    command = ["diagnose", str(bundle), str(volume), str(tmp_path / "out"), "--no-progress"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Means over 1 pairs." in out and "D3GM, tau 2" in out and "VariancePreserving: process" in out
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert [one["process"]["name"] for one in content["processes"]][-1] == "D3GMProcess"
    assert len(content["processes"]) == 5 and content["processes"][-1]["lipschitz"] >= 0
    with Image.open(tmp_path / "out" / "trajectories.png") as picture:
        assert picture.width > 900
    assert main(command) == 2 and "set --overwrite" in capsys.readouterr().err
    one = ["--overwrite", "--process", '{"name": "D3GMProcess", "tau": 4}', "--slices", "2"]
    assert main([*command, *one]) == 0
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert content["pairs"] == 2 and [p["process"]["tau"] for p in content["processes"]] == [4.0]
    assert main([*command, "--overwrite", "--process", '{"name": "Unknown"}']) == 2
