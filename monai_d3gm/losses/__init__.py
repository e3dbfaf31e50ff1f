"""Weights over time of the losses that MONAI and torch have, and the loss of a quantile."""

from __future__ import annotations

from monai_d3gm.losses.quantile import QuantileLoss
from monai_d3gm.losses.weights import maximum_likelihood_weight, score_matching_weight

__all__ = ["QuantileLoss", "maximum_likelihood_weight", "score_matching_weight"]
