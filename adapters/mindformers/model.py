"""The suite's models as vLLM serves them: the suite's network, with mszoo's layers in the places of its cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from mszoo.adapters.decoder import FUSED_MLP

import mindspore as ms  # isort: skip
from mszoo.adapters.mindformers import network  # isort: skip
from mszoo.adapters.mindformers.checkpoint import layout_of, unserved_tensors  # isort: skip
from mszoo.adapters.mindformers.config import ARCHITECTURES, suite_config  # isort: skip
from mszoo.adapters.mindformers.layer import TransformerLayer  # isort: skip
from mszoo.adapters.mindformers.positions import running_at  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.layers import (  # isort: skip
    CausalLM,
    FusedDecoder,
    LogitsProcessor,
    Module,
    current_model_config,
    lm_head,
    token_embedding,
)
from mszoo.layers.cells import replace_cells  # isort: skip
from mszoo.layers.weights import Expected, load  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip

#: The suite's names of modules, and Hugging Face's.
_NAMES = (
    ("decoder.layers", "model.layers"),
    ("decoder.final_layernorm", "model.norm"),
    (".self_attention", ".self_attn"),
    (".pre_mlp_layernorm", ".post_attention_layernorm"),
)


def name_of(path: str) -> str:
    """Return Hugging Face's name of a cell in the suite's ``GPTModel``."""
    for ours, theirs in _NAMES:
        path = path.replace(ours, theirs)
    return path


class SuiteModel(CausalLM):
    """A model of the suite that generates text.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: the suite can't honour a field of the config, or can't be imported.
    """

    architecture: ClassVar[str]

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        architecture = ARCHITECTURES[self.architecture]
        model_config = current_model_config()
        values = suite_config(
            architecture,
            config,
            f"mindformers.{self.architecture}",
            dtype=str(model_config.dtype).removeprefix("torch."),
            max_model_len=model_config.max_model_len,
        )
        stack = network.build_stack(architecture, values)
        super().__init__()
        self.config = config
        #: How the checkpoint differs from the model's modules.
        self.layout = layout_of(self.architecture, config)
        dot = f"{prefix}." if prefix else ""
        vocab_size, hidden_size = values["vocab_size"], values["hidden_size"]
        self.model = Module()
        self.model.embed_tokens = token_embedding(vocab_size, hidden_size, prefix=f"{dot}model.embed_tokens")
        self.replaced = replace_cells(stack, self, name_of=name_of, prefix=prefix)
        self.stack = stack
        self.lm_head = lm_head(
            vocab_size,
            hidden_size,
            prefix=f"{dot}lm_head",
            tied_to=self.model.embed_tokens if values["tie_word_embeddings"] else None,
        )
        self.logits_processor = LogitsProcessor(vocab_size)
        layers = list(self.model.layers.children())
        whole = [layer for layer in layers if isinstance(layer, TransformerLayer)]
        is_whole = len(whole) == len(layers)
        for layer in whole:
            layer.keeps_residual = is_whole
        fused = [layer.fused for layer in whole if layer.fused is not None]
        #: Runs the stack as one graph, in the ``mindspore`` kernel set.
        self.fused = FusedDecoder(fused, self.model.norm) if len(fused) == len(layers) else None

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        if self.fused is not None and (hidden_states := self.fused(positions, x)) is not None:
            return hidden_states
        with running_at(positions):
            return self.stack(input_ids=None, hidden_states=x, positions=positions)

    def expected_tensors(self) -> dict[str, Expected]:
        """See :meth:`mszoo.layers.CausalLM.expected_tensors`."""
        return self.layout.expected(super().expected_tensors())

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """See :meth:`mszoo.layers.CausalLM.load_weights`."""
        table = super().expected_tensors()
        return load(self, table, self.layout.by_model(weights), self.unused_tensors())

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that the model doesn't use: tied logits, and layers that predict further tokens."""
        layers = len(list(self.model.layers.children()))
        return (*super().unused_tensors(), *unserved_tensors(self.config, self.expected_tensors(), layers))


class Qwen2ForCausalLM(SuiteModel):
    """Qwen2 and Qwen2.5."""

    architecture = "Qwen2ForCausalLM"


class Qwen3ForCausalLM(SuiteModel):
    """Qwen3 (dense)."""

    architecture = "Qwen3ForCausalLM"


class TeleChat3ForCausalLM(SuiteModel):
    """TeleChat3 (dense)."""

    architecture = "TeleChat3ForCausalLM"


class Qwen3MoeForCausalLM(SuiteModel):
    """Qwen3 with experts."""

    architecture = "Qwen3MoeForCausalLM"


class Glm4MoeForCausalLM(SuiteModel):
    """GLM-4.5 and later, with experts."""

    architecture = "Glm4MoeForCausalLM"


class DeepseekV3ForCausalLM(SuiteModel):
    """DeepSeek V3 and R1, with vLLM's attention on a latent cache."""

    architecture = "DeepseekV3ForCausalLM"

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        if not current_model_config().use_mla:
            raise RefusalError(
                "mindformers.DeepseekV3ForCausalLM",
                "it attends on a latent cache, and vLLM was told to expand it",
                "Unset VLLM_MLA_DISABLE",
            )
        if not dispatch.current().by_vllm("paged_attention"):
            raise RefusalError(
                "mindformers.DeepseekV3ForCausalLM",
                "attention on a latent cache is vLLM's on CPU, in no other kernel set",
                "Unset MSZOO_KERNELS, and MSZOO_DISABLE the plugin that attends",
            )
        super().__init__(config, prefix=prefix)


class Glm4ForCausalLM(SuiteModel):
    """GLM-4 (dense, 0414)."""

    architecture = "Glm4ForCausalLM"
    packed_modules_mapping = FUSED_MLP


class TeleChat2ForCausalLM(SuiteModel):
    """TeleChat2."""

    architecture = "TeleChat2ForCausalLM"
