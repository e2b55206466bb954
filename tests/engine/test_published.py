"""A few configs of the corpus of published ones, served with mszoo and without; ``make published`` serves all."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from tests.published import corpus, run

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)

#: By model, who serves it: old keys that nobody reads, longrope, another rotary base, windows of some layers, a
#: window that Hugging Face's Llama never reads, first positions behind the padding token, attention of both ways.
SAMPLE = {
    "Alibaba-NLP/gte-Qwen2-7B-instruct": "native.Qwen2ForCausalLM",
    "BAAI/bge-m3.saved5": "native.XLMRobertaModel",
    "CohereForAI/c4ai-command-r7b-12-2024": "native.Cohere2ForCausalLM",
    "any/llama-with-window-and-partial-rotary": "native.LlamaForCausalLM",
    "bigcode/starcoder2-3b": "native.Starcoder2ForCausalLM",
    "microsoft/Phi-4-mini-instruct": "native.Phi3ForCausalLM",
    "tencent/Hunyuan-1.8B-Instruct": "native.HunYuanDenseV1ForCausalLM",
}


def test_published_configs_are_served_as_hugging_face_computes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = {name: corpus.read()[name] for name in SAMPLE}
    found = run.run(configs, tmp_path, suites=False)
    assert {name: ways[run.DEFAULT].who for name, ways in found.items()} == SAMPLE
    assert run.report(configs, found) == 0, capsys.readouterr().out
