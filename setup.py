"""What pyproject.toml cannot say: bundles are copied into the package when it is built.

They stand once, in ``bundles/``, and an installed copy finds them by name.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUNDLE_FILES = ("LICENSE", "configs/*", "docs/*", "models/model.pt", "models/*.json")


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


setup(cmdclass={"build_py": BuildWithBundles})
