"""Jina Embeddings 3, which goes by XLM-R's name: its config and what that means are the publisher's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from mszoo.layers.decoder.spec import NormSpec, RotarySpec
from mszoo.layers.encoder import EncoderSpec
from mszoo.layers.seam import init_logger
from mszoo.models.encoder_reader import EncoderReader
from mszoo.registry.errors import BrokenCheckpointError

logger = init_logger("vllm.mszoo.models")

#: Of training, of how it is computed, of the publisher's own ``encode``, or vLLM's.
_IGNORED = """attention_probs_dropout_prob classifier_dropout emb_pooler hidden_dropout_prob load_trained_adapters
    lora_dropout_p lora_main_params_trainable lora_prompts matryoshka_dimensions partial_rotary_factor rope_theta
    rotary_kwargs task_instructions truncate_dim use_flash_attn use_reentrant"""
#: What torch calls a weight that is computed: the weight itself, and adapters' matrices of every task.
_COMPUTED, _PARTS = ".parametrizations.weight.", ("original", "0.lora_A", "0.lora_B")
#: Modules with such weights, beside the layers and in each.
_TABLES = ("embeddings.word_embeddings", "embeddings.token_type_embeddings")
_LINEARS = ("mixer.Wqkv", "mixer.out_proj", "mlp.fc1", "mlp.fc2")


def is_jinas(config: Any) -> bool:
    """Return whether a config of XLM-R's name is one of Jina's, with code and tensors of their own."""
    return getattr(config, "position_embedding_type", None) == "rotary"


def jina_encoder(config: Any, who: str) -> EncoderSpec:
    """Return the encoder of Jina Embeddings 3: BERT with rotation, as the code beside the checkpoints defines it.

    Raises:
        RefusalError: naming the field that can't be honoured.
    """
    reader = EncoderReader(config, who, {})
    reader.must_be("position_embedding_type", "rotary")
    reader.must_be("use_reg_tokens", False)
    for name in ("lora_rank", "lora_alpha"):
        if not isinstance(reader.required(name), int | float) or reader.required(name) <= 0:
            reader.refuse(name, reader.required(name))
    if not reader.required("lora_adaptations"):
        reader.refuse("lora_adaptations", reader.required("lora_adaptations"))
    size = reader.head_size_of_equal_shares()
    reader.must_be("rotary_emb_dim", size)
    reader.ignore(*_IGNORED.split())
    rope = dict(reader.optional("rope_parameters", None) or {})
    rope.pop("partial_rotary_factor", None)  # vLLM's name of rotary_emb_dim
    rope["rope_theta"] = reader.optional("rotary_emb_base", 10000.0)
    rotary = RotarySpec(reader.rope(rope), reader.required("max_position_embeddings"))
    norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
    layer = reader.layer(
        reader.encoder_attention(rotary=rotary, name="mixer", qkv_name="Wqkv", o_name="out_proj"),
        reader.mlp(gated=False, bias=True, up_name="fc1", down_name="fc2"),
        norm_after_attention=norm.named("norm1"),
        norm_after_mlp=norm.named("norm2"),
        norms_sums=True,
    )
    return reader.encoder(
        lambda _: layer,
        norm.named("emb_ln"),
        token_types=reader.token_types(),
        name="roberta",
        layers_name="encoder.layers",
        ignored=("lm_head.*", "pooler.*", *_adapters(reader.num_layers)),
    )


def name_of_weight(name: str) -> str:
    """Return the name of the weight that a checkpoint's tensor is, without what torch adds where it is computed."""
    return name.replace(f"{_COMPUTED}{_PARTS[0]}", ".weight")


def _adapters(layers: int) -> Iterator[str]:
    """Yield the names of the adapters' tensors, which become parts of the weights."""
    linears = (f"encoder.layers.{index}.{name}" for index in range(layers) for name in _LINEARS)
    for module in (*_TABLES, *linears):
        yield from (f"{module}{_COMPUTED}{part}" for part in _PARTS[1:])


def merged(weights: Iterable[tuple[str, torch.Tensor]], config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a checkpoint's tensors, with the last task's adapter merged into each weight that has adapters.

    vLLM merges the same: no request says to its pooling runner which task a text is for.

    Args:
        weights: the checkpoint's. Of a linear layer's weight [out, in], ``lora_A`` is [tasks, rank, in] and
            ``lora_B`` [tasks, out, rank]; of a table's [rows, width], [tasks, rows, rank] and [tasks, rank, width].
        config: has the tasks' names, the adapters' rank, and their ``lora_alpha``.

    Raises:
        BrokenCheckpointError: an adapter doesn't fit its weight.
    """
    scale = config.lora_alpha / config.lora_rank
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    told = False
    for name, tensor in weights:
        module, is_computed, part = name.partition(_COMPUTED)
        if not is_computed:
            yield name, tensor
            continue
        parts = waiting.setdefault(module, {})
        parts[part] = tensor
        if parts.keys() >= set(_PARTS):
            if not told:
                told = True
                task = config.lora_adaptations[-1]
                logger.warning("mszoo: the adapter for %s is merged into the weights, as vLLM does", task)
            weight, lora_a, lora_b = (waiting[module].pop(one) for one in _PARTS)
            yield f"{module}.weight", _sum(module, weight, lora_a[-1].float(), lora_b[-1].float(), scale)


def _sum(
    module: str, weight: torch.Tensor, lora_a: torch.Tensor, lora_b: torch.Tensor, scale: float
) -> torch.Tensor:
    one, other = (lora_a, lora_b) if module.endswith(_TABLES) else (lora_b, lora_a)
    if one.shape[1:] != other.shape[:1] or (one.shape[0], other.shape[-1]) != tuple(weight.shape):
        raise BrokenCheckpointError(
            f"{module}{_COMPUTED}{_PARTS[0]}",
            f"it is {list(weight.shape)}, and its adapter's matrices are {list(one.shape)} and {list(other.shape)}",
            "Copy or convert the checkpoint again",
        )
    return (weight + one @ other * scale).to(weight.dtype)  # in float32, as vLLM does
