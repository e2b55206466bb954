"""Derives which config keys Hugging Face's text models read, from the sources of the installed transformers.

``python tests/tools/config_keys.py`` writes models/config_keys.json again, ``--check`` compares, ``--show
MODEL_TYPE`` prints one model's keys. The sources are read, not run: every function that a model's classes can reach
is searched for reads of its config, and a value is followed through the variables and attributes that it is stored
in. What can't be followed counts as read.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import json
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "models" / "config_keys.json"

#: A place where a value is kept: a local variable ("local", function, name), an attribute ("attribute", name), what
#: a method of a config returns ("result", name), or another key of the config ("key", name).
Place = tuple[str, ...]

#: Kinds of reads, the first the strongest.
INFERENCE, TRAINING, CHECKED = "inference", "training", "checked"

#: Methods that a served model never runs: they initialise weights, prepare what generate() feeds, or print.
NOT_SERVED = frozenset(
    {
        "_init_weights",
        "init_weights",
        "prepare_inputs_for_generation",
        "create_masks_for_generate",
        "_reorder_cache",
        "_prepare_cache_for_generation",
        "extra_repr",
        "__repr__",
        "generate",
        "resize_token_embeddings",
        "warn_if_padding_and_no_attention_mask",
    }
)
#: Keys that choose a kernel, a cache or what is returned, not what is computed.
RUNTIME = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "_experts_implementation_internal",
        "_is_quantized",
        "_output_attentions",
        "chunk_size_feed_forward",
        "debug_io",
        "tie_last_hidden_states",
        "gradient_checkpointing",
        "return_dict",
        "use_cache",
        "use_return_dict",
    }
)
#: Attributes whose name ends like a model's config but which are something else.
_OTHER_CONFIGS = frozenset(
    {
        "compile_config",
        "distributed_config",
        "fusion_config",
        "generation_config",
        "kernel_config",
        "load_config",
        "loading_config",
        "quantization_config",
        "tp_config",
    }
)
#: Modules whose code is not followed, since no result of a served model depends on it.
_NOT_FOLLOWED = (
    "transformers.cache_utils",  # caches hold what was computed: how long, and where
    "transformers.configuration_utils",  # read beside each model's own config class
    "transformers.conversion_mapping",  # names of weights by model type
    "transformers.core_model_loading",
    "transformers.dynamic_module_utils",  # remote code
    "transformers.generation",
    "transformers.integrations.accelerate",
    "transformers.integrations.deepspeed",
    "transformers.integrations.fsdp",
    "transformers.integrations.hub_kernels",  # other implementations of the same functions
    "transformers.integrations.peft",
    "transformers.integrations.tensor_parallel",
    "transformers.loss",
    "transformers.modeling_gguf_pytorch_utils",
    "transformers.modeling_outputs",
    "transformers.models.auto",
    "transformers.quantizers",
    "transformers.utils.auto_docstring",
    "transformers.utils.doc",
    "transformers.utils.hub",
    "transformers.utils.import_utils",
    "transformers.utils.logging",
)
#: What the sources call the parameters of the rotary embedding.
_ROPE = ("rope_parameters", "rope_parameters_dict", "rope_scaling")
#: Calls that pass a value on and do nothing else with it.
_PURE = frozenset({"getattr", "hasattr", "int", "float", "bool", "max", "min", "len", "isinstance"})
#: The mappings of transformers.models.auto that name a served model's classes.
_MAPPINGS = (
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
)
#: Decoders that transformers has as a part of a model that reads images, and not by themselves.
_PARTS = (
    "glm4v_moe_text",
    "glm4v_text",
    "qwen2_5_vl_text",
    "qwen2_vl_text",
    "qwen3_vl_moe_text",
    "qwen3_vl_text",
)


@dataclass
class Read:
    """One read of a key.

    Attributes:
        key: its name, or ``name.sub`` for an entry of a dict, or ``*`` where the name isn't known.
        where: file and function.
        kind: INFERENCE, TRAINING or CHECKED.
        into: the places that the value is kept in; empty where it is used at once.
    """

    key: str
    where: str
    kind: str
    into: frozenset[Place]


@dataclass
class Found:
    """What one function does.

    Attributes:
        reads: of the config.
        loads: of places: the place, the kind, and where its value goes.
        objects: names of other code that it mentions, resolved.
        methods: names that it calls on ``self``.
    """

    reads: list[Read] = field(default_factory=list)
    loads: list[tuple[Place, str, frozenset[Place]]] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    methods: set[str] = field(default_factory=set)


@functools.cache
def _tree(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


@functools.cache
def _definitions(path: str) -> dict[tuple[str, int], ast.AST]:
    """Return the functions and classes of a file by name and first line, decorators included."""
    found: dict[tuple[str, int], ast.AST] = {}
    for node in ast.walk(_tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for line in (node.lineno, *(item.lineno for item in node.decorator_list)):
                found[node.name, line] = node
    return found


def _source(function: Any) -> ast.FunctionDef | None:
    """Return the syntax tree of a function of transformers, without following what decorators made of it."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(function, "__code__", None)
    if code is None or "transformers" not in code.co_filename:
        return None
    node = _definitions(code.co_filename).get((code.co_name, code.co_firstlineno))
    return node if isinstance(node, ast.FunctionDef) else None


