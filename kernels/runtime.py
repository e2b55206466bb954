"""MindSpore's start in a process: device, synchronous mode, threads, and the numpy 2 guard."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mszoo.registry.devices import TABLE

#: Products that are kept ready on a CPU: more than the layers of a step, which are alike, have of different shapes.
PRODUCTS = 128


@functools.cache
def prepare(device: str) -> None:
    """Make MindSpore ready to compute on ``device``; later calls do nothing.

    It runs the process's first MindSpore ops, after which a fork would hang, so it is called where a model is
    built and never at registration.
    """
    import torch  # first, so that one OpenMP runtime serves both frameworks

    import mindspore as ms

    with _all_allowed_cores():
        # Of several devices, the one that vLLM gave this worker.
        index = None if device == "cpu" else torch.accelerator.current_device_index()
        ms.set_device(TABLE[device].backend, index)
        ms.set_context(mode=ms.PYNATIVE_MODE)
        # A view of a tensor's memory is valid only once it has been computed, and on an NPU nothing else orders
        # what torch then reads: MindSpore has a stream of its own. On CPU asynchronous dispatch would cost
        # milliseconds per hand-over.
        ms.runtime.launch_blocking()
        if device == "cpu":
            _bound_products(Path(ms.__file__).parent / "lib")
        _first_op()


def _bound_products(libraries: Path) -> None:
    """Bound how many products the oneDNN that came with MindSpore keeps ready: one for each shape, 1024 by default.

    Each takes about a quarter of a MiB. oneDNN's own environment variables go before; other copies of oneDNN, as
    torch's, aren't concerned.
    """
    if any(f"{prefix}_PRIMITIVE_CACHE_CAPACITY" in os.environ for prefix in ("ONEDNN", "DNNL")):
        return
    for library in libraries.glob("libdnnl.so*"):
        with contextlib.suppress(OSError, AttributeError):  # it then keeps what it keeps
            ctypes.CDLL(str(library)).dnnl_set_primitive_cache_capacity(PRODUCTS)


def _first_op() -> None:
    """Run a throw-away op.

    MindSpore's bfloat16 extension is built for numpy 1: under numpy 2 the first native op of a process raises
    one SystemError, numpy prints a page and MindSpore a line about it, and every later op works.
    """
    import mindspore as ms

    with _quiet_stderr(), _last_error_kept(), contextlib.suppress(SystemError):
        ms.Tensor([0], dtype=ms.bfloat16).reshape(1, 1)
    one = ms.Tensor([1.0], dtype=ms.float32)
    _ = one + one  # starts the thread pools


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what Python and native code write to stderr inside."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _last_error_kept() -> Iterator[None]:
    """Let what is printed inside leave no trace in ``sys``.

    Python keeps the last error that it printed, with the frames of everybody who led to it: whatever their
    variables name would never be freed, vLLM's engine among it.
    """
    names = ("last_exc", "last_type", "last_value", "last_traceback")
    before = {name: getattr(sys, name) for name in names if hasattr(sys, name)}
    try:
        yield
    finally:
        for name in names:
            if name in before:
                setattr(sys, name, before[name])
            elif hasattr(sys, name):
                delattr(sys, name)


@contextlib.contextmanager
def _all_allowed_cores() -> Iterator[None]:
    """Let threads that start inside use every core that this process may use.

    vLLM's CPU worker pins its main thread to one core, and threads inherit the mask of the thread that starts
    them: MindSpore's would all share that core with the model.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except OSError:  # a container may forbid it; slower, still right
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
