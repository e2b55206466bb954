"""A vision transformer: images of one size in, hidden states of their patches out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import ParameterView, to_mindspore, to_torch
from mszoo.layers.activation import Activation
from mszoo.layers.decoder.build import build_norm, build_norm_of_ranks
from mszoo.layers.decoder.mlp import MLP
from mszoo.layers.decoder.spec import MLPSpec, NormSpec
from mszoo.layers.linear import (
    WholeLinear,
    apply_linear,
    column_linear,
    heads_on_this_rank,
    qkv_linear,
    row_linear,
)
from mszoo.layers.model import Module, ModuleList, add_part
from mszoo.layers.residual import stream_sum
from mszoo.layers.seam import default_weight_loader
from mszoo.layers.weights import Expected

import mindspore as ms


@dataclass(frozen=True)
class VisionSpec:
    """A vision transformer on square images that are cut into square patches (CLIP, SigLIP, InternViT).

    Each half of a layer norms the stream and adds to it. Names are the checkpoint's, and may have dots.

    Attributes:
        image_size, patch_size, num_channels: of the images, in pixels.
        hidden_size: width of the stream.
        num_layers: how many layers run.
        num_heads: of all ranks.
        mlp: of each layer.
        norm: of each layer, twice; its name means nothing here.
        class_embedding: whether a learned vector stands before the patches.
        patch_bias: whether the projection of patches has a bias.
        norm_before_layers: of the embeddings; None where there is none.
        norm_after_layers: of what the last layer gives; None where there is none.
        layers_name: of the list of layers.
        qkv_bias: whether the projections of queries, keys and values have biases.
        qkv_name: of these projections as one; the record of the model says which of the checkpoint's modules it
            holds.
        qk_norm: of queries and of keys, all heads of a position together; its name means nothing here. None where
            there is none.
        layer_scale: what each half of a layer computes is multiplied by a learned vector.
    """

    image_size: int
    patch_size: int
    num_channels: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp: MLPSpec
    norm: NormSpec
    class_embedding: bool = False
    patch_bias: bool = True
    norm_before_layers: NormSpec | None = None
    norm_after_layers: NormSpec | None = None
    layers_name: str = "encoder.layers"
    qkv_bias: bool = True
    qkv_name: str = "qkv_proj"
    qk_norm: NormSpec | None = None
    layer_scale: bool = False

    @property
    def num_positions(self) -> int:
        """Vectors of an image: its patches, and the one before them."""
        return (self.image_size // self.patch_size) ** 2 + self.class_embedding


class VisionTransformer(Module):
    """Embeddings of patches and layers that see whole images.

    Args:
        spec: what it is.
        prefix: its name, unique in the model.

    Raises:
        RefusalError: heads can't be shared out to the ranks, or there is no op for its activation.
    """

    def __init__(self, spec: VisionSpec, *, prefix: str) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = VisionEmbeddings(spec, prefix=f"{prefix}.embeddings")
        for norm in (spec.norm_before_layers, spec.norm_after_layers):
            if norm is not None:
                add_part(self, norm.name, build_norm(norm, spec.hidden_size))
        name = spec.layers_name
        layers = [VisionLayer(spec, prefix=f"{prefix}.{name}.{index}") for index in range(spec.num_layers)]
        add_part(self, name, ModuleList(layers))

    def forward(self, pixels: ms.Tensor, wanted: Collection[int]) -> dict[int, ms.Tensor]:
        """Return the stream behind so many layers, for each number in ``wanted``, 0 for what the first one gets.

        That behind all of them is normed where the spec has a norm of it.

        Args:
            pixels: [B, channels, image_size, image_size], in the model's dtype.
            wanted: up to ``num_layers``.

        Returns:
            [B P, hidden] each, P positions of an image.
        """
        spec, images = self.spec, pixels.shape[0]
        x = self.embeddings(pixels)
        if spec.norm_before_layers is not None:
            x = self.get_submodule(spec.norm_before_layers.name)(x)
        layers: Sequence[VisionLayer] = self.get_submodule(spec.layers_name)  # type: ignore[assignment]
        found = {}
        for index in range(max(wanted) + 1):
            if index:
                x = layers[index - 1](x, images)
            if index in wanted:  # a copy: the next layer overwrites the stream
                found[index] = to_mindspore(to_torch(x).clone())
        if spec.norm_after_layers is not None and spec.num_layers in found:
            last = found[spec.num_layers]
            found[spec.num_layers] = self.get_submodule(spec.norm_after_layers.name)(last)
        return found


class VisionEmbeddings(Module):
    """Projections of patches, with learned positions; a learned vector before them where the spec says so."""

    def __init__(self, spec: VisionSpec, *, prefix: str) -> None:
        super().__init__()
        self.spec = spec
        if spec.class_embedding:
            self.class_embedding = torch.nn.Parameter(torch.zeros(spec.hidden_size), requires_grad=False)
        self.patch_embedding = PatchEmbedding(spec, prefix=f"{prefix}.patch_embedding")
        self.position_embedding = Module()
        table = torch.zeros(spec.num_positions, spec.hidden_size)
        self.position_embedding.weight = torch.nn.Parameter(table, requires_grad=False)

    def forward(self, pixels: ms.Tensor) -> ms.Tensor:
        """[B, channels, height, width] -> [B P, hidden].

        Rows are put together and sums made by torch, as an encoder's embeddings are.
        """
        images = pixels.shape[0]
        x = to_torch(self.patch_embedding(pixels)).view(images, -1, self.spec.hidden_size)
        if self.spec.class_embedding:
            x = torch.cat([self.class_embedding.to(x.dtype).expand(images, 1, -1), x], 1)
        table = self.position_embedding.weight
        assert isinstance(table, torch.Tensor)
        return to_mindspore((x + table).flatten(0, 1))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: checkpoints of InternViT have axes of one in front."""
        spec, found = self.spec, {}
        shapes = {"position_embedding.weight": (spec.num_positions, spec.hidden_size)}
        if spec.class_embedding:
            shapes["class_embedding"] = (spec.hidden_size,)  # type: ignore[assignment]
        for leaf, shape in shapes.items():
            full = f"{name}.{leaf}"
            other = (1,) * (3 - len(shape)) + shape
            found[full] = Expected(full, None, shape, other_shape=other, load=_load_reshaped)
        return found


