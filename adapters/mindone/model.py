"""A model of MindSpore One as vLLM serves it: the suite's network, vLLM's KV cache and weights in vLLM's layers."""

from __future__ import annotations

import inspect
from typing import Any

from mszoo.adapters import described
from mszoo.adapters.mindone import architectures, importer
from mszoo.adapters.mindone.cells import Embedding, with_batch, without_batch
from mszoo.adapters.mindone.network import build
from mszoo.layers import Module, apply_embedding, lora_is_enabled, token_embedding
from mszoo.layers.cells import CellStays, Seat, kind_of, replace_cells
from mszoo.layers.decoder import DecoderForCausalLM, DecoderLayer, DecoderSpec
from mszoo.layers.decoder.stage import Stage
from mszoo.layers.model import add_part, outside_the_tree
from mszoo.layers.network import EmbeddingSeat
from mszoo.layers.positions import running_at
from mszoo.registry.errors import RefusalError

import mindspore as ms

_OTHER = "Serve it with another implementation"


class ModelForCausalLM(DecoderForCausalLM):
    """Any decoder of MindSpore One that architectures.json lists.

    Args:
        config: the Hugging Face config; ``architectures`` says which decoder.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: naming what can't be honoured.
        SuiteImportError: the family's file can't be imported.
    """

    suite = "mindone"

    @classmethod
    def who(cls, config: Any) -> str:
        """See :meth:`mszoo.layers.decoder.DecoderForCausalLM.who`."""
        return f"{cls.suite}.{cls.architecture_of(config)}"

    @classmethod
    def architecture_of(cls, config: Any) -> str:
        """Return the architecture: what the native suite's record and the suite's are called."""
        return described.architecture_of(config)

    @classmethod
    def network_of(cls, config: Any) -> tuple[str, str]:
        """Return the network's family, and its class there."""
        found = architectures.read()[cls.architecture_of(config)]
        return found.family, found.base

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """See :meth:`mszoo.layers.decoder.DecoderForCausalLM.read_config`."""
        return described.read(cls.architecture_of(config), config, who)

    def build_network(self, prefix: str) -> Stage:
        """See :meth:`mszoo.layers.decoder.DecoderForCausalLM.build_network`: the suite's, with mszoo's layers."""
        config, spec, who = self.config, self.spec, self.who(self.config)
        family, base = self.network_of(config)
        network = build(importer.modeling(family), base, config, who)
        network.config.pad_token_id = None  # GPT-2 would look for it in the tokens of each step
        lists = [cell for _, cell in network.cells_and_names() if isinstance(cell, ms.nn.CellList)]
        layers = {kind_of(item) for cells in lists for item in cells}
        tree = Module()
        add_part(self, spec.name, tree)
        try:
            with described.building(spec):
                self.replaced = replace_cells(network, tree, prefix=prefix, required=layers)
        except CellStays as reason:
            raise RefusalError(who, str(reason), _OTHER) from reason
        found = [module for module in tree.modules() if isinstance(module, DecoderLayer)]
        count = len(found)
        if count != config.num_hidden_layers:
            what = f"mszoo has layers for {count} of its {config.num_hidden_layers}"
            raise RefusalError(who, what, _OTHER)
        _list_layers(network)
        embed = network.get_input_embeddings()
        place = EmbeddingSeat(embed)
        setattr(network, spec.embedding_name, place)
        rotary = getattr(found[0].attention, "rotary_emb", None) if found else None
        mrope = getattr(rotary, "mrope", None)
        outside_the_tree(self, network=network, _embed=embed, _place=place, _mrope=mrope)
        self._accepted = set(inspect.signature(network.construct).parameters)
        table = self.token_embedding
        #: Whether tokens are embedded before the network is called, by the table or vLLM's LoRA layer in its place.
        self.embeds_by_itself = lora_is_enabled() and type(table) is Embedding
        if self.embeds_by_itself:  # by vLLM's own class, which is all that its LoRA layer takes in vLLM 0.23
            plain = token_embedding(
                table.num_embeddings, table.embedding_dim, prefix=f"{prefix}.{spec.embedding_name}"
            )
            add_part(tree, spec.embedding_name, plain)
        return Stage(0, count)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`."""
        if self.embeds_by_itself and inputs_embeds is None:
            assert input_ids is not None  # vLLM gives one of the two
            inputs_embeds = self.embed_input_ids(input_ids)
        if self._mrope is not None:  # each layer looks a token up by its place in the step
            positions = self._mrope(positions)
        given = None if inputs_embeds is None else with_batch(inputs_embeds)
        outside_the_tree(self._place, given=given)
        offered: dict[str, Any] = {
            "position_ids": with_batch(positions),
            "cache_position": positions,
            "use_cache": False,
            "return_dict": True,
        }
        arguments = {key: value for key, value in offered.items() if key in self._accepted}
        # Many families refuse embeddings, against their own message. As ids, any numbers do where they are given.
        arguments["input_ids"] = with_batch(positions if input_ids is None else input_ids)
        with running_at(positions):
            return without_batch(self.network(**arguments)[0])

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        if not self.embeds_by_itself:
            return self._embed(input_ids)
        return apply_embedding(self.token_embedding, input_ids)


def _list_layers(network: ms.nn.Cell) -> None:
    """Give the network a plain tuple of its layers: many families slice the list at each step.

    A slice of a CellList is a new CellList, which takes half a millisecond for 30 layers.
    """
    for _, cell in list(network.cells_and_names()):
        for name, child in list(cell.name_cells().items()):
            if isinstance(child, ms.nn.CellList) and all(isinstance(item, Seat) for item in child):
                delattr(cell, name)
                setattr(cell, name, tuple(child))
