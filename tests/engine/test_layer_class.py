"""One replaced layer by itself: who computes it, what is said where nobody can, and false claims of models."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

import pytest
from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.custom_op import PluggableLayer
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import LinearBase

from mszoo.adapters.vllm.first_step import custom_ops_cure
from mszoo.adapters.vllm.layers.install import plan
from mszoo.adapters.vllm.layers.layer_class import Swap, layer_class
from mszoo.adapters.vllm.models import claims
from mszoo.layers.decoder.layer import DecoderLayer
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, MLPSpec, QKVLayout
from mszoo.registry import Capability, LayerAdapter, ModelAdapter, Suite, vllm_layers
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import MszooError, RefusalError
from mszoo.registry.settings import Settings

MODULE = "layers_under_test"


class Doubled:
    """Twice its input, whatever the layer is."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, x: Any, residual: Any = None) -> Any:
        return x + x if residual is None else (x + x, residual)


class Refusing:
    def __init__(self, layer: Any) -> None:
        raise RefusalError("Refusing", f"a norm of {layer.hidden_size} is too wide", "Leave it to vLLM")


class Broken:
    def __init__(self, layer: Any) -> None:
        raise ValueError("no luck")


class WrongResult(Doubled):
    def __call__(self, x: Any, residual: Any = None) -> Any:
        return "text"


@pytest.fixture(autouse=True)
def implementations(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(MODULE)
    vars(module).update(Doubled=Doubled, Refusing=Refusing, Broken=Broken, WrongResult=WrongResult)
    monkeypatch.setitem(sys.modules, MODULE, module)


@pytest.fixture(autouse=True)
def vllm_config() -> Iterator[VllmConfig]:
    config = VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))
    with set_current_vllm_config(config):
        yield config


def make_catalog(*adapters: LayerAdapter) -> Catalog:
    """Give each adapter a suite of its own: one, two, three."""
    contributions = []
    for name, adapter in zip(("one", "three", "two"), adapters, strict=False):
        plugin = Plugin(name, f"{name}-dist", "1.0", "somewhere")
        contributions.append(Contribution(plugin, Suite(name), layers=(adapter,)))
    discovery = Discovery(
        tuple(contributions),
        (),
        tuple(item.plugin for item in contributions),
        discover(Settings(), []).manager,
    )
    return Catalog(discovery, Settings())


def make_norm(*implementations: str, **fields: Any) -> tuple[RMSNorm, Swap]:
    adapters = [LayerAdapter("vllm:RMSNorm", f"{MODULE}:{name}", **fields) for name in implementations]
    swap = Swap("vllm:RMSNorm", make_catalog(*adapters))
    return layer_class(RMSNorm, swap)(8), swap


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the bridge logs once: vLLM's logger remembers what it said, across tests too."""
    lines: list[str] = []
    from mszoo.adapters.vllm.layers import layer_class as module

    monkeypatch.setattr(module.log, "warning_once", lambda text, *values, **_: lines.append(text % values))
    return lines


def test_mindspore_computes_vllms_layer(warned: list[str]) -> None:
    norm, swap = make_norm("Doubled")
    x = torch.rand(3, 8)
    assert isinstance(norm, RMSNorm)
    assert torch.equal(norm(x), x + x)
    normed, residual = norm(x, residual=x)
    assert torch.equal(normed, x + x)
    assert torch.equal(residual, x)
    assert swap.calls == 2
    assert warned == []
    assert dict(norm.named_modules()).keys() == {""}  # the implementation is no part of the tree


def test_the_next_candidate_takes_over(warned: list[str]) -> None:
    norm, swap = make_norm("Refusing", "Doubled")
    assert list(swap.computed_by) == ["three.vllm:RMSNorm"]
    assert isinstance(norm.computation, Doubled)
    assert warned == [
        "mszoo: vllm:RMSNorm goes to plugin 'three' (three-dist 1.0): one: Refusing: a norm of 8 is too wide. "
        "Leave it to vLLM"
    ]


