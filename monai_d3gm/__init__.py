"""Measure-preserving SDE diffusion models (D3GM) for medical image restoration, for MONAI.

Importing the package imports nothing else: take what is needed from ``monai_d3gm.sde``, ``monai_d3gm.networks``,
``monai_d3gm.consistency``, ``monai_d3gm.inferers`` and so on.
"""

__version__ = "0.1.0"
