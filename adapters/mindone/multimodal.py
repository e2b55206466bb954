"""Models of MindSpore One that read images: the suite's towers and projectors, and its decoders.

A tower and a projector are the suite's cells, whose linears give their places to mszoo's as everywhere. What puts
images' embeddings among those of tokens is vLLM's, so the suite's class around the two isn't made.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch

from mszoo.adapters.mindone import config as configs
from mszoo.adapters.mindone import importer
from mszoo.adapters.mindone.model import ModelForCausalLM
from mszoo.adapters.mindone.network import make
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import Module
from mszoo.layers.cells import replace_cells
from mszoo.layers.decoder import DecoderForCausalLM, DecoderSpec
from mszoo.layers.model import outside_the_tree
from mszoo.layers.vision_grid import Grid
from mszoo.models import llava, qwen2_5_vl, qwen2_vl
from mszoo.models.config import ConfigReader

import mindspore as ms


class Cells(Module):
    """A tower or a projector of the suite's: its weights are in vLLM's tree, under their checkpoint names.

    It computes in float32 whatever the decoder does: MindSpore has no bfloat16 products of batches on CPU.

    Args:
        network: the suite's, built without values for its parameters.
        prefix: its name.
    """

    def __init__(self, network: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__()
        with _making(torch.float32):
            self.replaced = replace_cells(network, self, prefix=prefix)
        outside_the_tree(self, network=network)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute what the network does."""
        return self.network(*inputs, **named)


@contextlib.contextmanager
def _making(dtype: torch.dtype) -> Iterator[None]:
    """Make ``dtype`` that of the parameters that are made inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class LlamaOfLlava(ModelForCausalLM):
    """The one decoder that the suite's LLaVA has, whatever architecture its config names."""

    @classmethod
    def architecture_of(cls, config: Any) -> str:
        """See the base class."""
        del config
        return "LlamaForCausalLM"


