"""The base of every model that mszoo serves: what the bridge calls, and what a model must provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import weights as _weights
from mszoo.layers.embedding import LogitsProcessor, apply_embedding
from mszoo.layers.seam import ModelConfig, get_current_vllm_config
from mszoo.registry.records import Capability

import mindspore as ms

#: The base class of a model's parts. vLLM finds layers (for LoRA, quantization, loading) by walking modules.
Module: TypeAlias = torch.nn.Module
ModuleList: TypeAlias = torch.nn.ModuleList


#: What a stage of a pipeline hands over to the next one, [T, hidden], which takes it in place of embeddings.
HANDED_OVER = "hidden_states"


def outside_the_tree(module: Any, **values: Any) -> None:
    """Set attributes of a torch module, or of a MindSpore cell, past its registration of modules and parameters.

    A module that is known by two names in the tree would have its weights twice in the checkpoint, and a network of
    cells that computes on views of the tree's weights has no place in it.
    """
    module.__dict__.update(values)


def add_part(root: Module, name: str, part: Module) -> None:
    """Add a part to a module under a name that may have dots: what is between the two gets modules of its own."""
    owner = root
    *path, leaf = name.split(".")
    for step in path:
        if step not in owner._modules:
            owner.add_module(step, Module())
        owner = cast(Module, owner._modules[step])  # what a plain attribute of that name has isn't a part
    owner.add_module(leaf, part)


def current_model_config() -> ModelConfig:
    """Return vLLM's config of the model that is being built: its dtype, longest sequence, Hugging Face config."""
    return get_current_vllm_config().model_config


def lora_is_enabled() -> bool:
    """Return whether the model that is being built may get LoRA adapters."""
    return get_current_vllm_config().lora_config is not None


def tensor_parallel_size() -> int:
    """Return over how many ranks the layers of the model that is being built are split."""
    size: int = get_current_vllm_config().parallel_config.tensor_parallel_size
    return size


class Model(Module, ABC):
    """A model: MindSpore tensors in, MindSpore tensors out.

    A subclass is constructed as ``Model(config, prefix="")`` with the Hugging Face config, inside vLLM's current
    config, and builds its parts from mszoo.layers under the names that its checkpoints use.
    """

    #: Checkpoint modules that one layer fuses, as the adapter's record says; whoever builds the model sets it.
    packed_modules_mapping: Mapping[str, Sequence[str]] = {}
    #: Which part of a pipeline it is, on this rank. One that isn't the first gets what the one before handed over
    #: (:data:`HANDED_OVER`) in place of embeddings, and one that isn't the last hands over what it returns.
    is_first_stage: bool = True
    is_last_stage: bool = True
    #: What its record declares and another network has, which is built in this one's place where it is asked for.
    left_to_another: frozenset[Capability] = frozenset()
    #: Tensors that a checkpoint may hold and whoever serves the model takes care of, or has taken off.
    set_aside: tuple[str, ...] = ()

    config: Any
    _expected: dict[str, _weights.Expected] | None = None

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
        """Return, by checkpoint name, every tensor that the model needs.

        Asked for first when the model is built: later vLLM puts LoRA layers in place of its layers, and packs
        weights, and a reload of the weights still needs the same tensors.
        """
        if self._expected is None:
            self._expected = _weights.expected_tensors(self, self.packed_modules_mapping)
        return self._expected

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """Return by which name ``expected`` has a checkpoint's tensor, where checkpoints call it in several ways.

        Args:
            name: the checkpoint's.
            expected: names of :meth:`expected_tensors`.
        """
        del expected
        return name

    def expected_name(self, name: str, expected: Collection[str]) -> str:
        """Return by which name ``expected`` has a checkpoint's tensor, older names of it included.

        Args:
            name, expected: as of :meth:`checkpoint_name`.
        """
        return name if name in expected else self.checkpoint_name(_weights.modern_name(name), expected)

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that a checkpoint may hold without the model using them; "*" at the end stands for any."""
        return ()

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load checkpoint tensors and return the names of the parameters that got one.

        Raises:
            CheckpointError: a tensor is unknown or has the wrong shape.
        """
        expected = self.expected_tensors()
        named = ((self.expected_name(name, expected), tensor) for name, tensor in weights)
        return _weights.load(self, expected, named, self.left_out())

    def left_out(self) -> tuple[str, ...]:
        """Return names that a checkpoint may hold without the model loading them."""
        return (*self.unused_tensors(), *self.set_aside)


class CausalLM(Model):
    """A decoder that generates text.

    A subclass builds ``self.model`` (with ``embed_tokens``), the output projection and
    ``self.logits_processor``, and writes :meth:`forward`.

    Attributes:
        head_name: the checkpoint's name of the output projection.
    """

    model: Any
    logits_processor: LogitsProcessor
    head_name: str = "lm_head"

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return apply_embedding(self.model.embed_tokens, input_ids)

    @property
    def output_projection(self) -> torch.nn.Module:
        """What makes logits of hidden states, or what vLLM put in its place."""
        return self.get_submodule(self.head_name)

    def drop_output_projection(self) -> None:
        """Take the output projection off: the hidden states are pooled, and the checkpoint may lack it."""
        owner, _, leaf = self.head_name.rpartition(".")
        self.get_submodule(owner)._modules.pop(leaf, None)
        self.set_aside += (f"{self.head_name}.weight", f"{self.head_name}.bias")

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them."""
        logits = self.logits_in_torch(to_torch(hidden_states))
        return None if logits is None else to_mindspore(logits)

    def logits_in_torch(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Return what :meth:`compute_logits` does, of a tensor of torch's.

        The bridge calls it where a class doesn't say how logits are made: MindSpore's views would cost a step more.
        """
        head, processor = self.output_projection, self.logits_processor
        if _lora_is_idle(processor, hidden_states.shape[0]):
            head, processor = getattr(head, "base_layer", head), processor.base_layer
        logits: torch.Tensor | None = processor(head, hidden_states, getattr(head, "bias", None))
        return logits

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that a checkpoint may hold without the model using them."""
        return ("lm_head.weight",) if getattr(self.config, "tie_word_embeddings", False) else ()


def _lora_is_idle(processor: Any, rows: int) -> bool:
    """Say whether what vLLM put in the place of a logits processor would add nothing, and can't take these rows.

    It knows the adapter of each token that is sampled, and fails on a prompt's tokens, whose logits are asked for
    prompt_logprobs. Where no adapter has anything for the output projection, what it replaced is as good.
    """
    if not hasattr(processor, "base_layer") or rows == processor.punica_wrapper.sampler_indices.shape[0]:
        return False
    return not processor.lora_a_stacked.any()


class Encoder(Model):
    """An encoder: its tokens see all tokens of their sequence, and vLLM pools its hidden states.

    The adapter's record says with ``pooling`` how, and with ``task`` what for. A subclass attends with
    :class:`mszoo.layers.EncoderAttention`. Where a pair of texts is classified, :meth:`forward` is called with
    ``token_type_ids`` [T] too, by name: what part of the pair a token belongs to.

    Attributes:
        class_head: makes scores of classes of hidden states, by torch: [..., hidden] -> [..., classes]; None where
            the encoder gives embeddings.
    """

    class_head: Callable[[torch.Tensor], torch.Tensor] | None = None