def _last(node: ast.AST) -> str:
    """Return the last name of a dotted expression, or nothing."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _Reader(ast.NodeVisitor):
    """Collects what one function reads and where the values go.

    Args:
        function: the function.
        node: its syntax tree.
        of_config: whether it is a method of a config, whose ``self`` and ``kwargs`` are then the config.
    """

    def __init__(self, function: Any, node: ast.FunctionDef, *, of_config: bool) -> None:
        self.found = Found()
        self._globals = inspect.unwrap(function).__globals__
        file = Path(function.__code__.co_filename).name
        self._where = f"{file}:{function.__qualname__.replace('.<locals>', '')}"
        self._function = function.__qualname__
        self._of_config = of_config
        self._kind = INFERENCE
        if node.name in NOT_SERVED:
            self._kind = TRAINING
        elif of_config and node.name.startswith(("validate_", "_validate_", "_check_")):
            self._kind = CHECKED
        self._into: frozenset[Place] = frozenset()
        self._constants: dict[str, tuple[str, ...]] = {}
        self._configs = {"config"}
        self._dicts: dict[str, str] = {}
        self._local_names = {
            item.id
            for item in ast.walk(node)
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
        }
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self._local_names |= {item.arg for item in arguments}
        for item in arguments:
            if item.annotation is not None and ast.unparse(item.annotation).strip("'\"").endswith("Config"):
                self._configs.add(item.arg)
        for item, default in zip(
            arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=False
        ):
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                self._constants[item.arg] = (default.value,)
        self._prepare(node)
        for decorator in () if of_config else node.decorator_list:
            self.visit(decorator)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    # What is a config

    def _prepare(self, node: ast.FunctionDef) -> None:
        """Find the variables that hold a config, an entry of it that is a dict, or names of keys."""
        for _ in range(2):
            for item in ast.walk(node):
                if isinstance(item, ast.Assign) and len(item.targets) == 1:
                    target, value = item.targets[0], item.value
                elif isinstance(item, ast.NamedExpr):
                    target, value = item.target, item.value
                elif isinstance(item, (ast.For, ast.comprehension)):
                    self._loop(item.target, item.iter)
                    continue
                else:
                    continue
                if not isinstance(target, ast.Name):
                    continue
                if self._is_config(value):
                    self._configs.add(target.id)
                strings = self._strings(value)
                if strings:
                    self._constants[target.id] = strings
                entry = self._dict_entry(value)
                if entry:
                    self._dicts[target.id] = entry

    def _loop(self, target: ast.AST, over: ast.AST) -> None:
        if isinstance(over, ast.Call) and _last(over.func) in ("enumerate", "zip"):
            pairs = (
                zip(target.elts[-len(over.args) :], over.args, strict=False)
                if isinstance(target, ast.Tuple)
                else ()
            )
            for part, source in pairs:
                self._loop(part, source)
        elif isinstance(target, ast.Name):
            strings = self._strings(over)
            if strings:
                self._constants[target.id] = strings

    def _strings(self, node: ast.AST) -> tuple[str, ...]:
        """Return the strings of a constant list, or of a variable that holds one."""
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            values = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            strings = tuple(item for item in values if isinstance(item, str))
            return strings if len(strings) == len(node.elts) else ()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._strings(node.left), self._strings(node.right)
            return left + right if left and right else ()
        return self._constants.get(node.id, ()) if isinstance(node, ast.Name) else ()

    def _is_config(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            name = node.id
            if self._of_config and name in ("self", "kwargs"):
                return True
            return name in self._configs or (name.endswith(("config", "cfg")) and name not in _OTHER_CONFIGS)
        if isinstance(node, ast.Attribute):
            return node.attr.endswith(("config", "cfg")) and node.attr not in _OTHER_CONFIGS
        if isinstance(node, ast.Subscript):  # config.per_layer_config[index]
            return _last(node.value) == "per_layer_config"
        if isinstance(node, ast.Call):
            copies = isinstance(node.func, ast.Attribute) and node.func.attr == "get_text_config"
            copies = copies or (
                _last(node.func) in ("copy", "deepcopy") and bool(node.args) and self._is_config(node.args[0])
            )
            return copies
        if isinstance(node, ast.IfExp):
            return self._is_config(node.body) or self._is_config(node.orelse)
        if isinstance(node, ast.BoolOp):
            return any(self._is_config(item) for item in node.values)
        return False

    def _dict_entry(self, node: ast.AST) -> str:
        """Return the key whose value, or a value in it, the expression is, where that is a dict."""
        if isinstance(node, ast.Name):
            return self._dicts.get(node.id, "rope_parameters" if node.id in _ROPE else "")
        if isinstance(node, ast.BoolOp):
            return next((entry for entry in map(self._dict_entry, node.values) if entry), "")
        if isinstance(node, ast.IfExp):
            return self._dict_entry(node.body) or self._dict_entry(node.orelse)
        if isinstance(node, ast.Attribute) and node.attr in _ROPE and self._is_config(node.value):
            return "rope_parameters"
        if isinstance(node, ast.Call) and _last(node.func) == "getattr" and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and name.value in _ROPE:
                return "rope_parameters"
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
            return self._dict_entry(node.value)
        return ""

    # Reads

    def _read(self, key: str) -> None:
        self.found.reads.append(Read(key, self._where, self._kind, self._into))

    def _read_named(self, name: ast.AST, prefix: str = "") -> None:
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            self._read(prefix + name.value)
        elif self._strings(name):
            for value in self._strings(name):
                self._read(prefix + value)
        elif isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
            self._read(f"{prefix}{name.values[0].value}*")
        elif not prefix and not isinstance(name, ast.Constant):
            self._read("*")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            if isinstance(node.value, ast.Name) and node.value.id == "kwargs":
                return
            if self._is_config(node.value):
                parent = node.value
                if (
                    isinstance(parent, ast.Attribute)
                    and parent.attr not in ("config", "_config")
                    and self._is_config(parent.value)
                ):
                    self._read(f"{parent.attr}.{node.attr}")
                self._read(node.attr)
                self.found.loads.append((("result", node.attr), self._kind, self._into))
            else:
                self.found.loads.append((("attribute", node.attr), self._kind, self._into))
            if isinstance(node.value, ast.Name):
                owner = self._globals.get(node.value.id)
                if isinstance(owner, types.ModuleType) and node.value.id not in self._local_names:
                    self.found.objects.append(getattr(owner, node.attr, None))
                if node.value.id in ("self", "cls"):
                    self.found.methods.add(node.attr)
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            return
        if node.id in self._local_names:
            if self._of_config and node.id in ("self", "kwargs"):
                return
            self.found.loads.append((("local", self._function, node.id), self._kind, self._into))
        elif node.id in self._globals and node.id != "_CAN_RECORD_REGISTRY":  # of all models built so far
            self.found.objects.append(self._globals[node.id])

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            entry = self._dict_entry(node.value)
            if entry:
                self._read_named(node.slice, f"{entry}.")
            elif self._of_config and isinstance(node.value, ast.Name) and node.value.id == "kwargs":
                self._read_named(node.slice)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """``"key" in kwargs`` reads it."""
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            where = node.comparators[0]
            if self._of_config and isinstance(where, ast.Name) and where.id == "kwargs":
                self._read_named(node.left)
            elif self._dict_entry(where):
                self._read_named(node.left, f"{self._dict_entry(where)}.")
        self.generic_visit(node)

    # Where values go, and what is only training

    def _visit_as(
        self, nodes: Iterable[ast.AST | None], kind: str | None = None, into: frozenset[Place] | None = None
    ) -> None:
        before = self._kind, self._into
        if kind is not None and self._kind == INFERENCE:
            self._kind = kind
        if into is not None:
            self._into = into
        for node in nodes:
            if node is not None:
                self.visit(node)
        self._kind, self._into = before

    def _place(self, target: ast.AST) -> Place | None:
        if isinstance(target, ast.Name):
            return ("local", self._function, target.id)
        if isinstance(target, ast.Attribute):
            return ("key", target.attr) if self._is_config(target.value) else ("attribute", target.attr)
        if isinstance(target, ast.Subscript) and self._of_config:
            if (
                isinstance(target.value, ast.Name)
                and target.value.id == "kwargs"
                and isinstance(target.slice, ast.Constant)
            ):
                return ("key", str(target.slice.value))
            if self._dict_entry(target.value):
                return ("key", self._dict_entry(target.value))
        return None

    def _places(self, statements: Iterable[ast.stmt]) -> frozenset[Place] | None:
        """Return all that the statements assign, or None where they do more than assign, warn and raise."""
        places: set[Place] = set()
        for item in statements:
            if isinstance(item, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                found = [self._place(target) for target in targets]
                if None in found or (item.value is not None and not self._plain(item.value)):
                    return None
                places.update(place for place in found if place)
            elif isinstance(item, ast.If):
                inner = self._places([*item.body, *item.orelse])
                if inner is None:
                    return None
                places |= inner
            elif (
                isinstance(item, ast.Expr) and isinstance(item.value, ast.Call) and self._reports(item.value)
            ):
                continue
            elif (
                self._of_config
                and isinstance(item, ast.Expr)
                and isinstance(item.value, ast.Call)
                and _last(item.value.func) == "setdefault"
                and self._dict_entry(getattr(item.value.func, "value", item))
            ):
                places.add(("key", self._dict_entry(getattr(item.value.func, "value", item))))
            elif not isinstance(item, (ast.Pass, ast.Raise)) and not (
                isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
            ):
                return None
        return frozenset(places)

    def _plain(self, node: ast.AST) -> bool:
        """Return whether an expression passes values on without doing anything else with them."""
        calls = [item for item in ast.walk(node) if isinstance(item, ast.Call)]
        return self._of_config or all(_last(item.func) in _PURE or self._reports(item) for item in calls)

    @staticmethod
    def _reports(node: ast.Call) -> bool:
        function = node.func
        owner = _last(function.value) if isinstance(function, ast.Attribute) else ""
        return owner in ("logger", "warnings", "logging")

    def _assign(self, targets: list[ast.expr], value: ast.expr | None) -> None:
        if value is None:
            return
        places = [self._place(target) for target in targets]
        plain = None not in places and self._plain(value)
        self._visit_as([value], into=frozenset(place for place in places if place) if plain else None)
        for target in targets:
            self.visit(target)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assign(node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._assign([node.target], node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._assign([node.target], node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """``kwargs.pop("key")`` as a statement drops the key: that is no read."""
        call = node.value
        if (
            self._of_config
            and isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "pop"
            and _last(call.func.value) == "kwargs"
        ):
            return
        self.visit(call)

    def visit_Return(self, node: ast.Return) -> None:
        name = self._function.rpartition(".")[2]
        into = (
            frozenset([("result", name)])
            if self._of_config and node.value is not None and name != "__init__"
            else None
        )
        self._visit_as([node.value], into=into)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._visit_as([node.exc], CHECKED)

    def visit_Assert(self, node: ast.Assert) -> None:
        self._visit_as([node.test, node.msg], CHECKED)

    @staticmethod
    def _mentions_training(node: ast.AST) -> bool:
        """Return whether a condition can hold in training only: it asks for it, or for labels."""
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            return any(_Reader._mentions_training(item) for item in node.values)
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.IsNot):
            return _last(node.left).endswith(("labels", "label", "start_positions", "end_positions"))
        name = _last(node)
        return name == "training" or name.startswith("output_")

    def _branches(self, test: ast.AST) -> tuple[str | None, str | None]:
        if self._mentions_training(test):
            return TRAINING, None
        if (
            isinstance(test, ast.UnaryOp)
            and isinstance(test.op, ast.Not)
            and self._mentions_training(test.operand)
        ):
            return None, TRAINING
        return None, None

    def visit_If(self, node: ast.If) -> None:
        body, orelse = self._branches(node.test)
        places = self._places([*node.body, *node.orelse])
        if places is not None and not places:
            self._visit_as([node.test], CHECKED)
        else:
            self._visit_as([node.test], body, places if places else None)
        self._visit_as(node.body, body)
        self._visit_as(node.orelse, orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        body, orelse = self._branches(node.test)
        self.visit(node.test)
        self._visit_as([node.body], body)
        self._visit_as([node.orelse], orelse)

    def visit_Call(self, node: ast.Call) -> None:
        name, arguments = _last(node.func), [*node.args, *(item.value for item in node.keywords)]
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name in ("getattr", "hasattr") and len(node.args) > 1 and isinstance(node.func, ast.Name):
            first, key = node.args[:2]
            if self._is_config(first):
                self._read_named(key)
            for value in [key.value] if isinstance(key, ast.Constant) else self._strings(key):
                kept = "result" if self._is_config(first) else "attribute"
                self.found.loads.append(((kept, str(value)), self._kind, self._into))
            self._visit_as([first, *node.args[2:]])
            return
        if owner is not None and name in ("get", "pop", "setdefault") and node.args:
            if self._of_config and _last(owner) == "kwargs":
                if name != "setdefault":
                    self._read_named(node.args[0])
            elif self._dict_entry(owner):
                if name == "setdefault" and self._of_config:
                    self._visit_as(node.args[1:], into=frozenset([("key", self._dict_entry(owner))]))
                    return
                if name != "setdefault":
                    self._read_named(node.args[0], f"{self._dict_entry(owner)}.")
            elif (
                isinstance(owner, ast.Attribute) and owner.attr == "__dict__" and self._is_config(owner.value)
            ):
                self._read_named(node.args[0])
        if (
            name in ("vars", "dict", "asdict")
            and node.args
            and self._is_config(node.args[0])
            and not self._of_config
        ) or (owner is not None and name in ("to_dict", "to_diff_dict") and self._is_config(owner)):
            self._read("*")
        if self._reports(node):
            self._visit_as(arguments, CHECKED)
        elif (
            "loss" in name.lower()
            or name in ("Dropout", "Dropout1d", "Dropout2d", "StableDropout", "DropPath")
            or name.endswith("Dropout")
        ):
            self.visit(node.func)
            self._visit_as(arguments, TRAINING)
        elif name in ("dropout", "alpha_dropout") and not (
            isinstance(owner, ast.Name) and owner.id == "self"
        ):
            self._visit_as([node.func, *node.args[:1]])
            self._visit_as([*node.args[1:], *(item.value for item in node.keywords)], TRAINING)
        elif self._is_embedding(node.func):
            # Which row was never trained; the rows come from the checkpoint.
            padding = [*node.args[2:3], *(item.value for item in node.keywords if item.arg == "padding_idx")]
            self._visit_as([node.func, *(item for item in arguments if item not in padding)])
            self._visit_as(padding, TRAINING)
        else:
            self.generic_visit(node)

    def _is_embedding(self, node: ast.AST) -> bool:
        import torch

        if isinstance(node, ast.Attribute):
            return node.attr == "Embedding" and _last(node.value) == "nn"
        found = self._globals.get(node.id) if isinstance(node, ast.Name) else None
        return isinstance(found, type) and issubclass(found, torch.nn.Embedding)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for item in node.body:
            self.visit(item)


@functools.cache
def _found(function: Any, of_config: bool) -> Found | None:
    node = _source(function)
    return None if node is None else _Reader(inspect.unwrap(function), node, of_config=of_config).found


def _functions(kind: type) -> Iterator[Any]:
    """Give the functions that a class itself defines, properties and their setters included."""
    for value in vars(kind).values():
        if isinstance(value, property):
            yield from (item for item in (value.fget, value.fset) if item)
        elif isinstance(value, (staticmethod, classmethod)):
            yield value.__func__
        elif isinstance(value, functools.cached_property):
            yield value.func
        elif callable(value) and hasattr(inspect.unwrap(value), "__code__"):
            yield inspect.unwrap(value)


def _code(found: Any, depth: int = 0) -> Iterator[Any]:
    """Give the functions and classes of transformers that an object is or holds."""
    if isinstance(found, functools.partial):
        yield from _code(found.func)
    elif isinstance(found, (type, types.FunctionType, types.MethodType)):
        module = getattr(inspect.unwrap(found), "__module__", None) or ""
        if module.startswith("transformers.") and not module.startswith(_NOT_FOLLOWED):
            yield found
    elif isinstance(found, types.ModuleType):
        return
    elif depth < 2:
        values: Iterable[Any] = ()
        if isinstance(found, Mapping):
            values = dict.values(found) if isinstance(found, dict) else list(found.values())
        elif isinstance(found, (list, tuple)):
            values = found
        for value in values:
            yield from _code(value[0] if isinstance(value, tuple) and value else value, depth + 1)


def _loading() -> tuple[Any, ...]:
    """Return what reads a config while weights are loaded."""
    from transformers import PreTrainedModel
    from transformers.quantizers.auto import get_hf_quantizer

    return (PreTrainedModel.from_pretrained, PreTrainedModel.get_expanded_tied_weights_keys, get_hf_quantizer)


class _Model:
    """All that one class of a model can reach.

    Args:
        roots: the class, and the network under it.
        config: its config class.
    """

    def __init__(self, roots: Iterable[type], config: type) -> None:
        from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
        from transformers.cache_utils import Cache, CacheLayerMixin
        from transformers.utils import ModelOutput

        self._outside = (PreTrainedConfig, Cache, CacheLayerMixin, ModelOutput)
        self._bases = {PreTrainedModel, GenerationMixin, *PreTrainedModel.__mro__, *GenerationMixin.__mro__}
        self._base_methods = PreTrainedModel
        self.founds: list[Found] = []
        self._seen: set[Any] = set()
        for root in roots:
            self._reach(root)
        for function in _loading():
            found = _found(function, False)
            if found is not None:
                self.founds.append(found)
        for kind in config.__mro__:
            if kind.__module__.startswith("transformers") and kind.__name__ not in _MIXINS:
                for function in _functions(kind):
                    self._of_config(function, config)

    def _reach(self, item: Any) -> None:
        for code in _code(item):
            if code in self._seen:
                continue
            self._seen.add(code)
            if isinstance(code, type):
                if not issubclass(code, self._outside) and "processing" not in code.__module__:
                    self._class(code)
            else:
                self._function(code)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if (
                base in self._bases
                or not base.__module__.startswith("transformers")
                or issubclass(base, self._outside)
            ):
                continue
            for function in _functions(base):
                if function not in self._seen:
                    self._seen.add(function)
                    self._function(function)
            self._reach(base)
            # What a decorator of the class adds.
            node = _definitions(inspect.getsourcefile(base) or "").get((base.__name__, _line(base)))
            for decorator in getattr(node, "decorator_list", ()):
                name = _last(decorator.func if isinstance(decorator, ast.Call) else decorator)
                self._reach(getattr(sys.modules[base.__module__], name, None))

    def _function(self, function: Any) -> None:
        name = getattr(function, "__name__", "")
        found = _found(function, False)
        if found is None:
            return
        self.founds.append(found)
        if name in NOT_SERVED:
            return
        for item in found.objects:
            self._reach(item)
        for method in found.methods:  # of the base class, such as masks'
            own = getattr(self._base_methods, method, None)
            if own is not None and method not in NOT_SERVED | {
                "post_init",
                "loss_function",
                "from_pretrained",
            }:
                self._reach(own)

    def _of_config(self, function: Any, config: type) -> None:
        name = function.__name__
        if name in _CONFIG_ITSELF or function in self._seen:
            return
        if name in ("convert_rope_params_to_dict", "standardize_rope_params") and not hasattr(
            config, "rope_parameters"
        ):
            return  # PreTrainedConfig.__post_init__ asks the same
        self._seen.add(function)
        found = _found(function, True)
        if found is not None:
            self.founds.append(found)

    @functools.cached_property
    def _flow(self) -> dict[Place, set[Place]]:
        """By place, where its value goes on to."""
        flow: dict[Place, set[Place]] = {}
        for found in self.founds:
            for place, _, into in found.loads:
                flow.setdefault(place, set()).update(into)
        return flow

    def keys_of(self, places: Iterable[Place]) -> set[str]:
        """Return the keys of the config that a value ends in."""
        todo, seen = list(places), set()
        while todo:
            place = todo.pop()
            if place not in seen:
                seen.add(place)
                todo.extend(self._flow.get(place, ()))
        return {place[1] for place in seen if place[0] == "key"}

    def reads(self) -> Iterator[Read]:
        """Give all reads, those whose value goes nowhere that counts as TRAINING."""
        reads = [read for found in self.founds for read in found.reads]
        loads: dict[Place, list[tuple[str, frozenset[Place]]]] = {}
        for found in self.founds:
            for place, kind, into in found.loads:
                loads.setdefault(place, []).append((kind, into))
        for read in reads:
            loads.setdefault(("key", read.key.partition(".")[0]), []).append((read.kind, read.into))
        # Overrides for single layers reach every key.
        live: set[Place] = {("key", "per_layer_config")}
        grown = True
        while grown:
            grown = False
            for place, uses in loads.items():
                if place[0] == "key" and place[1] in RUNTIME:
                    continue
                if place not in live and any(
                    kind == INFERENCE and (not into or into & live) for kind, into in uses
                ):
                    live.add(place)
                    grown = True
        for read in reads:
            if read.kind == INFERENCE and read.into and not read.into & live:
                yield dataclasses.replace(read, kind=TRAINING)
            else:
                yield read


#: Bases of configs that read no key of a model's own: how files reach the hub, and overrides by layer, which
#: PreTrainedConfig.__post_init__ reads.
_MIXINS = ("PushToHubMixin", "HeterogeneousConfigMixin")
#: Methods of configs that load, save, print or compare them, or look into other models'.
_CONFIG_ITSELF = frozenset(
    {
        "__eq__",
        "__getattribute__",
        "__init_subclass__",
        "__iter__",
        "__repr__",
        "__setattr__",
        "_get_generation_parameters",
        "_attn_implementation",
        "_experts_implementation",
        "output_attentions",
        "_remove_keys_not_serialized",
        "dict_dtype_to_str",
        "from_dict",
        "from_json_file",
        "from_pretrained",
        "get_config_dict",
        "_get_config_dict",
        "get_mtp_config",
        "is_remote_code",
        "_dict_from_json_file",
        "register_for_auto_class",
        "save_pretrained",
        "to_dict",
        "to_diff_dict",
        "to_json_file",
        "to_json_string",
        "update",
        "update_from_string",
        "_encode_special_floats",
        "_decode_special_floats",
        "push_to_hub",
    }
)


def _line(kind: type) -> int:
    for (name, line), node in _definitions(inspect.getsourcefile(kind) or "").items():
        if name == kind.__name__ and isinstance(node, ast.ClassDef):
            return line
    return 0


def text_models() -> dict[str, tuple[type, dict[str, type]]]:
    """Return config class and networks of each text model that transformers has, by model type.

    The networks are by name; the first is the one under the others. A model made of several, such as one with a
    vision tower, is left out; its text model has a type of its own.
    """
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    texts = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *_PARTS,
    }
    models = set(CONFIG_MAPPING_NAMES.values())
    found: dict[str, tuple[type, dict[str, type]]] = {}
    for model_type in sorted(texts & set(CONFIG_MAPPING_NAMES)):
        config = getattr(transformers, CONFIG_MAPPING_NAMES[model_type])
        several = (
            any(kind.__name__ in models for kind in config.sub_configs.values()) or model_type == "moshi"
        )
        if several or config.model_type != model_type:  # the latter: another's name
            continue
        classes: dict[str, type] = {}
        for mapping in _MAPPINGS:
            names = getattr(modeling_auto, mapping).get(model_type, ())
            for name in (names,) if isinstance(names, str) else names:
                classes.setdefault(name, getattr(transformers, name))
        found[model_type] = config, classes
    return found


@dataclass
class Key:
    """What is known of one key of one model type.

    Attributes:
        kind: INFERENCE, "loading", "derives", "heads", TRAINING or CHECKED.
        where: the file and the function that read it, or one of them.
        more: for "derives" the keys that the config makes of it, for "heads" the classes that read it.
    """

    kind: str
    where: str
    more: tuple[str, ...] = ()


#: Kinds of keys, the strongest first.
KINDS = (INFERENCE, "loading", "derives", "heads", TRAINING, CHECKED)
_EFFECT = KINDS[:4]


def keys_of(config: type, classes: Mapping[str, type]) -> dict[str, Key]:
    """Return what is known of each key of one model type, as :func:`text_models` gives it."""
    base = next(iter(classes.values()))
    found: dict[str, Key] = {}
    heads: dict[str, dict[str, str]] = {}
    for name, kind in classes.items():
        model = _Model([kind, base], config)
        for read in sorted(model.reads(), key=lambda read: (KINDS.index(_kind(read)), read.where)):
            for key, what in _as_keys(read, config, model):
                if kind is base:
                    old = found.setdefault(key, what)
                    if old.kind == what.kind == "derives":
                        old.more = tuple(sorted({*old.more, *what.more}))
                elif what.kind in _EFFECT and (key not in found or found[key].kind not in _EFFECT):
                    heads.setdefault(key, {}).setdefault(name, what.where)
                else:
                    found.setdefault(key, what)
    for key, readers in heads.items():
        found[key] = Key("heads", next(iter(readers.values())), tuple(sorted(readers)))
    return dict(sorted(found.items()))


def _as_keys(read: Read, config: Any, model: _Model) -> Iterator[tuple[str, Key]]:
    """Give the keys that one read is of: a name, the one that it is an alias of, none for methods."""
    key = config.attribute_map.get(read.key, read.key)
    shared = "." in key and read.where.startswith("modeling_rope_utils")
    if shared or key.startswith("__") or key.endswith("*") or inspect.isroutine(getattr(config, key, None)):
        return
    kind = _kind(read)
    if kind in _EFFECT and (key in RUNTIME or key.startswith("output_")):
        kind = TRAINING
    more = tuple(sorted(model.keys_of(read.into) - {key})) if kind == "derives" else ()
    yield key, Key(kind, read.where, more)


def _kind(read: Read) -> str:
    if read.kind != INFERENCE:
        return read.kind
    if read.where.startswith(("configuration_", "modeling_rope_utils.py:RotaryEmbeddingConfigMixin")):
        return "derives"
    return (
        "loading"
        if read.where.startswith(
            ("modeling_utils.py:PreTrainedModel.from", "modeling_utils.py:PreTrainedModel.get_exp", "auto.py")
        )
        else INFERENCE
    )


def rope_types() -> dict[str, list[str]]:
    """Return the entries of ``rope_parameters`` that each rope type reads beside its model's own."""
    from transformers import modeling_rope_utils

    found: dict[str, list[str]] = {}
    shared = _found(modeling_rope_utils.dynamic_rope_update, False)
    for rope_type, function in modeling_rope_utils.ROPE_INIT_FUNCTIONS.items():
        own = _found(function, False)
        assert own is not None and shared is not None
        reads = [*own.reads, *(shared.reads if rope_type == "longrope" else ())]
        names = {read.key.partition(".")[2] for read in reads if read.key.startswith("rope_parameters.")}
        found[rope_type] = sorted(names | {"rope_type"})
    return found


