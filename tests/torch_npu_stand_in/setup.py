"""Builds the device; pip runs it with --no-build-isolation, against the torch that is installed."""

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    ext_modules=[
        CppExtension(
            "torch_npu._device",
            ["csrc/device.cpp"],
            extra_compile_args=["-O1", "-g0", "-std=c++20", "-Wno-deprecated-declarations"],
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
)
