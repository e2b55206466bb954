"""LLaVA-OneVision: LLaVA-NeXT that keeps images of many tiles short, and sees the frames of videos."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.models.config import ConfigReader
from mszoo.models.llava import LlavaSpec
from mszoo.models.llava_next import LlavaNextForConditionalGeneration

import mindspore as ms

#: Embeddings of so many tiles are kept of an image; what is less than this much longer is kept, too.
_MAX_TILES, _SLACK = 9, 1.1
#: A side of a frame has a vector for so many patches.
_STRIDE = 2


class LlavaOnevisionForConditionalGeneration(LlavaNextForConditionalGeneration):
    """LLaVA-OneVision: as Hugging Face's ``models/llava_onevision`` defines it, on SigLIP or CLIP.

    What the last layer of SigLIP gives is read as it is, without the tower's last norm: so it was trained, so vLLM
    reads it, and so does transformers, some of its versions aside.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    reads_end_of_siglip = True

    @classmethod
    def read_config(cls, config: Any, who: str) -> LlavaSpec:
        """Read a ``llava_onevision`` config; see the base class."""
        # vLLM's processor counts an image's tokens by this alone.
        ConfigReader(config, who).must_be("vision_aspect_ratio", f"anyres_max_{_MAX_TILES}")
        return super().read_config(config, who)

    def embed_multimodal(self, **inputs: Any) -> list[ms.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.embed_multimodal`.

        Args:
            inputs: as of LLaVA-NeXT; or ``pixel_values_videos`` [B, frames, channels, height, width], or a list of
                such tensors without the first axis.
        """
        videos = inputs.pop("pixel_values_videos", None)
        if videos is None:
            return super().embed_multimodal(**inputs)
        images = super().embed_multimodal(**inputs) if inputs.get("pixel_values") is not None else []
        return [*images, *self._videos(videos)]

    def rescaled(self, image: torch.Tensor) -> torch.Tensor:
        """See the base class: [rows, columns, hidden] -> no more of them than a few tiles have."""
        rows, columns, _ = image.shape
        side = self.spec.vision.image_size // self.spec.vision.patch_size
        ratio = math.sqrt(rows * columns / (_MAX_TILES * side**2))
        if ratio <= _SLACK:
            return image
        return _resized(image[None], (int(rows // ratio), int(columns // ratio)))[0]

    def _videos(self, videos: Any) -> list[ms.Tensor]:
        """Return the embeddings of videos: those of their frames, and one behind the last."""
        frames = [to_torch(one) for one in videos] if isinstance(videos, list) else list(to_torch(videos))
        side = self.spec.vision.image_size // self.spec.vision.patch_size
        embeddings = self.embed_pixels(to_mindspore(torch.cat(frames)))
        short = _resized(embeddings.unflatten(1, (side, side)), (math.ceil(side / _STRIDE),) * 2)
        end = self.image_newline.to(short.dtype)[None]
        counts = [len(one) for one in frames]
        return [to_mindspore(torch.cat([one.flatten(0, 2), end])) for one in short.split(counts)]


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return vectors between those of grids, by bilinear interpolation: [B, rows, columns, N] -> [B, *size, N]."""
    planes = images.permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(planes, size, mode="bilinear").permute(0, 2, 3, 1)