class PatchEmbedding(WholeLinear):
    """The projection of patches, in checkpoints a convolution.

    [B, channels, height, width] -> [B patches, hidden].
    """

    def __init__(self, spec: VisionSpec, *, prefix: str) -> None:
        width = spec.num_channels * spec.patch_size**2
        super().__init__(width, spec.hidden_size, bias=spec.patch_bias, prefix=prefix)
        self._size, self._channels = spec.patch_size, spec.num_channels

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the projections of all patches, row by row."""
        size = self._size
        # [B, channels, rows, columns, size, size]; pixels that fill no patch are left out.
        patches = to_torch(x).unfold(2, size, size).unfold(3, size, size)
        return super().forward(to_mindspore(patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.input_size)))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        shape = (self.output_size, self._channels, self._size, self._size)
        return {f"{name}.weight": Expected(f"{name}.weight", None, shape, load=_load_flat)}


class VisionLayer(Module):
    """Attention and MLP on the stream of images' patches."""

    def __init__(self, spec: VisionSpec, *, prefix: str) -> None:
        super().__init__()
        self.layer_norm1 = build_norm(spec.norm, spec.hidden_size)
        self.self_attn = VisionAttention(spec, prefix=f"{prefix}.self_attn")
        self.layer_norm2 = build_norm(spec.norm, spec.hidden_size)
        self.mlp = MLP(spec.mlp, spec.hidden_size, prefix=f"{prefix}.mlp")
        if spec.layer_scale:
            self.layer_scale1, self.layer_scale2 = LayerScale(spec.hidden_size), LayerScale(spec.hidden_size)
        self._scales = spec.layer_scale
        self._sum = stream_sum()

    def forward(self, x: ms.Tensor, images: int) -> ms.Tensor:
        """Return the stream after the layer: [B P, hidden]; ``x`` may be overwritten."""
        attended = self.self_attn(self.layer_norm1(x), images)
        x = self._sum(x, self.layer_scale1(attended) if self._scales else attended)
        computed = self.mlp(self.layer_norm2(x))
        return self._sum(x, self.layer_scale2(computed) if self._scales else computed)


