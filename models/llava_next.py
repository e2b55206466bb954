"""LLaVA-NeXT (LLaVA 1.6): LLaVA that sees an image whole and in tiles of a higher resolution."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from transformers.image_processing_utils import select_best_resolution

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.models.config import ConfigReader
from mszoo.models.llava import LlavaForConditionalGeneration, LlavaSpec

import mindspore as ms


class LlavaNextForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA-NeXT: as Hugging Face's ``models/llava_next`` defines it, on CLIP or SigLIP."""

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__(config, prefix=prefix)
        newline = torch.zeros(config.text_config.hidden_size)
        self.image_newline = torch.nn.Parameter(newline, requires_grad=False)

    @classmethod
    def read_config(cls, config: Any, who: str) -> LlavaSpec:
        """Read a ``llava_next`` config; see the base class."""
        spec = super().read_config(config, who)
        reader = ConfigReader(config, who)
        if spec.drops_first != spec.vision.class_embedding:  # what is left are the patches
            name = "vision_feature_select_strategy"
            reader.refuse(name, reader.required(name))
        sizes, whole = reader.required("image_grid_pinpoints"), spec.vision.image_size
        if not sizes or any(len(size) != 2 or min(size) < whole for size in sizes):
            reader.refuse("image_grid_pinpoints", sizes)
        return spec

    def embed_multimodal(self, **inputs: Any) -> list[ms.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.embed_multimodal`.

        Args:
            inputs: ``pixel_values`` [B, tiles, channels, height, width] or a list of such tensors without the first
                axis, the whole image first and maybe padding last, with ``image_sizes`` [B, 2], the height and
                width before; or ``image_embeds``, of an image each.
        """
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return super().embed_multimodal(**inputs)
        sizes = to_torch(inputs["image_sizes"]).tolist()
        tiles = [to_torch(one) for one in pixels] if isinstance(pixels, list) else list(to_torch(pixels))
        grids = [self._grid(size) if len(one) > 1 else (0, 0) for size, one in zip(sizes, tiles, strict=True)]
        counts = [1 + rows * columns for rows, columns in grids]
        tiles = [one[:count] for one, count in zip(tiles, counts, strict=True)]
        embeddings = self.embed_pixels(to_mindspore(torch.cat(tiles))).split(counts)
        packed = map(self._packed, embeddings, sizes, grids)
        return [to_mindspore(one) for one in packed]

    def example_inputs(self) -> dict[str, torch.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.example_inputs`."""
        if not self.reads_images:
            return {}
        whole = super().example_inputs()["pixel_values"]
        size = self.spec.vision.image_size
        rows, columns = self._grid([size, size])
        tiles = whole.expand(1 + rows * columns, *whole.shape[1:])
        return {"pixel_values": tiles[None].contiguous(), "image_sizes": torch.tensor([[size, size]])}

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`."""
        return super().checkpoint_name(name, expected).replace("model.image_newline", "image_newline")

    def _grid(self, size: list[int]) -> tuple[int, int]:
        """Return the rows and columns of tiles that the processor cut an image into, by its height and width."""
        height, width = select_best_resolution(size, self.config.image_grid_pinpoints)
        return height // self.spec.vision.image_size, width // self.spec.vision.image_size

    def _packed(self, embeddings: torch.Tensor, size: list[int], grid: tuple[int, int]) -> torch.Tensor:
        """Return the embeddings of an image: the whole one's, then row by row those of its tiles side by side.

        Rows and columns that the processor padded are left out, and each row ends with an embedding of its own.

        Args:
            embeddings: [1 + tiles, patches, hidden], the whole image first.
            size: its height and width.
            grid: rows and columns of tiles.
        """
        ends = self.image_newline.to(embeddings.dtype)
        rows, columns = grid
        if not rows:  # the whole image alone
            return torch.cat([embeddings[0], ends[None]])
        side = self.spec.vision.image_size // self.spec.vision.patch_size
        whole, tiles = embeddings[0], embeddings[1:].view(rows, columns, side, side, -1)
        image = tiles.transpose(1, 2).reshape(rows * side, columns * side, -1)
        top, left = _padding(size, (rows * side, columns * side))
        image = self.rescaled(image[top : rows * side - top, left : columns * side - left])
        ends = ends.expand(image.shape[0], 1, -1)
        return torch.cat([whole, torch.cat([image, ends], 1).flatten(0, 1)])

    def rescaled(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of an image's tiles side by side in a smaller number, where there are too many.

        [rows, columns, hidden] -> the same here.
        """
        return image


def _padding(size: list[int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows above and below, and columns on both sides, of a grid of patches are padding.

    Args:
        size: height and width of the image, which was scaled into the grid and centred there.
        grid: rows and columns.
    """
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
