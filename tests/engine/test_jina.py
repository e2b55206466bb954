"""Jina Embeddings 3, whose code only its publisher has: embeddings against a small reference, and vLLM's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import pytest
from safetensors.torch import save_file

from mszoo.adapters.native import encoder_references
from mszoo.adapters.native.conformance import write_config_class
from mszoo.conformance.checkpoints import write_tokenizer

from .test_native_encoders import runs_compiled
from .test_pooling import PROMPTS, TOLERANCE, assert_pooled_by, pooling_engine, worst

#: The fields of the publisher's config.json, shrunk.
CONFIG: dict[str, Any] = {
    "architectures": ["XLMRobertaModel"],
    "attention_probs_dropout_prob": 0.1,
    "auto_map": {"AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig"},
    "bos_token_id": 0,
    "classifier_dropout": None,
    "emb_pooler": "mean",
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "layer_norm_eps": 1e-05,
    "load_trained_adapters": False,
    "lora_adaptations": ["retrieval.query", "retrieval.passage", "text-matching"],
    "lora_alpha": 1,
    "lora_dropout_p": 0.0,
    "lora_main_params_trainable": False,
    "lora_rank": 4,
    "matryoshka_dimensions": [32, 64, 128],
    "max_position_embeddings": 514,
    "model_type": "xlm-roberta",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "rotary_emb_base": 20000.0,
    "truncate_dim": None,
    "type_vocab_size": 1,
    "use_cache": False,
    "use_flash_attn": True,
    "use_reg_tokens": False,
    "vocab_size": 256,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A random checkpoint, with adapters for three tasks in every projection and table."""
    folder = tmp_path_factory.mktemp("jina")
    hidden, rank, tasks = CONFIG["hidden_size"], CONFIG["lora_rank"], len(CONFIG["lora_adaptations"])
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def random(*shape: int, around: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.1 + around

    def add(name: str, rows: int, width: int, *, is_table: bool = False) -> None:
        first, second = ((rows, rank), (rank, width)) if is_table else ((rank, width), (rows, rank))
        tensors[f"{name}.parametrizations.weight.original"] = random(rows, width)
        tensors[f"{name}.parametrizations.weight.0.lora_A"] = random(tasks, *first)
        tensors[f"{name}.parametrizations.weight.0.lora_B"] = random(tasks, *second)
        if not is_table:
            tensors[f"{name}.bias"] = random(rows)

    add("roberta.embeddings.word_embeddings", CONFIG["vocab_size"], hidden, is_table=True)
    add("roberta.embeddings.token_type_embeddings", CONFIG["type_vocab_size"], hidden, is_table=True)
    norms = ["roberta.emb_ln"]
    for index in range(CONFIG["num_hidden_layers"]):
        layer = f"roberta.encoder.layers.{index}"
        add(f"{layer}.mixer.Wqkv", 3 * hidden, hidden)
        add(f"{layer}.mixer.out_proj", hidden, hidden)
        add(f"{layer}.mlp.fc1", CONFIG["intermediate_size"], hidden)
        add(f"{layer}.mlp.fc2", hidden, CONFIG["intermediate_size"])
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = random(hidden, around=1.0), random(hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_config_class(CONFIG, folder)
    write_tokenizer(folder, CONFIG["vocab_size"])
    return folder, tensors


def embeddings(llm: Any) -> list[list[float]]:
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    return [one.outputs.embedding for one in llm.embed(prompts, use_tqdm=False)]


def test_embeddings_equal_the_reference(
    checkpoint: tuple[Path, dict[str, torch.Tensor]],
    engine_log: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Compiled; the log says which task's adapter is in the weights."""
    folder, tensors = checkpoint
    with pooling_engine(folder, enforce_eager=False, trust_remote_code=True) as llm:
        given = embeddings(llm)
        assert_pooled_by(llm, "native.XLMRobertaModel")
        assert runs_compiled(llm)

    def expected(tokens: torch.Tensor) -> torch.Tensor:
        states = encoder_references.jina(CONFIG, tensors, tokens[0].tolist())
        return torch.nn.functional.normalize(states[0], dim=-1)

    assert worst(given, expected) <= TOLERANCE
    said = "mszoo: the adapter for text-matching is merged into the weights, as vLLM does"
    assert said in engine_log.text + "".join(capfd.readouterr())  # in this process, or in one of its own


@pytest.mark.long
def test_embeddings_equal_vllms_own(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    for disabled in ("0", "1"):
        monkeypatch.setenv("MSZOO_DISABLE", disabled)
        with pooling_engine(checkpoint[0], enforce_eager=True, trust_remote_code=True) as llm:
            given.append(torch.tensor(embeddings(llm)))
    assert (given[0] - given[1]).abs().max() <= TOLERANCE
