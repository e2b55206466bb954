"""LoRA adapters: what fits is served as merged weights are, and what doesn't is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import pytest
from safetensors.torch import load_file, save_file

from mszoo.conformance.checkpoints import write_tokenizer
from mszoo.layers.decoder.mlp import MixtureOfExperts
from mszoo.registry.errors import RefusalError

from .answers import run_all
from .conftest import RAW_LOGITS, assert_mindspore, running_engine, worst_of
from .odd_checkpoints import make_whole_lora, merged

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], list(range(3, 100)), [7]]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOLERANCE = 2e-5

Tensors = dict[str, torch.Tensor]


def answers(llm: Any, adapter: Path | None, number: int = 1) -> list[Any]:
    """Return vLLM's outputs, with all logits, of an adapter."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    sampling = SamplingParams(
        temperature=0, max_tokens=4, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    request = None if adapter is None else LoRARequest(adapter.name, number, str(adapter))
    return llm.generate(prompts, sampling, use_tqdm=False, lora_request=request)


def load(llm: Any, adapter: Path, number: int = 1) -> None:
    """Load an adapter as the server's /v1/load_lora_adapter does."""
    from vllm.lora.request import LoRARequest

    llm.llm_engine.add_lora(LoRARequest(adapter.name, number, str(adapter)))


