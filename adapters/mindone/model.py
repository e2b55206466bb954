"""A model of MindSpore One as vLLM serves it: the suite's network, vLLM's KV cache and weights in vLLM's layers."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from mszoo.adapters.mindone import importer
from mszoo.adapters.mindone.architectures import read
from mszoo.adapters.mindone.cells import Embedding, with_batch, without_batch
from mszoo.adapters.mindone.families import packed_modules
from mszoo.adapters.mindone.network import build
from mszoo.layers import (
    Attention,
    CausalLM,
    LogitsProcessor,
    Module,
    WholeLinear,
    apply_embedding,
    lm_head,
    lora_is_enabled,
    token_embedding,
)
from mszoo.layers.cells import CellStays, Seat, kind_of, replace_cells
from mszoo.layers.model import outside_the_tree
from mszoo.layers.positions import running_at
from mszoo.models.config import ConfigReader
from mszoo.models.config_keys import reference_of
from mszoo.registry.errors import RefusalError

import mindspore as ms

#: Masks that old checkpoints hold beside the weights of an attention.
_MASKS = ("bias", "masked_bias", "causal_mask")
_OTHER = "Serve it with another implementation"


class EmbeddingSeat(Seat):
    """The place of the token embedding: gives what was embedded already, or calls the table.

    Args:
        seat: the table's.

    Attributes:
        given: the step's embeddings, [T, hidden], or None.
    """

    def __init__(self, seat: Seat) -> None:
        ms.nn.Cell.__init__(self, auto_prefix=False)
        outside_the_tree(self, _cell=seat._cell, _places=seat._places, _leaf=seat._leaf, given=None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return embeddings: [1, T] -> [1, T, hidden]."""
        return super().__call__(*args, **kwargs) if self.given is None else with_batch(self.given)


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
        dot = f"{prefix}." if prefix else ""
        tree = Module()
        self.add_module(architecture.base_prefix, tree)
        modeling = importer.modeling(architecture.family)
        network = build(modeling, architecture.base, config, who)
        network.config.pad_token_id = None  # GPT-2 would look for it in the tokens of each step
        lists = [cell for _, cell in network.cells_and_names() if isinstance(cell, ms.nn.CellList)]
        layers = {kind_of(item) for cells in lists for item in cells}
        try:
            self.replaced = replace_cells(
                network, tree, prefix=f"{dot}{architecture.base_prefix}", required=layers
            )
        except CellStays as reason:
            raise RefusalError(who, str(reason), _OTHER) from reason
        _list_layers(network)
        # vLLM's LoRA layer in place of one that the suite calls would get tensors of MindSpore's.
        if packed_modules(architecture.family) and any(
            isinstance(module, WholeLinear) for module in tree.modules()
        ):
            _refuse_lora(who)
        outside_the_tree(self, network=network)
        count = sum(isinstance(module, Attention) for module in tree.modules())
        if count != config.num_hidden_layers:
            what = f"mszoo has layers for {count} of its {config.num_hidden_layers}"
            raise RefusalError(who, what, _OTHER)
        self._accepted = set(inspect.signature(network.construct).parameters)
        embed = network.get_input_embeddings()
        place = EmbeddingSeat(embed)
        path, _, leaf = architecture.embedding.rpartition(".")
        owner = network
        for part in path.split(".") if path else ():
            owner = getattr(owner, part)
        setattr(owner, leaf, place)
        outside_the_tree(self, _embed=embed, _place=place)
        #: Whether tokens are embedded before the network is called, by the table or vLLM's LoRA layer in its place.
        self.embeds_by_itself = lora_is_enabled() and type(self._table) is Embedding
        if self.embeds_by_itself:  # by vLLM's own class, which is all that its LoRA layer takes in vLLM 0.23
            table, where = self._table, f"{architecture.base_prefix}.{architecture.embedding}"
            owner, _, leaf = where.rpartition(".")
            plain = token_embedding(table.num_embeddings, table.embedding_dim, prefix=f"{dot}{where}")
            self.get_submodule(owner).add_module(leaf, plain)
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
        if self.embeds_by_itself and inputs_embeds is None:
            assert input_ids is not None  # vLLM gives one of the two
            inputs_embeds = self.embed_input_ids(input_ids)
        outside_the_tree(self._place, given=inputs_embeds)
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
        return apply_embedding(self._table, input_ids)

    @property
    def _table(self) -> Any:
        """The token embedding, or what vLLM put in its place."""
        return self.get_submodule(f"{self.architecture.base_prefix}.{self.architecture.embedding}")

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: GPT-2's and OPT's are of the network alone."""
        whole = f"{self.architecture.base_prefix}.{name}"
        return whole if whole in expected or whole in self._masks else name

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.CausalLM.unused_tensors`."""
        tied = getattr(self.config, "tie_word_embeddings", False)
        return (*self._masks, f"{self.architecture.head}.weight") if tied else self._masks

    def _add_head(self, dot: str) -> None:
        """Make the output projection, under the checkpoint's name, and what follows it."""
        config, architecture = self.config, self.architecture
        embedding = self._table
        head = lm_head(
            config.vocab_size,
            embedding.embedding_dim,
            bias=architecture.head_bias,
            prefix=f"{dot}{architecture.head}",
            tied_to=embedding if getattr(config, "tie_word_embeddings", False) else None,
        )
        self.add_module(architecture.head, head)
        self.head_name = architecture.head
        who = f"mindone.{config.architectures[0].rpartition('.')[2]}"
        reader = ConfigReader(config, who, reference=reference_of(config))
        scale, divisor = reader.optional("logit_scale", 1.0), reader.optional("logits_scaling", 1.0)
        self.logits_processor = LogitsProcessor(
            config.vocab_size,
            scale=scale / divisor,
            soft_cap=reader.optional("final_logit_softcapping", None),
        )


def _list_layers(network: ms.nn.Cell) -> None:
    """Give the network a plain tuple of its layers: many families slice the list at each step.

    A slice of a CellList is a new CellList, which takes half a millisecond for 30 layers.
    """
    for _, cell in list(network.cells_and_names()):
        for name, child in list(cell.name_cells().items()):
            if isinstance(child, ms.nn.CellList) and all(isinstance(item, Seat) for item in child):
                delattr(cell, name)
                setattr(cell, name, tuple(child))


def _refuse_lora(who: str) -> None:
    """Refuse LoRA where the suite calls a projection, against what its record says.

    Raises:
        RefusalError: LoRA is asked for.
    """
    if lora_is_enabled():
        what = "its config has projections beside its layers, which LoRA doesn't reach"
        raise RefusalError(who, what, "Serve it without --enable-lora")
