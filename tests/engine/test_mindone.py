"""MindSpore One's decoders in real engines: right against Hugging Face, by the suite's own network."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters.mindone import architectures
from mszoo.adapters.vllm.cli.demo.folder import make as make_demo_model
from mszoo.conformance.checkpoints import make_checkpoint as make_tiny
from mszoo.conformance.engines import generate

from . import answers
from .conftest import make_checkpoint, running_engine, served_by
from .test_conformance import check
from .test_smollm2 import OPTIONS, PROMPTS

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)

MODELS = "mindone.transformers.models"
TABLE = "mindspore.nn.layer.embedding:EmbeddingExt"


def test_experts_give_the_same_answer_every_time(tmp_path: Path) -> None:
    """MindSpore's CPU kernel that adds at given places loses some where two experts add at one; ours doesn't."""
    fields = architectures.read()["GraniteMoeForCausalLM"].example_config
    folder = make_tiny(fields or {}, "GraniteMoeForCausalLM", tmp_path, lambda _: {}).folder
    pinned = {"architectures": ["mindone.GraniteMoeForCausalLM"]}
    prompt = [index * 37 % 250 + 3 for index in range(101)]
    with running_engine(folder, hf_overrides=pinned, enable_prefix_caching=False) as llm:
        totals = {round(generate(llm, [prompt], 8)[0].total, 2) for _ in range(12)}
    assert len(totals) == 1


def replaced(llm: Any) -> Counter[str]:
    """Return how many cells of which class were replaced in the worker's model."""
    return llm.apply_model(lambda model: Counter(item.cell for item in model.network.replaced))[0]


def serve(folder: Path, architecture: str, **options: Any) -> tuple[dict[str, Any], Counter[str], list[int]]:
    """Answer one prompt; return who answered, what was replaced, and the tokens."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, detokenize=False)
    overrides = {"architectures": [architecture]}
    with running_engine(folder, hf_overrides=overrides, **options) as llm:
        (output,) = llm.generate([{"prompt_token_ids": [5, 17, 99]}], sampling, use_tqdm=False)
        return served_by(llm), replaced(llm), list(output.outputs[0].token_ids)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


def test_llamas_layers_are_replaced_whole(llama: Path) -> None:
    seen, cells, tokens = serve(llama, "mindone.LlamaForCausalLM")
    assert seen["adapter"] == "mindone.LlamaForCausalLM"
    assert seen["forwards"] == 4
    assert cells == {
        TABLE: 1,
        f"{MODELS}.llama.modeling_llama:LlamaDecoderLayer": 3,
        f"{MODELS}.llama.modeling_llama:LlamaRMSNorm": 1,
        f"{MODELS}.llama.modeling_llama:LlamaRotaryEmbedding": 1,
    }
    own, _, expected = serve_native(llama)
    assert own["adapter"] == "native.LlamaForCausalLM"
    assert tokens == expected


def serve_native(folder: Path) -> tuple[dict[str, Any], None, list[int]]:
    """Answer the same prompt with the native model."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, detokenize=False)
    with running_engine(folder) as llm:
        (output,) = llm.generate([{"prompt_token_ids": [5, 17, 99]}], sampling, use_tqdm=False)
        return served_by(llm), None, list(output.outputs[0].token_ids)


