"""What pyproject.toml cannot say: `architectures/` travels inside the package, and the fast assignment solver is C.

The extension is optional: without a compiler the install succeeds and scipy solves the assignments.
"""

import sys
import sysconfig

from setuptools import Extension, find_packages, setup

LAZY_JV = "rebasin_cli/matching/assignment/lazy_jv"
SOURCES = ("module", "solve", "first", "bids", "paths", "lists", "rows", "small")

# No contraction of a*b+c: the same matrix gives the same permutation on every machine.
COMPILE = ["-O3", "-std=c11", "-ffp-contract=off"]
LINK = ["-s"] if sys.platform == "linux" else []  # without symbols and what debuggers read

# One build for 3.11 and everything after it: of Python only buffers, arguments and errors are used. An interpreter
# without the lock has no such interface, and gets a build of its own.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
LIMITED = [("Py_LIMITED_API", "0x030B0000")] if STABLE else []

setup(
    packages=[*find_packages(include=["rebasin_cli", "rebasin_cli.*"]), "rebasin_cli.architectures"],
    package_dir={"rebasin_cli.architectures": "architectures"},
    ext_modules=[
        Extension(
            "rebasin_cli.matching.assignment._lazy_jv",
            sources=[f"{LAZY_JV}/{name}.c" for name in SOURCES],
            depends=[f"{LAZY_JV}/{name}.h" for name in ("lazy_jv", "search", "passes")],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
            define_macros=LIMITED,
            py_limited_api=STABLE,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
