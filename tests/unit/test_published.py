"""What the suites' readers make of configs as publishers wrote them, and of those with something wrong in them."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mszoo.adapters import native
from mszoo.adapters.vllm.models import sizes
from mszoo.registry.errors import RefusalError
from tests.published import corpus, shrink
from tests.published.mutations import mutations
from tests.published.readers import answers, config_of, readers

for _suite in ("mindone", "mindformers"):
    try:
        importlib.metadata.version(_suite)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{_suite} is not installed: make suites", allow_module_level=True)

CORPUS = corpus.read()
#: How the architectures of encoders end.
ENCODERS = ("Model", "ForSequenceClassification", "ForTokenClassification")
#: By model: the suites that refuse its config, and the word that names the key.
REFUSED: dict[str, dict[str, str]] = {
    "Alibaba-NLP/gte-Qwen2-7B-instruct": dict.fromkeys(("mindformers", "mindone"), "is_causal=False"),
    "facebook/opt-350m": {"native": "do_layer_norm_before=False"},
    # Its model type is another's name: nothing says what its keys mean.
    "tencent/Hunyuan-A13B-Instruct": dict.fromkeys(("native", "mindone"), "moe_intermediate_size="),
}
#: Listed, and no config of it was found; the first is another name of ChatGLM's.
NOT_PUBLISHED = {
    "CwmForCausalLM",
    "ExaoneMoeForCausalLM",
    "Glm4MoeLiteForCausalLM",
    "Jais2ForCausalLM",
    "SolarOpenForCausalLM",
    "ChatGLMForConditionalGeneration",
    "BaiChuanForCausalLM",
    "InternLM2ForCausalLM",
    "InternLM3ForCausalLM",
    "OrionForCausalLM",
    "TeleChat3ForCausalLM",
    "BertForTokenClassification",
    *(
        f"{family}{kind}"
        for family in ("Albert", "DistilBert", "Gte", "MPNet", "ModernBert", "New")
        for kind in ENCODERS
    ),
    *(f"{family}{kind}" for family in ("Camembert", "Electra", "Ernie") for kind in ENCODERS[1:]),
    *(f"GteNew{kind}" for kind in ENCODERS[:2]),
    "NomicBertModel",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "XLMRobertaForTokenClassification",
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Transformers warns of each config that it finds odd."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", CORPUS)
def test_every_suite_takes_what_it_lists(name: str) -> None:
    said = answers(config_of(CORPUS[name]), CORPUS[name]["architectures"][0])
    assert said, "no suite lists it"
    expected = REFUSED.get(name, {})
    assert {suite for suite, why in said.items() if why} == set(expected), said
    for suite, word in expected.items():
        assert word in said[suite]


def test_the_corpus_has_every_architecture_that_is_listed() -> None:
    known = {config["architectures"][0] for config in CORPUS.values()}
    assert shrink.listed() - known == NOT_PUBLISHED


def test_no_published_models_sizes_are_absurd() -> None:
    """Neither of the corpus, nor with the sizes that publishers gave the largest."""
    largest = {"vocab_size": 262_208, "hidden_size": 18_432, "num_hidden_layers": 128} | {
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "head_dim": 512,
        "intermediate_size": 73_728,
        "max_position_embeddings": 10_485_760,
    }
    found = {name: sizes.fields_of(config_of(config)) for name, config in CORPUS.items()}
    assert sum(bool(fields["hidden_size"]) for fields in found.values()) > 0.9 * len(found)
    for fields in [*found.values(), largest]:
        assert sizes.absurd(fields, None, 16 << 30) is None, fields


def test_sizes_that_each_layer_has_of_its_own_say_nothing() -> None:
    class Config:
        hidden_size = 64

        def get_text_config(self) -> Config:
            return self

        @property
        def head_dim(self) -> int:
            raise ValueError("'head_dim' is a per-layer attribute and may vary across layers")

    fields = sizes.fields_of(Config())
    assert (fields["hidden_size"], fields["head_dim"]) == (64, None)


def test_shrinking_keeps_what_is_no_size() -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "eos_token_id": 128009,
        "rope_scaling": {"type": "yarn", "factor": 16.0, "finetuned": True},
        "pretraining_tp": 2,
        "quantization_config": {"bits": 4},
        "sliding_window": None,
        "model_max_length": 131072,
    }
    small = shrink.shrink(config)
    assert small["rope_scaling"] == config["rope_scaling"]
    assert (small["pretraining_tp"], small["model_max_length"], small["sliding_window"]) == (2, 131072, None)
    assert (small["hidden_size"], small["num_hidden_layers"], small["num_key_value_heads"]) == (128, 2, 2)
    assert small["eos_token_id"] == shrink.VOCABULARY - 1
    assert "quantization_config" not in small


# What may be wrong.


def test_a_wrong_key_is_taken_or_refused_and_never_a_traceback() -> None:
    seen: set[tuple[str, str]] = set()
    crashes, tried = [], 0
    for name, config in CORPUS.items():
        for what, changed in mutations(config, seen):
            try:
                loaded = config_of(changed)
            except Exception:  # transformers' own: no model is asked
                continue
            tried += 1
            try:
                answers(loaded, config["architectures"][0])
            except Exception as error:
                crashes.append(f"{name}: {what}: {type(error).__name__}: {error}")
    assert tried > 5000
    assert not crashes, f"{len(crashes)} of {tried}: " + "\n".join(crashes[:40])


@pytest.mark.parametrize("name", ["01-ai/Yi-34B", "openai-community/gpt2", "zai-org/GLM-4.5"])
def test_native_decoders_may_look_ahead(name: str) -> None:
    config = CORPUS[name] | {"is_causal": False}
    said = answers(config_of(config), config["architectures"][0])
    assert said.pop("native") == ""
    assert said and all("is_causal=False" in why for why in said.values())


def test_native_decoders_look_ahead_where_hugging_faces_do() -> None:
    """Whether the last token changes what the first one computes, in transformers' own classes."""
    import torch

    import transformers

    differ, seen = [], set()
    for adapter in native.mszoo_model_adapters():
        fields = dict(adapter.example_config)
        kind = getattr(transformers, adapter.architecture, None)
        if kind is None or adapter.pooling or adapter.modalities:
            continue
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields, is_causal=False)
        config._attn_implementation = "eager"
        said = readers(adapter.architecture)["native"]
        try:
            causal = said(config, 128).is_causal
        except RefusalError as refusal:
            assert "is_causal=False" in str(refusal)
            continue
        model = kind(config).float().eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            one, other = (
                model(torch.tensor([[5, 17, 99, last]]), use_cache=False).logits[0, 0] for last in (3, 44)
            )
        seen.add(causal)
        if torch.equal(one, other) != causal:
            differ.append(adapter.architecture)
    assert False in seen, "none looks ahead: the test proves nothing"
    assert not differ


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-R1", "baichuan-inc/Baichuan2-7B-Chat"])
def test_latent_caches_and_publishers_models_look_back_only(name: str) -> None:
    config = CORPUS[name] | {"is_causal": False}
    assert "is_causal=False" in answers(config_of(config), config["architectures"][0])["native"]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("01-ai/Yi-34B", "sliding_window", 16),
        ("01-ai/Yi-34B", "partial_rotary_factor", 0.5),
        ("01-ai/Yi-34B", "an_unknown_key", False),
        ("deepseek-ai/DeepSeek-R1", "scoring_func", "softmax"),
        ("openai-community/gpt2", "n_ctx", 7),
        ("sentence-transformers/all-MiniLM-L6-v2", "position_embedding_type", "relative_key"),
    ],
)
def test_what_hugging_face_never_reads_refuses_nothing(name: str, key: str, value: Any) -> None:
    config = CORPUS[name] | {key: value}
    assert set(answers(config_of(config), config["architectures"][0]).values()) == {""}
