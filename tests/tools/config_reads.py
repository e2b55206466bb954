"""Checks config_keys.json by experiment: tiny models of transformers are run; it records what they read and ignore.

``python tests/tools/config_reads.py [MODEL_TYPE ...]`` tries the named model types, or all.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import transformers

sys.path.insert(0, str(Path(__file__).parent))
import config_keys as tool

#: Sizes by any name that a config has for them.
SIZES: Mapping[str, Any] = {
    "attention_head_size": 16,
    "d_ff": 64,
    "d_inner": 64,
    "d_model": 64,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "decoder_layers": 2,
    "dim": 64,
    "embedding_size": 64,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "encoder_layers": 2,
    "ffn_dim": 64,
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "hidden_dim": 64,
    "hidden_size": 64,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 8,
    "intermediate_size": 64,
    "kv_lora_rank": 32,
    "layers": 2,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "max_position_embeddings": 128,
    "moe_intermediate_size": 32,
    "moe_num_experts": 4,
    "n_embd": 64,
    "n_group": 1,
    "n_head": 4,
    "n_heads": 4,
    "n_inner": 64,
    "n_layer": 2,
    "n_layers": 2,
    "n_positions": 128,
    "n_routed_experts": 4,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_layers": 2,
    "num_local_experts": 4,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "query_pre_attn_scalar": 16,
    "rotary_dim": 8,
    "shared_expert_intermediate_size": 32,
    "sliding_window": 4,
    "topk_group": 1,
    "v_head_dim": 16,
    "vocab_size": 96,
    "word_embed_proj_dim": 64,
}
#: Of single model types.
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4, "qk_head_dim": 32},
    "dots1": {"n_shared_experts": 1},
    "ernie4_5_moe": {"moe_k": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "jetmoe": {"kv_channels": 16},
    "minicpm3": {"num_key_value_heads": 4},
    "xglm": {"attention_heads": 4},
}
_TOKENS = torch.tensor([[5, 17, 40, 8, 77, 31, 2, 60, 9, 23], [44, 3, 12, 71, 25, 6, 90, 33, 18, 50]])


def tiny(model_type: str, config: type) -> Any:
    """Return a tiny config of a model type."""
    fields = {item.name for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    sizes = {name: value for name, value in SIZES.items() if name in fields}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if name in fields:
            sizes[name] = 1
    return config(**sizes | dict(OVERRIDES.get(model_type, {})))


def network(kind: type, config: Any) -> torch.nn.Module:
    """Return a class's network with weights that no key but a size or a layout changes."""
    torch.manual_seed(0)
    model: torch.nn.Module = kind(config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in sorted(model.state_dict().items()):
        if weight.is_floating_point():
            with torch.no_grad():
                weight.copy_(
                    torch.randn(weight.shape, generator=generator) * 0.2
                    + (1.0 if weight.dim() == 1 and "bias" not in name else 0.0)
                )
    return model


def outputs(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return what a network computes of two prompts of ten tokens."""
    with torch.no_grad():
        found = (
            model(input_ids=_TOKENS, use_cache=False)
            if _takes(model, "use_cache")
            else model(input_ids=_TOKENS)
        )
    values = found.values() if hasattr(found, "values") else found
    return [value for value in values if isinstance(value, torch.Tensor)]


def _takes(model: torch.nn.Module, name: str) -> bool:
    import inspect

    parameters = inspect.signature(model.forward).parameters
    return name in parameters


@contextmanager
def recorded(config: Any) -> Iterator[dict[str, str]]:
    """Record which keys of a config are read, and by which file and function, while the block runs."""
    kind, reads = type(config), {}

    def getattribute(self: Any, name: str) -> Any:
        frame = sys._getframe(1)
        code = frame.f_code
        file = Path(code.co_filename).name
        if not name.startswith("__") and file not in _OWN and code.co_name not in tool.NOT_SERVED:
            reads.setdefault(name, f"{file}:{code.co_qualname}")
        return kind.__getattribute__(self, name)

    recording = type.__new__(
        type, kind.__name__, (kind,), {"__getattribute__": getattribute, "__module__": kind.__module__}
    )
    config.__class__ = recording
    try:
        yield reads
    finally:
        config.__class__ = kind


#: Files whose reads are the config's own, or that the tool leaves out by name.
_OWN = frozenset(
    {
        "auto_factory.py",  # which class
        "cache_utils.py",
        "configuration_utils.py",
        "copy.py",
        "mixin.py",  # plans for several devices
        Path(__file__).name,
    }
)


def odd(value: Any) -> Any:
    """Return another value of the same type, or None where there is none to be had."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 if value != 0.5 else 0.25
    return None


_FIELDS = frozenset(item.name for item in dataclasses.fields(transformers.PreTrainedConfig))


def check(model_type: str) -> dict[str, Any]:
    """Run the networks of a model type.

    Returns:
        ``unknown``: keys that a network read and the analysis didn't find, and who read them; ``unused``: keys of
        effect that no network read; ``changed``: keys without effect that changed a result; ``tried``: those that
        were set to other values; ``failed``: classes that can't be run like that, and why.
    """
    config_class, classes = tool.text_models()[model_type]
    known = tool.keys_of(config_class, classes)
    aliases = config_class.attribute_map  # type: ignore[attr-defined]
    report: dict[str, Any] = {"unknown": {}, "changed": [], "tried": [], "failed": {}}
    read: set[str] = set()
    for name, kind in classes.items():
        try:
            config = tiny(model_type, config_class)
            config._attn_implementation = "eager"
            with recorded(config) as reads:
                model = network(kind, config)
                reference = outputs(model)
        except Exception as error:
            report["failed"][name] = f"{type(error).__name__}: {str(error)[:200]}"
            continue
        for name_read, where in reads.items():
            key = aliases.get(name_read, name_read)
            read.add(key)
            shared = hasattr(transformers.PreTrainedConfig, key) and key not in _FIELDS
            routine = shared or callable(getattr(config_class, key, None))
            if (
                key not in known
                and key not in tool.RUNTIME
                and not routine
                and not key.startswith(("_", "output_"))
            ):
                report["unknown"][key] = where
        effect = {
            key
            for key, what in known.items()
            if what.kind in tool.KINDS[:4] and (what.kind != "heads" or name in what.more)
        }
        idle = {}
        for key in sorted(item.name for item in dataclasses.fields(config)):
            own = aliases.get(key, key)
            if (
                own not in effect
                and own not in tool.RUNTIME
                and not own.startswith("output_")
                and own not in _WHATEVER
                and (own not in known or known[own].kind != tool.CHECKED)
            ):
                other = odd(getattr(config, own, None))
                if other is not None:
                    idle[own] = other
        report["tried"] = sorted({*report["tried"], *idle})
        if not same(kind, config, {**idle, "an_unknown_key": 3}, reference):
            report["changed"] += [
                f"{name}: {key}"
                for key, other in idle.items()
                if not same(kind, config, {key: other}, reference)
            ] or [name]
    effect = {key for key, what in known.items() if what.kind in ("inference", "heads") and "." not in key}
    report["unused"] = sorted(effect - read)
    return report


#: Keys that change how a config is written, not what it says.
_WHATEVER = frozenset({"transformers_version", "architectures", "id2label", "label2id", "return_dict"})


def same(kind: type, config: Any, changes: Mapping[str, Any], reference: list[torch.Tensor]) -> bool:
    """Return whether a network with some keys changed computes the same, bit for bit."""
    changed = copy.deepcopy(config)
    for key, value in changes.items():
        setattr(changed, key, value)
    try:
        found = outputs(network(kind, changed))
    except Exception as error:
        print(f"{kind.__name__} with {sorted(changes)}: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return len(found) == len(reference) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, reference, strict=True)
    )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for item in sys.argv[1:] or tool.text_models():
        result = check(item)
        print(item, {name: value for name, value in result.items() if value}, flush=True)
