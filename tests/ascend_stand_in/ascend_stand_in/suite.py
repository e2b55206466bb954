"""A suite of mszoo: MindSpore Transformers' models as they are on NPU, with stand-ins for the Ascend ops."""

from collections.abc import Iterable
from dataclasses import replace

from mszoo.registry import LayerAdapter, ModelAdapter, Suite, hookimpl


@hookimpl
def mszoo_suite() -> Suite:
    return Suite("stand_in")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    from mszoo.adapters.mindformers import mszoo_model_adapters as of_mindformers

    for adapter in of_mindformers():
        if adapter.devices == ("npu",):
            yield ModelAdapter(
                adapter.architecture,
                "ascend_stand_in.networks:network",
                devices=("cpu", "npu"),
                dtypes=("float32",),
                capabilities=adapter.capabilities,
                packed_modules_mapping=adapter.packed_modules_mapping,
            )


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    from mszoo.adapters.mindformers import mszoo_layer_adapters as of_mindformers

    for adapter in of_mindformers():
        yield replace(adapter, target=adapter.target.replace("mindformers:", "stand_in:", 1))
