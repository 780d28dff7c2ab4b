"""What pyproject.toml cannot say: `architectures/` travels inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rebasin_cli", "rebasin_cli.*"]), "rebasin_cli.architectures"],
    package_dir={"rebasin_cli.architectures": "architectures"},
)
