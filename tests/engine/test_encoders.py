"""MindSpore One's encoders: right against Hugging Face, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mszoo.conformance.checkpoints import make_checkpoint, write_tokenizer

from .conftest import running_engine
from .test_conformance import check

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)


@pytest.mark.parametrize(
    ("architecture", "tier"),
    [("XLMRobertaModel", "numeric"), pytest.param("ElectraModel", "engine", marks=pytest.mark.long)],
)
def test_conformance(architecture: str, tier: str) -> None:
    status, report, _ = check(f"mindone.{architecture}", "--tier", tier, path=[])
    assert status == 0, report
    (adapter,) = report["adapters"]
    assert (adapter["adapter"], adapter["kind"]) == (f"mindone.{architecture}", "encoder")
    assert adapter["tiers"]["numeric"] == adapter["tiers"][tier] == "passed"


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mszoo.adapters.mindone.architectures import read

    folder = tmp_path_factory.mktemp("roberta")
    made = make_checkpoint(read()["RobertaModel"].example_config or {}, "RobertaModel", folder, lambda _: {})
    write_tokenizer(folder, made.config["vocab_size"])
    return folder


def pooling(folder: Path, **options: Any) -> Any:
    defaults = {"skip_tokenizer_init": False, "hf_overrides": {"architectures": ["mindone.RobertaModel"]}}
    return running_engine(folder, **(defaults | options))


def test_more_tokens_than_positions_are_refused(roberta: Path) -> None:
    """RoBERTa's positions start behind the padding token's: fewer tokens fit than the config has positions."""
    text = "it has positions for 511 tokens, and max_model_len is 512.*--max-model-len 511"
    with (
        pytest.raises(Exception, match=text),
        pooling(roberta, max_model_len=512, max_num_batched_tokens=512),
    ):
        pass


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"is_decoder": True}, "is_decoder=True"),
        ({"num_attention_heads": 32}, "head size 4 is not one that vLLM's CPU attention serves"),
    ],
)
def test_a_config_that_is_not_berts_is_refused(fields, text, roberta: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(roberta, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(Exception, match=text), pooling(folder):
        pass
