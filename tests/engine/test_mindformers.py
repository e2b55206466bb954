"""MindSpore Transformers' models against Hugging Face in float32, and against vLLM's own."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.registry.errors import RefusalError

from . import answers
from .conftest import assert_mindspore, give_routers_a_bias, packs, running_engine, worst_of

try:
    VERSION = importlib.metadata.version("mindformers")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindformers is not installed: make suites", allow_module_level=True)

TOLERANCE = 2e-5
PROMPTS = [[5, 17, 99, 201, 3, 44, 180], list(range(3, 100)), [7]]
EXPERTS = {"num_experts_per_tok": 4, "moe_intermediate_size": 32, "norm_topk_prob": True}
GROUPED = EXPERTS | {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}
LATENT = {
    "num_key_value_heads": 4,
    "head_dim": 64,
    "q_lora_rank": 48,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
}
ROPE = {"rope_type": "default", "rope_theta": 500000.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
#: Architecture, model type, fields of the config.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # vLLM's own Qwen2 computes the head size from these.
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {"hidden_size": 128}),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", {}),
    "qwen3-theta-tied": ("Qwen3ForCausalLM", "qwen3", {"rope_parameters": ROPE, "tie_word_embeddings": True}),
    "telechat3": ("TeleChat3ForCausalLM", "llama", {}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", "qwen3_moe", EXPERTS | {"num_experts": 8}),
    "qwen3-moe-unnormed": (
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        EXPERTS | {"num_experts": 8, "norm_topk_prob": False},
    ),
    "glm4": ("Glm4ForCausalLM", "glm4", {}),
    "glm4-moe": ("Glm4MoeForCausalLM", "glm4_moe", GROUPED | {"use_qk_norm": True, "attention_bias": True}),
    "glm4-moe-plain": ("Glm4MoeForCausalLM", "glm4_moe", GROUPED | {"n_group": 1, "topk_group": 1}),
    "deepseek": ("DeepseekV3ForCausalLM", "deepseek_v3", GROUPED | LATENT),
    "deepseek-ungrouped": (
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        GROUPED | LATENT | {"n_group": 1, "topk_group": 1},
    ),
    "deepseek-yarn": ("DeepseekV3ForCausalLM", "deepseek_v3", GROUPED | LATENT | {"rope_parameters": YARN}),
    "deepseek-full-rank": ("DeepseekV3ForCausalLM", "deepseek_v3", GROUPED | LATENT | {"q_lora_rank": None}),
}


def expected_cells(architecture: str, layers: int) -> dict[str, str]:
    """Return the cells that are replaced, by the checkpoint's name in its network: layers whole, the last norm."""
    norm, name = ("ln_f", "h") if architecture == "TeleChat2ForCausalLM" else ("norm", "layers")
    return {norm: "RMSNorm"} | {f"{name}.{index}": "TransformerLayer" for index in range(layers)}


def look(model: Any) -> dict[str, Any]:
    """Return what was replaced, and which layers run as a whole; runs inside the worker."""
    network = model.network
    layers = network.get_submodule(f"{network.spec.name}.{network.spec.layers_name}")
    left = [name for name, cell in network.stack.cells_and_names() if cell._params]
    return {
        "cells": {item.name: item.cell.partition(":")[2] for item in network.replaced},
        "fused": [layer.compiled.runs for layer in layers.children()],
        "one graph": network.graph.runs,
        "parameters left in the suite's cells": left,
    }


def serve(folder: Path, architecture: str, kernel_set: str = "cpu", **options: Any) -> list[Any]:
    """Serve prompts, prove who answered and which cells were replaced, and return vLLM's outputs."""
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=4, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    name = f"mindformers.{architecture}"
    options = {"max_logprobs": -1, "logprobs_mode": "raw_logits"} | options
    with running_engine(folder, hf_overrides={"architectures": [name]}, **options) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], sampling, use_tqdm=False)
        assert assert_mindspore(llm, name, kernel_set) > 0
        (seen,) = llm.apply_model(look)
    layers = json.loads((folder / "config.json").read_text())
    count = layers.get("num_hidden_layers") or layers["n_layer"]
    assert seen["cells"] == expected_cells(architecture, count)
    compiled = options.get("enforce_eager") is False
    latent = architecture == "DeepseekV3ForCausalLM"  # its attention is called as it is
    whole = compiled and kernel_set == "cpu" and not latent and packs(options.get("dtype", "float32"))
    assert seen["fused"] == [whole] * count
    assert seen["one graph"] == (compiled and kernel_set == "mindspore" and "Moe" not in architecture)
    assert seen["parameters left in the suite's cells"] == []
    return outputs


