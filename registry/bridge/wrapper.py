"""What vLLM sees: a torch module class per architecture that builds, loads and runs a MindSpore model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsPP, supports_pp

from mszoo.registry.bridge.log import log
from mszoo.registry.catalog import Catalog, Decision
from mszoo.registry.errors import RefusalError
from mszoo.registry.hookcalls import call_hook, describe
from mszoo.registry.records import Capability
from mszoo.registry.settings import Settings

# Imported where a model is built: registration runs in every process.
if TYPE_CHECKING:
    from mszoo.registry.bridge.build import Built


class MindSporeModel(torch.nn.Module):
    """A MindSpore model under vLLM's model protocol.

    vLLM constructs a subclass that :func:`wrapper_class` made. If every candidate refuses the model, an
    instance of vLLM's own class is returned in its place, so one bad adapter never stops serving.

    Attributes:
        network: the MindSpore model (:class:`mszoo.layers.model.Model`).
        candidate: whose model it is.
        kernels: the kernel set of each op.
        forwards: steps computed on real tokens in this process.
    """

    catalog: ClassVar[Catalog]
    decision: ClassVar[Decision]
    vllm_entry: ClassVar[Any]  # what vLLM's registry held for this architecture, or None
    packed_modules_mapping: dict[str, list[str]]

    def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
        """Build the network, or hand over to vLLM's own model."""
        from mszoo.registry.bridge.build import build

        kernels = Settings.from_environ().kernels
        packed = cls.packed_modules_mapping
        built, refusals = build(cls.decision, kernels, cls.catalog, vllm_config, prefix, packed)
        if built is not None:
            for refusal in refusals:
                log.warning("mszoo: %s", refusal)
            self = super().__new__(cls)
            self.__dict__["_built"] = built
            return self
        reasons = "; ".join(str(refusal) for refusal in refusals)
        lock = cls.catalog.settings.lock
        if lock is not None:
            raise RefusalError(
                cls.decision.architecture,
                f"no implementation that MSZOO_LOCK={lock} names can serve this model: {reasons}",
                "Follow one of these hints, or unset MSZOO_LOCK to let vLLM's own model serve",
            )
        if cls.vllm_entry is not None and not cls.decision.pinned:
            log.warning("mszoo: %s falls back to vLLM's own model: %s", cls.decision.architecture, reasons)
            own = vllm_class(cls.vllm_entry, vllm_config)
            if vllm_config.quant_config is not None:
                from vllm.model_executor.model_loader.utils import configure_quant_config

                # vLLM did so with the wrapper's class, whose fused layers may be others.
                configure_quant_config(vllm_config.quant_config, own)
            return own(vllm_config=vllm_config, prefix=prefix)
        if len(refusals) == 1:
            raise refusals[0]
        raise RefusalError(
            cls.decision.architecture,
            f"no MindSpore implementation can serve this model: {reasons}",
            "Follow one of these hints",
        )

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        from mszoo.registry.bridge.build import packed_modules_of

        built: Built = self.__dict__.pop("_built")
        super().__init__()
        self.__dict__["network"] = built.network
        # One module tree: vLLM replaces layers by name on this module (LoRA), and the network must run what
        # replaced them.
        self._modules, self._parameters = built.network._modules, built.network._parameters
        self.candidate, self.kernels = built.candidate, built.kernels
        self.packed_modules_mapping = packed_modules_of(self.candidate)
        self.config = vllm_config.model_config.hf_config
        self.forwards = 0
        self._check_checkpoint(vllm_config)
        log.info(
            "mszoo: %s is served by %s (%s, %s %s)",
            self.decision.architecture,
            self.candidate.qualified_name,
            self.candidate.adapter.model,
            self.candidate.plugin.distribution,
            self.candidate.plugin.version,
        )

    def _check_checkpoint(self, vllm_config: Any) -> None:
        from mszoo.layers.weights import check_tensors
        from mszoo.registry.bridge.checkpoint import tensor_shapes

        found = tensor_shapes(vllm_config)
        if found is not None:
            network, where = self.network, vllm_config.model_config.model
            expected = network.expected_tensors()
            named = {network.checkpoint_name(name, expected): shape for name, shape in found.items()}
            check_tensors(expected, named, network.unused_tensors(), where)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return to_torch(self.network.embed_input_ids(to_mindspore(input_ids)))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return hidden states [T, hidden] of one step of T tokens, computed by the MindSpore model."""
        hidden_states = self.network(
            None if input_ids is None else to_mindspore(input_ids),
            to_mindspore(positions),
            None if inputs_embeds is None else to_mindspore(inputs_embeds),
        )
        self._count()
        return to_torch(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the checkpoint's tensors and return the names of the parameters that got one."""
        loaded: set[str] = self.network.load_weights(weights)
        arguments = {"decision": self.decision, "model": self}
        for outcome in call_hook(self.catalog.discovery.manager, "mszoo_model_loaded", arguments):
            if outcome.error is not None:
                log.warning(
                    "mszoo: plugin %r: mszoo_model_loaded raised %s", outcome.plugin, describe(outcome.error)
                )
        return loaded

    def _count(self) -> None:
        """Count steps on real tokens, and say once, from inside the worker, who answers."""
        # Imported here: registration runs in every process, and most of them never take a step.
        from vllm.forward_context import get_forward_context, is_forward_context_available

        if not is_forward_context_available() or get_forward_context().attn_metadata is None:
            return  # vLLM's memory profiling
        self.forwards += 1
        if self.forwards == 1:
            log.info(
                "mszoo: %s answers (kernel set %s, decision %s)",
                self.candidate.qualified_name,
                self.kernels.name,
                self.catalog.digest(),
            )


