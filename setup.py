"""Adds configs/ to an installed package, as detection/configs; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Builds the packages, and copies the configurations, which lie outside them."""

    def run(self) -> None:
        """An editable installation needs no copy: the checkout has them."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "detection" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
