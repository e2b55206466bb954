"""Gives families that spell attention out (scores, softmax, weighted sum) vLLM's paged attention instead.

Most of MindSpore One's decoders call a registry of attention functions. Those listed here don't: their source is
rewritten as it is compiled, from the first line that computes scores to the one that weighs the values.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from mszoo.registry.errors import MszooError

#: The name that rewritten code calls: ``(cell, query, key, value) -> [1, H, T, D]``.
ATTEND = "__mszoo_attend__"


@dataclass(frozen=True)
class Eager:
    """Where a family spells attention out.

    Attributes:
        cell: the class of its attention.
        function: the method that computes it.
        scale: multiplies the scores; None takes the cell's own, or the head size to the power of -1/2.
    """

    cell: str
    function: str = "construct"
    scale: float | None = None


#: By family.
FAMILIES: Mapping[str, Eager] = {
    "codegen": Eager("CodeGenAttention", "_attn"),
    "gpt2": Eager("GPT2Attention", "_attn"),
    "gptj": Eager("GPTJAttention", "_attn"),
    "granitemoe": Eager("GraniteMoeAttention"),
    "granitemoeshared": Eager("GraniteMoeSharedAttention"),
    "nemotron": Eager("NemotronAttention"),
    "olmoe": Eager("OlmoeAttention"),
    "opt": Eager("OPTAttention", scale=1.0),  # the query is scaled before
    "persimmon": Eager("PersimmonAttention"),
    "phimoe": Eager("PhimoeAttention"),
    "qwen2_moe": Eager("Qwen2MoeAttention"),
    "stablelm": Eager("StableLmAttention"),
}


class RewriteError(MszooError):
    """A family's attention doesn't look as it has to for being rewritten."""


def rewrite(tree: ast.Module, family: str) -> None:
    """Rewrite the attention in a family's source, in place.

    Raises:
        RewriteError: it isn't spelled as expected.
    """
    eager = FAMILIES[family]
    cells = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == eager.cell]
    functions = [
        node
        for cell in cells
        for node in cell.body
        if isinstance(node, ast.FunctionDef) and node.name == eager.function
    ]
    if len(functions) != 1:
        raise _error(family, f"it has no {eager.cell}.{eager.function}")
    body = functions[0].body
    first = next((index for index, item in enumerate(body) if _assigns(item, "attn_weights")), None)
    last = next((index for index, item in enumerate(body) if _assigns(item, "attn_output")), None)
    if first is None or last is None or first >= last:
        raise _error(family, f"{eager.cell}.{eager.function} has no scores before its output")
    scores, weighted = _product(body[first]), _product(body[last])
    if scores is None or weighted is None:
        raise _error(family, f"{eager.cell}.{eager.function} doesn't multiply by matmul")
    names = [_root(scores.args[0]), _root(scores.args[1]), _root(weighted.args[1])]
    gone = {name for item in body[first:last] for name in _stored(item)}
    call = ast.parse(
        f"attn_output = {ATTEND}(self, {', '.join(names)})\n{' = '.join(sorted(gone))} = None"
    ).body
    for statement in call:
        ast.copy_location(statement, body[first])
    # vLLM's attention takes keys and values of each key/value head once.
    before = [item for item in body[:first] if "repeat_kv(" not in ast.unparse(item)]
    functions[0].body = [*before, *call, *body[last + 1 :]]


def _assigns(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == name for target in statement.targets
    )


def _stored(statement: ast.stmt) -> set[str]:
    """Return the variables that a statement assigns."""
    nodes = ast.walk(statement)
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _product(statement: ast.stmt) -> ast.Call | None:
    """Return the call of ``matmul`` in a statement."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "matmul":
            return node
    return None


def _root(node: ast.expr) -> str:
    """Return the variable that an expression transposes: ``key`` of ``key.swapaxes(2, 3)``."""
    for found in ast.walk(node):
        if isinstance(found, ast.Name) and found.id not in ("mint", "ops", "mindspore", "ms"):
            return found.id
    return ast.unparse(node)


def _error(family: str, what: str) -> RewriteError:
    return RewriteError(f"mindone family {family!r}", what, "Serve the model with another implementation")