def reference_of(model: Path, adapter: Path | None) -> Any:
    """Return Hugging Face's model of a checkpoint that an adapter is merged into."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    if adapter is not None:
        reference.load_state_dict(merged(model, adapter), strict=False)
    return reference


@pytest.fixture(scope="module")
def llama(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Serve the tiny Llama with LoRA; gives the engine, the checkpoint and an adapter of rank 4."""
    model = checkpoint("llama")
    adapter = make_whole_lora(model, tmp_path_factory.mktemp("lora") / "good", LINEAR, rank=4, size=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # as of tests, which come after this
        with running_engine(model, enable_lora=True, max_lora_rank=8, max_loras=2, **RAW_LOGITS) as llm:
            yield llm, model, adapter


def layer(index: int, module: str) -> str:
    """Return how PEFT calls a module of a Llama's layer."""
    block = "mlp" if module in LINEAR[4:] else "self_attn"
    return f"base_model.model.model.layers.{index}.{block}.{module}"


def too_small(tensors: Tensors) -> None:
    """Take it from a narrower model: vLLM alone copies it into zeros."""
    name = f"{layer(0, 'q_proj')}.lora_B.weight"
    tensors[name] = tensors[name][:64].clone()


def too_large(tensors: Tensors) -> None:
    name = f"{layer(1, 'down_proj')}.lora_A.weight"
    tensors[name] = tensors[name].repeat(1, 2)


def of_a_later_layer(tensors: Tensors) -> None:
    for side in ("A", "B"):
        tensors[f"{layer(9, 'k_proj')}.lora_{side}.weight"] = tensors[
            f"{layer(0, 'k_proj')}.lora_{side}.weight"
        ].clone()


def of_another_rank(tensors: Tensors) -> None:
    """Have another rank than adapter_config.json says, from which the scale comes."""
    a, b = (f"{layer(2, 'o_proj')}.lora_{side}.weight" for side in ("A", "B"))
    tensors[a], tensors[b] = tensors[a].repeat(2, 1), tensors[b].repeat(1, 2)


def of_one_side(tensors: Tensors) -> None:
    del tensors[f"{layer(2, 'o_proj')}.lora_A.weight"]


def of_too_high_a_rank(tensors: Tensors) -> None:
    """Have a rank beyond the limit in a part of a fused layer alone."""
    a, b = (f"{layer(0, 'v_proj')}.lora_{side}.weight" for side in ("A", "B"))
    tensors[a], tensors[b] = tensors[a].repeat(3, 1), tensors[b].repeat(1, 3)


def of_a_wider_model(tensors: Tensors) -> None:
    for name in [name for name in tensors if "lora_B" in name]:
        tensors[name] = tensors[name].repeat(2, 1)


BAD: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "too small": (
        too_small,
        "model.layers.0.self_attn.q_proj has lora_A [4, 64] and lora_B [64, 4], and an adapter of this model and "
        "rank 4 has [4, 64] and [128, 4]. Load an adapter that was trained on this model",
    ),
    "too large": (too_large, "model.layers.1.mlp.down_proj has lora_A [4, 256] and lora_B [64, 4]"),
    "a later layer's": (
        of_a_later_layer,
        "it has weights for model.layers.9.self_attn.k_proj, and this model has no such module that takes any",
    ),
    "another rank": (of_another_rank, "self_attn.o_proj has lora_A [8, 128] and lora_B [64, 8]"),
    "one side": (of_one_side, "self_attn.o_proj has lora_A None and lora_B [64, 4]"),
    "too high a rank": (of_too_high_a_rank, "v_proj has rank 12, and --max-lora-rank is 8"),
    "a wider model's": (of_a_wider_model, ", and 20 more of its modules don't fit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_is_refused(kind: str, llama: Any, tmp_path: Path) -> None:
    """By the adapter's name, the module's and the shapes; it isn't in vLLM's list, and the next one is served."""
    llm, _, good = llama
    spoil, message = BAD[kind]
    bad = shutil.copytree(good, tmp_path / "bad")
    tensors = load_file(bad / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, bad / "adapter_model.safetensors")
    for _ in range(2):  # asked again, it isn't there
        with pytest.raises(RefusalError) as refusal:
            load(llm, bad, 7)
        assert str(refusal.value).startswith(f"LoRA adapter 'bad' ({bad}): ")
        assert message in str(refusal.value)
    assert 7 not in llm.llm_engine.list_loras()


def test_adapters_come_and_go(llama: Any, tmp_path: Path) -> None:
    """Loaded, unloaded and loaded again while the engine runs; each gives the logits of merged weights."""
    llm, model, good = llama
    other = make_whole_lora(model, tmp_path / "other", ("q_proj", "down_proj"), rank=8, size=0.1)
    for number, adapter in ((1, good), (2, other), (1, good)):
        load(llm, adapter, number)
        worst = worst_of(PROMPTS, answers(llm, adapter, number), reference_of(model, adapter))
        assert worst <= TOLERANCE, f"{adapter.name}: logits differ by {worst:.2e}"
        assert llm.llm_engine.remove_lora(number)
        assert number not in llm.llm_engine.list_loras()
    assert worst_of(PROMPTS, answers(llm, None), reference_of(model, None)) <= TOLERANCE
    assert assert_mindspore(llm, "native.LlamaForCausalLM", "cpu") > 0


@pytest.mark.long
def test_speculation(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Tokens that their n-grams propose are accepted or not by the adapter's logits.

    In a process of its own: in one that has proposed n-grams vLLM starts no further engine.
    """
    model = checkpoint("llama")
    adapter = str(make_whole_lora(model, tmp_path / "lora", LINEAR, size=0.1))
    options = {"enable_lora": True, "max_lora_rank": 8, "enforce_eager": True, "disable_log_stats": False}
    job = {"model": str(model), "prompts": [[5, 17, 99, 201] * 4], "max_tokens": 24, "lora": [adapter]}
    proposed = {
        "method": "ngram",
        "num_speculative_tokens": 3,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    }
    jobs = {
        "plain": job | {"options": options},
        "ngram": job | {"options": options | {"speculative_config": proposed}},
    }
    found = run_all(jobs, tmp_path / "found.json", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert found["ngram"]["answers"] == found["plain"]["answers"]
    assert found["ngram"]["metrics"]["vllm:spec_decode_num_accepted_tokens"] > 0
    (before,), (after,) = (found[name]["workers"] for name in ("plain", "ngram"))
    assert before["adapter"] == after["adapter"] == "native.LlamaForCausalLM"
    assert after["forwards"] < before["forwards"]


def test_a_projection_that_the_checkpoint_fused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """GPT-BigCode's ``c_attn`` has all queries and the one key and value in one tensor."""
    fields = {"hidden_size": 128, "n_inner": 192}
    model = checkpoint("gpt_bigcode", **fields)
    adapter = make_whole_lora(model, tmp_path / "lora", ("c_attn", "c_proj", "c_fc"), size=0.1)
    options = {"enable_lora": True, "max_lora_rank": 8, **RAW_LOGITS}
    with running_engine(model, **options) as llm:
        assert worst_of(PROMPTS, answers(llm, adapter), reference_of(model, adapter)) <= TOLERANCE
        assert assert_mindspore(llm, "native.GPTBigCodeForCausalLM", "cpu") > 0


def test_an_adapter_of_the_network_alone(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Adapters of embedding models lack the ``model.`` before their modules' names: they load, and count."""
    from vllm.lora.request import LoRARequest

    model = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    write_tokenizer(model, 256)  # vLLM wants one for embeddings
    adapter = make_whole_lora(model, tmp_path / "lora", LINEAR, size=0.1)
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace(".model.model.", ".model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    options = {"runner": "pooling", "convert": "embed", "enable_lora": True, "max_lora_rank": 8}
    options["skip_tokenizer_init"] = False
    prompt = [{"prompt_token_ids": PROMPTS[0]}]
    with running_engine(model, **options) as llm:
        given = llm.embed(prompt, use_tqdm=False, lora_request=LoRARequest("lora", 1, str(adapter)))
    save_file(tensors, adapter / "adapter_model.safetensors")
    with torch.no_grad():
        states = reference_of(model, adapter).model(torch.tensor([PROMPTS[0]])).last_hidden_state[0, -1]
    expected = torch.nn.functional.normalize(states, dim=-1)
    assert torch.tensor(given[0].outputs.embedding).sub(expected).abs().max() <= TOLERANCE


ATTENTION = LINEAR[:4]
#: What of a model with experts takes adapters, by kind: beside attention, MLPs that all tokens pass.
WITH_EXPERTS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "mixtral": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        ATTENTION,
    ),
    "qwen2-moe": (
        "qwen2_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 96,
            "mlp_only_layers": [0],
        },
        (*LINEAR, "shared_expert_gate"),
    ),
    "deepseek-v3": (
        "deepseek_v3",
        {
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "q_lora_rank": 48,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 64,
            "v_head_dim": 64,
        },
        ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", *LINEAR[3:]),
    ),
}


def mixtures_that_run_compiled(model: Any) -> list[bool]:
    """Return of each mixture of experts whether it runs as one call."""
    return [module.compiled.runs for module in model.modules() if isinstance(module, MixtureOfExperts)]


def without(adapter: Path, part: str) -> Path:
    """Take the tensors out of an adapter whose names have a part."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    save_file(kept, adapter / "adapter_model.safetensors")
    return adapter


def with_another(adapter: Path, folder: Path, module: str) -> Path:
    """Write an adapter again, with tensors for one more module."""
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    for side in ("A", "B"):
        tensors[f"base_model.model.{module}.lora_{side}.weight"] = torch.ones(4, 4)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    "kind", ["mixtral", *(pytest.param(kind, marks=pytest.mark.long) for kind in list(WITH_EXPERTS)[1:])]
)
def test_models_with_experts_take_adapters_beside_them(
    kind: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Attention and what all tokens pass; one for experts, a router or a latent cache's values is refused by name.

    vLLM's own model starts, and its engine dies in the first step.
    """
    model_type, fields, modules = WITH_EXPERTS[kind]
    model = checkpoint(model_type, **fields)
    adapter = without(make_whole_lora(model, tmp_path / "good", modules, rank=4, size=0.1), ".experts.")
    of_experts = with_another(adapter, tmp_path / "of_experts", "model.layers.1.mlp.experts.0.gate_proj")
    unreached = "self_attn.kv_b_proj" if kind == "deepseek-v3" else "mlp.gate"
    of_another = with_another(adapter, tmp_path / "of_another", f"model.layers.1.{unreached}")
    options = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2, "enforce_eager": False, **RAW_LOGITS}
    with running_engine(model, **options) as llm:
        with pytest.raises(ValueError, match=r"of_experts.*mlp\.experts\.0\.gate_proj"):
            load(llm, of_experts, 8)
        why = rf"'of_another' .*model\.layers\.1\.{unreached}, and this model has no such module"
        with pytest.raises(RefusalError, match=why):
            load(llm, of_another, 9)
        assert worst_of(PROMPTS, answers(llm, adapter), reference_of(model, adapter)) <= TOLERANCE
        assert worst_of(PROMPTS, answers(llm, None), reference_of(model, None)) <= TOLERANCE
        assert llm.llm_engine.list_loras() == {1}
        (compiled,) = llm.apply_model(mixtures_that_run_compiled)
        assert compiled == [kind == "mixtral"] * len(compiled)  # without an adapter's part inside
        (architecture,) = llm.model_config.hf_config.architectures
        assert assert_mindspore(llm, f"native.{architecture}", "cpu") > 0


@pytest.mark.long
def test_experts_on_two_ranks(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Each rank has a part of every expert, and of the adapter's matrices: the merged weights' greedy tokens."""
    model_type, fields, modules = WITH_EXPERTS["qwen2-moe"]
    model = checkpoint(model_type, **fields)
    adapter = without(make_whole_lora(model, tmp_path / "lora", modules, rank=4, size=0.1), ".experts.")
    options = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2, "tensor_parallel_size": 2}
    (_, prompt, _), lora = PROMPTS, [str(adapter)]
    job = {"model": str(model), "prompts": [prompt], "options": options, "lora": lora}
    found = run_all({"": job}, tmp_path / "found.json", VLLM_CPU_OMP_THREADS_BIND="0|1")[""]
    assert [worker["adapter"] for worker in found["workers"]] == ["native.Qwen2MoeForCausalLM"] * 2
    greedy = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    tokens = reference_of(model, adapter).generate(torch.tensor([prompt]), **greedy)
    assert found["answers"] == [tokens[0, len(prompt) :].tolist()]