def bookkeeping() -> list[str]:
    """Return the keys of PreTrainedConfig itself that say nothing about what a model computes.

    They are the fields that it declares for every model and the arguments that its ``__post_init__`` takes away,
    without those that choose a model's parts.
    """
    from transformers import PreTrainedConfig

    post_init = _found(PreTrainedConfig.__post_init__, True)
    assert post_init is not None
    taken = {read.key for read in post_init.reads if not hasattr(PreTrainedConfig, read.key)}
    declared = {item.name for item in dataclasses.fields(PreTrainedConfig)}
    chooses = {
        "is_encoder_decoder",
        "per_layer_config",
        "rope_parameters",
        "rope_theta",
        "tie_word_embeddings",
    }
    return sorted(
        (declared | taken | {"_commit_hash", "_name_or_path", "model_type", "torch_dtype"}) - chooses
    )


def generate() -> str:
    """Return the text of models/config_keys.json."""
    import transformers

    library: dict[str, int] = {}
    models: dict[str, dict[str, Any]] = {}
    for model_type, (config, classes) in text_models().items():
        own = {Path(inspect.getfile(kind)).name for kind in (config, *classes.values())}
        kinds: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        known = keys_of(config, classes)
        for key, what in known.items():
            file, _, function = what.where.partition(":")
            if what.kind not in _EFFECT and file not in own:
                continue
            function = function.removesuffix(".__init__")
            where: str | int = function
            if file not in own:
                where = library.setdefault(f"{file.removesuffix('.py')}:{function}", len(library))
            kinds[what.kind][key] = [where, *what.more] if what.more else where
        fields = {item.name for item in dataclasses.fields(config)}  # type: ignore[arg-type]
        kinds["unread"] = sorted(fields - set(known))  # type: ignore[assignment]
        models[model_type] = {"aliases": dict(config.attribute_map), **kinds}  # type: ignore[attr-defined]
    every = {
        kind: {
            key: where
            for key, where in first.items()
            if all(model[kind].get(key) == where for model in models.values())
        }
        for kind, first in next(iter(models.values())).items()
        if kind in KINDS
    }
    for model in models.values():
        for kind, keys in every.items():
            model[kind] = {key: where for key, where in model[kind].items() if key not in keys}
        for kind in [kind for kind, keys in model.items() if not keys]:
            del model[kind]
    head = {
        "transformers": transformers.__version__,
        "bookkeeping": bookkeeping(),
        "rope_parameters": rope_types(),
        "library": list(library),
        "every": every,
    }
    lines = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
    texts = []
    for model_type, model in models.items():
        rows = ",\n".join(f'  "{kind}": {json.dumps(keys)}' for kind, keys in model.items())
        texts.append(f'"{model_type}": {{\n{rows}\n}}')
    return "{\n" + ",\n".join([*lines, '"models": {\n' + ",\n".join(texts) + "\n}"]) + "\n}\n"


def main() -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--check", action="store_true", help="say whether models/config_keys.json is up to date"
    )
    parser.add_argument("--show", metavar="MODEL_TYPE", help="print the keys of one model type")
    options = parser.parse_args()
    if options.show:
        for key, what in keys_of(*text_models()[options.show]).items():
            print(f"{key:34} {what.kind:10} {what.where:70} {' '.join(what.more)}")
        return 0
    text = generate()
    if not options.check:
        FILE.write_text(text, encoding="utf-8")
        return 0
    same = FILE.read_text(encoding="utf-8") == text
    print(
        f"{FILE.name} is {'up to date' if same else 'not what the installed transformers gives: run this tool'}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
