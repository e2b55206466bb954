"""The ``mindformers`` suite without MindSpore: its records, its config mapping, its imports."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mszoo.adapters import mindformers
from mszoo.adapters.mindformers import importer
from mszoo.adapters.mindformers.config import ARCHITECTURES, check_arrived, suite_config
from mszoo.registry.errors import RefusalError

DENSE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
EXPERTS = {"num_experts_per_tok": 4, "moe_intermediate_size": 32, "norm_topk_prob": True}
GROUPED = EXPERTS | {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
}
LATENT = {
    "head_dim": 64,
    "q_lora_rank": 48,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "qk_head_dim": 128,
    "rope_interleave": True,
}
TELECHAT2 = {
    "vocab_size": 256,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": 1e-5,
    "logn": True,
    "base_seqlen": 256,
    "training_seqlen": 256,
}
PARTIAL = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": DENSE | {"layer_types": ["full_attention"] * 2},
    "Qwen3ForCausalLM": DENSE,
    "Qwen3MoeForCausalLM": DENSE | EXPERTS | {"num_experts": 8, "router_aux_loss_coef": 0.001},
    "Glm4ForCausalLM": DENSE | {"rope_parameters": PARTIAL, "attention_bias": True},
    "Glm4MoeForCausalLM": DENSE | GROUPED | {"rope_parameters": PARTIAL, "use_qk_norm": True},
    "DeepseekV3ForCausalLM": DENSE | GROUPED | LATENT,
    "TeleChat2ForCausalLM": TELECHAT2,
    "TeleChat3ForCausalLM": DENSE,
}


MODEL_TYPES = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Glm4ForCausalLM": "glm4",
    "Glm4MoeForCausalLM": "glm4_moe",
    "DeepseekV3ForCausalLM": "deepseek_v3",
}


def converted(architecture: str, length: int = 128, **changes: Any) -> dict[str, Any]:
    fields = CONFIGS[architecture] | changes
    config = SimpleNamespace(model_type=MODEL_TYPES.get(architecture, "telechat"), to_dict=lambda: fields)
    return suite_config(
        ARCHITECTURES[architecture],
        config,
        f"mindformers.{architecture}",
        dtype="bfloat16",
        max_model_len=length,
    )


def refusal(architecture: str, length: int = 128, **changes: Any) -> str:
    with pytest.raises(RefusalError) as caught:
        converted(architecture, length, **changes)
    return str(caught.value)


def test_the_plugin_imports_nothing_heavy() -> None:
    code = """
