"""The texts of the bridge's messages that no served model shows; no engine starts here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest
from transformers import LlamaConfig

from mszoo.adapters.vllm import install, stages
from mszoo.adapters.vllm.layers import install as layers
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models import choice, claims, classes, features, lacking, multimodal, wrapper
from mszoo.adapters.vllm.models import names as model_names
from mszoo.adapters.vllm.models.install import register_models
from mszoo.adapters.vllm.ops import install as ops
from mszoo.adapters.vllm.ops import kernels
from mszoo.kernels import runtime
from mszoo.registry import LayerAdapter, ModelAdapter, OpAdapter, Suite, vllm_layers
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import LockError, PluginError, RefusalError
from mszoo.registry.settings import Settings

import mindspore as ms

runtime.prepare("cpu")

NAMES = ("one", "two")


def make_catalog(
    field: str, *adapters: Any, settings: Settings | None = None, device: str = "cpu"
) -> Catalog:
    """Give each adapter a suite of its own: one, two."""
    contributions = tuple(
        Contribution(Plugin(name, f"{name}-dist", "1.0", "somewhere"), Suite(name), **{field: (adapter,)})
        for name, adapter in zip(NAMES, adapters, strict=False)
    )
    plugins = tuple(item.plugin for item in contributions)
    discovery = Discovery(contributions, (), plugins, discover(Settings(), []).manager)
    return Catalog(discovery, settings or Settings(), device)


def test_a_lock_on_a_platform_without_mindspore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "_installed", [])
    monkeypatch.setattr(install, "device_name", lambda: None)  # no such platform is here
    monkeypatch.setenv("MSZOO_LOCK", str(tmp_path / "mszoo.lock"))
    with pytest.raises(LockError) as raised:
        install.install()
    assert str(raised.value) == (
        "MSZOO_LOCK: decisions are locked, and on this platform MindSpore models can't run. "
        "Serve on cpu or npu, or unset MSZOO_LOCK."
    )


@pytest.mark.parametrize(
    ("method", "lack"),
    [
        ("eagle3", "layers of its own suite, between which mszoo can't read"),
        ("eagle", "no model.embed_tokens and no lm_head to share"),
    ],
)
def test_a_network_that_no_draft_model_can_read(method: str, lack: str) -> None:
    """No such network has an architecture that vLLM has draft models for."""
    network = torch.nn.Module()
    network.config = LlamaConfig(num_hidden_layers=2)
    config = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=network.config, quantization=None, runner_type="generate"),
        speculative_config=SimpleNamespace(method=method, use_eagle=lambda: method == "eagle"),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
        lora_config=None,
    )
    (candidate,) = make_catalog("models", ModelAdapter("A", "nowhere:A")).decide("A").chain
    with pytest.raises(RefusalError) as raised:
        claims.check(candidate, network, config)
    assert str(raised.value) == (
        f"one.A: can't be the target of speculative decoding by {method}: it has {lack}. "
        "Serve it with another method, or none"
    )


def test_a_network_of_cells_is_no_model() -> None:
    (candidate,) = make_catalog("models", ModelAdapter("A", "nowhere:A")).decide("A").chain
    with pytest.raises(RefusalError) as raised:
        claims.must_be_a_model(candidate, ms.nn.Dense(2, 2))
    assert str(raised.value) == (
        "one.A: nowhere:A gives a Dense, which is no model of mszoo.layers. "
        "Derive it from CausalLM or Encoder, or serve its cells by a NetworkForCausalLM"
    )


def _asked(multimodal_config: Any, lora_config: Any = None) -> Any:
    """Return vLLM's config with which a model of images, or of text, is asked for."""
    fields = {
        "dtype": "torch.float32",
        "runner_type": "generate",
        "convert_type": "none",
        "quantization": None,
    }
    return SimpleNamespace(
        model_config=SimpleNamespace(**fields, multimodal_config=multimodal_config), lora_config=lora_config
    )


@pytest.mark.parametrize(
    ("modalities", "config", "text"),
    [
        ((), _asked(SimpleNamespace()), "images beside text. Serve it with another implementation"),
        (("image",), _asked(None), "serving text alone. Serve it with another implementation"),
        (
            ("image",),
            _asked(SimpleNamespace(mm_encoder_only=True)),
            "--mm-encoder-only. Serve it without, or with another implementation",
        ),
        (
            ("image", "video"),
            _asked(SimpleNamespace(video_pruning_rate=0.5)),
            "--video-pruning-rate. Serve it without, or with another implementation",
        ),
        (
            ("image",),
            _asked(SimpleNamespace(), SimpleNamespace(enable_tower_connector_lora=True)),
            "--enable-tower-connector-lora. Serve it without, or with another implementation",
        ),
    ],
)
def test_what_a_model_of_images_is_refused_for(modalities: tuple[str, ...], config: Any, text: str) -> None:
    catalog = make_catalog("models", ModelAdapter("A", "nowhere:A", modalities=modalities))
    (candidate,) = catalog.decide("A").chain
    with pytest.raises(RefusalError) as raised:
        features.check(candidate, config)
    assert str(raised.value) == f"one.A: doesn't support {text}"