@pytest.fixture(scope="module")
def model_folder(checkpoint: Callable[..., Path]) -> Callable[[str], Path]:
    """Return the folder of a case; routers get a bias that changes who is chosen."""

    def make(case: str) -> Path:
        _, model_type, fields = CASES[case]
        folder = checkpoint(model_type, **fields)
        give_routers_a_bias(folder)
        return folder

    return make


def hugging_face(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


RUNS = [("cpu", "eager", case) for case in CASES]
RUNS += [
    ("cpu", "compiled", case)
    for case in ("qwen2", "qwen3-theta-tied", "telechat3", "glm4", "qwen3-moe", "glm4-moe")
]
RUNS += [("mindspore", "eager", case) for case in ("qwen3", "glm4", "glm4-moe")]
RUNS += [("mindspore", "compiled", case) for case in ("qwen2", "qwen3-moe")]


@pytest.mark.parametrize(("kernel_set", "mode", "case"), RUNS)
def test_logits_equal_hugging_face(kernel_set: str, mode: str, case: str, model_folder, monkeypatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernel_set)
    folder, architecture = model_folder(case), CASES[case][0]
    try:
        outputs = serve(folder, architecture, kernel_set, enforce_eager=mode == "eager")
    except RefusalError as refusal:
        if "vLLM's attention layer for it doesn't run here (MLA" not in str(refusal):
            raise
        pytest.skip(str(refusal))  # vLLM 0.23 has no latent attention on CPU
    worst = worst_of(PROMPTS, outputs, hugging_face(folder))
    assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("qwen2", "compiled"),
        ("qwen3", "compiled"),
        ("glm4", "compiled"),
        ("qwen3-moe", "compiled"),
        ("deepseek", "eager"),
    ],
)
def test_bfloat16(case: str, mode: str, model_folder) -> None:
    """The logits reach 3, and bfloat16 keeps 8 bits of each number in 3 layers; Hugging Face's own is off, too."""
    folder = model_folder(case)
    outputs = serve(folder, CASES[case][0], dtype="bfloat16", enforce_eager=mode == "eager")
    exact = hugging_face(folder)
    worst = worst_of(PROMPTS, outputs, exact)
    own = rounding_of(exact, [[*row.prompt_token_ids, *row.outputs[0].token_ids] for row in outputs])
    assert worst <= max(0.12, 2 * own), f"logits differ by {worst:.2e}, Hugging Face's own by {own:.2e}"


def rounding_of(exact: Any, sequences: list[list[int]]) -> float:
    """Return how far the logits of Hugging Face's bfloat16 are from its float32, at the most."""
    rounded = copy.deepcopy(exact).bfloat16()
    with torch.no_grad():
        pairs = [
            (exact(torch.tensor([ids])).logits, rounded(torch.tensor([ids])).logits) for ids in sequences
        ]
    return max((one - other.float()).abs().max().item() for one, other in pairs)


