"""The compiled kernels (lfq_cli/kernels): built where there is a C compiler, left out where there is none."""

import sys

from setuptools import Extension, setup

# Buffers belong to the limited API from Python 3.11 on: there one build serves every later version.
LIMITED = sys.version_info >= (3, 11)

setup(
    ext_modules=[
        Extension(
            "lfq_cli.kernels._compiled",
            sources=["lfq_cli/kernels/_compiled.c"],
            depends=["lfq_cli/kernels/body.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
            # nothing reads the floating-point exception flags; without this gcc vectorises fewer loops
            extra_compile_args=["-O3", "-std=gnu11", "-fno-trapping-math"],
            py_limited_api=LIMITED,
            optional=True,  # without it numpy does the same
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