class LlavaForConditionalGeneration(llava.LlavaForConditionalGeneration):
    """MindSpore One's LLaVA: its CLIP, its projector and its Llama; arguments and errors are the native model's."""

    suite = "mindone"

    @classmethod
    def read_config(cls, config: Any, who: str) -> llava.LlavaSpec:
        """Read a ``llava`` config: what MindSpore One's source takes another way is refused."""
        spec = super().read_config(config, who)
        reader = ConfigReader(config, who)
        if config.text_config.model_type != "llama":
            reader.refuse("text_config.model_type", config.text_config.model_type)
        if not spec.vision.class_embedding:
            reader.refuse("vision_config.model_type", config.vision_config.model_type)
        if len(spec.feature_layers) > 1:
            reader.refuse("vision_feature_layer", config.vision_feature_layer)
        if not spec.projector_bias:
            reader.refuse("multimodal_projector_bias", spec.projector_bias)
        return replace(spec, decoder=LlamaOfLlava)

    def _build_tower(self, dot: str) -> None:
        spec, who = self.spec, f"{self.suite}.{type(self).__name__}"
        self._dtype = torch.get_default_dtype()
        vision = configs.of_part(self.config.vision_config)
        vision.num_hidden_layers = spec.vision.num_layers  # nothing behind the last one that is read
        clip = make(importer.modeling("clip"), "CLIPVisionModel", vision, who)
        self.vision_tower = Cells(clip, prefix=f"{dot}vision_tower")
        modeling = importer.modeling("llava")
        projector = make(modeling, "LlavaMultiModalProjector", configs.of_part(self.config), who)
        if spec.projector_act == "gelu":  # it would take the tanh approximation
            projector.act = importer.load("activations").ACT2FN["gelu"]
        self.multi_modal_projector = Cells(projector, prefix=f"{dot}multi_modal_projector")

    def embed_pixels(self, pixels: ms.Tensor) -> torch.Tensor:
        """See the base class."""
        return super().embed_pixels(pixels).to(self._dtype)

    def _features(self, pixels: ms.Tensor) -> ms.Tensor:
        states = self.vision_tower(_widest(pixels), output_hidden_states=True, return_dict=False)[2]
        found = to_torch(states[self.spec.feature_layers[0]])
        if self.spec.drops_first:
            found = found[:, 1:]
        return to_mindspore(found.flatten(0, 1))

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`: the tower has its last norm, which nobody reads."""
        norm = "vision_tower.vision_model.post_layernorm.*"
        return tuple(name for name in super().unused_tensors() if name != norm or not self.reads_images)


class GridTower(Cells):
    """A tower of the suite's for images of any size: patches [N, pixels] and grids -> embeddings [T, hidden]."""

    def forward(self, pixels: ms.Tensor, grids: list[Grid]) -> ms.Tensor:
        """Return the embeddings of all items."""
        return self.network(_widest(pixels), grid_thw=ms.Tensor(grids, ms.int64))


class Qwen2VLText(ModelForCausalLM):
    """The decoder of MindSpore One's Qwen2-VL.

    Attributes:
        native: reads its config.
        family, base: the suite's network.
    """

    native: ClassVar[type[DecoderForCausalLM]] = qwen2_vl.Qwen2VLText
    family: ClassVar[str] = "qwen2_vl"
    base: ClassVar[str] = "Qwen2VLTextModel"

    @classmethod
    def architecture_of(cls, config: Any) -> str:
        """See the base class."""
        del config
        return cls.base

    @classmethod
    def network_of(cls, config: Any) -> tuple[str, str]:
        """See the base class."""
        del config
        return cls.family, cls.base

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """See the base class."""
        return cls.native.read_config(config, who)


class Qwen2_5_VLText(Qwen2VLText):
    """The decoder of MindSpore One's Qwen2.5-VL."""

    family = "qwen2_5_vl"
    base = "Qwen2_5_VLTextModel"


class Qwen2VLForConditionalGeneration(qwen2_vl.Qwen2VLForConditionalGeneration):
    """MindSpore One's Qwen2-VL: its tower and its decoder; arguments and errors are the native model's."""

    suite = "mindone"
    decoder = Qwen2VLText

    def build_tower(self, prefix: str) -> Module:
        """See the base class."""
        return _grid_tower(self, "Qwen2VisionTransformerPretrainedModel", prefix)


class Qwen2_5_VLForConditionalGeneration(qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    """MindSpore One's Qwen2.5-VL: its tower and its decoder; arguments and errors are the native model's."""

    suite = "mindone"
    decoder = Qwen2_5_VLText

    def build_tower(self, prefix: str) -> Module:
        """See the base class."""
        return _grid_tower(self, "Qwen2_5_VisionTransformerPretrainedModel", prefix)


def _grid_tower(model: qwen2_vl.Qwen2VLForConditionalGeneration, name: str, prefix: str) -> GridTower:
    """Return a suite's tower of a model."""
    decoder = model.decoder
    assert issubclass(decoder, Qwen2VLText)
    vision = configs.of_part(model.config.vision_config)
    made = make(importer.modeling(decoder.family), name, vision, f"{model.suite}.{type(model).__name__}")
    # By torch: the suite's own calls methods of tensors that have no CPU kernel, for each image.
    made.rot_pos_emb = types.MethodType(_turns, made)
    return GridTower(made, prefix=prefix)


def _turns(tower: ms.nn.Cell, grids: ms.Tensor) -> ms.Tensor:
    """Return by which angles patches turn: those of rows, then those of columns, [N, D / 2].

    Args:
        tower: has the frequencies.
        grids: frames, rows and columns of each item, in patches; squares of patches lie one behind the other.
    """
    places, side = [], tower.spatial_merge_size
    for frames, height, width in grids.tolist():
        axes = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        blocks = height // side, side, width // side, side
        squares = [axis.reshape(blocks).transpose(1, 2).flatten() for axis in axes]
        places.append(torch.stack(squares, 1).repeat(frames, 1))
    frequencies = to_torch(tower.rotary_pos_emb.inv_freq)
    return to_mindspore((torch.cat(places)[:, :, None] * frequencies).flatten(1))


def _widest(tensor: ms.Tensor) -> ms.Tensor:
    return to_mindspore(to_torch(tensor).float())
