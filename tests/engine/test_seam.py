"""What the seam answers where versions of vLLM differ, and that CPU's part of it stays out elsewhere."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import torch

import pytest

from mszoo.kernels import vllm_ops
from mszoo.layers import seam
from mszoo.layers.lacking import lacking
from mszoo.registry.errors import RefusalError

IMPORT = """
import sys
import mszoo.layers
of_cpu = ("vllm.v1.attention.backends.cpu_attn", "mszoo.layers.seam_cpu", "mszoo.layers.cpu_attention")
print([name for name in of_cpu if name in sys.modules])
"""


def test_importing_the_layers_imports_nothing_of_vllms_cpu_backend():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_another_device_gets_nothing_of_the_cpu_backend(monkeypatch):
    monkeypatch.setattr(seam, "current_platform", SimpleNamespace(is_cpu=lambda: False))
    seam.cpu_backend.cache_clear()
    try:
        assert seam.cpu_backend() is None
    finally:
        seam.cpu_backend.cache_clear()


@pytest.mark.parametrize(
    ("held", "window"), [(-1, None), (16, 16), ((-1, -1), None), ((15, 0), 16), ((15, 15), 16), ((0, 0), 1)]
)
def test_a_window_is_the_number_of_keys_that_a_query_sees(held, window):
    """An integer, or a pair in vLLM 0.23."""
    backend = seam.cpu_backend()
    assert backend is not None
    assert backend.sliding_window_of(SimpleNamespace(sliding_window=held)) == window


@pytest.mark.parametrize("owner", ["layer", "metadata", "impl"])
def test_the_instruction_set_lies_where_the_version_has_it(owner):
    backend = seam.cpu_backend()
    assert backend is not None
    found = {
        name: SimpleNamespace(**({"isa": "vec"} if name == owner else {})) for name in ("metadata", "impl")
    }
    layer = SimpleNamespace(
        impl=found["impl"], layer_name="a", **({"isa": "vec"} if owner == "layer" else {})
    )
    assert backend.attention_isa(found["metadata"], layer) == "vec"


def test_an_instruction_set_that_nobody_tells_is_an_error():
    backend = seam.cpu_backend()
    assert backend is not None
    layer = SimpleNamespace(impl=SimpleNamespace(), layer_name="model.layers.0")
    with pytest.raises(AttributeError, match=r"model\.layers\.0"):
        backend.attention_isa(SimpleNamespace(), layer)


def test_experts_lie_in_the_fused_layer_or_below_it():
    fused, below = torch.nn.Module(), torch.nn.Module()
    assert seam.routed_experts_of(fused) == (fused, "")
    fused.routed_experts = below
    assert seam.routed_experts_of(fused) == (below, "routed_experts")


def test_a_class_that_vllm_lacks_refuses_who_makes_one():
    made = lacking("FusedMoEFactory", "models with experts")
    assert not isinstance(torch.nn.Module(), made)
    with pytest.raises(RefusalError, match="has no FusedMoEFactory, which models with experts need"):
        made(num_experts=8)

    class Subclass(made):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__(1, two=2)

    with pytest.raises(RefusalError):
        Subclass()


def test_the_ops_are_here():
    assert vllm_ops.obstacle(vllm_ops.COMPILED_LAYER) is None
    assert vllm_ops.require(vllm_ops.CPU_SET) is torch.ops._C


def test_an_op_that_lacks_or_takes_something_else_is_named(monkeypatch):
    other = vllm_ops.Call((("out", "input", "scale"),), "the test")
    monkeypatch.setitem(vllm_ops.OPS, "rms_norm", other)
    monkeypatch.setitem(vllm_ops.OPS, "no_such_op", other)
    said = vllm_ops.obstacle(["rms_norm"])
    assert said == "vLLM's op rms_norm takes (out, input, weight, epsilon), which the test can't pass"
    with pytest.raises(RefusalError, match="vLLM has no op no_such_op, and the test needs it"):
        vllm_ops.require(["no_such_op"])