def test_vllms_own_layer_computes_where_nobody_can(warned: list[str]) -> None:
    norm, swap = make_norm("Broken", "Missing")
    x = torch.rand(3, 8)
    assert torch.equal(norm(x), RMSNorm(8)(x))
    assert swap.calls == 0
    (line,) = warned
    assert line.startswith(
        "mszoo: vllm:RMSNorm is computed by vLLM's own layer: plugin 'one' (one-dist 1.0): "
    )
    assert f"{MODULE}:Broken can't be used (ValueError: no luck" in line
    assert f"{MODULE}:Missing can't be used (AttributeError" in line
    assert "set MSZOO_DISABLE=three to go on without it" in line


def test_a_dtype_that_is_not_declared_is_left_to_vllm(warned: list[str]) -> None:
    norm, _ = make_norm("Doubled", dtypes=("bfloat16",))
    assert norm.computation is None
    assert warned == [
        "mszoo: vllm:RMSNorm is computed by vLLM's own layer: one computes in bfloat16, not in float32: serve with "
        "--dtype bfloat16"
    ]


def test_a_result_of_the_wrong_kind_is_named() -> None:
    norm, _ = make_norm("WrongResult")
    with pytest.raises(MszooError) as caught:
        norm(torch.rand(3, 8))
    assert str(caught.value).endswith(
        "WrongResult: returned a str for vllm:RMSNorm. Return a MindSpore tensor, or a tuple of them."
    )


def test_a_pluggable_layer_is_computed_whatever_the_option_says(vllm_config: VllmConfig) -> None:
    class Own(PluggableLayer):
        hidden_size = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    vllm_config.compilation_config.custom_ops = ["none"]
    swap = Swap("vllm:Own", make_catalog(LayerAdapter("vllm:Own", f"{MODULE}:Doubled")))
    x = torch.rand(3, 8)
    assert torch.equal(layer_class(Own, swap)()(x), x + x)
    assert swap.is_enabled


def test_switched_off_code_stays_vllms(vllm_config: VllmConfig) -> None:
    vllm_config.compilation_config.custom_ops = ["none"]
    norm, swap = make_norm("Doubled")
    x = torch.rand(3, 8)
    assert torch.equal(norm(x), RMSNorm(8)(x))
    assert not swap.is_enabled
    assert swap.calls == 0


def test_vllms_compile_cache_is_told_who_computes(vllm_config: VllmConfig) -> None:
    before = vllm_config.compute_hash()
    make_norm("Doubled")
    assert vllm_config.compute_hash() != before


def test_names_are_those_of_vllms_source() -> None:
    assert vllm_layers.modules_of("RMSNorm") == ("vllm.model_executor.layers.layernorm",)
    assert vllm_layers.modules_of("QKVParallelLinear") == ("vllm.model_executor.layers.linear",)
    assert vllm_layers.modules_of("RMSNrom") == ()
    assert vllm_layers.modules_of("CustomOp") == ()
    assert vllm_layers.nearest_name("RMSNrom") == "RMSNorm"
    assert vllm_layers.nearest_name("rmsnorm") == "RMSNorm"
    assert vllm_layers.nearest_name("Xyzzy") is None


def explain(target: str, taken: dict[str, str]) -> Any:
    (item,) = plan(make_catalog(LayerAdapter(target, f"{MODULE}:Doubled")), taken)
    return item


def test_the_plan_says_what_becomes_of_each_layer() -> None:
    assert explain("vllm:RMSNorm", {}).obstacle is None
    assert str(explain("vllm:RMSNrom", {}).obstacle) == (
        f"plugin 'one' (one-dist 1.0): vLLM has no replaceable layer 'RMSNrom': {MODULE}:Doubled would never run. "
        "Did you mean vllm:RMSNorm?"
    )
    left = explain("vllm:RMSNorm", {"RMSNorm": "vllm-ascend 0.23.0"})
    assert left.left_to == "vllm-ascend 0.23.0"
    assert str(left.obstacle) == (
        f"plugin 'one' (one-dist 1.0): layer RMSNorm is left to vllm-ascend 0.23.0, which registers it: "
        f"{MODULE}:Doubled doesn't run. Uninstall vllm-ascend if it is to run; MindSpore models are not affected."
    )
    several = explain("vllm:FusedRMSNormGated", {})
    assert "vLLM has several layers 'FusedRMSNormGated'" in str(several.obstacle)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (["none"], '{"custom_ops": ["none", "+RMSNorm"]}'),
        (["all", "-RMSNorm", "-gelu"], '{"custom_ops": ["all", "-gelu", "+RMSNorm"]}'),
    ],
)
def test_the_cure_changes_nothing_else(before: list[str], expected: str) -> None:
    assert custom_ops_cure(before, ["RMSNorm"]) == f"--compilation-config '{expected}'"


