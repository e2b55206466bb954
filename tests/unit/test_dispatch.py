"""Who runs each op: the built-in set, or a suite's implementation that goes before it."""

from __future__ import annotations

import pytest

from mszoo.adapters.vllm.ops.kernels import choose_kernels, choose_loadable_kernels
from mszoo.kernels import dispatch
from mszoo.kernels.dispatch import Implementation, choose
from mszoo.kernels.spec import SPECS
from mszoo.registry import OpAdapter, Suite
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import RefusalError
from mszoo.registry.settings import Settings


def offer(kernel_set="mindspore", path="demo:f"):
    return Implementation(kernel_set, path, "demo of demo-dist 1.0", "higher priority (1 > 0)")


def catalog_of(*suites, prefer=(), device="cpu", kernels="auto"):
    """Build a catalog of op adapters; each suite gets those of one argument."""
    names = ("demo", "other")
    contributions = tuple(
        Contribution(Plugin(name, f"{name}-dist", "1.0", name), Suite(name), ops=ops)
        for name, ops in zip(names, suites, strict=False)
    )
    discovery = Discovery(contributions, (), (), discover(Settings(), []).manager)
    return Catalog(discovery, Settings(prefer=prefer, kernels=kernels), device, {}.get)


@pytest.mark.parametrize(
    ("requested", "device", "base", "reason"),
    [
        ("auto", "cpu", "cpu", "the fastest set on CPU"),
        ("cpu", "cpu", "cpu", "MSZOO_KERNELS=cpu"),
        ("mindspore", "cpu", "mindspore", "MSZOO_KERNELS=mindspore"),
        ("auto", "npu", "ascend", "the fastest set on NPU"),
        ("ascend", "npu", "ascend", "MSZOO_KERNELS=ascend"),
        ("mindspore", "npu", "mindspore", "MSZOO_KERNELS=mindspore"),
    ],
)
def test_the_built_in_sets(requested, device, base, reason):
    kernels = choose(requested, device, "float32")
    assert (kernels.base, kernels.name, kernels.reason) == (base, base, reason)
    assert kernels.sets == dict.fromkeys(SPECS, base)
    assert kernels.from_suites == {}
    for op, item in kernels.ops.items():
        attends_on_npu = device == "npu" and op == "paged_attention"
        by_vllm = (base == "cpu" and op in dispatch.VLLM_OWNED) or attends_on_npu
        assert kernels.by_vllm(op) == by_vllm
        path = dispatch.VLLM_OWNED[op] if by_vllm else f"mszoo.kernels.{base}_set:{op}"
        assert item == Implementation(base, path, "vLLM" if by_vllm else "mszoo", reason, builtin=True)


def test_an_op_that_vllm_runs_has_no_function():
    with pytest.raises(LookupError, match="the kernel of linear is called through vLLM's own module"):
        choose("cpu", "cpu", "float32").function("linear")


def test_a_suite_replaces_one_op():
    kernels = choose("auto", "cpu", "float32", {"linear": [offer(path="math:sqrt")]})
    assert kernels.from_suites == {"linear": offer(path="math:sqrt")}
    assert not kernels.by_vllm("linear")
    assert dispatch.load(kernels.ops["linear"].path)(9) == 3
    assert kernels.set_of("linear") == "mindspore"
    assert kernels.name == kernels.base == "cpu"
    # The set's name doesn't make an op vLLM's: a suite's own is called.
    assert not choose("auto", "cpu", "float32", {"linear": [offer("cpu")]}).by_vllm("linear")


@pytest.mark.parametrize(
    ("requested", "sets", "chosen"),
    [
        ("auto", ["own", "cpu"], 0),
        ("cpu", ["own", "cpu"], 1),
        ("mindspore", ["own", "cpu"], None),
        ("mindspore", ["own", "mindspore"], 1),
        ("auto", [], None),
    ],
)
def test_a_requested_set_counts_for_suites_too(requested, sets, chosen):
    offers = [offer(name) for name in sets]
    kernels = choose(requested, "cpu", "float32", {"rms_norm": offers})
    expected = {} if chosen is None else {"rms_norm": offers[chosen]}
    assert kernels.from_suites == expected


