"""Which fields of a config.json are refused: those that the reference reads and the reader didn't."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mszoo.models.config import ConfigReader
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import prediction_tensors
from mszoo.registry.errors import RefusalError


def reader(reference: str, **fields: Any) -> ConfigReader:
    from transformers import AutoConfig

    config = AutoConfig.for_model(reference or "llama", **fields)
    made = ConfigReader(config, "suite.Model", reference=reference)
    for name in config.to_dict():
        if name not in fields:
            made.optional(name, None)
    return made


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("llama", {"max_sequence_length": 4096}),
        ("deepseek_v3", {"ep_size": 8, "aux_loss_alpha": 0.001, "seq_aux": True}),
        ("gpt2", {"n_ctx": 1024, "summary_first_dropout": 0.1}),
    ],
)
def test_a_field_that_the_reference_never_reads_refuses_nothing(
    model_type: str, fields: dict[str, Any]
) -> None:
    reader(model_type, **fields).refuse_unread()


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [("qwen2", "is_causal", True), ("llama", "mlp_bias", True), ("gpt2", "scale_attn_weights", False)],
)
def test_a_field_that_the_reference_reads_is_refused(model_type: str, field: str, value: Any) -> None:
    with pytest.raises(
        RefusalError, match=f"config.json says {field}={value}, a field that this model doesn't know"
    ):
        reader(model_type, **{field: value}).refuse_unread()


@pytest.mark.parametrize("value", [False, 0, None, ""])
def test_empty_values_are_refused_like_others(value: Any) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama")
    made = ConfigReader(config, "suite.Model", reference="llama")
    made.ignore(*(name for name in config.to_dict() if name != "hidden_act"))
    made.refuse_unread()  # it is what its class has
    config.__dict__["hidden_act"] = value  # transformers checks what it loads, and not this
    made = ConfigReader(config, "suite.Model", reference="llama")
    made.ignore(*(name for name in config.to_dict() if name != "hidden_act"))
    with pytest.raises(RefusalError, match="says hidden_act="):
        made.refuse_unread()


def test_what_the_config_makes_of_a_field_stands_for_it() -> None:
    """Qwen2's class makes layer_types of max_window_layers, and rope_parameters of rope_theta."""
    from transformers import AutoConfig

    config = AutoConfig.for_model("qwen2", max_window_layers=3, rope_theta=5e5)
    made = ConfigReader(config, "suite.Model", reference="qwen2")
    made.ignore(*(name for name in config.to_dict() if name not in ("layer_types", "max_window_layers")))
    with pytest.raises(RefusalError, match="max_window_layers=3"):
        made.refuse_unread()
    made.optional("layer_types", None)
    made.refuse_unread()


def test_a_field_without_effect_reads_as_absent() -> None:
    made = reader("llama", sliding_window=16)
    assert made.optional("sliding_window", None) is None
    assert reader("mistral", sliding_window=16).optional("sliding_window", None) == 16


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("hidden_size", "64", "a whole number above 0"),
        ("num_key_value_heads", 0, "a whole number above 0"),
        ("head_dim", True, "a whole number above 0"),
        ("hidden_size", 10**400, "2147483647 at most"),
        ("num_hidden_layers", 2**20, "16384 at most"),
        ("rms_norm_eps", 10**400, "a number"),
        ("rms_norm_eps", 1e308, "a number"),
        ("rms_norm_eps", float("nan"), "a number"),
        ("rms_norm_eps", [1e-6], "a number"),
        ("hidden_act", 3, "a name"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(name: str, value: Any, wanted: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama")
    config.__dict__[name] = value  # transformers checks what it loads, and not what is set later
    with pytest.raises(RefusalError, match=f"says {name}=.*, which must be {wanted}"):
        ConfigReader(config, "suite.Model", reference="llama").check_types()


def test_no_config_asks_for_more_names_than_there_is_memory() -> None:
    assert len(prediction_tensors({"num_nextn_predict_layers": 2**40}, 2)) == 2**14


def test_another_librarys_name_of_a_model_has_its_class_for_a_reference() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("deepseek_v3")
    config.model_type = "kimi_k2"
    assert reference_of(config) == "deepseek_v3"


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ("default", "rope_parameters='default', which must be an object"),
        ({"rope_type": 3}, "rope_type=3, which must be a name"),
        ({"rope_type": "default"}, "gives no rope_theta"),
        ({"rope_theta": "1e4"}, "rope_theta='1e4', which must be a number"),
        ({"rope_theta": 1e4, "rope_type": "linear"}, "rope_type='linear' and gives no factor"),
        ({"rope_theta": 1e4, "rope_type": "linear", "factor": 0}, "factor=0, which must be a number above 0"),
        (
            {"rope_theta": 1e4, "rope_type": "linear", "factor": 1e308},
            "factor=1e+308, which must be a number",
        ),
        (
            {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
            "partial_rotary_factor=0.5 and rope_type='linear'",
        ),
    ],
)
def test_rope_parameters_that_are_none(rope: Any, said: str) -> None:
    with pytest.raises(RefusalError, match=re.escape(said)):
        reader("llama").rope(rope)


def test_rope_parameters_are_what_the_reference_reads() -> None:
    given = {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "finetuned": True, "factor": None}
    assert reader("llama").rope(given) == {"rope_type": "default", "rope_theta": 1e4}
    kept = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert reader("phi3").rope(given) == kept


def test_without_a_reference_any_field_may_have_an_effect() -> None:
    with pytest.raises(RefusalError, match="max_sequence_length=4096"):
        reader("", max_sequence_length=4096).refuse_unread()
