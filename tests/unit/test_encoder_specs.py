"""What the readers of encoders make of configs; and what a record says that an encoder is for."""

from __future__ import annotations

from typing import Any

import torch

import pytest
from transformers import AutoConfig, PretrainedConfig

from mszoo.adapters.native.encoders import RECORDS
from mszoo.layers.decoder import compiled, graph
from mszoo.layers.relative import bucket
from mszoo.registry import ModelAdapter
from mszoo.registry.errors import RecordError, RefusalError
from mszoo.registry.objects import load_object

RECORD = {record.architecture: record for record in RECORDS}


class Config(PretrainedConfig):
    """A class that comes with checkpoints."""

    model_type = "new"

    def __init__(self, **fields: Any) -> None:
        rope = {"rope_theta": fields.pop("rope_theta", 1.0), **(fields.pop("rope_scaling", None) or {})}
        super().__init__(rope_parameters=rope, **fields)


def spec(architecture: str, **fields: Any) -> Any:
    """Read a record's example with some fields changed."""
    record = RECORD[architecture]
    given = {**record.example_config, **fields}
    model_type = given.pop("model_type")
    config = Config(**given) if model_type == "new" else AutoConfig.for_model(model_type, **given)
    return load_object(record.model).read_config(config, f"native.{architecture}")


@pytest.mark.parametrize("architecture", sorted(RECORD))
def test_layers_run_compiled(architecture: str) -> None:
    read = spec(architecture)
    obstacle = "relative_bias" if architecture.startswith("MPNet") else None
    assert {compiled.unsupported(layer) for layer in read.layers} == {obstacle}
    assert all(graph.unsupported(layer) for layer in read.layers)
    assert not any(layer.attention.is_causal for layer in read.layers)


@pytest.mark.parametrize("architecture", sorted(RECORD))
def test_heads_are_for_what_the_record_says(architecture: str) -> None:
    task, head = RECORD[architecture].task, spec(architecture, num_labels=5).head
    if task == "embed":
        assert head is None
    else:
        assert head.num_labels == 5
        assert head.pooling == ("CLS" if task == "classify" else "")


def test_norms_come_after_the_sums() -> None:
    (layer, _) = spec("BertModel").layers
    assert layer.norms_sums
    assert layer.norm_before_attention is layer.norm_before_mlp is None
    first, *others = spec("ModernBertModel").layers
    assert not first.norms_sums
    assert first.norm_before_attention is None
    assert all(layer.norm_before_attention for layer in others)


def test_positions_begin_behind_the_padding_tokens() -> None:
    assert spec("BertModel").positions.offset == 0
    assert spec("XLMRobertaModel", pad_token_id=3).positions.offset == 4
    assert spec("DistilBertModel").token_types is None


def test_windows_reach_to_both_sides() -> None:
    """Half of what the config says lies on either side, and its farthest token is seen."""
    windows = [layer.attention.sliding_window for layer in spec("ModernBertModel", local_attention=32).layers]
    assert windows == [None, 17, 17]
    theta = [layer.attention.rotary.parameters["rope_theta"] for layer in spec("ModernBertModel").layers]
    assert theta[0] != theta[1]


def test_the_head_reads_what_it_was_trained_on() -> None:
    head = spec("ModernBertForSequenceClassification", classifier_pooling="mean").head
    assert (head.pooling, head.dense_name, head.activation) == ("MEAN", "head.dense", "gelu")


@pytest.mark.parametrize(("name", "of"), [("Camembert", "Roberta"), ("GteNew", "New")])
def test_the_same_by_another_name(name: str, of: str) -> None:
    for kind in ("Model", "ForSequenceClassification"):
        assert spec(name + kind) == spec(of + kind)


def test_ernie_may_know_tasks() -> None:
    assert spec("ErnieModel").tasks.num_embeddings == 3
    bert = spec("BertForSequenceClassification")
    assert str(spec("ErnieForSequenceClassification", use_task_id=False)).replace("ernie", "bert") == str(
        bert
    )


def test_alberts_layers_run_group_by_group() -> None:
    albert = spec("AlbertModel", num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2)
    assert albert.layer_names == tuple(
        f"{group}.albert_layers.{index}" for group in (0, 1) for index in (0, 1)
    )
    assert albert.order == (0, 1) * 3 + (2, 3) * 2
    assert (albert.embedding_size, albert.hidden_size) == (64, 128)
    assert spec("ElectraModel", embedding_size=128).projection_name == ""


def test_distances_share_buckets_as_hugging_faces_do() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = torch.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(distances)
    assert bucket(distances, spec("MPNetModel").relative_bias).tolist() == expected.tolist()


