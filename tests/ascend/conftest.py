"""The real vllm-ascend over a stand-in for the NPU: what these tests share. ``make ascend`` sets them up.

No NPU is involved; tests/torch_npu_stand_in/README.md says what the stand-in can show, and what it can't.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

# An op of vllm-ascend's returns what it was given. torch 2.13 warns of it, and raises where CI is set; the torch
# that vllm-ascend pairs with does neither.
os.environ.pop("CI", None)

ROOT = Path(__file__).parents[2]

#: A few tokens, a prompt longer than a block of the cache (128), and others beside them.
PROMPTS = [
    [1, 5, 9, 33, 7],
    [1, *range(10, 50)],
    [1, 200, 3],
    [1, *(7 * index % 250 for index in range(140))],
]
LONG = 8  # tokens of an answer


def pytest_configure(config: pytest.Config) -> None:
    assert version("vllm-ascend") == "0.23.0", "make ascend runs these tests, in an environment of their own"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return a maker of tiny checkpoints: ``folder`` and Hugging Face's ``answers`` to PROMPTS.

    With ``lora`` there are the folder ``lora`` of an adapter, and ``lora_answers``. Hugging Face runs on CPU in a
    process of its own: vllm-ascend changes transformers where it is loaded.
    """
    made: dict[str, dict[str, Any]] = {}

    def make(model_type: str, /, *, lora: bool = False, **fields: Any) -> dict[str, Any]:
        key = repr((model_type, lora, sorted(fields.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(model_type)
            job = {"folder": str(folder), "model_type": model_type, "fields": fields}
            job |= {"prompts": PROMPTS, "max_tokens": LONG, "lora": lora}
            process = subprocess.run(
                [sys.executable, "-m", "tests.ascend.hugging_face"],
                input=json.dumps(job),
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert process.returncode == 0, process.stderr[-4000:]
            made[key] = {item.stem: json.loads(item.read_text()) for item in folder.glob("*answers.json")}
            made[key] |= {"folder": folder, "lora": folder / "lora"}
        return made[key]

    return make


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return what runs an engine on a checkpoint in a fresh process; tests/engine/answers.py says what a job is."""
    from tests.engine.answers import run

    def answer(
        folder: Path,
        environment: dict[str, str] | None = None,
        prompts: list[list[int]] = PROMPTS,
        job: dict[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        workplace = tmp_path_factory.mktemp("engine")
        whole = {"model": str(folder), "prompts": prompts, "max_tokens": LONG, **(job or {})}
        defaults = {"max_model_len": 256}
        own = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_CACHE_ROOT": str(workplace / "cache"),
        }
        environment = own | (environment or {})
        return run(whole | {"options": defaults | options}, workplace / "result.json", **environment)

    return answer
