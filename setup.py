"""What an installed package has from outside of its folders: tools/ as `detection.tools`, configs/ as a folder in it.

Everything else is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Builds the packages, and copies the configurations, which lie outside them."""

    def run(self) -> None:
        """An editable installation needs no copy: the checkout has them."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "detection" / "configs", dirs_exist_ok=True)


setup(
    cmdclass={"build_py": BuildWithConfigs},
    packages=[*find_packages(include=["backbones*", "detection*"]), "detection.tools"],
    package_dir={"detection.tools": "tools"},
)
