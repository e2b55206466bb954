"""What vLLM's own tests ask of every model, asked of mszoo's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import pytest

from .conftest import make_checkpoint, running_engine, served_by
from .test_bad_input import edit_tensors, generate


def test_every_registered_name_meets_vllms_class_checks() -> None:
    """Each class generates text or is pooled, and vLLM can convert it to a pooling model.

    Medusa's heads alone read hidden states in place of tokens and positions, vLLM's own as ours.
    """
    from vllm.model_executor.models.adapters import as_embedding_model, as_seq_cls_model
    from vllm.model_executor.models.interfaces_base import (
        is_pooling_model,
        is_text_generation_model,
        is_vllm_model,
    )
    from vllm.model_executor.models.medusa import Medusa
    from vllm.model_executor.models.registry import ModelRegistry

    from mszoo.adapters.vllm.install import install

    catalog = install()
    assert catalog is not None
    names = [name for name, decision in catalog.decisions().items() if decision.chain]
    names += [item.qualified_name for name in names for item in catalog.decide(name).chain]
    assert names
    for name in names:
        model_class = ModelRegistry.models[name].load_model_cls()
        assert model_class.__name__ == name.replace(".", "_")
        if name.removeprefix("native.") == "MedusaModel":
            assert is_vllm_model(model_class) == is_vllm_model(Medusa), name
            continue
        assert is_vllm_model(model_class), name
        assert is_pooling_model(model_class) != is_text_generation_model(model_class), name
        assert is_pooling_model(as_embedding_model(model_class)), name
        assert is_pooling_model(as_seq_cls_model(model_class)), name


FREED = """
import gc, json, sys, weakref
from vllm import LLM, SamplingParams
options = {"skip_tokenizer_init": True, "dtype": "float32", "enforce_eager": True, "max_model_len": 64}
llm = LLM(sys.argv[1], num_gpu_blocks_override=64, max_num_seqs=2, **options)
sampling = SamplingParams(temperature=0, max_tokens=2, detokenize=False)
llm.generate([{"prompt_token_ids": [5, 6, 7]}], sampling, use_tqdm=False)
(model,) = llm.apply_model(weakref.ref)
served = model().candidate.qualified_name
engine = weakref.ref(llm.llm_engine)
del llm
gc.collect()
result = {"served": served, "model": model() is None, "engine": engine() is None}
result["last"] = hasattr(sys, "last_value")
print("RESULT" + json.dumps(result))
"""


def test_an_engine_in_this_process_is_freed(checkpoint: Callable[..., Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREED, str(checkpoint("llama"))], capture_output=True, text=True, check=False
    )
    assert "RESULT" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(done.stdout.partition("RESULT")[2].splitlines()[0])
    assert result == {"served": "native.LlamaForCausalLM", "model": True, "engine": True, "last": False}


def test_logits_that_are_no_numbers_raise_where_vllm_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_RAISE_ON_LOGIT_NANS", "1")
    folder = make_checkpoint(tmp_path / "model", "llama")
    edit_tensors(folder, lambda tensors: tensors["lm_head.weight"].fill_(torch.nan))
    with running_engine(folder) as llm:
        assert served_by(llm)["adapter"] == "native.LlamaForCausalLM"
        with pytest.raises(Exception, match=r"(?i)nan"):
            generate(llm)
