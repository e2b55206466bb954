"""The base of every model that mszoo serves: what the bridge calls, and what a model must provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from vllm.config import ModelConfig, get_current_vllm_config

import mindspore as ms  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers import weights as _weights  # isort: skip
from mszoo.layers.embedding import LogitsProcessor, apply_embedding  # isort: skip

#: The base class of a model's parts. vLLM finds layers (for LoRA, quantization, loading) by walking modules.
Module = torch.nn.Module
ModuleList = torch.nn.ModuleList


def current_model_config() -> ModelConfig:
    """Return vLLM's config of the model that is being built: its dtype, longest sequence, Hugging Face config."""
    return get_current_vllm_config().model_config


def lora_is_enabled() -> bool:
    """Return whether the model that is being built may get LoRA adapters."""
    return get_current_vllm_config().lora_config is not None


class Model(Module, ABC):
    """A model: MindSpore tensors in, MindSpore tensors out.

    A subclass is constructed as ``Model(config, prefix="")`` with the Hugging Face config, inside vLLM's current
    config, and builds its parts from mszoo.layers under the names that its checkpoints use.
    """

    #: Checkpoint modules that one layer fuses. The adapter's record declares the same for vLLM.
    packed_modules_mapping: Mapping[str, Sequence[str]] = {}

    config: Any

    @abstractmethod
    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """Return the hidden states after the last layer or norm: [T, hidden].

        Args:
            input_ids: [T] int32 or int64; None when ``inputs_embeds`` is given.
            positions: [T] int64.
            inputs_embeds: [T, hidden], in place of the embeddings of ``input_ids``.
        """

    @abstractmethod
    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""

    def expected_tensors(self) -> dict[str, _weights.Expected]:
        """Return, by checkpoint name, every tensor that the model needs."""
        return _weights.expected_tensors(self, self.packed_modules_mapping)

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """Return by which name ``expected`` has a checkpoint's tensor, where checkpoints call it in several ways.

        Args:
            name: the checkpoint's.
            expected: names of :meth:`expected_tensors`.
        """
        del expected
        return name

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that a checkpoint may hold without the model using them."""
        return ()

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load checkpoint tensors and return the names of the parameters that got one.

        Raises:
            CheckpointError: a tensor is unknown or has the wrong shape.
        """
        expected = self.expected_tensors()
        named = ((self.checkpoint_name(name, expected), tensor) for name, tensor in weights)
        return _weights.load(self, expected, named, self.unused_tensors())


class CausalLM(Model):
    """A decoder that generates text.

    A subclass builds ``self.model`` (with ``embed_tokens``), ``self.lm_head`` and ``self.logits_processor``, and
    writes :meth:`forward`.
    """

    packed_modules_mapping: Mapping[str, Sequence[str]] = {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }

    model: Any
    lm_head: Module
    logits_processor: LogitsProcessor

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return apply_embedding(self.model.embed_tokens, input_ids)

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them."""
        logits = self.logits_processor(self.lm_head, to_torch(hidden_states))
        return None if logits is None else to_mindspore(logits)

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that a checkpoint may hold without the model using them."""
        return ("lm_head.weight",) if getattr(self.config, "tie_word_embeddings", False) else ()


class Encoder(Model):
    """An encoder: its tokens see all tokens of their sequence, and vLLM pools its hidden states.

    The adapter's record says with ``pooling`` how. A subclass attends with :class:`mszoo.layers.EncoderAttention`.
    """

    packed_modules_mapping: Mapping[str, Sequence[str]] = {"qkv_proj": ("query", "key", "value")}
