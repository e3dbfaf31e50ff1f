"""Checkpoints: the weights of a network with the process, preconditioning and data that they were trained for.

A file is a dict of plain containers and tensors, read with ``weights_only``. ``model`` is the network's state_dict, and
``d3gm`` holds the other facts of the weights: ``process`` (:meth:`DiffusionProcess.config`), ``rho_range`` (the range
of rho = ln(a/c) that the training covered: the theory's section on the denoiser says why any process inside it may use
the weights), ``prediction_type``, ``sigma_data``, ``normalization`` and ``training``. The tensors of ``model`` stand at
the top level too, where ``monai.bundle.load`` looks for them; they share their bytes with those of ``model``.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_d3gm.files import OutputError, atomic_path, check_memory
from monai_d3gm.networks.schedulers.d3gm import RHO_LIMIT, D3GMScheduler
from monai_d3gm.sde import DiffusionProcess, process_from_config

__all__ = [
    "CheckpointError",
    "MAX_BYTES",
    "build_scheduler",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "tensors_hash",
    "trained_range",
    "weights_hash",
    "write_checkpoint",
]

MAX_BYTES = 16_000_000
"""Largest size of a bundle's checkpoint."""

_ENTRIES = ("process", "rho_range", "prediction_type", "sigma_data", "normalization", "training")
_SHOWN = 3


class CheckpointError(ValueError):
    """A checkpoint cannot be used or made; the message is one line and names the file and the difference."""


def save_checkpoint(
    path: str | PathLike[str],
    network: nn.Module,
    scheduler: D3GMScheduler,
    normalization: Mapping[str, Any],
    training: Mapping[str, Any],
    max_bytes: int | None = MAX_BYTES,
) -> None:
    """Write a checkpoint whole or not at all; the same content gives the same bytes.

    Args:
        path: the file; its folder exists.
        network: its state is written, as tensors on the CPU; wrappers of ``DistributedDataParallel`` and
            ``torch.compile`` are taken off.
        scheduler: process, prediction type and sigma_d of the training. Where its ``rho_range`` is None, the range
            from t = 1 to its first timestep is stated.
        normalization: how the images were scaled; plain containers.
        training: data and budget; plain containers.
        max_bytes: largest size of the file; None for no limit, outside a bundle.

    Raises:
        CheckpointError: the file would hold other than tensors and plain containers, be too large, or cannot be
            written.

    Example:
        >>> import tempfile
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> network = ConditionalNAFNet(width=4, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> target = Path(tempfile.mkdtemp()) / "model.pt"
        >>> save_checkpoint(target, network, D3GMScheduler(), {"percentile": 99.5}, {"steps": 0})
        >>> load_checkpoint(target, network)["training"]
        {'steps': 0}
    """
    for wrapper in ("_orig_mod", "module"):
        network = getattr(network, wrapper, network)
    process = scheduler.process
    rho_range = scheduler.rho_range
    if rho_range is None:
        rho_range = trained_range(process, scheduler.num_train_timesteps)
    info = {
        "process": process.config(),
        "rho_range": list(rho_range),
        "prediction_type": scheduler.prediction_type,
        "sigma_data": scheduler.sigma_data,
        "normalization": dict(normalization),
        "training": dict(training),
    }
    write_checkpoint(path, network.state_dict(), info, max_bytes)


