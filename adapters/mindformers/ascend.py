"""The suite's models on NPU: its own networks, with none of their cells replaced, on vLLM's KV cache.

Nothing of this has run on an NPU. The tests run it on CPU, where stand-ins take the place of the Ascend ops.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from mszoo.adapters.mindformers import contract, network, parameters
from mszoo.adapters.mindformers.checkpoint import layout_of
from mszoo.adapters.mindformers.config import architecture_of, suite_config
from mszoo.kernels.exchange import to_torch
from mszoo.layers import CausalLM, current_model_config
from mszoo.layers.kv_cache import KVCache, current_sequences, whole_step
from mszoo.layers.model import outside_the_tree
from mszoo.layers.weights import Expected
from mszoo.models.reader import prediction_tensors
from mszoo.registry import Capability
from mszoo.registry.errors import RefusalError

import mindspore as ms

logger = logging.getLogger("vllm.mszoo.adapters")

#: The size of the latent vectors that the suite's attention is built for.
_LATENT_SIZE = 512


class OwnNetwork(CausalLM):
    """A model of the suite that generates text, computed by the suite alone.

    The weights are MindSpore's parameters, the KV cache is vLLM's, and the model has no other torch modules: what
    needs vLLM's layers is another class's (:mod:`mszoo.adapters.mindformers.on_npu`).

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: the suite can't honour a field of the config or a flag, or can't be imported.
    """

    left_to_another = frozenset({Capability.LORA, Capability.TENSOR_PARALLEL})

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        name, architecture = architecture_of(config)
        who = f"mindformers.{name}"
        if architecture.is_latent and config.kv_lora_rank != _LATENT_SIZE:
            raise RefusalError(
                who,
                f"config.json says kv_lora_rank={config.kv_lora_rank}, and the suite attends to {_LATENT_SIZE}",
                "Serve the model with another implementation",
            )
        model_config = current_model_config()
        if model_config.enable_prompt_embeds:
            raise RefusalError(
                who,
                "its network takes token ids, and the server is to take embeddings",
                "Serve without --enable-prompt-embeds",
            )
        if model_config.runner_type == "pooling":
            raise RefusalError(
                who,
                "what its network gives on an NPU is made for logits, and the server is to pool it",
                "Serve with --runner generate, or with another implementation",
            )
        if model_config.dtype == torch.bfloat16 and not _reads_bfloat16():
            raise RefusalError(
                who,
                "the suite makes its parameters of values that MindSpore copies through numpy, and under numpy 2 "
                "it has no bfloat16 there",
                "Install numpy 1.26 (pip install --no-deps numpy==1.26.4), or serve with --dtype float16",
            )
        dtype = str(model_config.dtype).removeprefix("torch.")
        values = suite_config(
            architecture,
            config,
            who,
            dtype=dtype,
            max_model_len=model_config.max_model_len,
        )
        # Norms and routers stay in float32.
        values |= {"params_dtype": dtype, "rotary_dtype": dtype, "router_dense_type": "float32"}
        suite = network.build(architecture, values)
        super().__init__()
        self.config, self._who, self._is_latent = config, who, architecture.is_latent
        self.layout = layout_of(name, config)
        outside_the_tree(self, suite=suite)
        suite.model.return_hidden_states = True
        dot = f"{prefix}." if prefix else ""
        for index, layer in enumerate(suite.model.decoder.layers):
            kv_heads, head_size = self.cache_shape(layer.self_attention)
            cache = KVCache(
                layer.self_attention.num_attention_heads_per_partition,
                head_size,
                kv_heads,
                prefix=f"{dot}model.layers.{index}.self_attn.attn",
            )
            self.add_module(f"cache_{index}", cache)
        self._is_prefill: bool | None = None
        self._longest = model_config.max_model_len

    def cache_shape(self, attention: Any) -> tuple[int, int]:
        """Return the key/value heads that the cache of a layer's attention holds, and their size.

        The suite keeps a token's latent vector and its rotated key in one tensor. vLLM's ordinary cache has room
        for them among the keys; that for values is left unused.
        """
        if self._is_latent:
            return 1, attention.config.kv_lora_rank + attention.config.qk_pos_emb_head_dim
        return attention.num_query_groups_per_partition, attention.hidden_size_per_attention_head

    @property
    def caches(self) -> list[KVCache]:
        """Each layer's part of vLLM's KV cache."""
        return [module for module in self.children() if isinstance(module, KVCache)]

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return self.suite.model.embedding(input_ids.astype(ms.int32))

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`; the suite takes token ids only.

        While vLLM looks how much memory a step needs, there is no KV cache: the step has new sequences of its own.
        """
        assert input_ids is not None  # embeddings were refused
        caches = self.caches
        sequences = current_sequences(caches[0].layer_name)
        if sequences is None:
            device = to_torch(positions).device
            sequences, pages = whole_step(positions.shape[0], self._longest, caches, device)
        else:
            pages = [cache.key_value() for cache in caches]
        tokens = sequences.slot_mapping.shape[0]
        self._set_phase(sequences.are_new)
        network_config = self.suite.get_gpt_transformer_config()
        arguments = contract.step_inputs(
            input_ids[:tokens], positions[:tokens], sequences, pages, network_config
        )
        return self.suite.model(**arguments)

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor:
        """Return logits [T, vocab] of hidden states [T, hidden]."""
        return self.suite.model.output_layer(hidden_states)

    def expected_tensors(self) -> dict[str, Expected]:
        """See :meth:`mszoo.layers.CausalLM.expected_tensors`."""
        table = self._pieces().items()
        return self.layout.expected(
            {name: Expected(item.parameter, None, item.shape) for name, item in table}
        )

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that the model doesn't use: tied logits, and layers that predict further tokens."""
        return (
            *super().unused_tensors(),
            *prediction_tensors(self.config.to_dict(), len(self.caches)),
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load checkpoint tensors.

        Returns:
            No names: none of the parameters is torch's.

        Raises:
            CheckpointError: a tensor is unknown or has another shape, or a parameter got no value.
        """
        parameters.load(
            self.suite.model.get_params_dict(),
            self._pieces(),
            self.layout.by_model(weights),
            self.unused_tensors(),
            self._who,
        )
        self.suite.process_weights_after_loading(self.suite.model)
        return set()

    def _pieces(self) -> dict[str, parameters.Piece]:
        model = self.suite.model
        gate_up = self.packed_modules_mapping["gate_up_proj"]
        return parameters.pieces(model.get_params_dict(), self.suite.get_gpt_transformer_config(), gate_up)

    def _set_phase(self, is_prefill: bool) -> None:
        """Tell the network's cells which attention the step takes."""
        if is_prefill != self._is_prefill:
            self.suite.add_flags_custom_mcore(is_prefill=is_prefill)
            self._is_prefill = is_prefill


def _reads_bfloat16() -> bool:
    """Say whether MindSpore can give bfloat16 values to numpy: its extension is built for one major version."""
    try:
        ms.Tensor([0.0], ms.bfloat16).asnumpy()
    except TypeError:
        return False
    return True
