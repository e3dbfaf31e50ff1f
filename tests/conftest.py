"""What holds for every test: one thread, no window, the same examples in every run.

The number of threads is set before torch is imported: with torch's default, two busy cores are up to 50 times slower.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("d3gm", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("d3gm")