class MindSporeCausalLM(MindSporeModel):
    """A MindSpore decoder (:class:`mszoo.layers.CausalLM`) under vLLM's protocol of models that generate text."""

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them."""
        logits = self.network.compute_logits(to_mindspore(hidden_states))
        return None if logits is None else to_torch(logits)


class MindSporeEncoder(MindSporeModel):
    """A MindSpore encoder (:class:`mszoo.layers.Encoder`) under vLLM's protocol of models that are pooled.

    Attributes:
        pooler: makes vectors of hidden states; vLLM's own.
    """

    is_pooling_model: ClassVar[bool] = True
    attn_type: ClassVar[str] = "encoder_only"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        # Imported here: registration runs in every process.
        from vllm.model_executor.layers.pooler import DispatchPooler

        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # Beside the tree of modules: a checkpoint may have a "pooler" of its own there.
        self.__dict__["pooler"] = DispatchPooler.for_embedding(vllm_config.model_config.pooler_config)


def wrapper_class(catalog: Catalog, decision: Decision, vllm_entry: Any) -> type[MindSporeModel]:
    """Make the class that vLLM's registry gets for one architecture, with the flags that vLLM reads off it.

    Args:
        catalog: where the decision comes from.
        decision: the candidates; at least one.
        vllm_entry: vLLM's own registry entry for this architecture, or None.
    """
    declared = {item for candidate in decision.chain for item in candidate.adapter.capabilities}
    pooling = decision.chain[0].adapter.pooling  # a candidate of the other kind refuses vLLM's runner
    bases: tuple[type, ...] = (MindSporeEncoder if pooling else MindSporeCausalLM,)
    flags: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"{decision.architecture}, served by mszoo.",
        "catalog": catalog,
        "decision": decision,
        "vllm_entry": vllm_entry,
        "packed_modules_mapping": {},  # filled when it is known who serves
    }
    if pooling:
        flags["default_seq_pooling_type"] = pooling
    # vLLM asks before anything is built, and the one that serves may be a fallback. A candidate that lacks a
    # feature refuses it.
    if Capability.LORA in declared:
        bases += (SupportsLoRA,)
        flags["embedding_modules"] = {}
    if Capability.PIPELINE_PARALLEL in declared or vllm_entry is not None:
        bases += (SupportsPP,)
    return type(decision.architecture.replace(".", "_"), bases, flags)


def vllm_class(entry: Any, vllm_config: Any) -> Any:
    """Return vLLM's own class as vLLM would have made it: converted to a pooling model if that was asked for.

    Raises:
        RefusalError: it doesn't support the pipeline parallelism that was asked for.
    """
    model_class = entry.load_model_cls()
    if vllm_config.parallel_config.pipeline_parallel_size > 1 and not supports_pp(model_class):
        raise RefusalError(
            model_class.__name__,
            "neither mszoo's adapters nor vLLM's own model support --pipeline-parallel-size",
            "Serve without it",
        )
    # Imported here: half of vLLM comes with it, and registration runs in every process.
    from vllm.model_executor.models.adapters import as_embedding_model, as_seq_cls_model

    convert = {"embed": as_embedding_model, "classify": as_seq_cls_model}
    conversion = convert.get(vllm_config.model_config.convert_type)
    return model_class if conversion is None else conversion(model_class)


def to_mindspore(tensor: torch.Tensor) -> Any:
    """See :func:`mszoo.kernels.exchange.to_mindspore`; imported late, since MindSpore comes with it."""
    from mszoo.kernels.exchange import to_mindspore as convert

    return convert(tensor)


def to_torch(tensor: Any) -> torch.Tensor:
    """See :func:`mszoo.kernels.exchange.to_torch`."""
    from mszoo.kernels.exchange import to_torch as convert

    return convert(tensor)
