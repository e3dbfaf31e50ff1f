"""Weather on photographs: functions, array transforms and dictionary transforms (names ending in d)."""

from __future__ import annotations

from monai_d3gm.transforms.weather.array import SimulateHaze, SimulateRain, SimulateWeather
from monai_d3gm.transforms.weather.dictionary import SimulateHazed, SimulateRaind

__all__ = ["SimulateHaze", "SimulateHazed", "SimulateRain", "SimulateRaind", "SimulateWeather"]
