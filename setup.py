"""Installation of monai_d3gm.

The version stands once, in ``monai_d3gm/__init__.py``, and is read here without importing the package. The bundles
stand once, in ``bundles/``, and are copied into the package when a wheel is built, so that an installed copy finds
them by name.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUNDLE_FILES = ("LICENSE", "configs/*", "docs/*", "models/model.pt", "models/*.json")


def read_version() -> str:
    """The ``__version__`` of the package, read from its source."""
    source = (ROOT / "monai_d3gm" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('monai_d3gm/__init__.py has no line __version__ = "..."')
    return match.group(1)


class BuildWithBundles(build_py):
    """``build_py`` that also copies ``bundles/<name>`` to ``monai_d3gm/bundles/<name>``.

    Only what makes a bundle is copied (``BUNDLE_FILES``), not the output of runs and trainings. An editable
    installation uses the folder of the checkout, and nothing is copied.
    """

    def bundle_files(self) -> list[tuple[Path, Path]]:
        """Pairs of (source, target) for every file of every bundle."""
        target = Path(self.build_lib) / "monai_d3gm"
        sources = [
            path
            for bundle in sorted((ROOT / "bundles").glob("*/"))
            for pattern in BUNDLE_FILES
            for path in sorted(bundle.glob(pattern))
            if path.is_file()
        ]
        return [(path, target / path.relative_to(ROOT)) for path in sources]

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.bundle_files():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else outputs + [str(target) for _, target in self.bundle_files()]


setup(
    name="monai_d3gm",
    version=read_version(),
    description="Measure-preserving SDE diffusion models (D3GM) for medical image restoration, for MONAI",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The monai_d3gm contributors",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["monai_d3gm", "monai_d3gm.*"]),
    package_data={"monai_d3gm": ["py.typed", "data/collections/manifests/*.json"]},
    cmdclass={"build_py": BuildWithBundles},
    entry_points={"console_scripts": ["d3gm = monai_d3gm.cli.main:main"]},
    install_requires=[
        "torch>=2.4",
        "monai>=1.5",
        "numpy>=1.26",
        "nibabel>=5.2",
        "pydicom>=2.4",
        "fastmri>=0.3.0",
        "h5py>=3.10",
        "scikit-image>=0.22",
        "pillow>=10.1",
        "tifffile>=2022.8.12",
        "scipy>=1.11",
        "sigpy>=0.1.26",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "pytorch-ignite>=0.5.0",
        "tensorboard>=2.16",
        "einops>=0.7",  # MONAI's DiffusionModelUNet
        "requests>=2.31",  # imported by fastmri 0.3.0, which does not declare it
        "fire>=0.5",  # monai.bundle
        "pyyaml>=6.0",  # monai.bundle
        "jsonschema>=3.2",  # monai.bundle
    ],
    extras_require={
        # Parametric maps, and decoders of compressed pixels under permissive licences (Apache-2.0, MIT).
        "dicom": ["highdicom>=0.28", "python-gdcm>=3.0.24", "pylibjpeg>=2.0", "pylibjpeg-openjpeg>=2.0"],
        "ismrmrd": ["ismrmrd>=1.15"],
        "label": ["monailabel>=0.8.5,<0.9", "pydicom<3", "pynetdicom<3", "numpy<2"],
        "docs": ["sphinx>=7.2", "furo>=2024.1", "myst-parser>=2.0"],
        "test": [
            "monai_d3gm[dicom]",
            "dcm2niix>=1.0.20240202",  # the executable; reads written series back
            "pytest>=8.0",
            "hypothesis>=6.100",
            "ismrmrd>=1.15",
            "ruff>=0.6",
            "mypy>=1.11",
            "setuptools>=61",  # tests/test_package.py builds the package
            "types-PyYAML",
            "types-requests",
            "types-tqdm",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
