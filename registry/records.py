"""The records that a suite returns from its hooks: immutable data that names code and imports none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, EnumMeta
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from mszoo.registry.devices import DEVICES
from mszoo.registry.errors import RecordError
from mszoo.registry.text import printable, shown
from mszoo.registry.validation import (
    LAYER_TARGET,
    NAME,
    OBJECT_PATH,
    OP_NAME,
    SUITE_NAME,
    check_config,
    check_integer,
    check_members,
    check_modules,
    check_pattern,
    check_requirements,
    check_strings,
    check_text,
)

C = TypeVar("C", bound="type[_Record]")

DTYPES = ("float32", "bfloat16", "float16")
#: vLLM's methods of proposing tokens for which there are heads.
DRAFTS = ("eagle", "eagle3", "medusa", "mtp")
#: How vLLM makes one vector of a sequence's hidden states.
POOLING = ("CLS", "LAST", "MEAN")
#: What vLLM makes of an encoder's hidden states, as it calls it: a vector of a sequence, scores of its classes, or
#: those of each token.
TASKS = ("embed", "classify", "token_classify")
#: What models read beside text, as vLLM calls it.
MODALITIES = ("image", "video", "audio")


#: What vLLM's fused layers hold of a checkpoint's modules where a record doesn't say, as Llama's and BERT's do.
_PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_PACKED_OF_ENCODERS = {"qkv_proj": ("query", "key", "value")}


class _NewerMembers(EnumMeta):
    """Lets a plugin name a capability of a newer mszoo: its record then says so, and the rest of it counts."""

    # Type checkers are to find what isn't there.
    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            if name in cls.__members__:  # Python 3.10 looks its members up so
                return cls.__members__[name]
            if not name.isupper():
                raise AttributeError(name)
            return name.lower().replace("_", "-")


class Capability(str, Enum, metaclass=_NewerMembers):
    """A feature of vLLM that a model adapter supports. What isn't declared is refused by name."""

    LORA = "lora"
    TENSOR_PARALLEL = "tensor-parallel"
    PIPELINE_PARALLEL = "pipeline-parallel"
    QUANTIZATION = "quantization"


