"""Weather on photographs: functions, array transforms and dictionary transforms (names ending in d)."""

from __future__ import annotations

from monai_d3gm.transforms.weather.array import DarkChannelPrior, SimulateHaze, SimulateRain, SimulateWeather
from monai_d3gm.transforms.weather.dictionary import DarkChannelPriord, SimulateHazed, SimulateRaind

__all__ = [
    "DarkChannelPrior",
    "DarkChannelPriord",
    "SimulateHaze",
    "SimulateHazed",
    "SimulateRain",
    "SimulateRaind",
    "SimulateWeather",
]