def test_a_model_of_images_without_a_processor() -> None:
    """vLLM has no such architecture, so nobody would make its inputs: it isn't registered."""
    catalog = make_catalog("models", ModelAdapter("NobodysVL", "nowhere:A", modalities=["image"]))
    registered, (problem,) = register_models(catalog)
    assert registered == {}
    assert str(problem) == (
        "one.NobodysVL: reads image, and this vLLM has no model of the architecture, whose processor it would take"
        ". Serve it with a vLLM that has one"
    )


def test_embeddings_that_do_not_fit_a_prompt() -> None:
    model = object.__new__(multimodal.MindSporeMultiModal)
    model.__dict__["network"] = SimpleNamespace(
        embed_input_ids=lambda ids: ids[:, None].astype(ms.float32), deepstack=0
    )
    places = torch.tensor([False, True, True, False])
    ids, items = torch.tensor([1, 900, 900, 4]), [torch.tensor([[7.0]]), torch.tensor([[8.0]])]
    merged = model.embed_input_ids(ids, items, is_multimodal=places)
    assert merged.flatten().tolist() == [1.0, 7.0, 8.0, 4.0]
    with pytest.raises(ValueError, match="1 embeddings for 2 tokens of a prompt"):
        model.embed_input_ids(ids, items[:1], is_multimodal=places)


def test_an_op_that_does_not_load() -> None:
    adapter = OpAdapter("rms_norm", "nowhere.at_all:rms_norm", "cpu", priority=1)
    chosen, (error,) = kernels.choose_loadable_kernels(make_catalog("ops", adapter), "auto", "float32")
    assert chosen.ops["rms_norm"].builtin
    assert "nowhere.at_all:rms_norm can't be loaded (ModuleNotFoundError" in str(error)
    assert "); the next implementation of the op runs" in str(error)
    assert "MSZOO_DISABLE=one" in str(error)