class _Record:
    """What all records share: field normalisation, and pickling in spite of their read-only mappings.

    Attributes:
        newer: the fields and capabilities it was given that this mszoo doesn't know, each in words.
    """

    newer: tuple[str, ...] = ()

    def _set(self, **values: Any) -> None:
        """Store normalised values."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        values = (dict(value) if isinstance(value, Mapping) else value for value in self._values())
        return type(self), tuple(values)


def _takes_newer_fields(record_type: C) -> C:
    """Let a record's constructor take fields of a newer mszoo: what this one doesn't know is noted and ignored.

    A plugin makes its records in one hook: an exception there would lose all of them for one field.
    """
    known = [item.name for item in fields(record_type)]  # type: ignore[arg-type]
    construct: Any = record_type.__init__

    @wraps(construct)
    def __init__(self: _Record, *values: Any, **named: Any) -> None:
        newer = [f"field {printable(name, 80)!r}" for name in named if name not in known]
        self._set(newer=tuple(newer))
        construct(self, *values, **{name: value for name, value in named.items() if name in known})

    type.__setattr__(record_type, "__init__", __init__)
    return record_type


@_takes_newer_fields
@dataclass(frozen=True)
class Suite(_Record):
    """A source of MindSpore models.

    Args:
        name: letters, digits, ``_`` and ``-``; no dots, since it prefixes qualified names; not ``vllm``,
            which names vLLM's own layers.
        description: one line for people.
        requires: requirement strings that every adapter of the suite needs.
        install: the command that installs the suite; shown to the user when a requirement isn't met.

    Raises:
        RecordError: a value isn't allowed.
    """

    name: str
    description: str = ""
    requires: tuple[str, ...] = ()
    install: str = ""

    def __post_init__(self) -> None:
        who = f"Suite({shown(self.name)})"
        form = "letters, digits, '_' and '-', such as 'mindone' ('vllm' is taken: it names vLLM's own layers)"
        self._set(
            name=check_pattern(who, "name", self.name, SUITE_NAME, form),
            description=check_text(who, "description", self.description),
            install=check_text(who, "install", self.install),
            requires=check_requirements(who, "requires", self.requires),
        )


@_takes_newer_fields
@dataclass(frozen=True)
class ModelAdapter(_Record):
    """One MindSpore implementation of one model architecture.

    Args:
        architecture: the name in ``architectures`` of the model's config.json, such as ``LlamaForCausalLM``.
        model: the class that implements it, as ``module:Class``; imported only when the model is served.
        capabilities: the features of vLLM that it supports.
        requires: requirement strings, checked against installed metadata; nothing is imported.
        devices: where it runs; any of :data:`mszoo.registry.devices.DEVICES`.
        dtypes: what it computes in; any of ``float32``, ``bfloat16``, ``float16``.
        priority: higher wins among the candidates of one architecture.
        packed_modules_mapping: fused layer name to the checkpoint names it holds, such as
            ``{"qkv_proj": ("q_proj", "k_proj", "v_proj")}``; vLLM reads it for LoRA and quantization.
        example_config: the fields of a tiny config.json that conformance runs.
        pooling: for an encoder, which gives embeddings instead of text and attends in both directions: what vLLM
            pools by default, ``CLS``, ``LAST`` or ``MEAN``; a checkpoint's own pooling goes before it. Empty for
            a decoder.
        refused: why the suite has this architecture and it can't be served, as a plain clause; empty for a model
            that can. A refused adapter is shown with its reason and is never chosen: ``model`` then names the
            suite's own class.
        task: what vLLM makes of an encoder's hidden states: ``embed``, ``classify`` (classes of a text or a pair,
            as rerankers have them) or ``token_classify``; ``embed`` where an encoder's record doesn't say, empty
            for a decoder.
        drafts: for a head that proposes tokens to another model from that one's hidden states: by which of vLLM's
            methods, ``eagle``, ``eagle3``, ``medusa`` or ``mtp``. Empty for a model, which may be another one's
            draft model too.
        modalities: for a model that reads more than text, by vLLM's processor of the architecture: ``image``,
            ``video``, ``audio``. Empty for a model of text.

    Sequences may be given as any iterable of strings; they are stored as tuples and sets, and mappings as
    read-only copies.

    Raises:
        RecordError: a value isn't allowed.
    """

    architecture: str
    model: str
    capabilities: frozenset[Capability] = frozenset()
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = DEVICES
    dtypes: tuple[str, ...] = DTYPES
    priority: int = 0
    packed_modules_mapping: Mapping[str, tuple[str, ...]] = field(default=None, hash=False)  # type: ignore
    example_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    refused: str = ""
    pooling: str = ""
    drafts: str = ""
    task: str = ""
    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        who = f"ModelAdapter({shown(self.architecture)})"
        form = "a class name such as 'LlamaForCausalLM'"
        architecture = check_pattern(who, "architecture", self.architecture, NAME, form)
        model = check_pattern(who, "model", self.model, OBJECT_PATH, "'module:Class'")
        values = tuple(item.value for item in Capability)
        capabilities = check_strings(who, "capabilities", self.capabilities)
        unknown = tuple(f"capability {shown(item)}" for item in capabilities if item not in values)
        priority = check_integer(who, "priority", self.priority)
        refused = check_text(who, "refused", self.refused)
        pooling = check_text(who, "pooling", self.pooling)
        check_members(who, "pooling", [pooling] if pooling else (), POOLING, may_be_empty=True)
        drafts = check_text(who, "drafts", self.drafts)
        check_members(who, "drafts", [drafts] if drafts else (), DRAFTS, may_be_empty=True)
        task = check_text(who, "task", self.task)
        check_members(who, "task", [task] if task else (), TASKS if pooling else (), may_be_empty=True)
        modalities = check_members(who, "modalities", self.modalities, MODALITIES, may_be_empty=True)
        if modalities and (pooling or drafts):
            what = f"modalities is {shown(modalities)} beside {'pooling' if pooling else 'drafts'}"
            raise RecordError(who, what, "Leave one of the two out.")
        packed = self.packed_modules_mapping
        if packed is None:
            packed = _PACKED_OF_ENCODERS if pooling else _PACKED
        self._set(
            architecture=architecture,
            model=model,
            priority=priority,
            refused=refused,
            pooling=pooling,
            drafts=drafts,
            modalities=modalities,
            capabilities=frozenset(Capability(item) for item in capabilities if item in values),
            newer=(*self.newer, *unknown),
            requires=check_requirements(who, "requires", self.requires),
            devices=check_members(who, "devices", self.devices, DEVICES),
            dtypes=check_members(who, "dtypes", self.dtypes, DTYPES),
            packed_modules_mapping=check_modules(who, "packed_modules_mapping", packed),
            example_config=check_config(who, "example_config", self.example_config),
            task=task or ("embed" if pooling else ""),
        )

    @property
    def subject(self) -> str:
        """What it is a candidate for: the architecture."""
        return self.architecture

    @property
    def implementation(self) -> str:
        """The code that it names: the model."""
        return self.model


@_takes_newer_fields
@dataclass(frozen=True)
class LayerAdapter(_Record):
    """One replacement of a layer.

    Args:
        target: ``vllm:<LayerClass>`` replaces a vLLM layer through vLLM's own out-of-tree registration;
            ``<suite>:<module>:<Class>`` replaces a cell inside that suite's models.
        implementation: the class that replaces it, as ``module:Class``.
        requires, devices, dtypes, priority: as in ModelAdapter.

    Raises:
        RecordError: a value isn't allowed.
    """

    target: str
    implementation: str
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = DEVICES
    dtypes: tuple[str, ...] = DTYPES
    priority: int = 0

    def __post_init__(self) -> None:
        who = f"LayerAdapter({shown(self.target)})"
        form = "'vllm:<LayerClass>' or '<suite>:<module>:<Class>'"
        self._set(
            target=check_pattern(who, "target", self.target, LAYER_TARGET, form),
            implementation=check_pattern(
                who, "implementation", self.implementation, OBJECT_PATH, "'module:Class'"
            ),
            priority=check_integer(who, "priority", self.priority),
            requires=check_requirements(who, "requires", self.requires),
            devices=check_members(who, "devices", self.devices, DEVICES),
            dtypes=check_members(who, "dtypes", self.dtypes, DTYPES),
        )

    @property
    def subject(self) -> str:
        """What it is a candidate for: the target."""
        return self.target


@_takes_newer_fields
@dataclass(frozen=True)
class OpAdapter(_Record):
    """One implementation of one op spec, or of one named MindSpore primitive that a device lacks.

    Names tell the two apart: op specs (mszoo.kernels.spec) are in snake_case; primitives are in CamelCase, as
    MindSpore names them (``RmsNorm``, ``ops.FlashAttentionScore``). The suite that registers a primitive
    calls it itself; any other name would never be called and is reported.

    Args:
        op: the name of the op spec or primitive.
        implementation: the function that implements it, as ``module:function``. For an op spec it takes and
            returns MindSpore tensors as the spec says, and may be called with arguments by position or name.
        kernel_set: the implementation family it belongs to: ``mindspore``, ``cpu``, ``ascend`` or your own.
        requires, devices, dtypes, priority: as in ModelAdapter.

    Raises:
        RecordError: a value isn't allowed.
    """

    op: str
    implementation: str
    kernel_set: str
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = DEVICES
    dtypes: tuple[str, ...] = DTYPES
    priority: int = 0

    def __post_init__(self) -> None:
        who = f"OpAdapter({shown(self.op)})"
        form = "the name of an op or primitive, such as 'rms_norm'"
        self._set(
            op=check_pattern(who, "op", self.op, OP_NAME, form),
            implementation=check_pattern(
                who, "implementation", self.implementation, OBJECT_PATH, "'module:function'"
            ),
            kernel_set=check_pattern(
                who, "kernel_set", self.kernel_set, NAME, "a kernel set such as 'mindspore' or 'cpu'"
            ),
            priority=check_integer(who, "priority", self.priority),
            requires=check_requirements(who, "requires", self.requires),
            devices=check_members(who, "devices", self.devices, DEVICES),
            dtypes=check_members(who, "dtypes", self.dtypes, DTYPES),
        )

    @property
    def subject(self) -> str:
        """What it is a candidate for: the op."""
        return self.op

    @property
    def is_primitive(self) -> bool:
        """Whether the name is that of a MindSpore primitive, not of an op spec."""
        return self.op.rpartition(".")[2][0].isupper()


Adapter = ModelAdapter | LayerAdapter | OpAdapter
