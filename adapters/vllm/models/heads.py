"""What vLLM sees of a head that proposes tokens to another model: a torch module class for each of its methods.

A head is built in vLLM's config of the target, which names the head's own beside it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from mszoo.adapters.vllm.models.wrapper import MindSporeModel, to_mindspore, to_torch
from mszoo.registry.errors import PluginError
from mszoo.registry.text import kind


class MindSporeHead(MindSporeModel):
    """A head (:class:`mszoo.layers.draft.DraftHead`) under vLLM's protocol of them."""

    @classmethod
    def config_of(cls, vllm_config: Any) -> Any:
        """See :meth:`MindSporeModel.config_of`: the config with the head's model in place of the target's."""
        own = copy.copy(vllm_config)
        own.model_config = vllm_config.speculative_config.draft_model_config
        own.quant_config = None  # a head of a quantized checkpoint is refused
        return own

    @classmethod
    @contextlib.contextmanager
    def building(cls, config: Any) -> Iterator[None]:
        """See :meth:`MindSporeModel.building`."""
        # Imported here: registration runs in every process.
        from mszoo.adapters.vllm.seam import set_current_vllm_config

        with set_current_vllm_config(config):
            yield

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        hidden_states: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return what logits are made of [T, hidden], and where that is another one, what the next step reads."""
        arguments = map(to_mindspore, (input_ids, positions, hidden_states))
        given = self.call("a step", self.network, *arguments)
        both = given if type(given) is tuple and len(given) == 2 else (given,)
        made = tuple(self.checked_states(one, positions.shape[-1]) for one in both)
        self._count()
        return made if type(given) is tuple else made[0]

    def compute_logits(self, hidden_states: torch.Tensor, spec_step_idx: int = 0) -> torch.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them."""
        del spec_step_idx  # of models with several such layers
        return self.logits_of(hidden_states)

    def checked_states(self, given: Any, rows: int) -> torch.Tensor:
        """Return hidden states [rows, hidden] that the head made.

        Raises:
            PluginError: they are something else.
        """
        # Imported here: registration runs in every process.
        from mszoo.adapters.vllm.models import results

        results.check(self.candidate, given, rows, "hidden states")
        return to_torch(given)

    def checked_list(self, given: Any, what: str, count: int | None = None) -> Sequence[Any]:
        """Return what several heads of one model gave, one item each.

        Args:
            given: what a plugin's code returned.
            what: the items, for a message.
            count: how many there must be; None for at least one.

        Raises:
            PluginError: it is no list of so many.
        """
        # Imported here: registration runs in every process.
        from mszoo.adapters.vllm.models import results

        is_list = type(given) in (list, tuple)
        if not is_list or not given or count not in (None, len(given)):
            found = f"{len(given)} of {what}" if is_list else kind(given)
            text = f"a step gave {found} instead of {what} for each of its heads"
            raise PluginError(results.who(self.candidate), text, self.candidate.plugin.cure)
        items: Sequence[Any] = given
        return items


class MindSporeEagle(MindSporeHead):
    """A head of EAGLE.

    Attributes:
        has_own_embed_tokens, has_own_lm_head: whether its checkpoint has them; vLLM gives it the target's if not.
    """

    has_own_embed_tokens: bool = False
    has_own_lm_head: bool = False

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """See :meth:`MindSporeModel.load_weights`."""
        loaded = super().load_weights(weights)
        self.has_own_embed_tokens = "model.embed_tokens.weight" in self.network.has
        self.has_own_lm_head = "lm_head.weight" in self.network.has
        return loaded


class MindSporeEagle3(MindSporeEagle):
    """A head of EAGLE-3, which reads hidden states of several of the target's layers.

    What vLLM builds is of a subclass of its own class of such heads too, since its proposer takes no other.
    """

    def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
        """See :meth:`MindSporeModel.__new__`."""
        # Imported here: half of vLLM comes with it, and registration runs in every process.
        from mszoo.adapters.vllm.seam import Eagle3LlamaForCausalLM

        both = type(cls.__name__, (cls, Eagle3LlamaForCausalLM), {"__module__": __name__})
        return super().__new__(both, vllm_config=vllm_config, prefix=prefix)

    def combine_hidden_states(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return one hidden state of those of several layers: [T, layers x hidden] -> [T, hidden]."""
        given = self.call("a step", self.network.combine, to_mindspore(hidden_states))
        return self.checked_states(given, hidden_states.shape[0])


class MindSporeMedusa(MindSporeHead):
    """Medusa's heads."""

    def forward(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        """Return a hidden state for each head: [T, hidden] -> [T, hidden] each."""
        # Imported here: registration runs in every process, and most of them never take a step.
        from mszoo.adapters.vllm.seam import is_forward_context_available

        given = self.call("a step", self.network, to_mindspore(hidden_states))
        given = self.checked_list(given, "hidden states")
        if not is_forward_context_available():  # vLLM makes one for its memory profiling alone
            self._counted()
        return [self.checked_states(one, hidden_states.shape[0]) for one in given]

    def compute_logits(self, hidden_states: list[torch.Tensor]) -> list[torch.Tensor]:  # type: ignore[override]
        """Return each head's logits [T, vocab]."""
        given = self.call(
            "making logits", self.network.compute_logits, list(map(to_mindspore, hidden_states))
        )
        if type(given) is list and not given:  # a rank that doesn't gather them
            return []
        logits = self.checked_list(given, "logits", len(hidden_states))
        return [
            self.checked_logits(one, states.shape[0])
            for one, states in zip(logits, hidden_states, strict=True)
        ]


#: By the method that a record names.
HEADS: Mapping[str, type[MindSporeHead]] = MappingProxyType(
    {
        "eagle": MindSporeEagle,
        "eagle3": MindSporeEagle3,
        "medusa": MindSporeMedusa,
        "mtp": MindSporeHead,
    }
)
