"""InternVL: an InternViT on tiles and frames, squares of whose patches become an embedding each, and a decoder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import current_model_config
from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import NormSpec
from mszoo.layers.model import add_part
from mszoo.layers.multimodal import MultiModalLM, may_read
from mszoo.layers.vision import Projector, VisionSpec, VisionTransformer
from mszoo.models.config import ConfigReader
from mszoo.models.config_types import wrong_type
from mszoo.models.internlm import InternLM2ForCausalLM
from mszoo.models.llava import DECODERS
from mszoo.models.vision import tower_mlp

import mindspore as ms

#: Of the projector's norm and of queries' and keys' in Hugging Face's code, whatever the config says.
_PROJECTOR_EPS, _QK_EPS = 1e-5, 1e-6
#: Patches on a side: no model comes near, and positions of all are made.
_MOST_PATCHES = 2**10
_ROOTS = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
#: Names inside a tower, in checkpoints of Hugging Face's layout and here.
_HUGGING_FACE = (
    (r"\.cls_token$", ".class_embedding"),
    (r"\.position_embeddings$", ".position_embedding.weight"),
    (r"\.patch_embeddings\.projection\.", ".patch_embedding."),
    (r"\.encoder\.layer\.", ".encoder.layers."),
    (r"\.attention\.projection_layer\.", ".self_attn.out_proj."),
    (r"\.attention\.", ".self_attn."),
    (r"\.layernorm_before\.", ".layer_norm1."),
    (r"\.layernorm_after\.", ".layer_norm2."),
    (r"\.lambda_([12])$", r".layer_scale\1.weight"),
)
#: The same of the publisher's layout, its projector's included.
_PUBLISHERS = (
    (r"\.position_embedding$", ".position_embedding.weight"),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"\.attn\.", ".self_attn."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.ls([12])$", r".layer_scale\1.weight"),
    (r"^mlp1\.0\.", "mlp1.layer_norm."),
    (r"^mlp1\.1\.", "mlp1.linear_1."),
    (r"^mlp1\.3\.", "mlp1.linear_2."),
)
#: Of InternLM 2's decoder: one layer fuses gate and up projection by the names that the other decoders' have.
_INTERNLM2 = (
    (r"\.feed_forward\.w1\.", ".feed_forward.gate_proj."),
    (r"\.feed_forward\.w3\.", ".feed_forward.up_proj."),
)


@dataclass(frozen=True)
class InternVLSpec:
    """What an InternVL is.

    Attributes:
        vision: the tower, without layers behind the last one that is read.
        layers_of_tower: how many layers the checkpoint has of it.
        factor: so many rows and columns of patches become one embedding.
        by_columns: embeddings of a tile come column by column, as its publisher's first version had them.
        projector_act: between the projector's two projections.
        decoder: reads the embeddings.
    """

    vision: VisionSpec
    layers_of_tower: int
    factor: int
    by_columns: bool
    projector_act: str
    decoder: type[DecoderForCausalLM]


class InternVLForConditionalGeneration(MultiModalLM):
    """InternVL 2.5 and later: as Hugging Face's ``models/internvl`` defines it.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Attributes:
        decoders: by ``model_type`` of ``text_config``.
        names: inside a tower, as checkpoints have them and as they are here.
        qkv_name: of the tower's projections of queries, keys and values.
        inputs: what the processor calls tiles and their counts, of images and of videos.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    towers: ClassVar[tuple[str, ...]] = ("vision_tower",)
    connectors: ClassVar[tuple[str, ...]] = ("multi_modal_projector",)
    decoders: ClassVar[Mapping[str, type[DecoderForCausalLM]]] = DECODERS
    names: ClassVar[tuple[tuple[str, str], ...]] = _HUGGING_FACE
    qkv_name: ClassVar[str] = "qkv_proj"
    inputs: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("pixel_values", "image_num_patches", "image_embeds"),
        ("pixel_values_videos", "video_num_patches", "video_embeds"),
    )

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        spec = self.read_config(config, f"native.{type(self).__name__}")
        super().__init__()
        self.config, self.spec = config, spec
        dot, text = f"{prefix}." if prefix else "", config.text_config
        self.reads_images = may_read("image") or may_read("video")
        if self.reads_images:
            (tower,), (connector,) = self.towers, self.connectors
            add_part(self, tower, VisionTransformer(spec.vision, prefix=f"{dot}{tower}"))
            projector = Projector(
                spec.vision.hidden_size * spec.factor**2,
                text.hidden_size,
                spec.projector_act,
                bias=True,
                norm=NormSpec("layer_norm", _PROJECTOR_EPS),
                prefix=f"{dot}{connector}",
            )
            add_part(self, connector, projector)
        self.language_model = spec.decoder(text, prefix=f"{dot}language_model")

    @classmethod
    def read_config(cls, config: Any, who: str) -> InternVLSpec:
        """Read an ``internvl`` config; Hugging Face's network reads no other fields.

        Args:
            config: the Hugging Face config.
            who: the adapter's name, for messages.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """
        reader, vision = ConfigReader(config, who), ConfigReader(config.vision_config, who)
        # Where config.json says nothing, the class says true, and text_config knows.
        if not reader.flag("tie_word_embeddings") and config.text_config.tie_word_embeddings:
            reader.refuse("tie_word_embeddings", False)
        reader.must_be("vision_feature_layer", -1)
        reader.must_be("vision_feature_select_strategy", "default")
        vision.must_be("use_absolute_position_embeddings", True)
        layers, eps = vision.required("num_hidden_layers"), vision.required("layer_norm_eps")
        tower = cls.tower(
            vision,
            config.vision_config,
            layers,
            qkv_bias=vision.flag("attention_bias"),
            qk_norm=NormSpec("rms_norm", _QK_EPS) if vision.flag("use_qk_norm") else None,
            norm_after_layers=None
            if vision.flag("use_mean_pooling", True)
            else NormSpec("layer_norm", eps, name="layernorm"),
        )
        factor, act = cls.factor(reader, tower), reader.required("projector_hidden_act")
        return InternVLSpec(tower, layers, factor, False, act, cls.decoder(reader, config))

    @classmethod
    def tower(
        cls, reader: ConfigReader, config: Any, layers: int, *, channels: int | None = None, **changes: Any
    ) -> VisionSpec:
        """Return the tower.

        Args:
            reader, config: of ``vision_config``.
            layers: how many of its layers run.
            channels: of images; None for what the config says.
            changes: further fields of the spec.
        """
        heads, hidden = reader.required("num_attention_heads"), reader.required("hidden_size")
        if hidden % heads:
            reader.refuse("num_attention_heads", heads)
        kinds = ("layer_norm", "rms_norm")
        reader.must_be("norm_type", *kinds)
        kind = reader.optional("norm_type", kinds[0])
        image_size, patch_size = (_side(reader, config, name) for name in ("image_size", "patch_size"))
        if not patch_size <= image_size <= _MOST_PATCHES * patch_size:
            reader.refuse("image_size", config.image_size)
        return VisionSpec(
            image_size,
            patch_size,
            reader.required("num_channels") if channels is None else channels,
            hidden,
            layers,
            heads,
            tower_mlp(reader),
            NormSpec(kind, reader.required("layer_norm_eps")),
            class_embedding=True,
            qkv_name=cls.qkv_name,
            layer_scale=True,
            **changes,
        )

    @classmethod
    def factor(cls, reader: ConfigReader, tower: VisionSpec) -> int:
        """Return how many rows and columns of patches become one embedding."""
        ratio = reader.required("downsample_ratio")
        factor = round(1 / ratio) if isinstance(ratio, float) and 0 < ratio <= 1 else 0
        if not factor or ratio != 1 / factor or (tower.image_size // tower.patch_size) % factor:
            reader.refuse("downsample_ratio", ratio)
        return factor

    @classmethod
    def decoder(cls, reader: ConfigReader, config: Any) -> type[DecoderForCausalLM]:
        """Return the decoder inside."""
        found = cls.decoders.get(config.text_config.model_type)
        if found is None:
            reader.refuse("text_config.model_type", config.text_config.model_type)
        return found

    def embed_multimodal(self, **inputs: Any) -> list[ms.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.embed_multimodal`.

        Args:
            inputs: by the names of :attr:`inputs`: tiles or frames [N, channels, image_size, image_size] of all
                items, and how many of them an item has [B]; or embeddings of an item each.
        """
        found: list[ms.Tensor] = []
        for pixels, counts, embeddings in self.inputs:
            if inputs.get(embeddings) is not None:
                given = inputs[embeddings]
                found += given if isinstance(given, list) else [to_mindspore(one) for one in to_torch(given)]
            elif inputs.get(pixels) is not None:
                tiles = self.embed_tiles(inputs[pixels]).split(to_torch(inputs[counts]).flatten().tolist())
                found += [to_mindspore(one.flatten(0, 1)) for one in tiles]
        return found

    def embed_tiles(self, pixels: ms.Tensor) -> torch.Tensor:
        """Return the embeddings of tiles: [N, channels, height, width] -> [N, tokens, hidden].

        Raises:
            ValueError: the processor made tiles of another size than the tower reads.
        """
        vision, factor = self.spec.vision, self.spec.factor
        size, channels = vision.image_size, vision.num_channels
        if pixels.shape[1:] != (channels, size, size):
            raise ValueError(
                f"tiles are {list(pixels.shape)}, and this model reads [{channels}, {size}, {size}]"
            )
        tower, projector = (self.get_submodule(name) for (name,) in (self.towers, self.connectors))
        features = to_torch(tower(pixels, {vision.num_layers})[vision.num_layers])
        side = size // vision.patch_size
        patches = features.view(pixels.shape[0], -1, vision.hidden_size)[:, 1:]
        squares = patches.reshape(-1, side // factor, factor, side // factor, factor, vision.hidden_size)
        # A square's patches are in the order of rows either way.
        squares = squares.permute(0, 3, 1, 2, 4, 5) if self.spec.by_columns else squares.transpose(2, 3)
        joined = to_mindspore(squares.reshape(-1, factor**2 * vision.hidden_size))
        return to_torch(projector(joined)).view(pixels.shape[0], (side // factor) ** 2, -1)

    def example_inputs(self) -> dict[str, torch.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.example_inputs`."""
        if not self.reads_images:
            return {}
        vision, (pixels, counts, _) = self.spec.vision, self.inputs[0]
        shape = 2, vision.num_channels, vision.image_size, vision.image_size
        return {
            pixels: torch.zeros(shape, dtype=current_model_config().dtype),
            counts: torch.tensor([2]),
        }

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`."""
        del expected
        for theirs, ours in _ROOTS:
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
                break
        read = (*self.towers, *self.connectors)
        names = self.names if name.partition(".")[0] in read else self.names_in_decoder()
        for theirs, ours in names:
            name = re.sub(theirs, ours, name)
        return name

    def names_in_decoder(self) -> tuple[tuple[str, str], ...]:
        """Return names inside the decoder, as checkpoints have them and as they are here."""
        return ()

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`: what of the tower is behind the last layer read."""
        ((tower,), (connector,)), vision = (self.towers, self.connectors), self.spec.vision
        unread = () if self.reads_images else (f"{tower}.*", f"{connector}.*")
        behind = range(vision.num_layers, self.spec.layers_of_tower)
        return (
            *unread,
            *(f"language_model.{name}" for name in self.language_model.unused_tensors()),
            *(f"{tower}.{vision.layers_name}.{index}.*" for index in behind),
            f"{tower}.embeddings.mask_token",
        )


class InternVLChatModel(InternVLForConditionalGeneration):
    """InternVL as its publisher has it (InternVL 1.5 to 3.5): the same network by other names."""

    towers = ("vision_model",)
    connectors = ("mlp1",)
    decoders: ClassVar[Mapping[str, type[DecoderForCausalLM]]] = {
        **DECODERS,
        "internlm2": InternLM2ForCausalLM,
    }
    names = _PUBLISHERS
    qkv_name = "qkv"
    inputs = (
        ("pixel_values_flat", "image_num_patches", "image_embeds"),
        ("pixel_values_flat_video", "video_num_patches", "video_embeds"),
    )

    @classmethod
    def read_config(cls, config: Any, who: str) -> InternVLSpec:
        """Read an ``internvl_chat`` config, whose class comes with its checkpoints."""
        reader, vision = ConfigReader(config, who), ConfigReader(config.vision_config, who)
        all_layers, last = vision.required("num_hidden_layers"), reader.optional("select_layer", -1)
        # vLLM counts layers from the first one on otherwise than the publisher's code.
        if not isinstance(last, int) or not -all_layers <= last < 0:
            reader.refuse("select_layer", last)
        norm = NormSpec("rms_norm", vision.required("layer_norm_eps"))
        tower = cls.tower(
            vision,
            config.vision_config,
            all_layers + 1 + last,
            channels=3,
            qkv_bias=vision.flag("qkv_bias"),
            qk_norm=norm if vision.flag("qk_normalization") else None,
        )
        reader.must_be("force_image_size", tower.image_size)
        reader.must_be("ps_version", "v1", "v2")
        by_columns = reader.optional("ps_version", "v1") == "v1"
        factor, decoder = cls.factor(reader, tower), cls.decoder(reader, config)
        return InternVLSpec(tower, all_layers, factor, by_columns, "gelu", decoder)

    def names_in_decoder(self) -> tuple[tuple[str, str], ...]:
        """See the base class."""
        return _INTERNLM2 if self.spec.decoder is InternLM2ForCausalLM else ()


def _side(reader: ConfigReader, config: Any, name: str) -> int:
    """Return a side of squares, which configs may have twice."""
    value = getattr(config, name, None)
    reader.ignore(name)
    sides = value if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(sides) <= 2 or any(wrong_type(name, name, one) for one in sides) or len({*sides}) > 1:
        reader.refuse(name, value)
    return int(sides[0])  # type: ignore[arg-type]
