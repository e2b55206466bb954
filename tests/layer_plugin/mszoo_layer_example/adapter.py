"""What the package registers: data only."""

from mszoo.registry import LayerAdapter, Suite, hookimpl

LAYERS = "mszoo_layer_example.layers"


@hookimpl
def mszoo_suite() -> Suite:
    return Suite("layer_example", description="Norm and activation of vLLM's own models, by MindSpore")


@hookimpl
def mszoo_layer_adapters() -> list[LayerAdapter]:
    return [
        LayerAdapter("vllm:RMSNorm", f"{LAYERS}:RMSNorm", dtypes=("float32",)),
        LayerAdapter("vllm:SiluAndMul", f"{LAYERS}:SiluAndMul", dtypes=("float32",)),
        # Two that have no effect, and are reported: no model of the tests has the one, vLLM has not the other.
        LayerAdapter("vllm:GeluAndMul", f"{LAYERS}:SiluAndMul"),
        LayerAdapter("vllm:SiluAndMull", f"{LAYERS}:SiluAndMul"),
    ]
