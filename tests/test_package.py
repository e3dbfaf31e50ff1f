"""The package as it is installed: version, typing marker, light import, layering, the wheel's content."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import monai_d3gm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(monai_d3gm.__file__).parent


def imported_names(path: Path) -> set[str]:
    """The absolute module names that a source file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
            names.add(importlib.util.resolve_name("." * node.level + (node.module or ""), package))
    return names


def test_version_is_the_installed_one() -> None:
    assert monai_d3gm.__version__ == importlib.metadata.version("monai_d3gm")


def test_version_in_the_citation_and_the_changelog() -> None:
    assert f"version: {monai_d3gm.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{monai_d3gm.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, monai_d3gm; print(sorted({'torch', 'numpy', 'monai'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_mathematics_needs_no_monai() -> None:
    code = "import sys, monai_d3gm.sde; print(sorted({'monai', 'fastmri', 'torchvision'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_what_few_need_is_imported_where_it_is_needed() -> None:
    """sigpy brings numba, pydicom.sr its dictionaries, highdicom both: each takes longer than the package itself."""
    parts = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    code = f"import sys, {', '.join(f'monai_d3gm.{part}' for part in parts)}\n"
    code += "print(sorted({'sigpy', 'numba', 'pydicom.sr', 'highdicom', 'ismrmrd'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# The package's parts from the ground up: each imports only parts that stand before it, and itself (CONTRIBUTING.md).
ORDER = (
    "files",
    "sde",
    "metrics",
    "networks",
    "losses",
    "consistency",
    "baselines",
    "transforms",
    "inferers",
    "data.formats",
    "data.collections",
    "data.restoration",
    "data.training",
    "data",
    "trust",
    "engines",
    "handlers",
    "bundle",
    "comparison",
    "label",
    "cli",
)


def part_of(name: str) -> str:
    """The part of the package to which a module belongs: the longest entry of ORDER that its name begins with."""
    inside = name.removeprefix("monai_d3gm.")
    return max((part for part in ORDER if f"{inside}.".startswith(f"{part}.")), key=len, default=inside)


def test_imports_go_one_way() -> None:
    """Imports inside functions count too."""
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(("monai_d3gm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        if module == "monai_d3gm":
            continue
        allowed = ORDER[: ORDER.index(part_of(module)) + 1]
        for name in imported_names(path):
            if name.startswith("monai_d3gm."):
                assert part_of(name) in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def test_the_order_names_every_part_once() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert {part.partition(".")[0] for part in ORDER} == parts - {"__init__"}
    assert len(set(ORDER)) == len(ORDER)


def test_torchvision_is_not_imported() -> None:
    """Its wheel does not import beside a CPU-only torch; ``fastmri.pl_modules`` imports it."""
    for path in PACKAGE.rglob("*.py"):
        for name in imported_names(path):
            assert not name.startswith(("torchvision", "fastmri.pl_modules")), f"{path} imports {name}"


def test_every_folder_of_modules_is_a_package() -> None:
    """``find_packages`` leaves a folder without ``__init__.py`` out of the wheel; Slicer's module is a file beside."""
    slicer = PACKAGE / "label" / "slicer"
    for path in (path for path in PACKAGE.rglob("*.py") if path.parent != slicer):
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_constraints_pin_what_the_package_requires() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        assert re.match(r"[\w.-]+==[\w.]+( ; python_version >= \"3\.\d+\")?$", line), line
    pins = {line.partition("==")[0].lower() for line in lines}
    for requirement in importlib.metadata.requires("monai_d3gm") or []:
        name, _, marker = requirement.partition(";")
        name = re.split(r"[<>=! \[]", name)[0].lower()
        if name != "monai_d3gm" and (not marker or re.search("dicom|docs|ismrmrd|test", marker)):
            assert name in pins, requirement


def test_the_built_package_holds_the_bundles(tmp_path: Path) -> None:
    """``build_py`` puts the typing marker, the modules and every bundle's files where an installed copy has them."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    built = tmp_path / "monai_d3gm"
    assert (built / "py.typed").is_file()
    assert {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")} == {
        path.relative_to(built) for path in built.rglob("*.py")
    }
    for bundle in (ROOT / "bundles").iterdir():
        files = ["LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md"]
        files += [path.relative_to(bundle).as_posix() for path in (bundle / "models").glob("*.[pj]*")]
        for file in files:
            assert (built / "bundles" / bundle.name / file).read_bytes() == (bundle / file).read_bytes()


def test_errors_have_one_form() -> None:
    """``NAME is VALUE; accepted: WHAT.``, or ``FILE: what is wrong.`` (CONTRIBUTING.md)."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                message = "".join(
                    part.value
                    for part in ast.walk(node.exc)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
                assert not re.search(r"\bmust\b|\bgot\b|accepted (is|are)\b|(is|are) accepted\b(?!:)", message), (
                    f"{path}: {message}"
                )
