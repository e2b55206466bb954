"""What vLLM sees: a torch module class per architecture that builds, loads and runs a MindSpore model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.seam import SupportsPP
from mszoo.registry.catalog import Catalog
from mszoo.registry.containment import asks_to_end
from mszoo.registry.decisions import Decision
from mszoo.registry.errors import PluginError
from mszoo.registry.settings import Settings
from mszoo.registry.text import describe

# Imported where a model is built: registration runs in every process.
if TYPE_CHECKING:
    from mszoo.adapters.vllm.models.build import Built


class MindSporeModel(torch.nn.Module):
    """A MindSpore model under vLLM's model protocol.

    vLLM constructs a subclass that :mod:`mszoo.adapters.vllm.models.classes` made. If every candidate refuses the
    model, an instance of vLLM's own class is returned in its place, so one bad adapter never stops serving.

    Attributes:
        network: the MindSpore model (:class:`mszoo.layers.model.Model`).
        candidate: whose model it is.
        kernels: the kernel set of each op.
        own_parts: names of the network's parts; what else vLLM adds, as the head for classes, is torch's.
        forwards: steps computed on real tokens in this process.
        is_last_stage: whether it has the last stage of a pipeline, or all of the model.
        role: ``target``, or ``draft`` of a model that proposes tokens to another.
    """

    catalog: ClassVar[Catalog]
    decision: ClassVar[Decision]
    vllm_entry: ClassVar[Any]  # what vLLM's registry held for this architecture, or None
    packed_modules_mapping: dict[str, list[str]]
    embedding_modules: dict[str, str]
    _lora_manager: Any = None

    def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
        """Build the network, or hand over to vLLM's own model.

        Built here and not in ``__init__``: until a candidate has accepted, it isn't known of which class the
        instance is, and vLLM's loader wants an instance.
        """
        from mszoo.adapters.vllm import servers
        from mszoo.adapters.vllm.models import lacking
        from mszoo.adapters.vllm.models.choice import choose
        from mszoo.adapters.vllm.models.features import role_of
        from mszoo.adapters.vllm.models.own import describe as describe_own
        from mszoo.layers.model import outside_the_tree

        kernels = Settings.from_environ().kernels
        packed = cls.packed_modules_mapping
        config = cls.config_of(vllm_config)
        with cls.building(config):
            choice = choose(cls.decision, kernels, cls.catalog, config, prefix, packed)
        if choice.error is not None:
            raise choice.error
        if choice.built is not None:
            for refusal in choice.refusals:
                log.warning("mszoo: %s", refusal)
            self = super().__new__(cls)
            outside_the_tree(self, _built=choice.built)  # torch has no tree yet
            return self
        own = choice.own
        log.warning(
            "mszoo: %s falls back to %s: %s", cls.decision.architecture, describe_own(own), choice.reasons
        )
        if vllm_config.quant_config is not None:
            from mszoo.adapters.vllm.seam import configure_quant_config

            # vLLM did so with the wrapper's class, whose fused layers may be others.
            configure_quant_config(vllm_config.quant_config, own)
        try:
            model = own(vllm_config=vllm_config, prefix=prefix)
        except (NotImplementedError, RuntimeError, ValueError) as error:
            if vllm_config.quant_config is None:
                raise
            raise lacking.refusal_of(cls.decision.architecture, error, choice.reasons) from error
        servers.tell(model, cls.catalog, role=role_of(config))
        return model

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        from mszoo.adapters.vllm import servers
        from mszoo.adapters.vllm.models import graphs
        from mszoo.adapters.vllm.models.build import packed_modules_of
        from mszoo.adapters.vllm.models.claims import embedding_modules
        from mszoo.adapters.vllm.models.features import role_of
        from mszoo.layers.model import outside_the_tree

        built: Built = self._built
        vllm_config = self.config_of(vllm_config)
        torch.nn.Module.__init__(self)  # a class of vLLM's behind this one has a constructor of its own
        del self._built
        outside_the_tree(self, network=built.network)
        # One module tree: vLLM replaces layers by name on this module (LoRA), and the network must run what
        # replaced them.
        self._modules, self._parameters = built.network._modules, built.network._parameters
        self.own_parts = frozenset((*self._modules, *self._parameters))
        self.candidate, self.kernels = built.candidate, built.kernels
        self.packed_modules_mapping = packed_modules_of(self.candidate)
        self.embedding_modules = embedding_modules(built.network, vllm_config.lora_config)
        self.config = vllm_config.model_config.hf_config
        self.forwards, self.role = 0, role_of(vllm_config)
        self.is_last_stage = built.network.is_last_stage
        if built.files is not None:
            self.allow_patterns_overrides = [built.files]  # vLLM's loader reads it off the model
        log.info(
            "mszoo: %s is served by %s (%s, %s)",
            self.decision.architecture,
            self.candidate.qualified_name,
            self.candidate.adapter.model,
            self.candidate.plugin.source,
        )
        if self.catalog.device != "cpu":
            log.warning(
                "mszoo has never been tried on an %s: check the answers of %s, or set MSZOO_DISABLE=%s",
                self.catalog.device.upper(),
                self.candidate.qualified_name,
                self.candidate.plugin.name,
            )
        graphs.turn_off(self.candidate.qualified_name, vllm_config)
        servers.tell(self, self.catalog, role=self.role)

    @classmethod
    def config_of(cls, vllm_config: Any) -> Any:
        """Return vLLM's config with the model that is built here as its model."""
        return vllm_config

    @classmethod
    def building(cls, config: Any) -> contextlib.AbstractContextManager[None]:
        """Return what makes a config vLLM's current one while the network is built; vLLM did so with its own."""
        del config
        return contextlib.nullcontext()

    @property
    def lora_manager(self) -> Any:
        """What manages LoRA adapters; vLLM sets it when the layers for them are in place."""
        return self._lora_manager

    @lora_manager.setter
    def lora_manager(self, manager: Any) -> None:
        from mszoo.adapters.vllm.models import lora
        from mszoo.layers.model import outside_the_tree

        outside_the_tree(self, _lora_manager=manager)
        lora.guard(manager, self)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return to_torch(self.call("a look-up", self.network.embed_input_ids, to_mindspore(input_ids)))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return hidden states [T, hidden] of one step of T tokens, computed by the MindSpore model.

        A stage of a pipeline gets what the one before handed over in place of embeddings, and hands over its own.
        """
        if intermediate_tensors is not None:
            (inputs_embeds,) = intermediate_tensors.tensors.values()
        return self._run(input_ids, positions, inputs_embeds)

    def _run(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
        **others: Any,
    ) -> Any:
        from mszoo.adapters.vllm.models import results

        hidden_states = self.call(
            "a step",
            self.network,
            None if input_ids is None else to_mindspore(input_ids),
            to_mindspore(positions),
            None if inputs_embeds is None else to_mindspore(inputs_embeds),
            **others,
        )
        results.check(self.candidate, hidden_states, positions.shape[-1], "hidden states")
        self._count()
        if self.is_last_stage:
            return to_torch(hidden_states)
        from mszoo.adapters.vllm.seam import IntermediateTensors
        from mszoo.layers.model import HANDED_OVER

        return IntermediateTensors({HANDED_OVER: to_torch(hidden_states)})

    def call(self, what: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Return what the candidate's model has for a part of a step.

        Args:
            what: the part, for a message.
            function: the network, or a method of it.
            arguments, named: those of the function.

        Raises:
            PluginError: it asked to end the process.
        """
        try:
            return function(*arguments, **named)
        except (SystemExit, GeneratorExit) as error:  # the worker would end in silence
            if asks_to_end(error):
                raise
            who = f"{self.candidate.qualified_name} of {self.candidate.plugin.source}"
            raise PluginError(who, f"{what} raised {describe(error)}", self.candidate.plugin.cure) from error

    def logits_of(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them.

        Raises:
            PluginError: the candidate's model made something else.
        """
        from mszoo.adapters.vllm.models import results
        from mszoo.layers.draft import DraftHead
        from mszoo.layers.model import CausalLM

        what, network = "making logits", self.network
        if getattr(type(network), "compute_logits", None) in (
            CausalLM.compute_logits,
            DraftHead.compute_logits,
        ):
            made: torch.Tensor | None = self.call(what, network.logits_in_torch, hidden_states)
            if made is not None:
                results.tell_of_nan(self.candidate, made, self._are_used_for)
            return made
        logits = self.call(what, network.compute_logits, to_mindspore(hidden_states))
        return None if logits is None else self.checked_logits(logits, hidden_states.shape[0])

    @property
    def _are_used_for(self) -> str:
        return "proposals" if self.role == "draft" else "answers"

    def checked_logits(self, logits: Any, rows: int) -> torch.Tensor:
        """Return logits [rows, vocab] that the candidate's model made, and say once if they are no numbers.

        Raises:
            PluginError: they are something else.
        """
        from mszoo.adapters.vllm.models import results

        results.check(self.candidate, logits, rows, "logits")
        made = to_torch(logits)
        results.tell_of_nan(self.candidate, made, self._are_used_for)
        return made

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the checkpoint's tensors and return the names of the parameters that got one."""
        from mszoo.adapters.vllm import servers

        added = {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.partition(".")[0] not in self.own_parts
        }
        of_vllm: set[str] = set()
        loaded: set[str] = self.network.load_weights(_without(added, weights, of_vllm))
        servers.notify(self.decision, self, self.catalog)
        return loaded | of_vllm  # one that no tensor came for is vLLM's to tell

    def _count(self) -> None:
        """Count steps on real tokens, and say once, from inside the worker, who answers."""
        # Imported here: registration runs in every process, and most of them never take a step.
        from mszoo.adapters.vllm.seam import get_forward_context, is_forward_context_available

        if not is_forward_context_available():
            return
        metadata = get_forward_context().attn_metadata
        if metadata is None:
            return  # vLLM's memory profiling
        if self.forwards == 0 and not _has_tokens(metadata):
            return  # a step of vLLM's warm-up
        self._counted()

    def _counted(self) -> None:
        self.forwards += 1
        if self.forwards == 1:
            log.info(
                "mszoo: %s %s (kernel set %s, decision %s)",
                self.candidate.qualified_name,
                "drafts" if self.role == "draft" else "answers",
                self.kernels.name,
                self.catalog.digest(),
            )


class MindSporeCausalLM(MindSporeModel):
    """A MindSpore decoder (:class:`mszoo.layers.CausalLM`) under vLLM's protocol of models that generate text.

    It has what vLLM's protocols ``SupportsEagle`` and ``SupportsEagle3`` ask of the target of a draft model;
    :mod:`mszoo.adapters.vllm.models.claims` refuses a network that can't give it.

    Attributes:
        aux: collects the hidden states that a draft model reads, or None.
    """

    supports_eagle: ClassVar[bool] = True
    supports_eagle3: ClassVar[bool] = True
    has_own_lm_head: ClassVar[bool] = False
    has_own_embed_tokens: ClassVar[bool] = False
    aux: Any = None

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them."""
        return self.logits_of(hidden_states)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return hidden states [T, hidden]; with them, as a list, those that a draft model reads."""
        hidden_states = super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
        return hidden_states if self.aux is None else (hidden_states, self.aux.take())

    def set_aux_hidden_state_layers(self, layers: tuple[int, ...]) -> None:
        """Return further hidden states from now on: of EAGLE-3's draft model, after so many layers each."""
        from mszoo.adapters.vllm.models.claims import decoder_layers
        from mszoo.layers.decoder.taps import HiddenStates
        from mszoo.layers.model import outside_the_tree

        outside_the_tree(self, aux=HiddenStates(decoder_layers(self.network), layers))

    def get_eagle3_default_aux_hidden_state_layers(self) -> tuple[int, ...]:
        """Return after how many layers EAGLE-3 reads where its config doesn't say: early, midway, late."""
        from mszoo.adapters.vllm.models.claims import decoder_layers

        count = len(decoder_layers(self.network))
        return (2, count // 2, count - 3)


class InStages(SupportsPP):
    """What vLLM's protocol of pipeline parallelism asks for; a model without it isn't asked whether it has it."""

    network: Any

    def make_empty_intermediate_tensors(
        self, batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> Any:
        """Return room for what the stage before hands over."""
        from mszoo.adapters.vllm.seam import IntermediateTensors

        return IntermediateTensors(self.network.make_empty_intermediate_tensors(batch_size, dtype, device))


class MindSporeEncoder(MindSporeModel):
    """A MindSpore encoder (:class:`mszoo.layers.Encoder`) under vLLM's protocol of models that are pooled.

    Attributes:
        pooler: makes vectors of hidden states; vLLM's own.
    """

    is_pooling_model: ClassVar[bool] = True
    attn_type: ClassVar[str] = "encoder_only"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        # Imported here: registration runs in every process.
        from mszoo.adapters.vllm.models.pooling import pooler_of
        from mszoo.layers.model import outside_the_tree

        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # Beside the tree of modules: a checkpoint may have a "pooler" of its own there.
        outside_the_tree(self, pooler=pooler_of(self.candidate, self.network, vllm_config))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return hidden states [T, hidden]; ``token_type_ids`` [T] or fewer are those of a pair of texts."""
        if token_type_ids is None:
            return self._run(input_ids, positions, inputs_embeds)
        # vLLM pads the tokens of a step, and not these.
        padded = token_type_ids.new_zeros(positions.shape[0])
        padded[: token_type_ids.shape[0]] = token_type_ids
        return self._run(input_ids, positions, inputs_embeds, token_type_ids=to_mindspore(padded))


def _without(
    parameters: dict[str, torch.nn.Parameter], weights: Iterable[tuple[str, torch.Tensor]], loaded: set[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Load parameters of vLLM's own from a checkpoint, note their names, and hand on its other tensors."""
    from mszoo.adapters.vllm.seam import default_weight_loader

    for name, tensor in weights:
        if name in parameters:
            load = getattr(parameters[name], "weight_loader", default_weight_loader)
            load(parameters[name], tensor)
            loaded.add(name)
        else:
            yield name, tensor


def _has_tokens(metadata: Any) -> bool:
    """Say whether a step has tokens of requests: a warm-up's have no slots in the cache, -1 each."""
    if isinstance(metadata, dict):
        metadata = next(iter(metadata.values()), None)
    slots = getattr(metadata, "slot_mapping", None)
    return slots is None or bool((slots >= 0).any())


def to_mindspore(tensor: torch.Tensor) -> Any:
    """See :func:`mszoo.kernels.exchange.to_mindspore`; imported late, since MindSpore comes with it."""
    from mszoo.kernels.exchange import to_mindspore as convert

    return convert(tensor)


def to_torch(tensor: Any) -> torch.Tensor:
    """See :func:`mszoo.kernels.exchange.to_torch`."""
    from mszoo.kernels.exchange import to_torch as convert

    return convert(tensor)
