"""A decoder whose network is one's own, of MindSpore cells: what there is already, served by vLLM as it is.

The network keeps its cells, its order of computation and the names in its checkpoints. Its attention gives its
place to one that reads vLLM's KV cache, as a record of the suite says (:class:`mszoo.registry.LayerAdapter` for
``<suite>:<module>:<Class>``), and the token embedding to vLLM's table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.cells import CellStays, Seat, replace_cells
from mszoo.layers.embedding import LogitsProcessor, TokenEmbedding, lm_head
from mszoo.layers.linear import WholeLinear
from mszoo.layers.model import CausalLM, Module, add_part, current_model_config, outside_the_tree
from mszoo.layers.seam import VllmAttention
from mszoo.registry.errors import RefusalError

import mindspore as ms
from mindspore.nn.utils import no_init_parameters

DTYPES = {torch.float32: ms.float32, torch.bfloat16: ms.bfloat16, torch.float16: ms.float16}


class Linear(WholeLinear):
    """``x @ weight.T + bias``, for ``nn.Dense`` and ``mint.nn.Linear`` of MindSpore: [..., in] -> [..., out].

    Raises:
        CellStays: the cell applies an activation.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        if getattr(cell, "activation_flag", False):
            raise CellStays(f"{prefix} applies an activation")
        rows, columns = cell.weight.shape
        has_bias = isinstance(getattr(cell, "bias", None), ms.Parameter)
        super().__init__(columns, rows, bias=has_bias, prefix=prefix)


class EmbeddingSeat(Seat):
    """The place of the token embedding: gives what was embedded already, or calls the table.

    Args:
        seat: the table's.

    Attributes:
        given: the step's embeddings in the shape that the network takes, or None.
    """

    def __init__(self, seat: Seat) -> None:
        ms.nn.Cell.__init__(self, auto_prefix=False)
        outside_the_tree(self, _cell=seat._cell, _places=seat._places, _leaf=seat._leaf, given=None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return embeddings: [1, T] -> [1, T, hidden]."""
        return super().__call__(*args, **kwargs) if self.given is None else self.given


class NetworkForCausalLM(CausalLM):
    """A decoder that generates text by a network of MindSpore cells.

    A subclass writes :meth:`build_network`, and :meth:`call_network` where the network takes other arguments. The
    output projection is not the network's: it is built here, in vLLM's layer, from the config's ``vocab_size``.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Attributes:
        network_name: what checkpoints have in front of the network's names; "" for nothing.
        embedding_name: the network's cell of the token embedding.
        head_name: the checkpoint's name of the output projection. One that is tied to the embedding
            (``tie_word_embeddings``) has no tensor of its own.
        required: classes of cells, as ``module:Class``, all of which have to be replaced.
        replaced: what was.

    Raises:
        RefusalError: nothing in the network attends to vLLM's KV cache, a cell of ``required`` can't be replaced,
            or the network can't be built from the config.
    """

    suite: ClassVar[str]
    network_name: ClassVar[str] = "model"
    embedding_name: ClassVar[str] = "embed_tokens"
    required: ClassVar[Collection[str]] = ()

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        who = f"{self.suite}.{type(self).__name__}"
        with no_init_parameters():
            network = self.build_network(config)
        network.set_train(False)
        dtype = DTYPES[current_model_config().dtype]
        for parameter in network.get_parameters():
            if parameter.dtype == ms.float32 and dtype != ms.float32:
                parameter.set_dtype(dtype)
        tree: torch.nn.Module = self
        dot = f"{prefix}." if prefix else ""
        if self.network_name:
            tree = Module()
            add_part(self, self.network_name, tree)
        inside = f"{dot}{self.network_name}" if self.network_name else prefix
        place = self._seat_embedding(network, tree, inside)
        try:
            self.replaced = replace_cells(network, tree, prefix=inside, required=self.required)
        except CellStays as reason:
            raise RefusalError(who, str(reason), "Serve it with another implementation") from reason
        if not any(isinstance(module, VllmAttention) for module in tree.modules()):
            hint = "Register what takes the place of its attention"
            raise RefusalError(
                who,
                "nothing in its network attends to vLLM's KV cache",
                f"{hint}: LayerAdapter('{self.suite}:<module>:<Class>', ...)",
            )
        outside_the_tree(self, network=network, _place=place)
        table = self.token_embedding
        head = lm_head(
            table.org_vocab_size,
            table.embedding_dim,
            bias=bool(getattr(config, "lm_head_bias", False)),
            prefix=f"{dot}{self.head_name}",
            tied_to=table if getattr(config, "tie_word_embeddings", False) else None,
        )
        add_part(self, self.head_name, head)
        self.logits_processor = LogitsProcessor(table.org_vocab_size)

    @abstractmethod
    def build_network(self, config: Any) -> ms.nn.Cell:
        """Build the network, without its output projection; its parameters get no values.

        Raises:
            RefusalError: naming the field of the config that it can't honour.
        """

    def call_network(self, input_ids: ms.Tensor, positions: ms.Tensor) -> ms.Tensor:
        """Return hidden states [1, T, hidden] of token ids and positions [1, T]."""
        return self.network(input_ids, positions)

    @property
    def token_embedding(self) -> Any:
        """The table, or what vLLM put in its place."""
        name = f"{self.network_name}.{self.embedding_name}" if self.network_name else self.embedding_name
        return self.get_submodule(name)

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return self.token_embedding(input_ids)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.model.Model.forward`."""
        given = None if inputs_embeds is None else _with_batch(inputs_embeds)
        outside_the_tree(self._place, given=given)
        # As ids, any numbers do where embeddings are given.
        ids = positions if input_ids is None else input_ids
        hidden_states = to_torch(self.call_network(_with_batch(ids), _with_batch(positions)))
        return to_mindspore(hidden_states.view(-1, hidden_states.shape[-1]))

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`."""
        return (f"{self.head_name}.weight",) if getattr(self.config, "tie_word_embeddings", False) else ()

    def _seat_embedding(self, network: ms.nn.Cell, tree: torch.nn.Module, prefix: str) -> EmbeddingSeat:
        """Put vLLM's table into the tree, and a seat for it into the network."""
        *path, leaf = self.embedding_name.split(".")
        parent = network
        for name in path:
            parent = parent._cells[name]
        cell = parent._cells[leaf]
        table = cell.embedding_table if isinstance(cell, ms.nn.Embedding) else cell.weight
        name = f"{prefix}.{self.embedding_name}" if prefix else self.embedding_name
        add_part(tree, self.embedding_name, TokenEmbedding(*table.shape, prefix=name))
        owner = tree.get_submodule(".".join(path))
        seat = EmbeddingSeat(Seat(cell, owner, leaf))
        setattr(parent, leaf, seat)
        return seat


def _with_batch(tensor: ms.Tensor) -> ms.Tensor:
    return to_mindspore(to_torch(tensor)[None])