class LayerScale(Module):
    """Multiplies what half a layer computed by a learned vector: [T, N] -> [T, N]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(width), requires_grad=False)
        self._view, self._by_torch = ParameterView(), dispatch.current().sums_by_torch

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the products; ``x`` may be overwritten."""
        if self._by_torch:  # as the sums: see stream_sum
            to_torch(x).mul_(self.weight)
            return x
        return ms.mint.mul(x, self._view.of(self.weight))


class VisionAttention(Module):
    """Attention in which each patch sees its whole image.

    Args:
        spec: of the transformer.
        prefix: its name, unique in the model.

    Raises:
        RefusalError: heads can't be shared out to the ranks, or ranks are to norm all of them together otherwise
            than by the root of their mean square.
    """

    def __init__(self, spec: VisionSpec, *, prefix: str) -> None:
        super().__init__()
        hidden, heads = spec.hidden_size, spec.num_heads
        size = hidden // heads
        self.num_heads, _ = heads_on_this_rank(heads, heads)
        self._qkv_name, self.normed = spec.qkv_name, spec.qk_norm is not None
        linear = qkv_linear(
            hidden, size, heads, heads, bias=spec.qkv_bias, prefix=f"{prefix}.{spec.qkv_name}"
        )
        self.add_module(spec.qkv_name, linear)
        if spec.qk_norm is not None:
            part = self.num_heads * size
            self.q_norm, self.k_norm = (
                build_norm_of_ranks(spec.qk_norm, part, hidden // part, 1) for _ in range(2)
            )
        self.out_proj = row_linear(hidden, hidden, bias=True, prefix=f"{prefix}.out_proj")
        self._attend, self._scale = dispatch.current().function("encoder_attention"), size**-0.5

    def forward(self, x: ms.Tensor, images: int) -> ms.Tensor:
        """[B P, hidden] of B images -> [B P, hidden]."""
        qkv = apply_linear(self.get_submodule(self._qkv_name), x)
        if self.normed:
            qkv = self._norm(qkv)
        return apply_linear(self.out_proj, self._attend(qkv, images, self.num_heads, self._scale))

    def _norm(self, qkv: ms.Tensor) -> ms.Tensor:
        """Norm queries and keys inside ``qkv``."""
        query, key, value = to_torch(qkv).chunk(3, -1)
        parts = [
            to_torch(norm(to_mindspore(part.contiguous())))
            for part, norm in ((query, self.q_norm), (key, self.k_norm))
        ]
        return to_mindspore(torch.cat([*parts, value], -1))


class Projector(Module):
    """Brings features of images to the decoder's width: [T, features] -> [T, hidden].

    Args:
        input_size, output_size: the two widths.
        act: the activation between its two projections.
        bias: whether these have biases.
        norm: of the features, by the name ``layer_norm``; None where there is none.
        prefix: its name, unique in the model.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        act: str,
        *,
        bias: bool,
        norm: NormSpec | None = None,
        prefix: str,
    ) -> None:
        super().__init__()
        self._normed = norm is not None
        if norm is not None:
            self.layer_norm = build_norm(norm, input_size)
        self.linear_1 = column_linear(input_size, output_size, bias=bias, prefix=f"{prefix}.linear_1")
        self.act = Activation(act, gated=False)
        self.linear_2 = row_linear(output_size, output_size, bias=bias, prefix=f"{prefix}.linear_2")

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the embeddings."""
        if self._normed:
            x = self.layer_norm(x)
        return apply_linear(self.linear_2, self.act(apply_linear(self.linear_1, x)))


def _load_flat(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    parameter.weight_loader(parameter, tensor.flatten(1))  # type: ignore[operator]


def _load_reshaped(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    loader = getattr(parameter, "weight_loader", default_weight_loader)
    loader(parameter, tensor.view(parameter.shape))
