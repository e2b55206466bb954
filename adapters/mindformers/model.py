"""The suite's models as vLLM serves them: the suite's network, with mszoo's layers in the places of its cells."""

from __future__ import annotations

from typing import Any

from mszoo.adapters import described
from mszoo.adapters.mindformers import network
from mszoo.adapters.mindformers.config import ARCHITECTURES, suite_config
from mszoo.layers import Module, apply_embedding, current_model_config, token_embedding
from mszoo.layers.cells import replace_cells
from mszoo.layers.decoder import DecoderForCausalLM, DecoderSpec
from mszoo.layers.decoder.graph import GraphPath
from mszoo.layers.decoder.stage import Stage
from mszoo.layers.model import add_part, outside_the_tree
from mszoo.layers.positions import running_at

import mindspore as ms


class SuiteModel(DecoderForCausalLM):
    """A model of the suite that generates text.

    Args:
        config: the Hugging Face config; ``architectures`` says which model.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: the suite can't honour a field of the config, or can't be imported.
    """

    suite = "mindformers"

    @classmethod
    def who(cls, config: Any) -> str:
        """See :meth:`mszoo.layers.decoder.DecoderForCausalLM.who`."""
        return f"{cls.suite}.{described.architecture_of(config)}"

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """See :meth:`mszoo.layers.decoder.DecoderForCausalLM.read_config`."""
        name = described.architecture_of(config)
        return described.read(ARCHITECTURES[name].described_as or name, config, who)

    def build_network(self, prefix: str) -> Stage:
        """See :meth:`mszoo.layers.decoder.DecoderForCausalLM.build_network`: the suite's, with mszoo's layers."""
        spec, model_config = self.spec, current_model_config()
        architecture = ARCHITECTURES[described.architecture_of(self.config)]
        values = suite_config(
            architecture,
            self.config,
            self.who(self.config),
            dtype=str(model_config.dtype).removeprefix("torch."),
            max_model_len=model_config.max_model_len,
        )
        stack = network.build_stack(architecture, values)
        tree = Module()
        add_part(self, spec.name, tree)
        table = token_embedding(spec.vocab_size, spec.hidden_size, prefix=f"{prefix}.{spec.embedding_name}")
        add_part(tree, spec.embedding_name, table)

        def name_of(path: str) -> str:
            path = path.replace("decoder.layers", spec.layers_name)
            return path.replace("decoder.final_layernorm", spec.norm.name)

        with described.building(spec):
            self.replaced = replace_cells(stack, tree, name_of=name_of, prefix=prefix)
        layers = tree.get_submodule(spec.layers_name)
        #: Runs the stack as one graph, in the ``mindspore`` kernel set.
        self.graph = GraphPath(list(layers.children()), tree.get_submodule(spec.norm.name))
        outside_the_tree(self, stack=stack)
        return Stage(0, len(spec.layers))

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.embed_input_ids`."""
        return apply_embedding(self.token_embedding, input_ids)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = self.graph(positions, x)
        if hidden_states is not None:
            return hidden_states
        with running_at(positions):
            return self.stack(input_ids=None, hidden_states=x, positions=positions)
