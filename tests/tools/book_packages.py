"""Packages made of the how-to pages' own blocks, beside what `mszoo new` writes: the pages are enough for them."""

from __future__ import annotations

from pathlib import Path

from mszoo.registry.cli.new import names_of, write
from tests.tools.pages import ROOT, blocks
from tests.tools.tutorial import NAME

DOCS = ROOT / "registry" / "docs"
#: What the pages of a decoder and of an encoder leave to the reader: the hooks around their record.
HOOKS = """

from mszoo.registry import Suite, hookimpl


@hookimpl
def mszoo_suite():
    return Suite("acme", description="A model of the book")


@hookimpl
def mszoo_model_adapters():
    return [record]
"""
_REFERENCE = '''
import torch
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention, silu

from mszoo.conformance import EncoderConformance, ModelConformance

SIZE = 32


def parts(w):
    """Norm and product by a checkpoint's names."""
    norm = lambda x, name: layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-6)
    product = lambda x, name: linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))
    return norm, product


def rotated(x, length, pairs):
    """Turn the first `length` entries of each head, by neighbours or by halves."""
    frequencies = 10000.0 ** (-torch.arange(0, length, 2, dtype=torch.float64) / length)
    angles = torch.outer(torch.arange(x.shape[1]), frequencies)
    cos, sin = angles.cos().float(), angles.sin().float()
    turning, rest = x[..., :length], x[..., length:]
    one, other = (turning[..., 0::2], turning[..., 1::2]) if pairs else turning.chunk(2, -1)
    turned = [one * cos - other * sin, other * cos + one * sin]
    return torch.cat([torch.stack(turned, -1).flatten(-2) if pairs else torch.cat(turned, -1), rest], -1)


def heads(x):
    return x.view(len(x), -1, SIZE).transpose(0, 1)
'''
DECODER = (
    _REFERENCE
    + """

class TestZeta(ModelConformance):
    architecture = "acme.ZetaForCausalLM"

    def reference(self, config, weights, tokens):
        norm, product = parts(weights)
        x = weights["net.tokens.weight"][tokens]
        for index in range(config["num_hidden_layers"]):
            block = f"net.blocks.{index}"
            y = norm(x, f"{block}.attn_norm")
            query, key, value = (heads(product(y, f"{block}.attn.{name}_proj")) for name in "qkv")
            query = rotated(norm(query, f"{block}.attn.q_norm"), SIZE // 2, pairs=True)
            key = rotated(norm(key, f"{block}.attn.k_norm"), SIZE // 2, pairs=True)
            attended = scaled_dot_product_attention(
                query[None], key[None], value[None], is_causal=True, enable_gqa=True
            )[0]
            x = x + product(attended.transpose(0, 1).flatten(1), f"{block}.attn.out")
            x = x + product(silu(product(norm(x, f"{block}.ffn_norm"), f"{block}.ffn.up")), f"{block}.ffn.down")
        cap = config["logit_cap"]
        return cap * torch.tanh(norm(x, "net.final_norm") @ weights["lm_head.weight"].T / cap)
"""
)
ENCODER = (
    _REFERENCE
    + """

class TestTheta(EncoderConformance):
    architecture = "acme.ThetaModel"

    @classmethod
    def reference(cls, checkpoint, text):
        norm, product = parts(checkpoint.weights)
        x = norm(checkpoint.weights["embeddings.tokens.weight"][text], "embeddings.norm")
        for index in range(checkpoint.config["num_hidden_layers"]):
            layer = f"layers.{index}"
            query, key, value = (heads(product(x, f"{layer}.attention.{name}_proj")) for name in "qkv")
            query, key = rotated(query, SIZE, pairs=False), rotated(key, SIZE, pairs=False)
            attended = scaled_dot_product_attention(query[None], key[None], value[None])[0]
            x = x + product(attended.transpose(0, 1).flatten(1), f"{layer}.attention.o_proj")
            x = norm(x, f"{layer}.attention_norm")
            y = silu(product(x, f"{layer}.mlp.gate_proj")) * product(x, f"{layer}.mlp.up_proj")
            x = norm(x + product(y, f"{layer}.mlp.down_proj"), f"{layer}.mlp_norm")
        return x
"""
)
PAGES = ("cells", "decoder", "encoder", "layers-and-ops")


def make(page: str, folder: Path) -> Path:
    """Write the package of a page; gives its folder."""
    package = folder / NAME
    kind = "op" if page == "layers-and-ops" else page
    write(names_of(NAME), package, kind)
    texts = [block.text for block in blocks(DOCS / f"{page}.md") if block.language == "python"]
    for name, text in _files(page, texts).items():
        (package / "mszoo_acme" / f"{name}.py").write_text(text, "utf-8")
    return package


def _files(page: str, texts: list[str]) -> dict[str, str]:
    if page == "cells":  # the reference is that of what `mszoo new` writes
        network, model, attention, records = texts
        named = f"from mszoo_acme.network import Network\n{model}{attention}"
        return {"network": network, "model": named, "adapter": records}
    if page == "layers-and-ops":
        op, op_record, layer, layer_record, conformance = texts
        records = op_record + layer_record
        return {
            "ops": op,
            "layers": f"from mindspore import ops\n{layer}",
            "adapter": records,
            "conformance": conformance,
        }
    model, record = texts
    conformance = DECODER if page == "decoder" else ENCODER
    return {"model": model, "adapter": record + HOOKS, "conformance": conformance}
