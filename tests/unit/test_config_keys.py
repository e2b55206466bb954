"""Which config keys the reference reads: the recorded answers, and experiments with transformers' own networks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mszoo.models import config_keys

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def reads() -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_reads", TOOLS / "config_reads.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_record_is_what_the_installed_transformers_gives() -> None:
    done = subprocess.run(
        [sys.executable, TOOLS / "config_keys.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    "model_type",
    ["deepseek_v3", "gemma2", "gpt2", "phi3", "xlm-roberta"],
)
def test_networks_read_what_is_recorded_and_ignore_the_rest(reads: ModuleType, model_type: str) -> None:
    report = reads.check(model_type)
    assert report["failed"] == {}
    assert report["unknown"] == {}
    assert report["changed"] == []
    assert "initializer_range" in report["tried"]


def test_key_of_effect_changes_the_result(reads: ModuleType) -> None:
    config_class, classes = reads.tool.text_models()["gpt2"]
    config, kind = reads.tiny("gpt2", config_class), classes["GPT2LMHeadModel"]
    reference = reads.outputs(reads.network(kind, config))
    for key in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
        assert config_keys.has_effect("gpt2", key)
        changed = {key: not getattr(config, key)}
        assert not reads.same(kind, config, changed, reference), key
    assert reads.same(kind, config, {"n_ctx": 7}, reference) and not config_keys.has_effect("gpt2", "n_ctx")


@pytest.mark.parametrize(
    ("model_type", "key", "kind"),
    [
        ("llama", "rms_norm_eps", "inference"),
        ("llama", "tie_word_embeddings", "loading"),
        ("llama", "attention_dropout", "training"),
        ("llama", "pad_token_id", "heads"),
        ("qwen2", "is_causal", "inference"),
        ("qwen2", "max_window_layers", "derives"),
        ("qwen2", "use_sliding_window", "derives"),
        ("gemma2", "query_pre_attn_scalar", "inference"),
        ("gemma2", "hidden_activation", "inference"),
        ("phi3", "original_max_position_embeddings", "derives"),
        ("mixtral", "router_aux_loss_coef", "training"),
        ("xlm-roberta", "pad_token_id", "inference"),
    ],
)
def test_kinds(model_type: str, key: str, kind: str) -> None:
    assert config_keys.keys(model_type)[key].kind == kind


@pytest.mark.parametrize(
    ("model_type", "key"),
    [
        ("deepseek_v3", "ep_size"),
        ("deepseek_v3", "pretraining_tp"),
        ("gemma2", "hidden_act"),
        ("gptj", "rotary"),
        ("llama", "pretraining_tp"),
        ("llama", "sliding_window"),
        ("starcoder2", "norm_type"),
    ],
)
def test_keys_that_nothing_reads_have_no_effect(model_type: str, key: str) -> None:
    assert not config_keys.has_effect(model_type, key)


def test_aliases_are_the_same_key() -> None:
    assert config_keys.canonical("gpt2", "hidden_size") == "n_embd"
    assert {"hidden_size", "n_embd"} <= config_keys.keys_read("gpt2")


def test_heads_count_where_they_are_asked_for() -> None:
    assert config_keys.has_effect("llama", "pad_token_id", "LlamaForSequenceClassification")
    assert not config_keys.has_effect("llama", "pad_token_id", "LlamaForCausalLM")
    assert config_keys.has_effect("cohere", "logit_scale", "CohereForCausalLM")


def test_rope_entries_depend_on_the_type() -> None:
    assert "partial_rotary_factor" not in config_keys.rope_keys("llama", "default")
    assert "partial_rotary_factor" in config_keys.rope_keys("phi3", "default")
    assert {"factor", "low_freq_factor"} <= config_keys.rope_keys("llama", "llama3")
    assert "mscale_all_dim" in config_keys.rope_keys("deepseek_v3", "yarn")
    with pytest.raises(KeyError):
        config_keys.rope_keys("llama", "no_such_type")


def test_anything_may_matter_to_code_that_transformers_does_not_have() -> None:
    assert "chatglm" not in config_keys.model_types()
    assert config_keys.has_effect("chatglm", "seq_length")
    for key in ("architectures", "auto_map", "torch_dtype", "transformers_version", "eos_token_id"):
        assert not config_keys.has_effect("chatglm", key)
    assert config_keys.has_effect("chatglm", "is_encoder_decoder")
    assert config_keys.has_effect("chatglm", "rope_theta")
