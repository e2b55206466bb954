"""Native families in every way they run: logits of published configs, shrunk, against Hugging Face in float32.

The families of test_logits.py are left out, and those that transformers lacks: test_publishers.py has them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters import native
from mszoo.adapters.native.references import REFERENCES
from tests.published import corpus
from tests.published.readers import answers, config_of

from .conftest import RAW_LOGITS, assert_mindspore, give_routers_a_bias, running_engine, worst_logit
from .test_logits import ADAPTER

TOLERANCE = 2e-5
#: Whose logits float32 can't give with five digits behind the point.
LARGE: dict[str, float] = {
    # Norm weights around 2 (an offset of 1 from what is random around 1) make attention scores of tens. Hugging
    # Face's own float32 is 1.6e-5 to 3.8e-5 from its float64 here; ours is 2.2e-5 to 4.9e-5 from that.
    "Gemma2ForCausalLM": 5e-5,
    "Gemma3ForCausalLM": 5e-5,
    "GemmaForCausalLM": 5e-5,
}
#: Families, or configs of one, whose layers no compiled call computes, with the reason.
OP_BY_OP: dict[str, str] = {
    "CohereForCausalLM-CohereForAI/c4ai-command-r-plus": "its heads are normed with weights of their own",
    "GptOssForCausalLM": "attention with sinks",
    "MiniCPM3ForCausalLM": "latent attention on keys and values of each head",
    "StableLmForCausalLM-stabilityai/stablelm-2-12b": "each head has a norm of its own",
}
#: Families whose experts no compiled call computes, with the reason.
EXPERTS_OP_BY_OP: dict[str, str] = {
    "PhiMoEForCausalLM": "sparsemixer",
    "Qwen2MoeForCausalLM": "a gate of the shared experts",
}
#: Configs that a family's reader refuses, with the field that decides it: another suite or vLLM's own model serves.
REFUSED: dict[str, str] = {
    # Its model type is another's name, which says not what its keys mean.
    "HunYuanMoEV1ForCausalLM-tencent/Hunyuan-A13B-Instruct": "moe_intermediate_size",
    "OPTForCausalLM-facebook/opt-350m": "do_layer_norm_before",
}

_RECORDS = {
    record.architecture: record
    for record in native.mszoo_model_adapters()
    if not (record.drafts or record.pooling or record.modalities)
}
NEW = sorted(
    _RECORDS.keys() - {name.removeprefix("native.") for name in ADAPTER.values()} - REFERENCES.keys()
)
#: By name: the architecture and a config: each published one, and the record's example where there is none.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{config['architectures'][0]}-{where}": (config["architectures"][0], config)
    for where, config in corpus.read().items()
    if config["architectures"][0] in NEW
}
CASES |= {
    f"{name}-example": (name, dict(_RECORDS[name].example_config))
    for name in set(NEW) - {architecture for architecture, _ in CASES.values()}
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_is_refused_by_its_field(case: str) -> None:
    name, config = CASES[case]
    refusal = answers(config_of(config), name)["native"]
    assert f"config.json says {REFUSED[case]}=" in refusal


#: An architecture's further configs: they have other numbers, and few another branch of the reader.
FURTHER = sorted(CASES.keys() - REFUSED.keys() - OP_BY_OP.keys())
FURTHER = [
    case for at, case in enumerate(FURTHER) if CASES[case][0] in {CASES[one][0] for one in FURTHER[:at]}
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.long if case in FURTHER else ())
        for case in sorted(CASES.keys() - REFUSED.keys())
    ],
)
def test_logits_equal_hugging_face(case: str, tmp_path: Path) -> None:
    name, config = CASES[case]
    folder = tmp_path / "model"
    corpus.write_config(config, folder)
    corpus.write_checkpoint(corpus.reference_of(folder), folder)
    give_routers_a_bias(folder)
    # vLLM gives transformers' config classes other names: of Kimi-K2's, transformers wouldn't know the experts.
    reference = corpus.load_reference(folder)
    pinned = {"architectures": [f"native.{name}"]}
    with running_engine(
        folder, hf_overrides=pinned, enforce_eager=False, max_model_len=128, **RAW_LOGITS
    ) as llm:
        for compiled in (True, False):
            worst = worst_logit(llm, folder, reference)
            (layers,) = llm.apply_model(layers_that_run_compiled)
            assert layers == [compiled and not {name, case} & OP_BY_OP.keys()] * len(layers)
            (mixtures,) = llm.apply_model(mixtures_that_run_compiled)
            assert mixtures == [compiled and name not in EXPERTS_OP_BY_OP] * len(mixtures)
            assert worst <= LARGE.get(name, TOLERANCE), f"logits differ by {worst:.2e}"
            llm.apply_model(run_op_by_op)
        assert assert_mindspore(llm, f"native.{name}", "cpu") > 0


def test_another_kernel_set_refuses_a_latent_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    folder = latent_checkpoint(tmp_path / "model")
    pinned = {"architectures": ["native.DeepseekV2ForCausalLM"]}
    why = "on a latent cache it is vLLM's on CPU, in no other kernel set"
    with pytest.raises(Exception, match=why), running_engine(folder, hf_overrides=pinned, max_model_len=128):
        pass


@pytest.mark.parametrize("kernels", ["cpu", "mindspore"])
def test_latent_attention_where_each_head_has_a_cache(
    kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_MLA_DISABLE", "1")
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    folder = latent_checkpoint(tmp_path / "model")
    pinned = {"architectures": ["native.DeepseekV2ForCausalLM"]}
    with running_engine(folder, hf_overrides=pinned, max_model_len=128, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder, corpus.load_reference(folder))
        assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"
        assert assert_mindspore(llm, "native.DeepseekV2ForCausalLM", kernels) > 0


def test_decodes_with_a_latent_cache_are_one_call(tmp_path: Path) -> None:
    folder = latent_checkpoint(tmp_path / "model")
    pinned = {"architectures": ["native.DeepseekV2ForCausalLM"]}
    # Long prompts come in chunks, beside which short ones are decoded.
    few = {"max_num_batched_tokens": 16, "enable_chunked_prefill": True}
    with running_engine(
        folder, hf_overrides=pinned, enforce_eager=False, max_model_len=128, **few, **RAW_LOGITS
    ) as llm:
        reference = corpus.load_reference(folder)
        assert worst_logit(llm, folder, reference) <= TOLERANCE
        llm.apply_model(count_calls_of_latent_layers)
        assert worst_logit(llm, folder, reference) <= TOLERANCE
        (calls,) = llm.apply_model(lambda model: model.calls_of_latent_layers)
    layers = len(calls["decode"])
    assert layers > 0 and len(calls["before"]) == layers
    # Each of the four tokens but the first is decoded, in some steps beside a prompt's chunk.
    assert min(calls["decode"].values()) >= 3 and min(calls["before"].values()) >= 1


def count_calls_of_latent_layers(model: Any) -> None:
    """Count the calls of each layer from now on, by what is called."""
    model.calls_of_latent_layers = calls = {"decode": Counter(), "before": Counter()}

    def counting(run: Any, counted: Counter[int], number: int) -> Any:
        def call(*given: Any) -> Any:
            counted[number] += 1
            return run(*given)

        return call

    for number, layer in enumerate(model.network.decoder.decoder_layers):
        compiled = layer.compiled._compiled
        compiled._decode = counting(compiled._decode, calls["decode"], number)
        compiled._before = counting(compiled._before, calls["before"], number)


def latent_checkpoint(folder: Path) -> Path:
    """Write a random DeepSeek-V2."""
    corpus.write_config(dict(_RECORDS["DeepseekV2ForCausalLM"].example_config), folder)
    corpus.write_checkpoint(corpus.reference_of(folder), folder)
    return folder


def layers_that_run_compiled(model: Any) -> list[bool]:
    """Return of each decoder layer whether it runs as one call."""
    return [layer.compiled.runs for layer in model.network.decoder.decoder_layers]


def mixtures_that_run_compiled(model: Any) -> list[bool]:
    """Return of each mixture of experts whether it runs as one call."""
    layers = model.network.decoder.decoder_layers
    return [layer.mlp.compiled.runs for layer in layers if layer.has_experts]


def run_op_by_op(model: Any) -> None:
    """Let layers that run as a whole run op by op from now on, as with LoRA or tensor parallelism."""
    for layer in model.network.decoder.decoder_layers:
        layer.compiled.stop()
