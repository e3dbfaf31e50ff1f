"""Which keys of a bundle's config a request may set, and to what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_d3gm.label.parameters import OUTPUTS, ParameterError, parse_parameters, settable

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def config(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BUNDLES / name / "configs" / "inference.json").read_text())
    return content


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir()))
def test_every_bundle_lets_its_parameters_be_set_and_nothing_of_the_servers(name: str) -> None:
    defaults = settable(config(name))
    assert {"num_inference_steps", "num_samples", "fidelity", "seed"} <= set(defaults)
    assert not {"device", "weights", "output_dir", "dataset_dir", "inputs", "overwrite", "handlers"} & set(defaults)
    sampler = defaults.pop("sampler")
    assert "steps" not in sampler and "_target_" not in sampler and "t_min" in sampler
    assert all(value is None or isinstance(value, bool | int | float | str) for value in defaults.values())


def test_values_of_the_configs_kind_pass_unchanged() -> None:
    given = {"num_inference_steps": 3, "num_samples": 2, "fidelity": 0.5, "seed": 7, "factor": 4, "plane": "through"}
    given |= {"slices": 2, "magnitude": False, "noise_std": 1.5, "frame": 1, "degradation": "blocks", "roi_size": None}
    parsed = parse_parameters({**given, "output": "std", "store": True}, config("mri_sr"))
    assert (parsed.settings, parsed.output, parsed.store) == (given, "std", True)


def test_options_of_the_sampler_become_nested_keys_and_one_sample_can_have_intervals() -> None:
    given = {"sampler": {"eta": [0, 1.6], "grid": "t", "t_first": None, "order": 1}, "output": "interval"}
    parsed = parse_parameters(given | {"num_samples": 1}, config("mri_sr"))
    assert parsed.settings == {"num_samples": 1} | {f"sampler::{k}": v for k, v in given["sampler"].items()}  # type: ignore[attr-defined]
    assert settable(config("mri_recon"))["sampler"]["temperature"] is None  # computed


def test_what_viewers_send_with_every_request_is_passed_over() -> None:
    given = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz", "device": "cpu"}
    assert parse_parameters(given, config("mri_sr")).settings == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_sample": 2}, "unknown parameter 'num_sample'; accepted: factor, "),
        ({"weights": "other.pt"}, "unknown parameter 'weights'"),
        ({"output_dir": "/tmp"}, "unknown parameter 'output_dir'"),
        ({"num_samples": "4"}, "num_samples is '4'; accepted: a number"),
        ({"num_samples": True}, "num_samples is True; accepted: a number"),
        ({"seed": float("nan")}, "seed is nan; accepted: a finite number"),
        ({"seed": [1]}, r"seed is \[1\]; accepted: a number"),
        ({"magnitude": 1}, "magnitude is 1; accepted: true or false"),
        ({"plane": "$__import__('os').system('true')"}, "plane is .*; accepted: a word"),
        ({"contrast": "@network_def"}, "contrast is '@network_def'"),
        ({"contrast": "%inference.json::seed"}, "contrast is '%inference.json::seed'"),
        ({"noise_std": {"_target_": "os.system"}}, "noise_std is {'_target_'.*; accepted: a number"),
        ({"roi_size": "large"}, "roi_size is 'large'; accepted: a number"),
        ({"simulate": 1}, "simulate is 1; accepted: true or false"),
        ({"num_samples": 101}, "num_samples is 101; accepted: at most 100"),
        ({"num_inference_steps": 10**9}, "num_inference_steps is 1000000000; accepted: at most 100"),
        ({"seed": 10**500}, r"seed is 1e\+500; accepted: a finite number of at most 1e\+12"),
        ({"factor": -1e308}, "factor is -1e\\+308; accepted: a finite number"),
        ({"contrast": "x" * 5000}, "contrast is 'x{199}[.]{3}; accepted: a word"),
        ({"eta": 1.0}, "unknown parameter 'eta'; accepted: .*sampler, output, store"),
        ({"sampler": 3}, "sampler is 3; accepted: a JSON object with solver, order, eta"),
        ({"sampler": {"steps": 3}}, "sampler has the option steps; set num_inference_steps"),
        ({"sampler": {"etta": 1}}, "unknown option 'etta' of sampler; accepted: solver, order"),
        ({"sampler": {"_target_": "os.system"}}, "unknown option '_target_' of sampler"),
        ({"sampler": {"grid": "$__import__('os')"}}, "grid of sampler is .*; accepted: a number"),
        ({"sampler": {"eta": [0, "@seed"]}}, "eta of sampler is .*; accepted: a number"),
        ({"sampler": {"clip": [0, True]}}, "clip of sampler is .*; accepted: a number"),
        ({"sampler": {"clip": [0] * 101}}, "clip of sampler is .*; accepted: a number, up to 100 numbers"),
        ({"sampler": {"t_min": float("inf")}}, "t_min of sampler is inf"),
        ({"output": "label"}, "output is 'label'; accepted: restored, std, interval, panel"),
        ({"store": "yes"}, "store is 'yes'; accepted: true or false"),
        ({"output": "std", "num_samples": 1}, "output is 'std' of 1 sample; accepted: num_samples above 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        parse_parameters(given, config("mri_sr"))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
known = settable(config("mri_sr"))
options = st.dictionaries(st.sampled_from([*known.pop("sampler")]), plain | st.lists(plain, max_size=2), max_size=2)
requests = st.dictionaries(st.sampled_from([*known, "output", "store"]), plain, max_size=4)


@given(requests, st.none() | options)
def test_nothing_that_monai_evaluates_gets_through(request: dict[str, Any], sampler: dict[str, Any] | None) -> None:
    try:
        parsed = parse_parameters(request if sampler is None else {**request, "sampler": sampler}, config("mri_sr"))
    except ParameterError:
        return
    assert parsed.output in (None, *OUTPUTS)
    for value in parsed.settings.values():
        assert not isinstance(value, str) or not set(value) & set("$@%#'\"(){}[] /\\")
        assert not isinstance(value, list) or all(isinstance(number, int | float) for number in value)