def test_preferring_the_suite_chooses_it(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are made once per process: a fresh one prefers mindone."""
    from . import answers

    job = {
        "model": str(llama),
        "prompts": [[5, 17, 99]],
        "max_tokens": 4,
        "options": {
            "skip_tokenizer_init": True,
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 256,
        },
    }
    result = answers.run(
        job, llama / "answers.json", MSZOO_PREFER="mindone", VLLM_ENABLE_V1_MULTIPROCESSING="0"
    )
    assert [worker["adapter"] for worker in result["workers"]] == ["mindone.LlamaForCausalLM"]
    assert result["workers"][0]["forwards"] == 4


# A trained model.


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "smollm2"
    assert make_demo_model(path)
    return path


@pytest.fixture(scope="module")
def prompts(smollm2: Path) -> Iterator[list[list[int]]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    yield [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for prompt in PROMPTS[:4]
    ]


@pytest.mark.long
def test_smollm2_answers_as_the_native_model_does(smollm2: Path, prompts: list[list[int]]) -> None:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, detokenize=False)
    given = {}
    for adapter in ("native.LlamaForCausalLM", "mindone.LlamaForCausalLM"):
        options = OPTIONS | {"enforce_eager": False, "hf_overrides": {"architectures": [adapter]}}
        with running_engine(smollm2, **options) as llm:
            outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
            seen = served_by(llm)
            assert seen["adapter"] == adapter and seen["forwards"] >= 32
            if adapter.startswith("mindone"):
                assert replaced(llm)[f"{MODELS}.llama.modeling_llama:LlamaDecoderLayer"] == 30
                fused = llm.apply_model(
                    lambda model: [layer.compiled.runs for layer in model.model.layers.children()]
                )
                assert fused[0] == [True] * 30, "the compiled path must run"
        given[adapter] = [list(output.outputs[0].token_ids) for output in outputs]
    assert given["mindone.LlamaForCausalLM"] == given["native.LlamaForCausalLM"]


# Bad input.


def test_a_config_value_that_nobody_implements_is_refused(llama: Path, tmp_path: Path) -> None:
    fields = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"hidden_act": "mish"}))
    (tmp_path / "model.safetensors").symlink_to(llama / "model.safetensors")
    with pytest.raises(Exception, match=r"(?i)mish"):
        serve(tmp_path, "mindone.LlamaForCausalLM")


def test_a_refused_architecture_says_why(tmp_path: Path) -> None:
    entry = architectures.read()["BloomForCausalLM"]
    assert entry.refused
    status, report, _ = check("mindone.BloomForCausalLM", "--tier", "numeric", path=[])
    assert status in (0, 1)
    assert entry.refused[:40] in json.dumps(report)


def test_a_family_that_is_not_there_is_named() -> None:
    from mszoo.adapters.mindone import importer

    with pytest.raises(importer.SuiteImportError, match="no_such_family"):
        importer.modeling("no_such_family")


def test_a_family_whose_import_fails_leaves_the_model_to_the_next(checkpoint, tmp_path: Path) -> None:
    """MindSpore One with one broken file, before the real one: the reason is said, and native serves."""
    root = importlib.metadata.distribution("mindone").locate_file("mindone")
    site = tmp_path / "site"
    shutil.copytree(str(root), site / "mindone", copy_function=os.symlink)
    broken = site / "mindone" / "transformers" / "models" / "qwen3" / "modeling_qwen3.py"
    broken.unlink()
    broken.write_text("raise OSError('the disk is gone')\n")
    job = {"model": str(checkpoint("qwen3")), "prompts": [[5, 6, 7]], "max_tokens": 4}
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environ = {"MSZOO_PREFER": "mindone", "MSZOO_DISABLE": "mindformers", "PYTHONPATH": path}
    done = answers.run(job | {"options": {"enforce_eager": True}}, tmp_path / "answers.json", **environ)
    assert done["workers"][0]["adapter"] == "native.Qwen3ForCausalLM"
    assert "mindone family 'qwen3': " in done["log"]
    assert "OSError: the disk is gone" in done["log"]


def test_importing_the_suite_changes_no_other_module() -> None:
    import transformers

    from mszoo.adapters.mindone import importer

    import mindspore

    watched = (
        mindspore.mint,
        mindspore.ops,
        mindspore.mint.nn,
        mindspore.mint.nn.functional,
        transformers.utils,
    )
    before = [dict(vars(module)) for module in watched]
    importer.modeling("starcoder2")
    for module, names in zip(watched, before, strict=True):
        changed = [name for name, value in names.items() if vars(module).get(name) is not value]
        assert not changed, f"{module.__name__}: {changed}"
