"""Models whose code only their publishers have: logits against small references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import pytest
from safetensors.torch import save_file

from mszoo.adapters import native
from mszoo.adapters.native.conformance import write_config_class
from mszoo.adapters.native.references import REFERENCES
from tests.published import corpus

from .conftest import RAW_LOGITS, assert_mindspore, running_engine, worst_of
from .odd_checkpoints import make_whole_lora, merged
from .test_families import layers_that_run_compiled, run_op_by_op

TOLERANCE = 2e-5
PROMPTS = [[5, 17, 99, 201, 3, 44, 180], list(range(3, 100)), [7]]

#: Where a config's class lies, of one that doesn't say so.
_CLASS = {"AutoConfig": "configuration_own.Config"}
_RECORDS = {record.architecture: record for record in native.mszoo_model_adapters()}
#: By name: the config, of the record's example and of each published one.
CASES: dict[str, dict[str, Any]] = {
    f"{name}-example": dict(_RECORDS[name].example_config) for name in REFERENCES
} | {
    f"{config['architectures'][0]}-{where}": {"auto_map": _CLASS} | config
    for where, config in corpus.read().items()
    if config["architectures"][0] in REFERENCES
}
CASES.pop("ChatGLMForConditionalGeneration-example")  # ChatGLMModel's, by another name


class Reference:
    """A reference in the form of Hugging Face's models, as tests call them."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        self._logits, self._arguments = REFERENCES[config["architectures"][0]], (config, weights)

    def __call__(self, tokens: torch.Tensor) -> Any:
        logits = self._logits(*self._arguments, tokens[0].tolist())
        return type("Output", (), {"logits": logits[None]})


def options(case: str, **more: Any) -> dict[str, Any]:
    """Return an engine's options."""
    name = CASES[case]["architectures"][0]
    pinned = {"architectures": [f"native.{name}"]}
    return {"hf_overrides": pinned, "trust_remote_code": True, "max_model_len": 128} | more


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a maker of random checkpoints, and the references of their weights."""
    made: dict[str, tuple[Path, Reference]] = {}

    def make(case: str) -> tuple[Path, Reference]:
        if case in made:
            return made[case]
        folder, config = tmp_path_factory.mktemp("model"), CASES[case]
        corpus.write_config(config, folder)
        write_config_class(config, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # as of tests, which come after this
            with running_engine(folder, **options(case, load_format="dummy")) as llm:
                (shapes,) = llm.apply_model(shapes_of)
        generator = torch.Generator().manual_seed(0)
        weights = {
            name: torch.randn(shape, generator=generator) * 0.1
            + (1.0 if ("norm" in name or "ln_f" in name) and name.endswith("weight") else 0.0)
            for name, shape in shapes.items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        made[case] = folder, Reference(config, weights)
        return made[case]

    return make


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a model needs; the reference knows their names by itself."""
    return {name: entry.shape for name, entry in model.network.expected_tensors().items() if entry.shape}


@pytest.mark.parametrize("case", sorted(CASES))
def test_logits_equal_the_reference(case: str, checkpoint) -> None:
    from vllm import SamplingParams

    folder, reference = checkpoint(case)
    sampling = SamplingParams(
        temperature=0, max_tokens=4, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    with running_engine(folder, **options(case, enforce_eager=False), **RAW_LOGITS) as llm:
        for compiled in (True, False):
            worst = worst_of(PROMPTS, llm.generate(prompts, sampling, use_tqdm=False), reference)
            (layers,) = llm.apply_model(layers_that_run_compiled)
            assert layers == [compiled] * len(layers)
            assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"
            llm.apply_model(run_op_by_op)
        assert assert_mindspore(llm, f"native.{CASES[case]['architectures'][0]}", "cpu") > 0


@pytest.mark.parametrize("name", ["BaichuanForCausalLM", "ChatGLMModel"])
def test_lora_on_projections_that_the_checkpoint_fused(name: str, checkpoint, tmp_path: Path) -> None:
    """An adapter on all linear layers gives the logits of merged weights."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    case = f"{name}-example"
    folder, _ = checkpoint(case)
    modules = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
    if name == "ChatGLMModel":
        modules = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    adapter = make_whole_lora(folder, tmp_path / "lora", modules, size=0.1)
    sampling = SamplingParams(
        temperature=0, max_tokens=4, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    with running_engine(folder, **options(case, enable_lora=True, max_lora_rank=8), **RAW_LOGITS) as llm:
        request = LoRARequest("lora", 1, str(adapter))
        outputs = llm.generate(prompts, sampling, use_tqdm=False, lora_request=request)
        worst = worst_of(PROMPTS, outputs, Reference(CASES[case], merged(folder, adapter)))
        assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"
        assert assert_mindspore(llm, f"native.{name}", "cpu") > 0