def test_an_op_without_a_spec_is_left_alone():
    assert choose("auto", "cpu", "float32", {"RmsNorm": [offer()]}).ops.keys() == SPECS.keys()


def test_a_refused_set_stays_refused():
    with pytest.raises(RefusalError, match="MSZOO_KERNELS=mindspore: MindSpore's CPU backend multiplies"):
        choose("mindspore", "cpu", "bfloat16", {op: [offer()] for op in SPECS})


def test_the_catalog_decides_who_goes_before_our_own():
    low, high = OpAdapter("rms_norm", "demo:low", "x"), OpAdapter("linear", "demo:high", "x", priority=1)
    kernels = choose_kernels(catalog_of([low, high]), "auto", "float32")
    who = "demo of demo-dist 1.0"
    cure = "Fix or upgrade demo-dist, or set MSZOO_DISABLE=demo to go on without it."
    assert kernels.from_suites == {
        "linear": Implementation("x", "demo:high", who, "higher priority (1 > 0)", cure=cure),
    }
    kernels = choose_kernels(catalog_of([low, high], prefer=("demo",)), "auto", "float32")
    reason = "MSZOO_PREFER puts demo first"
    assert kernels.from_suites == {
        "rms_norm": Implementation("x", "demo:low", who, reason, cure=cure),
        "linear": Implementation("x", "demo:high", who, reason, cure=cure),
    }


def test_another_dtype_is_not_chosen():
    half = OpAdapter("rms_norm", "demo:f", "x", dtypes=["float16"], priority=1)
    assert choose_kernels(catalog_of([half]), "auto", "float32").from_suites == {}
    assert choose_kernels(catalog_of([half]), "auto", "float16").from_suites.keys() == {"rms_norm"}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("a_module_that_nobody_wrote:f", "ModuleNotFoundError: No module named 'a_module_that_nobody_wrote'"),
        ("math:nothing", "AttributeError: module 'math' has no attribute 'nothing'"),
        ("math:pi", "TypeError: math:pi is a float, not a function"),
    ],
)
def test_an_implementation_that_does_not_load_is_passed_over(path, error):
    catalog = catalog_of(
        [OpAdapter("rms_norm", path, "x", priority=2)],
        [OpAdapter("rms_norm", "math:sqrt", "x", priority=1)],
    )
    kernels, (failure,) = choose_loadable_kernels(catalog, "auto", "float32")
    assert kernels.ops["rms_norm"].path == "math:sqrt"
    assert str(failure).startswith(f"rms_norm by demo of demo-dist 1.0: {path} can't be loaded ({error}")
    assert str(failure).endswith(
        "the next implementation of the op runs. "
        "Fix or upgrade demo-dist, or set MSZOO_DISABLE=demo to go on without it."
    )
    only, _ = choose_loadable_kernels(
        catalog_of([OpAdapter("rms_norm", path, "x", priority=2)]), "auto", "float32"
    )
    assert only.from_suites == {}
    assert choose_loadable_kernels(catalog_of([]), "auto", "float32") == (
        choose("auto", "cpu", "float32"),
        [],
    )


def test_a_suites_own_kernel_set_is_chosen_by_its_name():
    """All of it, whatever its priority; the built-in set runs what it lacks."""
    ops = (OpAdapter("rms_norm", "demo:norm", "acme"), OpAdapter("linear", "demo:linear", "mindspore"))
    catalog = catalog_of(ops)
    assert catalog.kernel_sets == ("acme",)
    assert choose_kernels(catalog, "auto", "float32").from_suites == {}
    chosen = catalog_of(ops, kernels="acme")
    kernels = choose_kernels(chosen, "acme", "float32")
    assert {op: (item.path, item.reason) for op, item in kernels.from_suites.items()} == {
        "rms_norm": ("demo:norm", "MSZOO_KERNELS=acme")
    }
    assert (kernels.base, kernels.reason) == ("cpu", "MSZOO_KERNELS=acme has no such op")
    assert kernels.ops["linear"].builtin