CLAIMS = (Capability.LORA, Capability.TENSOR_PARALLEL, Capability.PIPELINE_PARALLEL, Capability.QUANTIZATION)


def claiming(*capabilities: Capability) -> Any:
    adapter = ModelAdapter("AForCausalLM", "a.b:C", capabilities=frozenset(capabilities))
    plugin = Plugin("liar", "liar-dist", "1.0", "somewhere")
    return SimpleNamespace(adapter=adapter, plugin=plugin, qualified_name="liar.AForCausalLM")


def asking(lora: Any = None, tensor_parallel: int = 1) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(quantization=None, runner_type="generate"),
        lora_config=lora,
        speculative_config=None,
        parallel_config=SimpleNamespace(tensor_parallel_size=tensor_parallel, pipeline_parallel_size=1),
    )


def test_claims_need_the_parts_that_vllm_works_on() -> None:
    bare = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert claims.unmet(frozenset(CLAIMS), bare).keys() == set(CLAIMS)
    assert claims.unmet(frozenset(), bare) == {}
    bare.make_empty_intermediate_tensors = lambda: None
    assert Capability.PIPELINE_PARALLEL not in claims.unmet(frozenset(CLAIMS), bare)


def empty(kind: type[torch.nn.Module]) -> Any:
    """Return a module without its weights, which would need an engine's context and which claims don't look at."""
    module = kind.__new__(kind)
    torch.nn.Module.__init__(module)
    return module


@pytest.mark.parametrize(
    ("attention", "mlp", "lacking"),
    [
        ({}, {}, set()),
        ({"qkv_layout": QKVLayout(4)}, {}, {Capability.LORA}),
        ({"conv1d": True}, {}, {Capability.LORA, Capability.QUANTIZATION}),
        ({}, {"conv1d": True}, {Capability.LORA, Capability.QUANTIZATION}),
    ],
)
def test_what_lies_otherwise_in_checkpoints_is_not_for_adapters(
    attention: dict[str, Any], mlp: dict[str, Any], lacking: set[Capability]
) -> None:
    layer = empty(DecoderLayer)
    layer.spec = DecoderLayerSpec(64, AttentionSpec(4, 4, 32, **attention), MLPSpec(128, "gelu", **mlp))
    network = torch.nn.Sequential(layer, empty(LinearBase))
    claimed = frozenset({Capability.LORA, Capability.QUANTIZATION})
    assert claims.unmet(claimed, network).keys() == lacking


@pytest.mark.parametrize(
    ("capability", "config"),
    [(Capability.LORA, asking(lora=object())), (Capability.TENSOR_PARALLEL, asking(tensor_parallel=2))],
)
def test_a_false_claim_that_is_asked_for_is_refused(capability: Capability, config: Any) -> None:
    with pytest.raises(RefusalError) as caught:
        claims.check(claiming(capability), torch.nn.Linear(2, 2), config)
    assert str(caught.value).startswith(
        f"liar.AForCausalLM of plugin 'liar' (liar-dist 1.0): declares {capability.value}, and its model a.b:C has "
        "none of vLLM's "
    )
    assert str(caught.value).endswith(
        f"Remove Capability.{capability.name} from its record, or build the model from mszoo.layers"
    )


def test_a_false_claim_that_nobody_asks_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(claims.log, "warning_once", lambda text, *values, **_: lines.append(text % values))
    claims.check(claiming(Capability.LORA), torch.nn.Linear(2, 2), asking())
    (line,) = lines
    assert "declares lora" in line
