"""What pyproject.toml cannot say: `architectures/` travels inside the package, and the fast assignment solver is C.

The extension is optional: without a compiler the install succeeds and scipy solves the assignments.
"""

import sys

from setuptools import Extension, find_packages, setup

LAZY_JV = "rebasin_cli/matching/assignment/lazy_jv"
SOURCES = ("module", "solve", "first", "bids", "paths", "lists", "rows", "small")

# No contraction of a*b+c: the same matrix gives the same permutation on every machine.
COMPILE = ["/O2", "/std:c11"] if sys.platform == "win32" else ["-O3", "-std=c11", "-ffp-contract=off"]

setup(
    packages=[*find_packages(include=["rebasin_cli", "rebasin_cli.*"]), "rebasin_cli.architectures"],
    package_dir={"rebasin_cli.architectures": "architectures"},
    ext_modules=[
        Extension(
            "rebasin_cli.matching.assignment._lazy_jv",
            sources=[f"{LAZY_JV}/{name}.c" for name in SOURCES],
            depends=[f"{LAZY_JV}/{name}.h" for name in ("lazy_jv", "search", "passes")],
            extra_compile_args=COMPILE,
            optional=True,
        )
    ],
)
