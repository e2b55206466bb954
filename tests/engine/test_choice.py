"""Who serves an architecture that several suites have: the order, every way to change it, and what falls through.

Native, MindSpore Transformers, MindSpore One and vLLM all have Qwen3. Each case asks the worker who answered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mszoo.conformance.processor import int8_dtype

from . import answers
from .conftest import running_engine, served_by
from .test_inherited import make_lora, make_w8a8

ARCHITECTURE = "Qwen3ForCausalLM"
SUITES = ("native", "mindformers", "mindone")
PROMPTS = [[5, 17, 99, 201, 3, 44, 180], list(range(3, 43)), [7]]
TOKENS = 8
#: The operator's settings, and who then answers, in order.
ORDERS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "default": ({}, SUITES),
    "prefer-mindone": ({"MSZOO_PREFER": "mindone"}, ("mindone", "native", "mindformers")),
    "prefer-mindformers": ({"MSZOO_PREFER": "mindformers"}, ("mindformers", "native", "mindone")),
    "prefer-both": ({"MSZOO_PREFER": "mindone,mindformers"}, ("mindone", "mindformers", "native")),
    "without-native": ({"MSZOO_DISABLE": "native"}, ("mindformers", "mindone")),
    "without-two": ({"MSZOO_DISABLE": "native,mindformers"}, ("mindone",)),
    "without-any": ({"MSZOO_DISABLE": "1"}, ()),
}
#: Those of them whose winner no other test here serves.
SERVED = ("prefer-mindone", "prefer-mindformers", "without-any")
LOG = {"VLLM_LOGGING_LEVEL": "INFO"}


def environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")} | changes


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("qwen3")


@pytest.fixture(scope="module")
def sliding(checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint that MindSpore Transformers can't take: it attends to everything."""
    fields = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    return checkpoint("qwen3", **fields)


def greedy(folder: Path) -> list[list[int]]:
    """Hugging Face's greedy tokens."""
    import torch

    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = [
        model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS)
        for prompt in PROMPTS
    ]
    return [item[0, len(prompt) :].tolist() for item, prompt in zip(tokens, PROMPTS, strict=True)]


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[list[int]]:
    return greedy(folder)


def explain(folder: Path, *options: str, **settings: str) -> dict[str, Any]:
    """Return what ``mszoo explain`` says of a folder's architecture."""
    code = "from mszoo.registry.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", str(folder), "--no-build", "--json", *options],
        check=False,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=300,
    )
    (decision,) = json.loads(done.stdout)["architectures"]
    return decision


def serve(
    folder: Path, result: Path, lora: Path | None = None, dtype: str = "float32", **settings: str
) -> dict[str, Any]:
    """Serve a folder in a fresh process, which registers under these settings."""
    options: dict[str, Any] = {"enforce_eager": True, "dtype": dtype}
    if lora is not None:
        options |= {"enable_lora": True, "max_lora_rank": 8}
    job = {"model": str(folder), "prompts": PROMPTS, "max_tokens": TOKENS, "options": options}
    job["lora"] = [str(lora) for _ in PROMPTS] if lora is not None else None
    return answers.run(job, result, **LOG, **settings)


@pytest.mark.parametrize("case", ORDERS)
def test_explain_shows_the_order(case: str, folder: Path) -> None:
    settings, order = ORDERS[case]
    decision = explain(folder, **settings)
    chain = [item["name"] for item in decision["candidates"] if item["status"] != "unavailable"]
    assert chain == [f"{suite}.{ARCHITECTURE}" for suite in order]
    assert decision["winner"] == (chain[0] if chain else None)
    assert decision["last_resort"] == f"vllm.model_executor.models.qwen3:{ARCHITECTURE}"


@pytest.mark.parametrize("case", SERVED)
def test_settings_choose_who_answers(
    case: str, folder: Path, reference: list[list[int]], tmp_path: Path
) -> None:
    settings, order = ORDERS[case]
    served = serve(folder, tmp_path / "result.json", **settings)
    (worker,) = served["workers"]
    if order:
        assert worker["adapter"] == f"{order[0]}.{ARCHITECTURE}"
        assert worker["forwards"] > 0
        assert served["log"].count(f"mszoo: {order[0]}.{ARCHITECTURE} answers") == 1
    else:
        assert worker["adapter"] is None
        assert f"vllm.model_executor.models.qwen3.{ARCHITECTURE}" in worker["classes"]
    assert served["answers"] == reference


@pytest.mark.parametrize("suite", [None, *SUITES])
def test_a_qualified_name_chooses_who_answers(
    suite: str | None, folder: Path, reference: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By vLLM's own ``--hf-overrides``; without it the default order answers."""
    from vllm import SamplingParams

    overrides = {} if suite is None else {"architectures": [f"{suite}.{ARCHITECTURE}"]}
    with running_engine(folder, hf_overrides=overrides) as llm:
        prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
        sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seen = served_by(llm)
    assert seen["adapter"] == f"{suite or SUITES[0]}.{ARCHITECTURE}"
    assert seen["forwards"] > 0
    assert [list(output.outputs[0].token_ids) for output in outputs] == reference


def test_what_a_suite_cannot_take_goes_to_the_next_with_one_line(sliding: Path, tmp_path: Path) -> None:
    """MindSpore Transformers refuses a sliding window; the next in order answers, and it answers rightly."""
    settings = {"MSZOO_PREFER": "mindformers"}
    decision = explain(sliding, **settings)
    assert decision["winner"] == f"mindformers.{ARCHITECTURE}"  # a record says nothing of windows
    served = serve(sliding, tmp_path / "result.json", **settings)
    (worker,) = served["workers"]
    assert worker["adapter"] == f"native.{ARCHITECTURE}"
    assert worker["forwards"] > 0
    lines = [line for line in served["log"].splitlines() if f"mszoo: mindformers.{ARCHITECTURE}" in line]
    assert len(lines) == 1, lines
    assert "WARNING" in lines[0]
    assert "layer_types" in lines[0]
    assert served["answers"] == greedy(sliding)


@pytest.mark.parametrize("feature", ["lora", pytest.param("quantization", marks=pytest.mark.long)])
def test_a_feature_that_a_suite_declares_is_served_by_it(feature: str, folder: Path, tmp_path: Path) -> None:
    """MindSpore One's Qwen3 inherits both from the layers that its decoder layers are replaced by."""
    lora = make_lora(tmp_path / "lora", 1) if feature == "lora" else None
    model = make_w8a8(folder, tmp_path / "w8a8") if feature == "quantization" else folder
    dtype = int8_dtype() if feature == "quantization" else "float32"
    served = serve(model, tmp_path / "result.json", lora, dtype, MSZOO_PREFER="mindone")
    (worker,) = served["workers"]
    assert worker["adapter"] == f"mindone.{ARCHITECTURE}"
    assert worker["forwards"] > 0
    assert "doesn't support" not in served["log"]


def test_registration_imports_no_suite_and_no_mindspore() -> None:
    """vLLM's processes register all suites; those that serve nothing of theirs never load them."""
    code = (
        "import sys\nfrom vllm.plugins import load_general_plugins\nload_general_plugins()\n"
        "from vllm.model_executor.models.registry import ModelRegistry\n"
        "from mszoo.adapters.vllm.install import install\n"
        f"names = [f'{{suite}}.{ARCHITECTURE}' for suite in {SUITES}]\n"
        "assert set(names) <= set(ModelRegistry.models), names\n"
        "assert not install().problems, install().problems\n"
        "print(sorted({'mindspore', 'mindformers', 'mindone'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