import json, sys
from mszoo.adapters import mindformers
list(mindformers.mszoo_model_adapters()), list(mindformers.mszoo_layer_adapters()), mindformers.mszoo_suite()
heavy = ("torch", "mindspore", "vllm", "transformers", "mindone", "numpy")
print(json.dumps([name for name in (*heavy, "mindformers") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_architecture_has_a_record_and_the_other_way_round() -> None:
    """One for CPU, and one for NPU, where what is asked for decides of the network."""
    for device, module in (("cpu", "model:SuiteModel"), ("npu", "on_npu:network")):
        adapters = [item for item in mindformers.mszoo_model_adapters() if item.devices == (device,)]
        records = {adapter.architecture: adapter for adapter in adapters}
        assert records.keys() == ARCHITECTURES.keys() == CONFIGS.keys()
        for record in records.values():
            assert record.model == f"mszoo.adapters.mindformers.{module}"


@pytest.mark.parametrize(("device", "module"), [("cpu", "model:SuiteModel"), ("npu", "on_npu:network")])
def test_the_device_decides_who_computes(device: str, module: str, make_catalog: Any) -> None:
    adapters = list(mindformers.mszoo_model_adapters())
    installed = {"deprecated": "1.2", "wrapt": "1.17", "mindformers": "2.1.0"}
    catalog = make_catalog({mindformers.mszoo_suite(): adapters}, installed=installed, device=device)
    decision = catalog.decide("Qwen3ForCausalLM")
    assert [item.adapter.model for item in decision.chain] == [f"mszoo.adapters.mindformers.{module}"]
    assert len(decision.verdicts) == 1  # the other device's record is none of this one's candidates


def test_the_cells_are_replaced_on_each_device() -> None:
    records = list(mindformers.mszoo_layer_adapters())
    assert {record.devices for record in records} == {("cpu", "npu")}
    targets = [record.target for record in records]
    assert len(targets) == len(set(targets))
    assert all(target.startswith("mindformers:mindformers.parallel_core.inference.") for target in targets)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_what_every_network_gets(architecture: str) -> None:
    values = converted(architecture)
    assert values["compute_dtype"] == "bfloat16"
    for name in ("params_dtype", "layernorm_compute_dtype", "rotary_dtype"):
        assert values[name] == "float32"
    # On CPU the embedding and the logits are vLLM's layers all the same.
    assert values["tie_word_embeddings"] is bool(CONFIGS[architecture].get("tie_word_embeddings"))
    assert values["max_position_embeddings"] == 128
    assert ARCHITECTURES[architecture].fields.keys() <= values.keys()


def test_the_rotary_base_is_handed_over() -> None:
    """The suite reads it at the top level, where transformers 5 has none, and silently keeps 10000."""
    assert converted("Qwen3ForCausalLM")["rope_theta"] == 500000.0
    assert "rope_parameters" not in converted("Qwen3ForCausalLM")
    assert converted("TeleChat2ForCausalLM")["rope_theta"] == 10000.0
    assert "gives no rope_theta" in refusal("Qwen3ForCausalLM", rope_parameters={"rope_type": "default"})


def test_the_rotated_part_is_handed_over_where_the_suite_has_one() -> None:
    assert converted("Glm4ForCausalLM")["partial_rotary_factor"] == 0.5
    assert converted("Glm4MoeForCausalLM")["partial_rotary_factor"] == 0.5
    # Hugging Face's Qwen3 turns whole heads, whatever its config says.
    assert "partial_rotary_factor" not in converted("Qwen3ForCausalLM", rope_parameters=PARTIAL)


OF_ROPE_TYPES = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0],
    "long_factor": [2.0],
}


@pytest.mark.parametrize("kind", ["yarn", "linear", "dynamic", "llama3", "longrope", "telechat3-yarn"])
def test_other_rope_types_are_refused(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e6, "factor": 4.0}
    said = refusal("Qwen3ForCausalLM", rope_parameters=rope | OF_ROPE_TYPES)
    assert f"rope_type={kind!r}" in said


def test_a_rope_parameter_of_another_type_has_no_effect() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mscale": 0.5}
    assert converted("Qwen3ForCausalLM", rope_parameters=rope) == converted(
        "Qwen3ForCausalLM", rope_parameters={"rope_theta": 1e6}
    )


def test_deepseek_rotates_without_yarn() -> None:
    """The suite's own default is yarn with a factor of 40; and ``qk_head_dim`` means another size to it."""
    values = converted("DeepseekV3ForCausalLM")
    assert (values["rope_type"], values["rotary_scaling_factor"]) == ("rope", 1.0)
    assert "qk_head_dim" not in values


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def test_deepseeks_yarn_is_handed_over_whole() -> None:
    values = converted("DeepseekV3ForCausalLM", rope_parameters=YARN)
    assert values["rope_type"] == "yarn"
    assert values["rotary_scaling_factor"] == 40
    assert values["max_position_embeddings"] == 4096  # the suite means the original one
    assert (values["beta_fast"], values["mscale"], values["mscale_all_dim"]) == (32, 1.0, 1.0)


@pytest.mark.parametrize(
    "name", ["factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale"]
)
def test_yarn_with_a_default_is_refused(name: str) -> None:
    rope = {key: value for key, value in YARN.items() if key != name}
    said = refusal("DeepseekV3ForCausalLM", rope_parameters=rope)
    assert f"without {name}" in said or f"gives no {name}" in said


def test_yarn_with_two_scales_is_refused() -> None:
    said = refusal("DeepseekV3ForCausalLM", rope_parameters=YARN | {"mscale": 0.707})
    assert "mscale other than mscale_all_dim" in said


def test_qwen2_has_biases_that_its_config_does_not_name() -> None:
    assert converted("Qwen2ForCausalLM")["attention_bias"] is True


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("Qwen3ForCausalLM", {"attention_bias": True}, "attention_bias=True"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "mlp_only_layers=[0]"),
        ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ("DeepseekV3ForCausalLM", {"rope_interleave": False}, "rope_interleave=False"),
        ("Qwen2ForCausalLM", {"is_causal": False}, "is_causal=False"),
        ("DeepseekV3ForCausalLM", {"attention_bias": True}, "attention_bias=True"),
        ("Qwen2ForCausalLM", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ("Qwen3ForCausalLM", {"sliding_window": 64}, "sliding_window=64"),
        ("TeleChat2ForCausalLM", {"embed_layernorm": True}, "embed_layernorm=True"),
        ("TeleChat3ForCausalLM", {"mlp_bias": True}, "mlp_bias=True"),
        (
            "TeleChat3ForCausalLM",
            {"logit_scale": 0.5},
            "logit_scale=0.5, a field that this model doesn't know",
        ),
        ("TeleChat3ForCausalLM", {"is_gated": False}, "is_gated=False, a field that this model doesn't know"),
    ],
)
def test_a_field_that_the_suite_would_drop_is_refused(architecture: str, changes: Any, said: str) -> None:
    message = refusal(architecture, **changes)
    assert said in message
    assert message.startswith(f"mindformers.{architecture}")