def test_a_provider_that_is_there_already(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    lines: list[str] = []
    monkeypatch.setattr(ops.log, "warning", lambda text, *values: lines.append(text % values))
    assert not ops._provide("native", "rms_norm", ("float32",))
    assert lines == [
        "mszoo: rms_norm is not offered to vllm.ir as provider native: vLLM already has a provider of that name"
    ]


@pytest.mark.parametrize(
    ("name", "modules", "text"),
    [
        ("Zzzqqqxxx", None, "See vLLM's subclasses of CustomOp"),
        (
            "Twice",
            ("vllm.a", "vllm.b"),
            "has several layers 'Twice' (vllm.a, vllm.b), and one name replaces all of",
        ),
        ("Missing", ("vllm.nowhere",), "vLLM's vllm.nowhere can't be imported here (ModuleNotFoundError"),
    ],
)
def test_a_layer_that_cannot_be_replaced(
    name: str, modules: tuple[str, ...] | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if modules is not None:  # vLLM 0.32 has neither case on CPU
        monkeypatch.setattr(vllm_layers, "modules_of", lambda _: modules)
    catalog = make_catalog("layers", LayerAdapter(f"vllm:{name}", "somewhere:Layer"))
    swaps, (problem,) = layers.install_layers(catalog)
    assert swaps == []
    assert text in str(problem)
    if name == "Twice":
        assert "), and one name replaces all of them. Replace another layer." in str(problem)


def test_layers_are_replaced_on_cpu_only() -> None:
    catalog = make_catalog("layers", LayerAdapter("vllm:SiluAndMul", "somewhere:Layer"), device="npu")
    swaps, problems = layers.install_layers(catalog)
    assert swaps == []
    (problem,) = problems
    # vllm-ascend takes this name on NPU, where it is known to.
    assert "is replaced on cpu only, and this is npu" in str(problem) or "is left to" in str(problem)


def test_a_model_of_another_plugin_is_taken_over() -> None:
    entry = SimpleNamespace(module_name="other_plugin.models", class_name="Llama")
    problem = model_names.overridden("LlamaForCausalLM", entry)
    assert str(problem) == (
        "LlamaForCausalLM: was registered by other_plugin (other_plugin.models); mszoo's adapter serves it "
        "instead. It is used if every adapter refuses. Set MSZOO_DISABLE to the adapter's plugin to use it always."
    )
    assert model_names.overridden("LlamaForCausalLM", None) is None


def test_a_model_that_another_plugin_registered_later() -> None:
    from vllm.model_executor.models.registry import ModelRegistry

    catalog = make_catalog("models", ModelAdapter("LateForCausalLM", "somewhere:Late"))
    ours = classes.wrapper_class(catalog, catalog.decide("LateForCausalLM"), None)
    ModelRegistry.register_model("LateForCausalLM", "other_plugin.models:Late")
    try:
        (problem,) = model_names.replaced({"LateForCausalLM": ours})
    finally:
        del ModelRegistry.models["LateForCausalLM"]
    assert "(other_plugin.models), which registered it after mszoo" in str(problem)
    assert "Leave that plugin out of VLLM_PLUGINS, or ask for mszoo's by name" in str(problem)
    assert """--hf-overrides '{"architectures": ["one.LateForCausalLM"]}'""" in str(problem)


@pytest.mark.parametrize("lock", [None, "the.lock"])
def test_a_model_that_nobody_can_serve(lock: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates that don't load, and no model of vLLM's own."""
    adapters = [ModelAdapter("NobodyForCausalLM", f"nowhere_{name}:Model") for name in NAMES]
    catalog = make_catalog("models", *adapters, settings=Settings(lock=Path(lock) if lock else None))
    model = classes.wrapper_class(catalog, catalog.decide("NobodyForCausalLM"), None)
    from vllm.config import VllmConfig, set_current_vllm_config

    monkeypatch.setattr(choice, "own_class", lambda _: None)
    config = VllmConfig()
    with set_current_vllm_config(config), pytest.raises(RefusalError) as raised:
        model(vllm_config=config)
    text = str(raised.value)
    if lock:
        assert "no implementation that MSZOO_LOCK=the.lock names can serve this model: one.Nobody" in text
        assert "Follow one of these hints, or unset MSZOO_LOCK to let vLLM's own model serve" in text
    else:
        assert "NobodyForCausalLM: no MindSpore implementation can serve this model: one.Nobody" in text
        assert text.endswith("Follow one of these hints.") or text.endswith("Follow one of these hints")


def test_a_layer_that_the_lock_leaves_to_nobody() -> None:
    from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.layernorm import RMSNorm

    from mszoo.adapters.vllm.layers.layer_class import Swap, layer_class

    adapter = LayerAdapter("vllm:RMSNorm", "nowhere.at_all:Norm")
    catalog = make_catalog("layers", adapter, settings=Settings(lock=Path("the.lock")))
    made = layer_class(RMSNorm, Swap("vllm:RMSNorm", catalog))
    config = VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))
    with set_current_vllm_config(config), pytest.raises(RefusalError) as raised:
        made(8)
    assert "no implementation that MSZOO_LOCK names can compute this layer: plugin 'one'" in str(raised.value)
    assert "Follow one of these hints, or unset MSZOO_LOCK" in str(raised.value)


def test_a_step_that_exits_doesnt_end_the_worker() -> None:
    class Network:
        def __call__(self, *_: Any) -> Any:
            raise SystemExit(3)

    (candidate,) = make_catalog("models", ModelAdapter("A", "nowhere:A")).decide("A").chain
    model = object.__new__(wrapper.MindSporeCausalLM)
    vars(model).update(network=Network(), candidate=candidate)
    with pytest.raises(PluginError) as raised:
        model.forward(None, torch.arange(3))
    assert str(raised.value).startswith("one.A of ")
    assert ": a step raised SystemExit: 3 (test_bridge_messages.py:" in str(raised.value)


def test_what_a_candidate_did_to_the_process_is_told_once(monkeypatch: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "warning_once", lambda text, *values: lines.append(text % values))
    monkeypatch.chdir(tmp_path)
    with stages.stage("one.A of dist 1", "its model was built") as failure:
        os.chdir("/")
        raise SystemExit(0)
    assert Path.cwd() == tmp_path
    assert type(failure.error) is SystemExit
    assert lines == [
        "mszoo: one.A of dist 1: changed the working directory, which was undone, when its model was built. "
        "Remove the os.chdir()."
    ]


def test_lora_on_experts_that_vllm_sees() -> None:
    """Of its own models, and of a plugin's that are made of its layer."""
    model = SimpleNamespace(get_num_experts=lambda: 4)
    asked = SimpleNamespace(lora_config=SimpleNamespace(), model_config=model)
    why = "it has experts, and vLLM computes LoRA on these by Triton's kernels alone, which a CPU lacks"
    with pytest.raises(RefusalError, match=f"AcmeForCausalLM: {why}. Merge the adapter into the weights"):
        lacking.check_lora_on_experts("AcmeForCausalLM", asked, "cpu")
    lacking.check_lora_on_experts("AcmeForCausalLM", asked, "npu")  # vllm-ascend's own
    lacking.check_lora_on_experts(
        "AcmeForCausalLM", SimpleNamespace(lora_config=None, model_config=model), "cpu"
    )
