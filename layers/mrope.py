"""Multimodal rotary position embedding (M-RoPE): tokens have a position on each of several axes.

A frequency turns by the position on one axis: text has the same one on all of them, a patch of an image its frame,
row and column. Layers needn't know. Cosines and sines of a step's tokens are computed once, into the table that
layers look up, where the ``i``-th token of the step has row ``i``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import move_to_mindspore, to_mindspore, to_torch
from mszoo.layers.seam import get_current_vllm_config

import mindspore as ms

#: Those that layers use now: all layers of a model share one.
_shared: WeakValueDictionary[tuple[object, ...], MRoPE] = WeakValueDictionary()


class MRoPE(torch.nn.Module):
    """Cosines and sines of the tokens of a step.

    Args:
        frequencies: [R/2] float32, of the rotated part of a head.
        scaling: multiplies cosines and sines.
        axes: which of a token's positions turns each frequency, [R/2].
        rows: the most tokens of a step.

    Attributes:
        table: [rows, R]: R/2 cosines, then R/2 sines, in the model's dtype; at the same place for ever.
    """

    table: torch.Tensor

    def __init__(self, frequencies: torch.Tensor, scaling: float, axes: Sequence[int], rows: int) -> None:
        super().__init__()
        self._scaling = scaling
        table = torch.zeros(rows, 2 * len(frequencies), dtype=torch.get_default_dtype())
        if dispatch.current().base == "mindspore":
            move_to_mindspore(table)
        buffers = {
            "table": table,
            "frequencies": frequencies.to(table.device),
            "axes": torch.tensor(axes),
            "rows": torch.arange(rows),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, positions: ms.Tensor) -> ms.Tensor:
        """Fill the table for a step, and return the rows in which its tokens are: [T] int64.

        Args:
            positions: [axes, T], or [T] where they are the same on all axes.

        Raises:
            ValueError: more tokens than the table has rows.
        """
        given = to_torch(positions)
        tokens = given.shape[-1]
        if tokens > len(self.table):
            raise ValueError(f"a step of {tokens} tokens, and M-RoPE has room for {len(self.table)}")
        # [T, R/2]
        of_axis = given.index_select(0, self.axes).T if given.ndim == 2 else given[:, None]
        angles = of_axis.to(torch.float32) * self.frequencies
        cosines, sines = self.table[:tokens].chunk(2, -1)
        cosines.copy_(angles.cos() * self._scaling)
        sines.copy_(angles.sin() * self._scaling)
        return to_mindspore(self.rows[:tokens])


def shared_mrope(
    parameters: Mapping[str, Any], frequencies: torch.Tensor, scaling: float, axes: Sequence[int]
) -> MRoPE:
    """Return the M-RoPE of the model that is being built; its layers get the same one.

    Args:
        parameters: ``rope_parameters`` of the config.
        frequencies, scaling, axes: as of :class:`MRoPE`.
    """
    config = get_current_vllm_config()
    key = id(config), json.dumps(dict(parameters), sort_keys=True), tuple(axes), torch.get_default_dtype()
    found = _shared.get(key)
    if found is None:
        rows = config.scheduler_config.max_num_batched_tokens
        found = _shared[key] = MRoPE(frequencies, scaling, axes, rows)
    return found


def axes_of(section: Sequence[int], *, interleaved: bool) -> tuple[int, ...]:
    """Return which axis turns each frequency.

    Args:
        section: ``mrope_section``: how many frequencies each axis turns.
        interleaved: the axes take turns, and the first one has what the others leave (Qwen3-VL); otherwise its
            frequencies lie together.
    """
    if not interleaved:
        return tuple(axis for axis, count in enumerate(section) for _ in range(count))
    found = [0] * sum(section)
    for axis, count in enumerate(section[1:], 1):
        for index in range(axis, min(count * len(section), len(found)), len(section)):
            found[index] = axis
    return tuple(found)
