"""Builds the compiled kernels where torch and a C++ compiler are at hand; mszoo works without them.

Everything else about the package is in pyproject.toml.
"""

import os
from glob import glob
from importlib.metadata import PackageNotFoundError, version

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """Names the library after the torch that it was compiled for: another torch must not load it."""

    def get_ext_filename(self, fullname):
        """Return the path of the library inside the build folder."""
        if fullname.rpartition(".")[2] != "cpu_ops":
            return super().get_ext_filename(fullname)
        return os.path.join(*fullname.split(".")[:-1], f"cpu_ops.torch-{_torch_version()}.so")


def _torch_version():
    try:
        return version("torch").partition("+")[0]
    except PackageNotFoundError:  # an isolated build: the wheel then has no compiled kernels
        return None


def _extensions():
    if _torch_version() is None:
        return []
    from torch.utils.cpp_extension import include_paths, library_paths

    return [
        Extension(
            "mszoo.kernels.cpu_ops",
            ["kernels/csrc/cpu_ops.cpp"],
            depends=sorted(glob("kernels/csrc/*.h")),
            include_dirs=include_paths(),
            library_dirs=library_paths(),
            libraries=["torch_cpu", "c10"],
            extra_compile_args=["-O2", "-std=c++20"],
            language="c++",
            optional=True,  # no compiler is no reason to fail: the plain path serves
        )
    ]


setup(ext_modules=_extensions(), cmdclass={"build_ext": BuildKernels})
