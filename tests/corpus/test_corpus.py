"""A sample of the corpus in every run of the tests; all of it by its command."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import cases, run

EVERY = 7


@pytest.mark.parametrize("bundle", ["mri_recon", "mri_sr", "derain"])
def test_a_sample_is_refused_by_name_or_restored(bundle: str, tmp_path: Path) -> None:
    chosen = [case for case in cases() if case.bundle == bundle][::EVERY]
    verdict = run(bundle, chosen, tmp_path)
    assert not verdict.faults
    assert verdict.counts["failed"] >= len(chosen) // 3


def test_the_corpus_is_large_enough_and_the_same_in_every_run() -> None:
    first = [(case.bundle, case.name, case.refused) for case in cases()]
    assert len(first) >= 300 and first == [(case.bundle, case.name, case.refused) for case in cases()]
    assert len({(bundle, name) for bundle, name, _ in first}) == len(first)
