"""What the benchmarks measured: each result names its weights, and the pages show what the results hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from small_bundle import make_bundle

ROOT = Path(__file__).resolve().parents[1]
RESULTS = [path for path in (ROOT / "benchmarks").rglob("*.json") if "results" in path.relative_to(ROOT).parts]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``benchmarks/figures.py``, which imports the scripts beside it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import figures

    return figures


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``benchmarks/stale.py``."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import stale

    return stale


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.relative_to(ROOT / "benchmarks").as_posix())
def test_a_result_names_its_weights(path: Path) -> None:
    """By the hash of their tensors, or it says that they are unknown; each shipped file exists."""
    content = json.loads(path.read_text())
    if path.is_relative_to(ROOT / "benchmarks" / "compare"):
        assert all(re.fullmatch("[0-9a-f]{64}", h) for seeds in content["networks"].values() for h in seeds.values())
        return
    if content["weights"] == "unknown":
        return
    assert all((ROOT / file).is_file() for file in content["weights"])
    hashes = [*content["weights"].values(), *content["networks"].values()]
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes)


def test_results_of_other_weights_are_told_with_the_pages_that_cite_them(
    stale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1 only where a page cites one."""
    make_bundle(tmp_path / "bundles" / "mri_recon")
    shipped = "bundles/mri_recon/models/model.pt"
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    now = stale.hash_of(tmp_path / shipped)

    def write(name: str, **content: Any) -> None:
        (folder / f"{name}.json").write_text(json.dumps(content))

    def told() -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stale.py", "--root", str(tmp_path)])
        return stale.main(), capsys.readouterr().out

    write("current", weights={shipped: now}, networks={})
    write("timing", weights={}, networks={})
    write("experiment", networks={"D3GM": {"0": "f" * 64}})
    (tmp_path / "README.md").write_text("benchmarks/results/current.json, benchmarks/results/experiment.json")
    assert told() == (0, "all results belong to the shipped weights\n")

    write("old", weights={shipped: "0" * 64}, networks={})
    status, printed = told()
    assert status == 0 and "old.json" in printed and f"was 00000000, is {now[:8]}" in printed
    assert "current.json" not in printed and "timing.json" not in printed and "experiment.json" not in printed
    (tmp_path / "README.md").write_text("see benchmarks/results/old.json")
    status, printed = told()
    assert status == 1 and re.search(r"old\.json.*README\.md", printed)

    write("old", rows=[])
    status, printed = told()
    assert status == 1 and "unknown weights" in printed


def test_the_pages_show_what_the_results_hold(figures: Any) -> None:
    """``python benchmarks/figures.py`` renews the pages where they do not."""
    marks = 0
    for page in figures.page_names(ROOT):
        text = (ROOT / page).read_text(encoding="utf-8")
        marks += len(figures.MARK.findall(text))
        assert text.count("<!-- figures: ") == text.count("<!-- end -->"), page
        told = [
            f"{page}:{line}: {a!r} is now {b!r}" for line, a, b in figures.differences(text, figures.renew(text, page))
        ]
        assert not told, told
    assert marks > 80


def test_every_result_that_a_page_names_is_there(figures: Any) -> None:
    for page in figures.page_names(ROOT):
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in re.findall(r"benchmarks/[\w/]*results/[\w/]+\.json", text):
            assert (ROOT / name).is_file() or "gpu" in name, f"{page} names {name}"


def test_tables_of_quality_come_from_results(figures: Any) -> None:
    """Each table with PSNR or SSIM in its head is made by a mark; the comparisons have a test of their own."""
    for page in figures.page_names(ROOT):
        if page == "docs/comparisons.md":
            continue
        text = figures.MARK.sub("", (ROOT / page).read_text(encoding="utf-8"))
        text = re.sub(r"<!-- by hand: .*? -->\n\n\|.*?\n\n", "", text, flags=re.DOTALL)
        heads = re.findall(r"^(\|.*(?:PSNR|SSIM|dB).*)\n\| ?:?-", text, re.MULTILINE)
        assert not heads, f"{page}: {heads}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/compare/results").glob("*.json")), ids=lambda path: path.stem
)
def test_the_tables_of_the_comparisons_are_those_of_their_results(
    path: Path, figures: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each table that the command beside it prints stands in the page, line by line."""
    import comparison_tables

    page = set((ROOT / "docs/comparisons.md").read_text(encoding="utf-8").splitlines())
    monkeypatch.setattr(sys, "argv", ["comparison_tables.py", str(path)])
    comparison_tables.main()
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(tables) >= 10 and set(tables) <= page


def made(figures: Any, monkeypatch: pytest.MonkeyPatch, what: str, result: dict[str, Any]) -> str:
    monkeypatch.setattr(figures, "_read", lambda path: result)
    return figures.show(what)


ROWS = [
    {"subject": s, "mask": m, "method": method, "weight": w, "psnr": p}
    for s, m, method, w, p in [
        ("1", "a", "ours", None, 30.0),
        ("1", "a", "theirs", 0.1, 28.0),
        ("1", "a", "theirs", 0.2, 29.0),
        ("2", "a", "ours", None, 33.0),
        ("2", "a", "theirs", 0.1, 33.5),
        ("2", "a", "theirs", 0.2, 31.0),
    ]
]


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("mean x/r.json .1f psnr method=ours", "31.5"),
        ("least x/r.json .1f psnr method=theirs weight=0.2", "29.0"),
        ("most x/r.json .0f psnr method!=ours", "34"),
        ("gain x/r.json +.2f psnr method=ours less method=theirs", "+0.25"),  # (30 - 29 + 33 - 33.5) / 2
        ("least-gain x/r.json +.1f psnr method=ours less method!=ours", "-0.5"),
        ("gain x/r.json +.1f psnr method=ours less method=theirs weight=0.1", "+0.8"),  # (2 - 0.5) / 2 = 0.75
        ("ratio x/r.json .3f psnr subject=1 method=ours over subject=2", "0.909"),  # 30 / 33
        ("count x/r.json mask=a method=theirs", "4"),
        ("entry x/r.json .0% share", "90 %"),
    ],
)
def test_single_figures(figures: Any, monkeypatch: pytest.MonkeyPatch, what: str, shown: str) -> None:
    """Of six rows, by hand."""
    assert made(figures, monkeypatch, what, {"rows": ROWS, "share": 0.9}) == shown


def test_a_renewed_page_has_the_new_figure_and_its_own_words(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = "<!-- figures: mean x/r.json .1f psnr method=ours -->"
    monkeypatch.setattr(figures, "_read", lambda path: {"rows": ROWS})
    page = f"It has {mark}12.3<!-- end --> dB.\n"
    renewed = figures.renew(page, "page.md")
    assert renewed == f"It has {mark}31.5<!-- end --> dB.\n"
    assert figures.differences(page, renewed) == [(1, "12.3", "31.5")]
    assert figures.renew(renewed, "page.md") == renewed
    with pytest.raises(ValueError, match=r"page\.md: the mark 'mean x/r\.json .*no row has method=other"):
        figures.renew(page.replace("method=ours", "method=other"), "page.md")
    with pytest.raises(ValueError, match="accepted: alone in its line"):
        figures.renew(f"\n{mark}1<!-- end --> dB", "page.md")
