"""What the readers of encoders make of configs; and what a record says that an encoder is for."""

from __future__ import annotations

from typing import Any

import pytest

from mszoo.adapters.native.encoders import RECORDS
from mszoo.layers.decoder import compiled, graph
from mszoo.registry import ModelAdapter
from mszoo.registry.errors import RecordError, RefusalError
from mszoo.registry.objects import load_object

RECORD = {record.architecture: record for record in RECORDS}


def spec(architecture: str, **fields: Any) -> Any:
    """Read a record's example with some fields changed."""
    from transformers import AutoConfig

    record = RECORD[architecture]
    given = {**record.example_config, **fields}
    config = AutoConfig.for_model(given.pop("model_type"), **given)
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


@pytest.mark.parametrize(
    ("architecture", "fields", "why"),
    [
        ("BertModel", {"is_decoder": True}, "is_decoder=True"),
        ("RobertaModel", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("BertModel", {"is_causal": True}, "is_causal=True"),
        ("XLMRobertaModel", {"position_embedding_type": "rotary"}, "position_embedding_type='rotary'"),
        ("DistilBertModel", {"n_heads": 3}, "num_attention_heads=3"),
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
