"""A vision transformer on images and videos of any size: patches on a grid, each with its row and column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch.nn import functional

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.activation import Activation
from mszoo.layers.decoder.build import build_norm
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
from mszoo.layers.vision_merger import ConvolutionalMerger, ConvolutionalMergerSpec, SquareConvolution
from mszoo.layers.weights import Expected

import mindspore as ms

#: Frames, rows and columns of an image's or a video's patches.
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class MergerSpec:
    """What makes one embedding of a square of patches: a norm and two projections with GELU between.

    Attributes:
        output_size: width of the embedding.
        norm: of each patch; its name is the checkpoint's.
        up_name, down_name: of the projections.
        deepstack_name: of the list of further mergers, which norm squares as a whole.
    """

    output_size: int
    norm: NormSpec
    up_name: str
    down_name: str
    deepstack_name: str = ""


@dataclass(frozen=True)
class GridVisionSpec:
    """A vision transformer of the Qwen-VL family, or GLM-4.1V's.

    Each half of a layer norms the stream and adds to it; heads turn by row and column of their patch.

    Attributes:
        patch_size, temporal_patch_size, num_channels: of a patch, in pixels and frames.
        merge_size: side of the squares of patches that become one embedding each.
        hidden_size: width of the stream.
        num_layers: how many there are.
        num_heads: of all ranks.
        rope_theta: base of the frequencies.
        mlp: of each layer.
        norm: of each layer, twice; its name means nothing here.
        merger: behind the last layer.
        patch_bias, qkv_bias, o_bias: whether the projections of patches and of attention have biases.
        patch_norm: of the projected patches, before positions are added; None where there is none.
        window: patches see those of a square window of their frame, so many merged squares on each side; None where
            they see all of the frame.
        whole_layers: by index, the layers in which they see all of it in spite of that.
        num_positions: of a learned table, a square of the sizes of images that were trained on, which is resampled
            to each image's; 0 where there is none.
        positions_name: the checkpoint's, of that table.
        resampling: "bilinear", corners on corners (Qwen3-VL), or "bicubic", edges on edges (GLM-4.1V).
        deepstack: behind which layers, by index, further embeddings are made.
    """

    patch_size: int
    temporal_patch_size: int
    num_channels: int
    merge_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    rope_theta: float
    mlp: MLPSpec
    norm: NormSpec
    merger: MergerSpec | ConvolutionalMergerSpec
    patch_bias: bool = False
    qkv_bias: bool = True
    o_bias: bool = True
    patch_norm: NormSpec | None = None
    window: int | None = None
    whole_layers: tuple[int, ...] = ()
    num_positions: int = 0
    positions_name: str = "pos_embed"
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    deepstack: tuple[int, ...] = ()

    @property
    def pixels(self) -> int:
        """Numbers of a patch."""
        return self.num_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def unit(self) -> int:
        """Patches of an embedding."""
        return self.merge_size**2


class Run(NamedTuple):
    """Sequences of equal length, one behind the other.

    Attributes:
        sequences: how many.
        length: in patches.
    """

    sequences: int
    length: int


class GridVisionTransformer(Module):
    """Projections of patches, layers, and what makes embeddings of them.

    Args:
        spec: what it is.
        prefix: its name, unique in the model.

    Raises:
        RefusalError: heads can't be shared out to the ranks, or there is no op for its activation.
    """

    def __init__(self, spec: GridVisionSpec, *, prefix: str) -> None:
        super().__init__()
        self.spec = spec
        self._dtype = torch.get_default_dtype()
        add_part(self, "patch_embed.proj", PatchProjection(spec, prefix=f"{prefix}.patch_embed.proj"))
        if spec.patch_norm is not None:
            add_part(self, spec.patch_norm.name, build_norm(spec.patch_norm, spec.hidden_size))
        if spec.num_positions:
            positions = Module()
            table = torch.zeros(spec.num_positions, spec.hidden_size)
            positions.weight = torch.nn.Parameter(table, requires_grad=False)
            add_part(self, spec.positions_name, positions)
        layers = [
            GridVisionLayer(spec, prefix=f"{prefix}.blocks.{index}") for index in range(spec.num_layers)
        ]
        self.blocks = ModuleList(layers)
        merger = spec.merger
        if isinstance(merger, ConvolutionalMergerSpec):
            add_part(self, merger.norm.name, build_norm(merger.norm, spec.hidden_size))
            name = merger.convolution_name
            sides = spec.hidden_size, spec.merge_size, merger.output_size
            add_part(self, name, SquareConvolution(*sides, prefix=f"{prefix}.{name}"))
            self.merger: Module = ConvolutionalMerger(merger, prefix=f"{prefix}.merger")
            return
        self.merger = Merger(spec, merger, prefix=f"{prefix}.merger")
        if spec.deepstack:
            name = merger.deepstack_name
            mergers = [
                Merger(spec, merger, whole=True, prefix=f"{prefix}.{name}.{index}")
                for index in range(len(spec.deepstack))
            ]
            add_part(self, name, ModuleList(mergers))

    def forward(self, pixels: ms.Tensor, grids: Sequence[Grid]) -> ms.Tensor:
        """Return the embeddings of all images, those of deepstack beside them: [N / unit, output (1 + deepstack)].

        Args:
            pixels: [N, pixels of a patch], squares of patches one behind the other, frame by frame.
            grids: of each image or video.

        Raises:
            ValueError: the grids aren't those of the patches.
        """
        spec = self.spec
        given = to_torch(pixels).to(self._dtype)
        if given.shape != (sum(t * h * w for t, h, w in grids), spec.pixels):
            raise ValueError(
                f"patches {list(given.shape)} of {spec.pixels} numbers each, in grids {list(grids)}"
            )
        patches = self.get_submodule("patch_embed.proj")(to_mindspore(given))
        if spec.patch_norm is not None:
            patches = self.get_submodule(spec.patch_norm.name)(patches)
        x = to_torch(patches)
        places = torch.cat([_places(grid, spec.merge_size) for grid in grids])
        if spec.num_positions:
            x = x + self._resampled(grids, places)
        whole = windowed = [Run(t, h * w) for t, h, w in grids]
        order = None
        if spec.window is not None:
            order, windowed = _windows(grids, spec.merge_size, spec.window)
            x, places = _reordered(x, order, spec.unit), _reordered(places, order, spec.unit)
        whole, windowed = _joined(whole), _joined(windowed)
        table = to_mindspore(self._turns(places))
        rows = to_mindspore(torch.arange(len(x)))
        stream = to_mindspore(x.contiguous())
        deepstack: list[torch.Tensor] = []
        for index, layer in enumerate(self.blocks):
            runs = whole if index in spec.whole_layers or spec.window is None else windowed
            stream = layer(stream, rows, table, runs)
            if index in spec.deepstack:
                deepstack.append(to_torch(self._deepstack_merger(spec.deepstack.index(index))(stream)))
        embeddings = to_torch(self._merged(stream))
        if deepstack:
            embeddings = torch.cat([embeddings, *deepstack], 1)
        return to_mindspore(embeddings if order is None else embeddings[order.argsort()])

    def _merged(self, stream: ms.Tensor) -> ms.Tensor:
        """Return the embeddings behind the last layer: [N / unit, output]."""
        merger = self.spec.merger
        if isinstance(merger, ConvolutionalMergerSpec):
            stream = self.get_submodule(merger.norm.name)(stream)
            stream = self.get_submodule(merger.convolution_name)(stream)
        found: ms.Tensor = self.merger(stream)
        return found

    def _deepstack_merger(self, index: int) -> Module:
        merger = self.spec.merger
        assert isinstance(merger, MergerSpec)
        return self.get_submodule(f"{merger.deepstack_name}.{index}")

    def _turns(self, places: torch.Tensor) -> torch.Tensor:
        """Return the table by which heads turn: [N, D], cosines of row and column, then the sines."""
        size = self.spec.hidden_size // self.spec.num_heads
        exponents = torch.arange(0, size // 2, 2, dtype=torch.float32) / (size // 2)
        angles = (places.float()[:, :, None] / self.spec.rope_theta**exponents).flatten(1)
        return torch.cat([angles.cos(), angles.sin()], -1).to(self._dtype)

    def _resampled(self, grids: Sequence[Grid], places: torch.Tensor) -> torch.Tensor:
        """Return the learned positions [N, hidden]."""
        side = int(self.spec.num_positions**0.5)
        sizes = torch.cat([torch.tensor([[h, w]]).expand(t * h * w, 2) for t, h, w in grids])
        weight = self.get_submodule(self.spec.positions_name).weight
        assert isinstance(weight, torch.Tensor)
        if self.spec.resampling == "bicubic":
            square = weight.float().view(1, side, side, -1).permute(0, 3, 1, 2)
            at = ((places.float() + 0.5) / sizes * 2 - 1).flip(1)  # columns, then rows, from -1 to 1
            found = functional.grid_sample(
                square, at[None, :, None], "bicubic", padding_mode="border", align_corners=False
            )
            return found[0, :, :, 0].T.to(self._dtype)
        at = places.float() * (side - 1) / (sizes - 1).clamp(min=1)
        low = at.floor()
        part, low = at - low, low.long()
        high = (low + 1).clamp(max=side - 1)
        rows = ((low[:, 0], 1 - part[:, 0]), (high[:, 0], part[:, 0]))
        columns = ((low[:, 1], 1 - part[:, 1]), (high[:, 1], part[:, 1]))
        corners = [
            weight[row * side + column] * (of_row * of_column)[:, None]
            for row, of_row in rows
            for column, of_column in columns
        ]
        return torch.stack(corners).sum(0).to(self._dtype)


class PatchProjection(WholeLinear):
    """The projection of patches, in checkpoints a convolution: [N, pixels of a patch] -> [N, hidden]."""

    def __init__(self, spec: GridVisionSpec, *, prefix: str) -> None:
        super().__init__(spec.pixels, spec.hidden_size, bias=spec.patch_bias, prefix=prefix)
        self._kernel = spec.num_channels, spec.temporal_patch_size, spec.patch_size, spec.patch_size

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        weight = f"{name}.weight"
        return {weight: Expected(weight, None, (self.output_size, *self._kernel), load=_load_flat)}


class GridVisionLayer(Module):
    """Attention and MLP on the stream of patches."""

    def __init__(self, spec: GridVisionSpec, *, prefix: str) -> None:
        super().__init__()
        self.norm1 = build_norm(spec.norm, spec.hidden_size)
        self.attn = GridVisionAttention(spec, prefix=f"{prefix}.attn")
        self.norm2 = build_norm(spec.norm, spec.hidden_size)
        self.mlp = MLP(spec.mlp, spec.hidden_size, prefix=f"{prefix}.mlp")
        self._sum = stream_sum()

    def forward(self, x: ms.Tensor, rows: ms.Tensor, table: ms.Tensor, runs: Sequence[Run]) -> ms.Tensor:
        """Return the stream after the layer: [N, hidden]; ``x`` may be overwritten."""
        x = self._sum(x, self.attn(self.norm1(x), rows, table, runs))
        return self._sum(x, self.mlp(self.norm2(x)))


class GridVisionAttention(Module):
    """Attention in which heads turn, and each patch sees its sequence.

    Args:
        spec: of the tower.
        prefix: its name, unique in the model.
    """

    def __init__(self, spec: GridVisionSpec, *, prefix: str) -> None:
        super().__init__()
        hidden, heads = spec.hidden_size, spec.num_heads
        size = hidden // heads
        self.num_heads, _ = heads_on_this_rank(heads, heads)
        self.qkv = qkv_linear(hidden, size, heads, heads, bias=spec.qkv_bias, prefix=f"{prefix}.qkv")
        self.proj = row_linear(heads * size, hidden, bias=spec.o_bias, prefix=f"{prefix}.proj")
        kernels = dispatch.current()
        self._rotate, self._attend = (
            kernels.function("rotary_embedding"),
            kernels.function("encoder_attention"),
        )
        self._scale = size**-0.5

    def forward(self, x: ms.Tensor, rows: ms.Tensor, table: ms.Tensor, runs: Sequence[Run]) -> ms.Tensor:
        """[N, hidden] -> [N, hidden].

        Args:
            x: patches of ``runs``, one behind the other.
            rows: of each patch in ``table``.
            table: as the op ``rotary_embedding`` takes it.
            runs: the sequences.
        """
        qkv = self._rotate(rows, apply_linear(self.qkv, x), table, self.num_heads, self.num_heads, False)
        if len(runs) == 1:
            return apply_linear(self.proj, self._attend(qkv, runs[0].sequences, self.num_heads, self._scale))
        parts = to_torch(qkv).split([run.sequences * run.length for run in runs])
        attended = [
            to_torch(self._attend(to_mindspore(part), run.sequences, self.num_heads, self._scale))
            for part, run in zip(parts, runs, strict=True)
        ]
        return apply_linear(self.proj, to_mindspore(torch.cat(attended)))


class Merger(Module):
    """Makes one embedding of each square of patches: [N, hidden] -> [N / unit, output].

    Args:
        spec: of the tower.
        merger: what it is.
        whole: whether it norms squares as a whole.
        prefix: its name, unique in the model.
    """

    def __init__(self, spec: GridVisionSpec, merger: MergerSpec, *, whole: bool = False, prefix: str) -> None:
        super().__init__()
        width = spec.unit * spec.hidden_size
        self._width, self._whole, self._names = width, whole, merger
        self.add_module(merger.norm.name, build_norm(merger.norm, width if whole else spec.hidden_size))
        up = column_linear(width, width, bias=True, prefix=f"{prefix}.{merger.up_name}")
        add_part(self, merger.up_name, up)
        self.act = Activation("gelu", gated=False)
        down = row_linear(width, merger.output_size, bias=True, prefix=f"{prefix}.{merger.down_name}")
        add_part(self, merger.down_name, down)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the embeddings."""
        norm = self.get_submodule(self._names.norm.name)
        merged = to_mindspore(to_torch(norm(self._as_squares(x) if self._whole else x)).view(-1, self._width))
        up, down = self.get_submodule(self._names.up_name), self.get_submodule(self._names.down_name)
        return apply_linear(down, self.act(apply_linear(up, merged)))

    def _as_squares(self, x: ms.Tensor) -> ms.Tensor:
        return to_mindspore(to_torch(x).view(-1, self._width))