def test_a_gate_stands_where_the_checkpoint_has_it() -> None:
    (mlp,) = {layer.mlp for layer in spec("GteModel").layers}
    assert (mlp.up_first, mlp.hidden_act, mlp.bias, mlp.down_bias) == (True, "gelu", False, True)
    assert spec("GteModel", hidden_act="geglu").layers[0].mlp == mlp  # vLLM's copy of the config says so
    assert spec("GteModel", type_vocab_size=0).token_types is None
    (nomic,) = {layer.mlp for layer in spec("NomicBertModel").layers}
    assert (nomic.gated, nomic.hidden_act) == (True, "silu")
    nomic = spec("NomicBertModel", activation_function="gelu", n_inner=192, mlp_fc1_bias=True).layers[0].mlp
    assert (nomic.gated, nomic.up_name, nomic.bias, nomic.down_bias) == (False, "fc1", True, False)


def test_rotations_of_publishers() -> None:
    (rotary,) = {str(layer.attention.rotary) for layer in spec("NewModel", rope_scaling=None).layers}
    assert "'rope_theta': 20000.0" in rotary
    rope = spec("NewModel").layers[0].attention.rotary.parameters
    assert rope == {"rope_type": "linear", "rope_theta": 160000.0, "factor": 8 ** (1 / 16)} | rope
    nomic = spec("NomicBertModel", rotary_scaling_factor=2.0).layers[0].attention.rotary
    assert nomic.parameters == {"rope_type": "dynamic", "rope_theta": 1000, "factor": 2.0}
    assert nomic.max_position_embeddings == 512


_JINA: dict[str, Any] = {
    "position_embedding_type": "rotary",
    "lora_adaptations": ["text-matching"],
    "lora_rank": 4,
    "lora_alpha": 1,
}


@pytest.mark.parametrize(
    ("architecture", "fields", "why"),
    [
        ("BertModel", {"is_decoder": True}, "is_decoder=True"),
        ("RobertaModel", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("BertModel", {"type_vocab_size": 0}, "type_vocab_size=0"),
        ("BertModel", {"is_causal": True}, "is_causal=True"),
        ("RobertaModel", {"position_embedding_type": "rotary"}, "position_embedding_type='rotary'"),
        ("XLMRobertaForSequenceClassification", {"position_embedding_type": "rotary"}, "='rotary'"),
        ("XLMRobertaModel", {"position_embedding_type": "rotary"}, "no lora_rank"),
        ("XLMRobertaModel", _JINA | {"lora_alpha": "1"}, "lora_alpha='1'"),
        ("XLMRobertaModel", _JINA | {"lora_rank": 0}, "lora_rank=0"),
        ("XLMRobertaModel", _JINA | {"lora_adaptations": []}, "lora_adaptations="),
        ("XLMRobertaModel", _JINA | {"use_reg_tokens": True}, "use_reg_tokens=True"),
        ("XLMRobertaModel", _JINA | {"rotary_emb_dim": 16}, "rotary_emb_dim=16"),
        ("XLMRobertaModel", _JINA | {"what_is_this": 3}, "what_is_this=3"),
        ("DistilBertModel", {"n_heads": 3}, "num_attention_heads=3"),
        ("AlbertModel", {"num_hidden_groups": 5}, "num_hidden_groups=5"),
        ("AlbertModel", {"inner_group_num": 2**14}, "inner_group_num=16384"),
        ("MPNetModel", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets=16"),
        ("NewModel", {"logn_attention_scale": True}, "logn_attention_scale=True"),
        ("NewModel", {"position_embedding_type": "absolute"}, "position_embedding_type='absolute'"),
        ("NewModel", {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "rope_parameters="),
        ("NewModel", {"rope_scaling": {"type": "ntk"}}, "rope_parameters="),
        ("MPNetModel", {"relative_attention_num_buckets": -1}, "a whole number above 0"),
        ("NomicBertModel", {"n_inner": "x"}, "a whole number above 0"),
        ("NomicBertModel", {"max_trained_positions": None}, "no max_trained_positions"),
        ("NewModel", {"what_is_this": 3}, "what_is_this=3"),
        ("NomicBertModel", {"activation_function": "glu"}, "activation_function='glu'"),
        ("NomicBertModel", {"moe_every_n_layers": 2}, "moe_every_n_layers=2"),
        ("NomicBertModel", {"n_inner": 192}, "n_inner=192"),
        ("NomicBertModel", {"prenorm": True}, "prenorm=True"),
        ("NomicBertModel", {"rotary_emb_fraction": 0.0}, "rotary_emb_fraction=0.0"),
        ("NomicBertModel", {"what_is_this": 3}, "what_is_this=3"),
    ],
)
def test_refused_by_name(architecture: str, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(RefusalError, match=why):
        spec(architecture, **fields)


def test_a_decoder_has_no_task() -> None:
    assert ModelAdapter("A", "a:A").task == ""
    assert ModelAdapter("A", "a:A", pooling="CLS").task == "embed"
    assert ModelAdapter("A", "a:A", pooling="CLS", task="classify").task == "classify"
    with pytest.raises(RecordError, match="task"):
        ModelAdapter("A", "a:A", task="classify")
    with pytest.raises(RecordError, match="task"):
        ModelAdapter("A", "a:A", pooling="CLS", task="score")