def write_checkpoint(
    path: str | PathLike[str], model: Mapping[str, Tensor], info: Mapping[str, Any], max_bytes: int | None = MAX_BYTES
) -> None:
    """Write what `read_checkpoint` gives, the entries ``model`` and ``d3gm``; see `save_checkpoint`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model.pt"
        >>> save_checkpoint(target, nn.Linear(2, 1), D3GMScheduler(), {}, {"steps": 0})
        >>> content = read_checkpoint(target)
        >>> write_checkpoint(target, content["model"], {**content["d3gm"], "training": {"steps": 1}})
        >>> read_checkpoint(target)["d3gm"]["training"]
        {'steps': 1}
    """
    target = Path(path)
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.items()}
    content = {**state, "model": state, "d3gm": {**info, "tensors_sha256": tensors_hash(state)}}
    try:
        with atomic_path(target) as temporary:
            with temporary.open("wb") as file:  # an open file: given a name, torch.save would store it
                torch.save(content, file)
            size = temporary.stat().st_size
            if max_bytes is not None and size > max_bytes:
                raise CheckpointError(
                    f"{target}: the checkpoint has {size / 1e6:.1f} MB; accepted: {max_bytes / 1e6:.0f}."
                )
            read_checkpoint(temporary)
    except OutputError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}.") from error
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(temporary), str(target))) from error


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint's entries ``model`` and ``d3gm``, checked for their form.

    Raises:
        CheckpointError: the file is missing, is no checkpoint, holds other than tensors and plain containers, or its
            tensors are not finite or do not have the stored hash.
        TooLargeError: it would take more memory than is allowed.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model.pt"
        >>> save_checkpoint(target, nn.Linear(2, 1), D3GMScheduler(), {}, {"steps": 0})
        >>> content = read_checkpoint(target)
        >>> sorted(content["model"]), content["d3gm"]["prediction_type"]
        (['bias', 'weight'], 'v_prediction')
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint file.")
    _check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle raise many kinds for a damaged or foreign file
        raise CheckpointError(f"{file}: not a checkpoint of tensors and plain containers, or damaged.") from error
    entries = content if isinstance(content, dict) else {}
    model, info = entries.get("model"), entries.get("d3gm")
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise CheckpointError(f"{file}: not a D3GM checkpoint: it lacks the state_dict 'model'.")
    missing = [name for name in _ENTRIES if not isinstance(info, dict) or name not in info]
    if missing:
        raise CheckpointError(f"{file}: not a D3GM checkpoint: its entry 'd3gm' lacks {', '.join(missing)}.")
    damaged = [name for name, value in model.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if damaged:
        raise CheckpointError(f"{file}: the checkpoint's {damaged[0]} holds NaN or infinity; accepted: finite weights.")
    assert info is not None
    if "tensors_sha256" in info and info["tensors_sha256"] != tensors_hash(model):
        raise CheckpointError(f"{file}: the weights are not those that were saved: their hash differs from the stated.")
    return {"model": model, "d3gm": info}


def _check_archive(file: Path) -> None:
    """Refuse an archive that would inflate beyond the memory limit; torch inflates it whole."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{file}: not a checkpoint of tensors and plain containers, or damaged.") from error
    check_memory(file, "the checkpoint", 2 * size)


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors: of their names, types, shapes and bytes.

    It stays the same when the file around the tensors is written anew, which `weights_hash` does not.

    Args:
        state: tensors by name, such as the entry ``model`` of `read_checkpoint`.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> one = {"weight": torch.ones(2)}
        >>> tensors_hash(one) == tensors_hash({"weight": torch.ones(2)}), tensors_hash(one) == tensors_hash({})
        (True, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trained_range(process: DiffusionProcess, num_train_timesteps: int) -> tuple[float, float]:
    """The range of rho that a training at the times 1/N ... 1 covers, as the network is given it.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> print(f"{trained_range(D3GMProcess(), 1000)[0]:.2f}")
        -2.75
    """
    ends = process.rho(torch.tensor([1.0, 1.0 / num_train_timesteps])).clamp(-RHO_LIMIT, RHO_LIMIT)
    return float(ends[0]), float(ends[1])


def load_checkpoint(
    path: str | PathLike[str], network: nn.Module, scheduler: D3GMScheduler | None = None
) -> dict[str, Any]:
    """Load a checkpoint's weights into ``network``, and check that ``scheduler`` fits their training.

    The scheduler's ``rho_range`` becomes the checkpoint's. After an error nothing has changed.

    Args:
        path: the file.
        network: of the architecture that was trained.
        scheduler: the scheduler to use the weights with; None leaves the check to the caller, who can make the
            training's scheduler with :func:`build_scheduler`.

    Returns:
        The entry ``d3gm``.

    Raises:
        CheckpointError: the file is missing or no checkpoint; its tensors do not fit the network; or the scheduler has
            another prediction type or sigma_d, or a process outside the trained range of rho.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model.pt"
        >>> save_checkpoint(target, nn.Linear(2, 1), D3GMScheduler(), {}, {"steps": 0})
        >>> load_checkpoint(target, nn.Linear(2, 1), D3GMScheduler())["process"]["name"]
        'D3GMProcess'
    """
    content = read_checkpoint(path)
    info: dict[str, Any] = content["d3gm"]
    _check_tensors(Path(path), content["model"], network.state_dict())
    if scheduler is not None:
        _check_scheduler(Path(path), info, scheduler)
    network.load_state_dict(content["model"], strict=True)
    return info


def build_scheduler(info: Mapping[str, Any]) -> D3GMScheduler:
    """The scheduler of the training, from the entry ``d3gm`` that :func:`load_checkpoint` returns.

    Example:
        >>> info = {"process": D3GMScheduler().process.config(), "rho_range": [-3.0, 9.0]}
        >>> build_scheduler(info | {"prediction_type": "sample", "sigma_data": 0.1}).prediction_type
        'sample'
    """
    return D3GMScheduler(
        process_from_config(info["process"]),
        prediction_type=info["prediction_type"],
        sigma_data=info["sigma_data"],
        rho_range=info["rho_range"],
    )


def weights_hash(path: str | PathLike[str]) -> str:
    """The SHA-256 of a checkpoint's file, in hexadecimal.

    Raises:
        CheckpointError: the file is missing or cannot be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.pt"
        >>> _ = file.write_bytes(b"weights")
        >>> len(weights_hash(file))
        64
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint file cannot be read: {error.strerror or error}.") from error


def _check_tensors(path: Path, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    differences = {
        "lacks": [name for name in wanted if name not in stored],
        "has besides": [name for name in stored if name not in wanted],
        "has other shapes:": [
            f"{name} {tuple(stored[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in stored and stored[name].shape != tensor.shape
        ],
    }
    found = [
        f"{verb} {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for verb, names in differences.items()
        if names
    ]
    if found:
        raise CheckpointError(f"{path}: the checkpoint does not fit the network: it {'; it '.join(found)}.")


def _check_scheduler(path: Path, info: Mapping[str, Any], scheduler: D3GMScheduler) -> None:
    if scheduler.prediction_type != info["prediction_type"]:
        raise CheckpointError(
            f"{path}: prediction_type is {scheduler.prediction_type!r}; the network was trained for "
            f"{info['prediction_type']!r}."
        )
    if abs(scheduler.sigma_data - info["sigma_data"]) > 1e-6 * info["sigma_data"]:
        raise CheckpointError(
            f"{path}: sigma_data is {scheduler.sigma_data}; the network was trained with {info['sigma_data']}."
        )
    before = scheduler.rho_range
    scheduler.rho_range = (float(info["rho_range"][0]), float(info["rho_range"][1]))
    try:
        scheduler.check_coverage()
    except ValueError as error:
        scheduler.rho_range = before
        raise CheckpointError(f"{path}: {error}.") from error