def _places(grid: Grid, merge: int) -> torch.Tensor:
    """Return row and column of each patch [t h w, 2], squares of patches one behind the other."""
    frames, height, width = grid
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blocks = height // merge, merge, width // merge, merge
    places = [one.reshape(blocks).transpose(1, 2).flatten() for one in (rows, columns)]
    return torch.stack(places, 1).repeat(frames, 1)


def _windows(grids: Sequence[Grid], merge: int, side: int) -> tuple[torch.Tensor, list[Run]]:
    """Return the order in which squares of patches lie window by window, and the windows.

    Windows of a frame are sorted by their size, so that those at its edges are few runs, too.

    Args:
        grids: of each image or video.
        merge: patches on a side of a square.
        side: squares on a side of a window.
    """
    orders, runs, start = [], [], 0
    for frames, height, width in grids:
        rows, columns = height // merge, width // merge
        across = -(-columns // side)
        window = (torch.arange(rows)[:, None] // side * across + torch.arange(columns) // side).flatten()
        sizes = window.bincount()
        by_size = sizes.argsort(descending=True, stable=True)
        of_frame = by_size.argsort()[window].argsort(stable=True)
        lengths, counts = sizes[by_size].unique_consecutive(return_counts=True)
        for _ in range(frames):
            orders.append(of_frame + start)
            runs += [
                Run(n, merge**2 * size) for n, size in zip(counts.tolist(), lengths.tolist(), strict=True)
            ]
            start += rows * columns
    return torch.cat(orders), runs


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Return the same sequences with neighbours of equal length in one run."""
    return [
        Run(sum(run.sequences for run in alike), length)
        for length, alike in groupby(runs, lambda run: run.length)
    ]


def _reordered(x: torch.Tensor, order: torch.Tensor, unit: int) -> torch.Tensor:
    """Return rows [N, ...] with each ``unit`` of them at its place in ``order`` [N / unit]."""
    return x.view(len(order), unit, -1)[order].view(x.shape)


def _load_flat(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    parameter.weight_loader(parameter, tensor.flatten(1))  # type: ignore[operator]
