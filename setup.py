"""Packaging: everything that describes the package is read from settings.ini."""

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]


def lines(key):
    return [line.strip() for line in meta[key].splitlines() if line.strip()]


class WithSamples(build_py):
    """Put data_samples/ into the wheel, as vidlankd_nb/data_samples."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(
                here / "data_samples",
                Path(self.build_lib) / meta["lib_name"] / "data_samples",
                dirs_exist_ok=True,
            )


init = (here / meta["lib_name"] / "__init__.py").read_text(encoding="utf-8")
docs = lines("docs_requirements")
completion = lines("completion_requirements")
extras = {
    "jupyter": lines("jupyter_requirements"),
    "ray": lines("ray_requirements"),
    "peers": lines("peers_requirements"),
    "sentencepiece": lines("sentencepiece_requirements"),
    "timm": lines("timm_requirements"),
    "completion": completion,
    "docs": docs,
    "dev": lines("dev_requirements") + docs + completion,
}

setup(
    name=meta["lib_name"],
    version=re.search(r'^__version__ = "(.+)"', init, re.M).group(1),
    description=meta["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=meta["keywords"].split(),
    author=meta["author"],
    license=meta["license"],
    python_requires=f">={meta['min_python']}",
    packages=find_namespace_packages(include=[f"{meta['lib_name']}*"], exclude=["*.__pycache__"]),
    package_data={meta["lib_name"]: ["configs/*.yaml", "grids/*.yaml", "templates/*.html", "py.typed"]},
    cmdclass={"build_py": WithSamples},
    install_requires=lines("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{meta['lib_name']} = {meta['lib_name']}._modidx:d"],
    },
)
