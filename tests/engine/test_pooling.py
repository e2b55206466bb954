"""Decoders that vLLM converts to pooling models: embeddings, classes and rerankers, as Hugging Face has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.adapters.decoder import TINY
from mszoo.conformance.checkpoints import write_tokenizer
from mszoo.models.qwen2 import Qwen2ForCausalLM
from tests.published import corpus
from tests.published.readers import config_of

from .conftest import running_engine, served_by

TOLERANCE = 1e-5
PROMPTS = [[5, 17, 99, 201, 3], [7], list(range(3, 60))]


def make(folder: Path, model_type: str, architecture: str, **fields: Any) -> Any:
    """Write a random checkpoint and a tokenizer; return Hugging Face's model of it."""
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **TINY | fields)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.08)
    model.save_pretrained(folder)
    write_tokenizer(folder, 256)
    return model


def pooling_engine(folder: Path, **options: Any) -> Any:
    """Run vLLM's engine on a checkpoint whose hidden states are pooled."""
    options = {"max_model_len": 128, "skip_tokenizer_init": False, "enforce_eager": False} | options
    return running_engine(folder, **{"runner": "pooling"} | options)


def worst(given: list[Any], expected: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return the largest difference of the prompts' results."""
    with torch.no_grad():
        differences = [
            (torch.tensor(result) - expected(torch.tensor([prompt]))).abs().max().item()
            for result, prompt in zip(given, PROMPTS, strict=True)
        ]
    return max(differences)


def assert_pooled_by(llm: Any, adapter: str) -> None:
    seen = served_by(llm)
    assert seen["adapter"] == adapter
    assert set(seen["kernels"].values()) == {"cpu"}
    assert seen["forwards"] > 0


def last(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives the last token's hidden state, of length one, as embedding models have it by default."""
    return lambda tokens: torch.nn.functional.normalize(model(tokens).last_hidden_state[0, -1], dim=-1)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("llama", "LlamaModel"),  # names without "model.", no output projection
        ("mistral", "MistralModel"),
        ("qwen2", "Qwen2Model"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("gemma2", "Gemma2Model"),
    ],
)
def test_embeddings(model_type: str, architecture: str, tmp_path: Path) -> None:
    model = make(tmp_path, model_type, architecture)
    decoder = architecture.replace("Model", "ForCausalLM")
    with pooling_engine(tmp_path) as llm:
        given = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        assert_pooled_by(llm, f"native.{decoder}")
    assert worst([one.outputs.embedding for one in given], last(getattr(model, "model", model))) <= TOLERANCE


def test_means_and_matryoshka(tmp_path: Path) -> None:
    from vllm import PoolingParams
    from vllm.config import PoolerConfig

    model = make(tmp_path, "qwen3", "Qwen3Model")
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    options = {
        "pooler_config": PoolerConfig(seq_pooling_type="MEAN"),
        "hf_overrides": {"is_matryoshka": True},
    }
    with pooling_engine(tmp_path, **options) as llm:
        given = llm.embed(prompts, pooling_params=PoolingParams(dimensions=32), use_tqdm=False)
        assert_pooled_by(llm, "native.Qwen3ForCausalLM")

    def mean(tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(model(tokens).last_hidden_state[0].mean(0)[:32], dim=-1)

    assert worst([one.outputs.embedding for one in given], mean) <= TOLERANCE


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_classes(model_type: str, tmp_path: Path) -> None:
    """Classifiers and reward models: a linear head of the checkpoint on the last token."""
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    model = make(tmp_path, model_type, f"{name}ForSequenceClassification", num_labels=3)
    with pooling_engine(tmp_path) as llm:
        given = llm.classify([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        assert_pooled_by(llm, f"native.{name}ForCausalLM")
    assert worst([one.outputs.probs for one in given], lambda t: model(t).logits[0].softmax(-1)) <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
def test_a_reranker_of_two_words(tied: bool, tmp_path: Path) -> None:
    """Qwen3-Reranker: a causal model, whose head for the score is the difference of two of its logits."""
    model = make(tmp_path, "qwen3", "Qwen3ForCausalLM", tie_word_embeddings=tied)
    overrides = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["t11", "t22"],
        "is_original_qwen3_reranker": True,
    }
    with pooling_engine(tmp_path, hf_overrides=overrides) as llm:
        given = llm.classify([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        assert_pooled_by(llm, "native.Qwen3ForCausalLM")

    def score(tokens: torch.Tensor) -> torch.Tensor:
        logits = model(tokens).logits[0, -1]
        return (logits[22] - logits[11]).sigmoid()[None]

    assert worst([one.outputs.probs for one in given], score) <= TOLERANCE


def test_prompts_in_chunks(tmp_path: Path) -> None:
    """Prompts in chunks beside others, whose last chunk decides."""
    model = make(tmp_path, "qwen3", "Qwen3Model")
    with pooling_engine(
        tmp_path, max_num_batched_tokens=16, max_num_seqs=4, enable_chunked_prefill=True
    ) as llm:
        given = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        assert_pooled_by(llm, "native.Qwen3ForCausalLM")
    assert worst([one.outputs.embedding for one in given], last(model)) <= TOLERANCE


@pytest.mark.parametrize(
    ("options", "why"),
    [
        # vLLM alone answers with whatever lies in the memory of such a head.
        (
            {"convert": "classify"},
            "score.weight, the head for classes, is missing from the checkpoint. "
            "Serve a classifier's checkpoint, or without --convert",
        ),
        (
            {"pooling": "CLS", "hf_overrides": {"architectures": ["native.Qwen3ForCausalLM"]}},
            "vLLM is to pool by CLS, and the first token of this decoder sees nothing but itself",
        ),
    ],
)
def test_what_no_checkpoint_of_a_decoder_can_give(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    from vllm.config import PoolerConfig

    make(tmp_path, "qwen3", "Qwen3ForCausalLM")
    pooling = options.pop("pooling", None)
    with (
        pytest.raises(Exception, match=re.escape(why)),
        pooling_engine(tmp_path, pooler_config=PoolerConfig(seq_pooling_type=pooling), **options),
    ):
        pass


# Tokens that see later ones.

GTE_QWEN2 = "Alibaba-NLP/gte-Qwen2-7B-instruct"
NATIVE_QWEN2 = {"hf_overrides": {"architectures": ["native.Qwen2ForCausalLM"]}}


def make_published(folder: Path, **fields: Any) -> Any:
    """Write a random checkpoint of gte-Qwen2's shrunk config, and a tokenizer; return Hugging Face's model."""
    corpus.write_config(corpus.read()[GTE_QWEN2] | fields, folder)
    written = (folder / "config.json").read_bytes()
    model = corpus.reference_of(folder)
    corpus.write_checkpoint(model, folder)
    write_tokenizer(folder, model.config.vocab_size)
    assert (folder / "config.json").read_bytes() == written
    return model


@pytest.mark.parametrize("pooling", ["LAST", "MEAN"])
def test_gte_qwen2(pooling: str, tmp_path: Path) -> None:
    """``is_causal: false``, with several prompts in a step, in vLLM's default mode."""
    from vllm.config import PoolerConfig

    model = make_published(tmp_path).model
    with pooling_engine(tmp_path, pooler_config=PoolerConfig(seq_pooling_type=pooling)) as llm:
        given = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        assert_pooled_by(llm, "native.Qwen2ForCausalLM")

    def embedding(tokens: torch.Tensor) -> torch.Tensor:
        states = model(tokens).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0) if pooling == "MEAN" else states[-1], dim=-1)

    results = [one.outputs.embedding for one in given]
    assert worst(results, embedding) <= TOLERANCE
    model.config.is_causal = True
    assert worst(results, embedding) > 100 * TOLERANCE, "it makes no difference: the test proves nothing"


@pytest.mark.parametrize(
    ("fields", "kernels", "runner", "why"),
    [
        (
            {},
            "auto",
            "generate",
            "native.Qwen2ForCausalLM: config.json says is_causal=False: its tokens see later ones, so it can't "
            "generate text. Serve it with --runner pooling",
        ),
        (
            {},
            "mindspore",
            "pooling",
            "MSZOO_KERNELS=mindspore: attention that sees later tokens is vLLM's kernel alone",
        ),
        (
            {"use_sliding_window": True, "max_window_layers": 1},
            "auto",
            "pooling",
            "config.json: it says is_causal=False, and sliding_window=16 isn't served with that",
        ),
    ],
)
def test_what_looks_ahead_and_cannot_be_served(
    fields: dict[str, Any],
    kernels: str,
    runner: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_published(tmp_path, **fields)
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    with (
        pytest.raises(Exception, match=re.escape(why)),
        pooling_engine(tmp_path, **NATIVE_QWEN2, runner=runner),
    ):
        pass


def test_graphs_look_back_only() -> None:
    from mszoo.layers.decoder import compiled, graph

    spec = Qwen2ForCausalLM.read_config(config_of(corpus.read()[GTE_QWEN2]), "native.Qwen2ForCausalLM")
    (layer, _) = spec.layers
    assert compiled.unsupported(layer) is None
    assert "is_causal" in str(graph.unsupported(layer))
    causal = replace(layer, attention=replace(layer.attention, is_causal=True))
    assert graph.unsupported(causal) is None
