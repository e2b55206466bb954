"""The native encoders: embeddings, cross-encoders, classes of texts and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.native.record import encoder

#: The fields of a tiny config.json; positions begin behind the padding token's in RoBERTa's.
_BERT: Mapping[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "pad_token_id": 0,
    "num_labels": 3,
}
_ROBERTA: Mapping[str, Any] = {
    **_BERT,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "max_position_embeddings": 514,
}
# vLLM asks for a field that transformers 5 no longer writes.
_XLM: Mapping[str, Any] = {**_ROBERTA, "position_embedding_type": "absolute"}
_DISTIL: Mapping[str, Any] = {
    "vocab_size": 256,
    "dim": 128,
    "hidden_dim": 192,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 512,
    "num_labels": 3,
}
#: A window of 8 on either side in some layers.
_MODERN: Mapping[str, Any] = {
    **{key: value for key, value in _BERT.items() if key not in ("type_vocab_size", "hidden_act")},
    "num_hidden_layers": 3,
    "local_attention": 16,
    "global_attn_every_n_layers": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
_ALBERT: Mapping[str, Any] = {**_BERT, "embedding_size": 64, "num_hidden_groups": 2, "num_hidden_layers": 4}
_ERNIE: Mapping[str, Any] = {**_BERT, "task_type_vocab_size": 3, "use_task_id": True}
_MPNET: Mapping[str, Any] = {
    **{key: value for key, value in _ROBERTA.items() if key != "type_vocab_size"},
    "relative_attention_num_buckets": 32,
}
# vLLM asks for a field of the publisher's.
_GTE: Mapping[str, Any] = {
    **_BERT,
    "position_embedding_type": "rope",
    "rope_parameters": {"rope_type": "default", "rope_theta": 160000.0},
}
_NEW: Mapping[str, Any] = {
    **_BERT,
    "auto_map": {"AutoConfig": "configuration.NewConfig"},
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "position_embedding_type": "rope",
    "rope_theta": 20000.0,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
    "type_vocab_size": 1,
}
#: vLLM reads the publisher's names and, of the heads alone, transformers'.
_NOMIC: Mapping[str, Any] = {
    **{key: value for key, value in _BERT.items() if key not in ("hidden_act", "num_labels")},
    "intermediate_size": 256,
    "activation_function": "swiglu",
    "n_embd": 128,
    "n_head": 4,
    "n_inner": 256,
    "n_layer": 2,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 512,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "qkv_proj_bias": False,
    "prenorm": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
}
_LIN: Mapping[str, tuple[str, ...]] = {"qkv_proj": ("q_lin", "k_lin", "v_lin")}
_FUSED_TOO: Mapping[str, tuple[str, ...]] = {"Wqkv": ("Wqkv",), "Wi": ("Wi",)}
_QKV: Mapping[str, tuple[str, ...]] = {"qkv_proj": ("q", "k", "v")}
_WHOLE: Mapping[str, tuple[str, ...]] = {"qkv_proj": ("qkv_proj",)}
_FC: Mapping[str, tuple[str, ...]] = {"Wqkv": ("Wqkv",), "gate_up_proj": ("fc12", "fc11")}
_KINDS = ("Model", "ForSequenceClassification", "ForTokenClassification")

RECORDS = (
    *(encoder(f"Albert{kind}", "albert", _ALBERT, model_type="albert") for kind in _KINDS),
    *(encoder(f"Bert{kind}", "bert", _BERT, model_type="bert") for kind in _KINDS),
    *(encoder(f"Camembert{kind}", "bert", _ROBERTA, model_type="camembert") for kind in _KINDS),
    *(encoder(f"DistilBert{kind}", "distilbert", _DISTIL, _LIN, model_type="distilbert") for kind in _KINDS),
    *(
        encoder(f"Electra{kind}", "electra", {**_BERT, "embedding_size": 64}, model_type="electra")
        for kind in _KINDS
    ),
    *(encoder(f"Ernie{kind}", "bert", _ERNIE, model_type="ernie") for kind in _KINDS),
    *(encoder(f"Gte{kind}", "gte", _GTE, _WHOLE, model_type="gte") for kind in _KINDS),
    *(encoder(f"MPNet{kind}", "mpnet", _MPNET, _QKV, model_type="mpnet") for kind in _KINDS),
    *(
        encoder(f"ModernBert{kind}", "modernbert", _MODERN, _FUSED_TOO, model_type="modernbert")
        for kind in _KINDS
    ),
    encoder("NomicBertModel", "nomic", _NOMIC, _FC, model_type="nomic_bert"),
    *(encoder(f"New{kind}", "gte_new", _NEW, _WHOLE, model_type="new") for kind in _KINDS),
    *(encoder(f"GteNew{kind}", "gte_new", _NEW, _WHOLE, model_type="new") for kind in _KINDS[:2]),
    *(encoder(f"Roberta{kind}", "bert", _ROBERTA, model_type="roberta") for kind in _KINDS),
    *(encoder(f"XLMRoberta{kind}", "bert", _XLM, model_type="xlm-roberta") for kind in _KINDS),
)
