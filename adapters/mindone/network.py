"""Builds the networks of MindSpore One's models, without values for their parameters."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch

from mszoo.adapters.mindone import config as configs
from mszoo.adapters.mindone import importer
from mszoo.layers import current_model_config
from mszoo.layers.model import outside_the_tree
from mszoo.registry.errors import RefusalError

import mindspore as ms
from mindspore.nn.utils import no_init_parameters

_DTYPES = {torch.float32: ms.float32, torch.bfloat16: ms.bfloat16, torch.float16: ms.float16}
#: Parameters that no checkpoint has: the constructor computes them.
_COMPUTED = ("inv_freq", "original_inv_freq", "position_ids", "token_type_ids")
#: The name that the config gives for its attention once the network is built. MindSpore One makes masks of all
#: tokens by all tokens for the implementations that it knows, and none for another; vLLM's attention needs none.
_ATTENTION = "mszoo"


def build(
    modeling: types.ModuleType, base: str, config: Any, who: str, *, causal: bool = True, **arguments: Any
) -> ms.nn.Cell:
    """Build a network; weights come from the checkpoint.

    Args:
        modeling: the family's module.
        base: the network's class in it.
        config: the Hugging Face config; it stays as it is.
        who: the adapter's name, for messages.
        causal: whether it is a decoder.
        arguments: of the class, beside the config.

    Raises:
        RefusalError: the config has a field that MindSpore One would ignore, or makes no network.
    """
    reader = configs.read(config, importer.fields_read(modeling), who, causal=causal)
    v4 = configs.to_v4(config, reader, current_model_config().max_model_len)
    network = make(modeling, base, v4, who, **arguments)
    network.config._attn_implementation = _ATTENTION
    for _, cell in network.cells_and_names():
        if hasattr(cell, "_update_causal_mask"):
            cell._update_causal_mask = _no_mask
    dtype = _DTYPES[current_model_config().dtype]
    for parameter in network.get_parameters():
        if parameter.dtype == ms.float32 and dtype != ms.float32:
            parameter.set_dtype(dtype)
    return network


def make(modeling: types.ModuleType, base: str, v4: Any, who: str, **arguments: Any) -> ms.nn.Cell:
    """Make a network or a part of one, in float32, which attends by itself; weights come from the checkpoint.

    Args:
        modeling: the family's module.
        base: the class in it.
        v4: the config as transformers 4.57 had it.
        who: the adapter's name, for messages.
        arguments: of the class, beside the config.

    Raises:
        RefusalError: MindSpore One makes no network of it.
    """
    v4._attn_implementation = "eager"  # the one that all families have
    try:
        with no_init_parameters(), _no_initial_values():
            network = getattr(modeling, base)(v4, **arguments)
    except Exception as error:
        raise RefusalError(
            who,
            f"MindSpore One's {base} can't be built from this config.json ({type(error).__name__}: {error})",
            "Serve it with another implementation",
        ) from error
    network.set_train(False)
    for _, cell in network.cells_and_names():
        for leaf in _COMPUTED:
            if cell._params.get(leaf) is not None:
                value = ms.Tensor(cell._params[leaf].asnumpy())
                del cell._params[leaf]
                outside_the_tree(cell, **{leaf: value})
    return network


@contextlib.contextmanager
def _no_initial_values() -> Iterator[None]:
    """Turn MindSpore One's own switch off, by which its networks compute initial values of weights."""
    switch = vars(importer.load("modeling_utils"))
    switch["_init_weights"] = False
    try:
        yield
    finally:
        switch["_init_weights"] = True


def _no_mask(*_: Any, **__: Any) -> None:
    """Stand for the method by which older families make a mask: causality and windows are vLLM's attention's."""
