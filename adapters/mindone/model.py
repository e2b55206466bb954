"""A model of MindSpore One as vLLM serves it: the suite's network, vLLM's KV cache and weights in vLLM's layers."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from mszoo.adapters.mindone import eager, importer
from mszoo.adapters.mindone.architectures import read
from mszoo.adapters.mindone.cells import with_batch, without_batch
from mszoo.adapters.mindone.families import packed_modules
from mszoo.adapters.mindone.network import adopt_buffers, build
from mszoo.layers import (
    Attention,
    CausalLM,
    FusedDecoderLayer,
    LogitsProcessor,
    Module,
    WholeLinear,
    lm_head,
    lora_is_enabled,
)
from mszoo.layers.cells import replace_cells

import mindspore as ms  # isort: skip
from mszoo.adapters.mindone import attention  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip


#: Masks that old checkpoints hold beside the weights of an attention.
_MASKS = ("bias", "masked_bias", "causal_mask")


class ModelForCausalLM(CausalLM):
    """Any decoder of MindSpore One that architectures.json lists.

    Args:
        config: the Hugging Face config; ``architectures`` says which decoder.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: naming what can't be honoured.
        SuiteImportError: the family's file can't be imported.
    """

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        name = config.architectures[0].rpartition(".")[2]
        who = f"mindone.{name}"
        architecture = read().get(name)
        if architecture is None:
            raise RefusalError(who, "architectures.json doesn't list it", "Serve it with another one")
        super().__init__()
        self.config = config
        self.architecture = architecture
        self.packed_modules_mapping = packed_modules(architecture.family)
        dot = f"{prefix}." if prefix else ""
        tree = Module()
        self.add_module(architecture.base_prefix, tree)
        modeling = importer.modeling(architecture.family)
        implementation = _attention_implementation(modeling, architecture.family, who)
        network = build(modeling, architecture.base, config, implementation, who)
        self.replaced = replace_cells(network, tree, prefix=f"{dot}{architecture.base_prefix}")
        whole = any(isinstance(getattr(m, "fused", None), FusedDecoderLayer) for m in tree.modules())
        # vLLM's LoRA layer in place of one that the suite calls would get tensors of MindSpore's.
        called = any(isinstance(module, WholeLinear) for module in tree.modules())
        if self.packed_modules_mapping and (called or not whole):
            _refuse_lora(who)
        adopt_buffers(network, tree)
        self.__dict__["network"] = network
        self._add_attention(tree, f"{dot}{architecture.base_prefix}")
        self._accepted = set(inspect.signature(network.construct).parameters)
        self.__dict__["_embed"] = network.get_input_embeddings()
        self._add_head(dot)
        attentions = [
            name
            for name, module in self.named_modules()
            if isinstance(getattr(module, "attn", None), Attention)
        ]
        self._masks = tuple(f"{name}.{mask}" for name in attentions for mask in _MASKS)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None  # vLLM gives one of the two
        offered: dict[str, Any] = {
            "position_ids": with_batch(positions),
            "cache_position": positions,
            "use_cache": False,
            "return_dict": True,
        }
        arguments = {key: value for key, value in offered.items() if key in self._accepted}
        arguments["input_ids" if inputs_embeds is None else "inputs_embeds"] = with_batch(given)
        return without_batch(self.network(**arguments)[0])

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return self._embed(input_ids)

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor | None:
        """See :meth:`mszoo.layers.CausalLM.compute_logits`."""
        head = self._head
        logits = self.logits_processor(head, to_torch(hidden_states), getattr(head, "bias", None))
        return None if logits is None else to_mindspore(logits)

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: GPT-2's and OPT's are of the network alone."""
        whole = f"{self.architecture.base_prefix}.{name}"
        return whole if whole in expected or whole in self._masks else name

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.CausalLM.unused_tensors`."""
        tied = getattr(self.config, "tie_word_embeddings", False)
        return (*self._masks, f"{self.architecture.head}.weight") if tied else self._masks

    def _add_attention(self, tree: Module, prefix: str) -> None:
        """Give each attention of the suite its layer of vLLM's."""
        config = self.network.config
        spelled_out = eager.FAMILIES.get(self.architecture.family)
        scale = None if spelled_out is None else spelled_out.scale
        for path, cell, index in attention.attention_cells(self.network):
            name = f"{prefix}.{path}.attn"
            layer = attention.PagedAttention(cell, config, index, scale=scale, prefix=name)
            tree.get_submodule(path).add_module("attn", layer)
            cell.__dict__["mszoo_attention"] = layer
        count = sum(isinstance(module, Attention) for module in tree.modules())
        if count != config.num_hidden_layers:
            raise RefusalError(
                f"mindone.{self.config.architectures[0].rpartition('.')[2]}",
                f"{count} of its {config.num_hidden_layers} layers attend in a way that vLLM's KV cache serves",
                "Serve it with another implementation",
            )

    def _add_head(self, dot: str) -> None:
        """Make the output projection, under the checkpoint's name, and what follows it."""
        config, architecture = self.config, self.architecture
        embedding = self.get_submodule(f"{architecture.base_prefix}.{architecture.embedding}")
        head = lm_head(
            config.vocab_size,
            embedding.embedding_dim,
            bias=architecture.head_bias,
            prefix=f"{dot}{architecture.head}",
            tied_to=embedding if getattr(config, "tie_word_embeddings", False) else None,
        )
        self.add_module(architecture.head, head)
        self._head_name = architecture.head
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        self.logits_processor = LogitsProcessor(
            config.vocab_size,
            scale=scale / divisor,
            soft_cap=getattr(config, "final_logit_softcapping", None),
        )

    @property
    def _head(self) -> Module:
        return self._modules[self._head_name]


def _refuse_lora(who: str) -> None:
    """Refuse LoRA where a family's layers stay MindSpore One's own, against what its record says.

    Raises:
        RefusalError: LoRA is asked for.
    """
    if lora_is_enabled():
        raise RefusalError(
            who,
            "its config has something that mszoo's layers don't know, and LoRA doesn't reach MindSpore One's own",
            "Serve it without --enable-lora",
        )


def _attention_implementation(modeling: Any, family: str, who: str) -> str:
    """Return the name under which the family's network finds vLLM's attention.

    Raises:
        RefusalError: it computes attention by itself.
    """
    if family in eager.FAMILIES:
        return "eager"
    if not {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"} & vars(modeling).keys():
        raise RefusalError(
            who,
            "its attention is spelled out in a way that vLLM's KV cache can't serve",
            "Serve it with another implementation",
        )
    if "ALL_ATTENTION_FUNCTIONS" not in vars(modeling):
        # The only one that this family knows, whatever it is told.
        vars(modeling)["eager_attention_forward"] = attention.attend
    utils = importer.suite().load("mindone.transformers.modeling_utils")
    utils.AttentionInterface.register(attention.NAME, attention.attend)
    return attention.NAME