TELECHAT2: dict[str, Any] = {
    "model_type": "telechat",
    "architectures": ["TeleChat2ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_telechat2.Telechat2Config"},
    "vocab_size": 256,
    "hidden_size": 128,
    "ffn_hidden_size": 192,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": 1e-5,
    "base_seqlen": 512,
    "training_seqlen": 512,
    "seq_length": 512,
    "logn": True,
    "embed_layernorm": False,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def telechat2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A random TeleChat2, and the same model as Hugging Face's Llama."""
    from safetensors.torch import save_file

    from mszoo.adapters.native.conformance import write_config_class

    from .telechat2 import telechat2_as_llama

    folder = tmp_path_factory.mktemp("telechat2")
    (folder / "config.json").write_text(json.dumps(TELECHAT2))
    write_config_class(TELECHAT2, folder)
    hidden, inner = TELECHAT2["hidden_size"], TELECHAT2["ffn_hidden_size"]
    of_a_layer = {
        "input_layernorm.weight": (hidden,),
        "self_attention.query.weight": (hidden, hidden),
        "self_attention.key_value.weight": (2 * hidden, hidden),
        "self_attention.dense.weight": (hidden, hidden),
        "self_attention.dense.bias": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "mlp.down_proj.bias": (hidden,),
    }
    shapes = {"transformer.word_embeddings.weight": (TELECHAT2["vocab_size"], hidden)}
    shapes |= {f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in of_a_layer.items()}
    shapes |= {"transformer.ln_f.weight": (hidden,), "lm_head.weight": (TELECHAT2["vocab_size"], hidden)}
    torch.manual_seed(0)
    tensors = {
        name: torch.randn(shape) * 0.08 + (1.0 if "norm" in name or "ln_f" in name else 0.0)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, telechat2_as_llama(TELECHAT2, tensors)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_telechat2(mode: str, telechat2) -> None:
    folder, reference = telechat2
    outputs = serve(folder, "TeleChat2ForCausalLM", enforce_eager=mode == "eager", trust_remote_code=True)
    worst = worst_of(PROMPTS, outputs, reference)
    assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"


ALL_EIGHT = ("qwen2", "qwen3", "qwen3-moe", "glm4", "glm4-moe", "deepseek", "telechat2", "telechat3")


@pytest.fixture(scope="module")
def ours_and_theirs(model_folder, telechat2, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answers by mindformers and by vLLM's own, case by case, in a fresh process each.

    vLLM's own DeepSeek runs without vLLM's C++ norm, which takes rows that lie apart for rows in sequence.
    """
    jobs: dict[str, Any] = {}
    for case in ALL_EIGHT:
        options: dict[str, Any] = {"enforce_eager": True, "max_model_len": 256, "trust_remote_code": True}
        options["hf_overrides"] = {"architectures": [architecture_of(case)]}
        folder = telechat2[0] if case == "telechat2" else model_folder(case)
        jobs[case] = {"model": str(folder), "prompts": PROMPTS, "max_tokens": 12, "options": options}
    result = tmp_path_factory.mktemp("answers") / "answers.json"
    in_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    ours = answers.run_all(jobs, result, MSZOO_PREFER="mindformers", **in_process)
    jobs["deepseek"]["options"]["compilation_config"] = {"custom_ops": ["none"]}
    return ours, answers.run_all(jobs, result, MSZOO_DISABLE="1", **in_process)


def architecture_of(case: str) -> str:
    return "TeleChat2ForCausalLM" if case == "telechat2" else CASES[case][0]


@pytest.mark.long  # each one's logits are held to Hugging Face above
@pytest.mark.parametrize("case", ALL_EIGHT)
def test_answers_equal_vllms_own(case: str, ours_and_theirs) -> None:
    ours, theirs = (answered[case] for answered in ours_and_theirs)
    assert ours["workers"][0]["adapter"] == f"mindformers.{architecture_of(case)}"
    assert ours["workers"][0]["forwards"] > 0
    assert theirs["workers"][0]["adapter"] is None
    assert ours["answers"] == theirs["answers"]
    assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-3)


def test_the_import_leaves_the_process_as_it_was(tmp_path, monkeypatch) -> None:
    """Nothing that the suite lacks is left in ``sys.modules``, no log file in the folder at hand."""
    from mszoo.adapters.mindformers import importer
    from mszoo.adapters.mindformers.config import ARCHITECTURES
    from mszoo.kernels import runtime

    runtime.prepare("cpu")  # MindSpore sets variables of its own
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ), list(sys.meta_path), warnings.showwarning
    with importer.surroundings():
        for architecture in ARCHITECTURES.values():
            importer.load(architecture.config)
            importer.load(architecture.network)
    assert (dict(os.environ), list(sys.meta_path), warnings.showwarning) == before
    stand_ins = [name for name, module in sys.modules.items() if isinstance(module, importer.StandIn)]
    assert stand_ins == []
    assert list(tmp_path.iterdir()) == []


def test_a_field_that_the_suite_ignores_leaves_the_model_to_the_next(checkpoint, tmp_path) -> None:
    """The suite has no bias for the output projection, so Qwen3 with attention_bias is native's."""
    folder = checkpoint("qwen3", attention_bias=True)
    job = {"model": str(folder), "prompts": PROMPTS, "options": {"enforce_eager": True}}
    done = answers.run(job, tmp_path / "answers.json", MSZOO_PREFER="mindformers")
    assert done["workers"][0]["adapter"] == "native.Qwen3ForCausalLM"
    assert "mindformers.Qwen3ForCausalLM: config.json says attention_bias=True" in done["log"]


def test_an_import_that_fails_leaves_the_model_to_the_next(checkpoint, tmp_path) -> None:
    """A broken mindformers before the real one: the reason is said, and native serves."""
    broken = tmp_path / "site" / "mindformers"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('the disk is gone')\n")
    job = {"model": str(checkpoint("qwen3")), "prompts": PROMPTS, "options": {"enforce_eager": True}}
    path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")])
    done = answers.run(job, tmp_path / "answers.json", MSZOO_PREFER="mindformers", PYTHONPATH=path)
    assert done["workers"][0]["adapter"] == "native.Qwen3ForCausalLM"
    assert "OSError: the disk is gone" in done["log"]


def test_a_head_size_without_a_kernel_refuses_the_model(checkpoint) -> None:
    """Not the cell alone: what would stay is the suite's attention, which CPU can't run."""
    pinned = {"architectures": ["mindformers.Qwen3ForCausalLM"]}
    folder = checkpoint("qwen3", head_dim=40)
    text = "head size 40 is not one that vLLM's CPU attention serves"
    with pytest.raises(Exception, match=text), running_engine(folder, hf_overrides=pinned):
        pass
