"""Shrinks published configs: sizes become those of a tiny model, every other key stays as its publisher wrote it.

    python -m tests.published.shrink FOLDER...

writes corpus.json anew from the config.json files in folders, each called as its model with ``--`` for ``/``: those
of architectures that a suite lists, and of models that differ in nothing but sizes one.
Quantization is left out: the weights that tests give to a config are random.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus.json")
VOCABULARY = 256
#: Sizes of a tiny model, for keys whose own value doesn't matter.
_SIZES = {
    "vocab_size": VOCABULARY,
    "padded_vocab_size": VOCABULARY,
    "intermediate_size": 192,
    "ffn_dim": 192,
    "ffn_hidden_size": 192,
    "shared_expert_intermediate_size": 96,
    "shared_intermediate_size": 96,
    "moe_intermediate_size": 64,
    "n_inner": 192,
    "n_positions": 512,
    "n_ctx": 512,
    "embedding_size": 128,
    "sliding_window": 16,
    "sliding_window_size": 16,
    "first_k_dense_replace": 1,
    "moe_layer_start_index": 1,
    "max_window_layers": 2,
    "q_lora_rank": 48,
    # vLLM's attention on a latent cache wants this rank, and these heads.
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "attention_head_dim": 32,
}
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_head")
_HIDDEN = ("hidden_size", "n_embd", "word_embed_proj_dim")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk")
#: Keys whose values are lists or numbers of each layer.
_BY_LAYER = ("layer_types", "no_rope_layers", "moe_topk", "num_shared_expert", "mlp_layer_types")
#: Positions are learned where there is no rotary embedding: a table of this many rows.
_LEARNED = 514
#: What models may differ in and still be the same for tests.
_BOOKKEEPING = (
    "_name_or_path",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_position_embeddings",
    "pad_token_id",
    "rms_norm_eps",
    "rope_theta",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
_DROPPED = ("quantization_config", "compression_config")


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config of a tiny model with the keys of ``config``."""
    small = {name: value for name, value in config.items() if name not in _DROPPED}
    first = next((config[name] for name in _HEADS if config.get(name)), 4)
    hidden = next((config[name] for name in _HIDDEN if config.get(name)), first * 64)
    head_dim = config.get("head_dim")
    # A size of its own stays one: other than the hidden size over the heads.
    own_size = head_dim is not None and head_dim * first != hidden
    rotary_part = config.get("rotary_dim") is not None
    size = 64 if own_size or rotary_part else 32
    layers = _layers(config)
    for name, value in config.items():
        if name in _DROPPED:
            continue
        if name in _BY_LAYER and isinstance(value, list):
            small[name] = value[:layers]
            if name == "moe_topk":
                small[name] = [2] * layers
        elif name == "moe_intermediate_size" and isinstance(value, list):
            small[name] = [64] * layers
        elif value is None or isinstance(value, bool):
            continue
        elif name in _LAYERS:
            small[name] = layers
        elif name in _HEADS:
            small[name] = 4
        elif name in _HIDDEN:
            width = 4 * size if not own_size else 128
            small[name] = width if value == hidden else 64
        elif name in ("num_key_value_heads", "multi_query_group_num"):
            small[name] = 4 if value == first else 1 if value == 1 else 2
        elif name in ("head_dim", "kv_channels"):
            small[name] = size
        elif name == "rotary_dim":
            small[name] = 16
        elif name in _EXPERTS and value > 1:
            small[name] = 16 if config.get("n_group") not in (None, 1, False) else 8
        elif name in _CHOSEN and not isinstance(value, list):
            small[name] = value if config.get("n_group") not in (None, 1, False) else min(value, 2)
        elif name == "max_position_embeddings":
            learned = not _rotates(config)
            small[name] = min(value, _LEARNED) if learned else value
        elif name in _SIZES:
            small[name] = _SIZES[name]
            if name == "qk_rope_head_dim":
                small[name] = min(value, _SIZES[name])  # as many values turn as longrope has factors for
        elif name.endswith("_token_id") and not name.startswith("forced"):
            small[name] = _tokens(value)
        elif name in ("rope_scaling", "rope_parameters") and isinstance(value, dict):
            turned = min(config.get("qk_rope_head_dim", size), _SIZES["qk_rope_head_dim"])
            small[name] = _rope(value, int(turned * config.get("partial_rotary_factor", 1.0)) // 2)
    return small


def _layers(config: dict[str, Any]) -> int:
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        return pattern + 1
    if config.get("no_rope_layer_interval"):
        return int(config["no_rope_layer_interval"])
    types = config.get("layer_types") or []
    if len(set(types)) > 1:
        return max(3, min(types.index(one) for one in set(types) if one != types[0]) + 1)
    return 2


def _rotates(config: dict[str, Any]) -> bool:
    return config.get("model_type") not in (
        "bert",
        "camembert",
        "electra",
        "ernie",
        "opt",
        "roberta",
        "xlm-roberta",
    )


def _tokens(value: Any) -> Any:
    """Return ids inside the tiny vocabulary, small ones as they are."""
    if isinstance(value, list):
        return [VOCABULARY - 1 - index for index in range(len(value))]
    return value if not isinstance(value, int) or value < 32 else VOCABULARY - 1


def _rope(rope: dict[str, Any], pairs: int) -> dict[str, Any]:
    return {name: value[:pairs] if isinstance(value, list) else value for name, value in rope.items()}


def main(folders: list[str]) -> None:
    """Write the corpus."""
    found: dict[str, dict[str, Any]] = {}
    known = listed()
    seen = set()
    for folder in folders:
        for file in sorted(Path(folder).glob("*.json")):
            config = json.loads(file.read_text(encoding="utf-8"))
            if (config.get("architectures") or [""])[0] not in known:
                continue
            small = shrink(config)
            same = {name: value for name, value in small.items() if name not in _BOOKKEEPING}
            if json.dumps(same, sort_keys=True) not in seen:
                seen.add(json.dumps(same, sort_keys=True))
                found[file.stem.replace("--", "/", 1)] = small
    write(found)


def listed() -> set[str]:
    """Return the architectures that the suites inside the tree serve."""
    from mszoo.adapters import mindformers, mindone, native

    adapters = (
        adapter for suite in (native, mindformers, mindone) for adapter in suite.mszoo_model_adapters()
    )
    return {
        adapter.architecture
        for adapter in adapters
        if not (adapter.refused or adapter.drafts or adapter.modalities)
    }


def write(entries: dict[str, dict[str, Any]]) -> None:
    """Write corpus.json: a model a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(config)}" for name, config in sorted(entries.items())]
    CORPUS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
