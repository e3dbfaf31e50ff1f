"""Measure-preserving SDE diffusion models (D3GM) for medical image restoration, for MONAI.

Importing the package imports nothing else. Import from its parts: ``monai_d3gm.sde``, ``monai_d3gm.networks``,
``monai_d3gm.consistency``, ``monai_d3gm.inferers`` and so on, or a trained model with all its parts from `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from monai_d3gm.bundle.model import TrainedModel

__version__ = "0.1.0"


def load(name: str | PathLike[str], **settings: Any) -> TrainedModel:
    """Load a bundle with its trained weights.

    Args:
        name: of a bundle that ships with the package, ``mri_recon``, ``mri_sr``, ``derain`` or ``dehaze``; or a
            bundle's folder.
        settings: keys of the bundle's ``configs/inference.json``, such as ``device`` or ``num_samples``.

    Returns:
        The network with its weights, its scheduler, inferer and calibration, and the method ``restore``.

    Raises:
        BundleError: there is no such bundle, or it has no such setting.
        ValueError: a setting is out of range.
        CheckpointError: the weights are missing, or do not fit.

    Example:
        >>> model = load("mri_recon", device="cpu", num_samples=1)
        >>> type(model.network).__name__, model.inferer.num_samples
        ('ConditionalNAFNet', 1)
    """
    from monai_d3gm.bundle.model import load_model

    return load_model(name, **settings)
