"""A decoder that generates text, as a spec describes it: embedding, layers, last norm, output projection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.decoder.graph import GraphPath
from mszoo.layers.decoder.layer import DecoderLayer
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.layers.decoder.stage import Stage, stage_of_this_rank
from mszoo.layers.embedding import LogitsProcessor, TokenEmbedding, lm_head, token_embedding
from mszoo.layers.model import (
    HANDED_OVER,
    CausalLM,
    Module,
    ModuleList,
    add_part,
    current_model_config,
    outside_the_tree,
)
from mszoo.layers.norm import RMSNorm
from mszoo.layers.residual import stream_sum
from mszoo.layers.weights import Expected
from mszoo.registry.errors import RefusalError

import mindspore as ms


class Decoder(Module):
    """Embedding, layers and the last norm, or a stage of them.

    Args:
        spec: what it is.
        prefix: its name, unique in the model.
        stage: this rank's part of it; None for all.

    Attributes:
        decoder_layers: the layers.
        graph: runs all layers and the last norm as one graph where it can; None of a stage.
    """

    def __init__(self, spec: DecoderSpec, *, prefix: str, stage: Stage | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.stage = stage = stage or Stage(0, len(spec.layers))
        if stage.needs_embedding(spec):
            embedding = token_embedding(
                spec.vocab_size, spec.hidden_size, prefix=f"{prefix}.{spec.embedding_name}"
            )
            add_part(self, spec.embedding_name, embedding)
        if spec.positions is not None and stage.is_first:
            name = spec.positions.name
            table = TokenEmbedding(spec.positions.num_embeddings, spec.hidden_size, prefix=f"{prefix}.{name}")
            add_part(self, name, table)
        self.decoder_layers = [
            DecoderLayer(spec.layers[index], prefix=f"{prefix}.{spec.layers_name}.{index}")
            for index in range(stage.start, stage.end)
        ]
        rotary = (
            getattr(self.decoder_layers[0].attention, "rotary_emb", None) if self.decoder_layers else None
        )
        outside_the_tree(self, _mrope=getattr(rotary, "mrope", None))
        elsewhere = [
            torch.nn.Identity() for _ in spec.layers
        ]  # they keep the numbers of others in their names
        layers = [*elsewhere[: stage.start], *self.decoder_layers, *elsewhere[stage.end :]]
        add_part(self, spec.layers_name, ModuleList(layers))
        norm = None
        if stage.is_last:
            norm = build_norm(spec.norm, spec.hidden_size)
            add_part(self, spec.norm.name, norm)
        outside_the_tree(self, last_norm=norm)
        # Rounded as the model's dtype rounds it, as the embeddings are. A number: what vLLM doesn't find among a
        # model's tensors, it doesn't bring back after a sleep.
        self._multiplier = float(torch.tensor(spec.embedding_multiplier, dtype=torch.get_default_dtype()))
        self._sum = stream_sum()
        self.graph = GraphPath(self.decoder_layers, norm) if norm is not None and stage.is_whole else None

    @property
    def token_embedding(self) -> torch.nn.Module:
        """The token embedding, or what vLLM put in its place."""
        return self.get_submodule(self.spec.embedding_name)

    def embed(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids, before positions are added: [T] -> [T, hidden]."""
        x = to_mindspore(self.token_embedding(to_torch(input_ids)))
        return self._scaled(x) if self.spec.scales_lookup else x

    def forward(self, positions: ms.Tensor, x: ms.Tensor, added: Sequence[torch.Tensor] = ()) -> ms.Tensor:
        """[T] or [axes, T], what :meth:`embed` returns [T, hidden] -> hidden states [T, hidden].

        What is ``added`` [t, hidden], by layer, joins the stream of the first t tokens behind it (deepstack).
        A stage that isn't the first takes what the one before it returned, and one that isn't the last returns the
        residual stream.
        """
        if self.stage.is_first:
            x = self._embedded(positions, x)
        if self._mrope is not None:
            positions = self._mrope(positions)
        if self.graph is not None and not added:
            hidden_states = self.graph(positions, x)
            if hidden_states is not None:
                return hidden_states
        residual = None
        for index, layer in enumerate(self.decoder_layers):
            x, residual = layer(positions, x, residual)
            if index < len(added):
                to_torch(x)[: len(added[index])].add_(added[index])
        norm = self.last_norm
        if norm is None:
            return x if residual is None else self._sum(residual, x)
        if residual is None:
            return norm(x)
        return norm(x, residual)[0] if isinstance(norm, RMSNorm) else norm(self._sum(residual, x))

    def _embedded(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """Return what the first layer takes: embeddings scaled, with those of positions."""
        if not self.spec.scales_lookup:
            x = self._scaled(x)
        if self.spec.positions is not None:
            rows = to_mindspore(to_torch(positions) + self.spec.positions.offset)
            x = self._sum(x, self.get_submodule(self.spec.positions.name)(rows))
        return x

    def _scaled(self, x: ms.Tensor) -> ms.Tensor:
        if self.spec.embedding_multiplier == 1.0:
            return x
        return to_mindspore(to_torch(x) * self._multiplier)


class DecoderForCausalLM(CausalLM):
    """A decoder: an architecture declares how its config is read, and nothing else.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Attributes:
        suite: whose model it is, for messages.
        spec: what it is.

    Raises:
        RefusalError: naming the config field that can't be honoured; tokens see later ones, and the model is to
            generate text.
    """

    suite: ClassVar[str] = "native"

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        spec = self.read_config(config, self.who(config))
        if not spec.is_causal and current_model_config().runner_type != "pooling":
            what = "config.json says is_causal=False: its tokens see later ones, so it can't generate text"
            raise RefusalError(self.who(config), what, "Serve it with --runner pooling")
        super().__init__()
        self.config, self.spec = config, spec
        dot = f"{prefix}." if prefix else ""
        self.stage = self.build_network(f"{dot}{spec.name}")
        self.is_first_stage, self.is_last_stage = self.stage.is_first, self.stage.is_last
        if self.is_last_stage:
            self._build_head(dot)

    def _build_head(self, dot: str) -> None:
        """Add the output projection, and what makes logits."""
        spec = self.spec
        head = lm_head(
            spec.vocab_size,
            spec.hidden_size,
            bias=spec.lm_head_bias,
            prefix=f"{dot}{spec.lm_head_name}",
            tied_to=self.token_embedding if spec.tie_word_embeddings else None,
        )
        add_part(self, spec.lm_head_name, head)
        self.head_name = spec.lm_head_name
        self.logits_processor = LogitsProcessor(
            spec.vocab_size, scale=spec.logit_scale, soft_cap=spec.final_logit_softcapping
        )

    @classmethod
    def who(cls, config: Any) -> str:
        """Return the adapter's name, for messages."""
        del config
        return f"{cls.suite}.{cls.__name__}"

    def build_network(self, prefix: str) -> Stage:
        """Add what is before the output projection, under the name that :attr:`spec` has for it.

        Args:
            prefix: its name, unique in vLLM's process.

        Returns:
            What part of the decoder it is.

        Raises:
            RefusalError: naming what can't be honoured.
        """
        decoder = Decoder(self.spec, prefix=prefix, stage=stage_of_this_rank(self.spec))
        add_part(self, self.spec.name, decoder)
        outside_the_tree(self, decoder=decoder)
        return decoder.stage

    @property
    def token_embedding(self) -> Any:
        """The token embedding, or what vLLM put in its place."""
        return self.get_submodule(f"{self.spec.name}.{self.spec.embedding_name}")

    @classmethod
    @abstractmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Return what the decoder is.

        Args:
            config: the Hugging Face config.
            who: the adapter's name, for messages.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.embed_input_ids`."""
        return self.decoder.embed(input_ids)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`, and of stages :class:`Decoder`."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        return self.decoder(positions, x)

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: some checkpoints are of the network alone."""
        whole = f"{self.spec.name.partition('.')[0]}.{name}"
        return whole if whole in expected or whole in self._ignored else name

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: an output projection whose rows get length one."""
        if not (self.spec.normalizes_lm_head and self.stage.is_last):
            return {}
        weight = f"{name}.{self.spec.lm_head_name}.weight".removeprefix(".")
        shape = (self.spec.vocab_size, self.spec.hidden_size)
        return {weight: Expected(weight, None, shape, load=_load_directions)}

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`."""
        tied = (f"{self.spec.lm_head_name}.weight",) if self.spec.tie_word_embeddings else ()
        return (*tied, *self._ignored, *self.spec.unserved, *self.stage.absent(self.spec))

    def make_empty_intermediate_tensors(
        self, batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Return room for what the stage before hands over, [T, hidden], which is taken in place of embeddings."""
        return {HANDED_OVER: torch.zeros(batch_size, self.spec.hidden_size, dtype=dtype, device=device)}

    @property
    def _ignored(self) -> frozenset[str]:
        spec = self.spec
        return frozenset(
            f"{spec.name}.{spec.layers_name}.{index}.{layer.attention.name}.{name}"
            for index, layer in enumerate(spec.layers)
            for name in spec.ignored
        )


def _load_directions(parameter: Any, tensor: torch.Tensor) -> None:
    """Load a weight with each row brought to length one."""
    parameter.weight_loader(parameter, torch.nn.functional.normalize(tensor.float()).to(tensor.dtype))
