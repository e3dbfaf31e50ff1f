"""Weights over time of the losses that MONAI and torch have."""

from __future__ import annotations

from monai_d3gm.losses.weights import maximum_likelihood_weight, score_matching_weight

__all__ = ["maximum_likelihood_weight", "score_matching_weight"]
