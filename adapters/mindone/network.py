"""Builds the networks of MindSpore One's models, without values for their parameters."""

from __future__ import annotations

import types
from typing import Any

import torch

from mszoo.adapters.mindone import config as configs
from mszoo.adapters.mindone import importer
from mszoo.layers import Module, current_model_config

import mindspore as ms  # isort: skip
from mindspore.nn.utils import no_init_parameters  # isort: skip
from mszoo.kernels.exchange import to_mindspore  # isort: skip

_DTYPES = {torch.float32: ms.float32, torch.bfloat16: ms.bfloat16, torch.float16: ms.float16}
#: Parameters that no checkpoint has: the constructor computes them.
_COMPUTED = ("inv_freq", "original_inv_freq", "position_ids", "token_type_ids")
#: Buffers that checkpoints have.
_LOADED_BUFFERS = ("e_score_correction_bias",)


def build(
    modeling: types.ModuleType, base: str, config: Any, attention: str, who: str, **arguments: Any
) -> ms.nn.Cell:
    """Build a network; weights come from the checkpoint.

    Args:
        modeling: the family's module.
        base: the network's class in it.
        config: the Hugging Face config; it stays as it is.
        attention: the name of the attention implementation that the network is to use.
        who: the adapter's name, for messages.
        arguments: of the class, beside the config.

    Raises:
        RefusalError: the config has a field that MindSpore One would ignore.
    """
    configs.refuse_ignored(config, importer.suite().mentioned(modeling.__name__), who)
    model_config = current_model_config()
    v4 = configs.to_v4(config, model_config.max_model_len, who)
    v4._attn_implementation = attention
    kind = getattr(modeling, base)
    uninitialised = {"__module__": kind.__module__, "init_weights": lambda self: None}
    with no_init_parameters():
        network = type(kind.__name__, (kind,), uninitialised)(v4, **arguments)
    network.set_train(False)
    for _, cell in network.cells_and_names():
        for leaf in _COMPUTED:
            if cell._params.get(leaf) is not None:
                value = ms.Tensor(cell._params[leaf].asnumpy())
                del cell._params[leaf]
                cell.__dict__[leaf] = value
    dtype = _DTYPES[model_config.dtype]
    for parameter in network.get_parameters():
        if parameter.dtype == ms.float32 and dtype != ms.float32:
            parameter.set_dtype(dtype)
    return network


def adopt_buffers(network: ms.nn.Cell, tree: Module) -> None:
    """Give the buffers that checkpoints have a torch parameter that owns their memory, as parameters have one."""
    for path, cell in network.cells_and_names():
        for leaf in _LOADED_BUFFERS:
            buffer = cell._buffers.get(leaf)
            if buffer is None:
                continue
            owned = torch.nn.Parameter(
                torch.zeros(tuple(buffer.shape), dtype=torch.float32), requires_grad=False
            )
            tree.get_submodule(path).register_parameter(leaf, owned)
            cell._buffers[leaf] = to_mindspore(owned.data)