@pytest.mark.parametrize("architecture", ["Glm4MoeForCausalLM", "DeepseekV3ForCausalLM"])
def test_groups_scored_by_other_than_two_experts_are_refused(architecture: str) -> None:
    assert "scores a group by" in refusal(architecture, num_experts_per_tok=6)
    assert converted(architecture, num_experts_per_tok=6, n_group=1, topk_group=1)


def test_telechat2_is_refused_beyond_the_length_it_was_trained_on() -> None:
    assert "--max-model-len 256" in refusal("TeleChat2ForCausalLM", length=512)


def test_a_value_that_did_not_arrive_is_refused() -> None:
    architecture, values = ARCHITECTURES["Glm4ForCausalLM"], converted("Glm4ForCausalLM")
    arrived = {attribute: values[name] for name, attribute in architecture.fields.items()}
    arrived |= {"rotary_base": 10000.0, "partial_rotary_factor": 0.5}
    check_arrived(architecture, values, SimpleNamespace(**arrived), "mindformers 9")
    for attribute, other in {"rotary_base": 1e6, "kv_channels": 16, "partial_rotary_factor": 1.0}.items():
        with pytest.raises(RefusalError, match=f"its network has {attribute}="):
            check_arrived(
                architecture, values, SimpleNamespace(**arrived | {attribute: other}), "mindformers 9"
            )


@pytest.mark.parametrize(
    ("version", "available"),
    [("2.1.0", True), ("1.9.0", True), ("2.0.0", False), ("1.8.0", False), ("2.2.0", False), (None, False)],
)
def test_the_versions_that_serve(version: str | None, available: bool, make_catalog: Any) -> None:
    installed = {"deprecated": "1.2", "wrapt": "1.17"} | ({"mindformers": version} if version else {})
    adapters = list(mindformers.mszoo_model_adapters())
    catalog = make_catalog({mindformers.mszoo_suite(): adapters}, installed=installed)
    decision = catalog.decisions()["Qwen3ForCausalLM"]
    assert bool(decision.chain) is available
    if not available:
        (verdict,) = decision.verdicts
        assert (
            "mindformers" in verdict.reason and "pip install --no-deps mindformers==2.1.0" in verdict.reason
        )


def test_a_package_that_is_not_installed_is_stood_in_for_in_the_suite_alone(tmp_path, monkeypatch) -> None:
    package = tmp_path / importer.SUITE
    package.mkdir()
    (package / "__init__.py").write_text(
        "import jieba, rouge_chinese.deep as deep\n"
        "from datasets.distributed import split\n"
        "class Mine(split): pass\n"
        "import json\n"
        "def late():\n    import mindpet\n    return mindpet\n"
        "try:\n    import another_missing_package\nexcept ImportError:\n    missing = True\n"
    )
    tools = package / "tools"
    tools.mkdir()
    (tools / "__init__.py").write_text("")
    (tools / "logger.py").write_text("import logging\ndef get_logger(): return logging.getLogger('suite')\n")
    monkeypatch.setattr(importer, "UNUSED", frozenset(["jieba", "rouge_chinese", "datasets", "mindpet"]))
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in importer.UNUSED else real(name)
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == importer.SUITE]:
        monkeypatch.delitem(sys.modules, name)
    finders = list(sys.meta_path)
    found = importer.load(f"{importer.SUITE}:Mine")
    suite = sys.modules[importer.SUITE]
    assert suite.missing
    assert sys.meta_path == finders
    assert not {"jieba", "rouge_chinese", "datasets", "mindpet"} & sys.modules.keys()
    assert isinstance(suite.late(), importer.StandIn)
    with pytest.raises(ImportError, match="datasets is not installed, and mindformers needs it for"):
        found()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("rouge_chinese")
    for name in [name for name in sys.modules if name.partition(".")[0] == importer.SUITE]:
        monkeypatch.delitem(sys.modules, name)


def test_an_import_that_fails_is_a_refusal() -> None:
    with pytest.raises(RefusalError, match=r"pip install --no-deps mindformers==2\.1\.0"):
        importer.load(f"{importer.SUITE}_of_nobody.models:Model")


def test_the_surroundings_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import warnings

    monkeypatch.setenv("RUN_MODE", "train")
    monkeypatch.delenv("ENFORCE_EAGER", raising=False)
    before, shown = dict(os.environ), warnings.showwarning
    with importer.surroundings():
        assert os.environ["RUN_MODE"] == "predict"
        warnings.showwarning = print
    assert dict(os.environ) == before
    assert warnings.showwarning is shown
