"""What vLLM's own tests ask of a model and of an engine, in short; `make upstream` runs those tests themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def test_classes_are_what_vllm_takes_for_models() -> None:
    """Each registered class generates text or is pooled, and vLLM can convert it to a pooling model."""
    from vllm.model_executor.models import is_pooling_model, is_text_generation_model
    from vllm.model_executor.models.adapters import as_embedding_model, as_seq_cls_model
    from vllm.model_executor.models.registry import ModelRegistry

    from mszoo.adapters.vllm.models.wrapper import MindSporeModel

    classes = {name: getattr(entry, "model_cls", None) for name, entry in ModelRegistry.models.items()}
    ours = {name: found for name, found in classes.items() if found and issubclass(found, MindSporeModel)}
    assert "native.LlamaForCausalLM" in ours
    for name, found in ours.items():
        assert is_text_generation_model(found) != is_pooling_model(found), name
        assert is_pooling_model(as_embedding_model(found)), name
        assert is_pooling_model(as_seq_cls_model(found)), name


_LIFE = """
import gc, sys, weakref
from tests.engine.conftest import running_engine
from pathlib import Path
with running_engine(Path(sys.argv[1])) as llm:
    weak = weakref.ref(llm)
    served = type(llm.apply_model(lambda model: model)[0]).__mro__
    assert any(base.__name__ == "MindSporeModel" for base in served)
    del llm
gc.collect()
print("alive" if weak() else "dead")
"""


def test_an_engine_dies_with_its_llm(checkpoint: Callable[..., Path]) -> None:
    """The first MindSpore model of a process doesn't keep the LLM alive."""
    done = subprocess.run(
        [sys.executable, "-c", _LIFE, str(checkpoint("llama"))],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "dead"
