"""How mszoo's conformance tests the models that transformers lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mszoo.conformance import EncoderConformance, ModelConformance, MultiModalConformance
from mszoo.conformance.checkpoints import Checkpoint, make_checkpoint, write_tokenizer
from mszoo.conformance.engines import Engines

#: As checkpoints bring it: the file that ``auto_map`` names in config.json.
_CONFIGURATION = '''"""The config class of {model_type}."""

from transformers import PretrainedConfig

#: transformers reads these while it makes the others.
FIRST = ("max_position_embeddings", "rope_theta", "rope_scaling")


class Config(PretrainedConfig):
    model_type = "{model_type}"
    attribute_map = {names}

    def __init__(self, **fields):
        for name in FIRST:
            if name in fields:
                setattr(self, name, fields.pop(name))
        super().__init__(**fields)
'''
#: What vLLM asks a TeleChat2's config for.
_NAMES = {"telechat": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}}


def write_config_class(config: Mapping[str, Any], folder: Path) -> None:
    """Write the file with the config class that a config.json names, if it names one."""
    place = config.get("auto_map", {}).get("AutoConfig")
    if place is None or config["model_type"] == "chatglm":  # vLLM has that one's
        return
    module, _, name = place.partition(".")
    text = _CONFIGURATION.format(model_type=config["model_type"], names=_NAMES.get(config["model_type"], {}))
    (folder / f"{module}.py").write_text(text.replace("class Config(", f"class {name}("), encoding="utf-8")


class TestBaiChuan(ModelConformance):
    """The standard tests, with the config class that comes with the checkpoints, and a small reference."""

    architecture = "native.BaiChuanForCausalLM"
    engine_options: ClassVar[Mapping[str, Any]] = {"trust_remote_code": True}

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the config class."""
        write_config_class(cls.find()[0].adapter.example_config, folder)

    def reference(self, config: dict[str, Any], weights: dict[str, Any], tokens: list[int]) -> Any:
        """Return the logits [T, vocab] of the reference."""
        # Imported here: the static tier does without torch.
        from mszoo.adapters.native.references import REFERENCES

        return REFERENCES[self.architecture.rpartition(".")[2]](config, weights, tokens)


class TestBaichuan(TestBaiChuan):
    """The same."""

    architecture = "native.BaichuanForCausalLM"


class TestChatGLM(TestBaiChuan):
    """The same."""

    architecture = "native.ChatGLMForConditionalGeneration"


class TestChatGLMModel(TestBaiChuan):
    """The same."""

    architecture = "native.ChatGLMModel"


class TestExaone(TestBaiChuan):
    """The same."""

    architecture = "native.ExaoneForCausalLM"


class TestInternLM2(TestBaiChuan):
    """The same."""

    architecture = "native.InternLM2ForCausalLM"


class TestInternLM3(TestBaiChuan):
    """The same."""

    architecture = "native.InternLM3ForCausalLM"


class TestMiniCPM(TestBaiChuan):
    """The same."""

    architecture = "native.MiniCPMForCausalLM"


class TestOrion(TestBaiChuan):
    """The same."""

    architecture = "native.OrionForCausalLM"


class TestTeleChat2(TestBaiChuan):
    """The same."""

    architecture = "native.TeleChat2ForCausalLM"


class TestXverse(TestBaiChuan):
    """The same."""

    architecture = "native.XverseForCausalLM"


class TestNew(EncoderConformance):
    """The standard tests of an encoder whose config class comes with the checkpoints, and a small reference."""

    architecture = "native.NewModel"

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the config class."""
        write_config_class(cls.find()[0].adapter.example_config, folder)

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the options of the engines."""
        return {**super().options(), "trust_remote_code": True}

    @classmethod
    def reference(cls, checkpoint: Checkpoint, text: list[int]) -> Any:
        """Return what the reference makes of a text."""
        from mszoo.adapters.native import encoder_references

        return encoder_references.new(checkpoint.config, checkpoint.weights, text)


class TestNewForTexts(TestNew):
    """The same."""

    architecture = "native.NewForSequenceClassification"


class TestNewForTokens(TestNew):
    """The same."""

    architecture = "native.NewForTokenClassification"


class TestGteNew(TestNew):
    """The same."""

    architecture = "native.GteNewModel"


class TestGteNewForTexts(TestNew):
    """The same."""

    architecture = "native.GteNewForSequenceClassification"


class TestLlava(MultiModalConformance):
    """The standard tests, with a processor of CLIP's images."""

    architecture = "native.LlavaForConditionalGeneration"

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the processor."""
        import transformers

        config = cls.find()[0].adapter.example_config
        token, vision = f"t{config['image_token_index']}", config["vision_config"]
        write_tokenizer(folder, config["text_config"]["vocab_size"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        side = vision["image_size"]
        options = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        tiles = config.get("image_grid_pinpoints")
        images, processor = transformers.CLIPImageProcessor(**options), transformers.LlavaProcessor
        if tiles is not None:
            images = transformers.LlavaNextImageProcessor(**options, image_grid_pinpoints=tiles)
            processor = transformers.LlavaNextProcessor
        processor(
            images,
            tokenizer,
            patch_size=vision["patch_size"],
            vision_feature_select_strategy="default",
            image_token=token,
            num_additional_image_tokens=1,
        ).save_pretrained(folder)


class TestLlavaNext(TestLlava):
    """The same."""

    architecture = "native.LlavaNextForConditionalGeneration"


class TestLlavaOnevision(MultiModalConformance):
    """The standard tests, with a processor of its own images and videos."""

    architecture = "native.LlavaOnevisionForConditionalGeneration"

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the processor."""
        import transformers

        config = cls.find()[0].adapter.example_config
        vision, tokens = config["vision_config"], [f"t{config[f'{kind}_token_index']}" for kind in _KINDS]
        square = {"height": vision["image_size"], "width": vision["image_size"]}
        transformers.LlavaOnevisionProcessor(
            transformers.LlavaOnevisionImageProcessor(
                size=square, image_grid_pinpoints=config["image_grid_pinpoints"]
            ),
            _tokenizer_with(
                folder, config["text_config"]["vocab_size"], dict(zip(tokens, tokens, strict=True))
            ),
            transformers.LlavaOnevisionVideoProcessor(size=square),
            num_image_tokens=(vision["image_size"] // vision["patch_size"]) ** 2,
            vision_feature_select_strategy="full",
            image_token=tokens[0],
            video_token=tokens[1],
        ).save_pretrained(folder)


class TestIdefics3(MultiModalConformance):
    """The standard tests, with a processor of tiles."""

    architecture = "native.Idefics3ForConditionalGeneration"
    family: ClassVar[str] = "Idefics3"

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the processor."""
        import transformers

        config = cls.find()[0].adapter.example_config
        vision, last = config["vision_config"], config["image_token_id"]
        side = vision["image_size"]
        tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
        special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]
        names = {f"t{last - index}": name for index, name in enumerate(special)}
        size = {"size": {"longest_edge": 2 * side}, "max_image_size": {"longest_edge": side}}
        others = cls.others(size)
        getattr(transformers, f"{cls.family}Processor")(
            getattr(transformers, f"{cls.family}ImageProcessor")(**size),
            _tokenizer_with(folder, config["text_config"]["vocab_size"], names),
            image_seq_len=(side // vision["patch_size"] // config["scale_factor"]) ** 2,
            **others,
        ).save_pretrained(folder)

    @classmethod
    def others(cls, size: Mapping[str, Any]) -> dict[str, Any]:
        """Return further parts of the processor."""
        del size
        return {}


class TestSmolVLM(TestIdefics3):
    """The same; transformers' processor of it needs num2words."""

    architecture = "native.SmolVLMForConditionalGeneration"
    family = "SmolVLM"

    @classmethod
    def others(cls, size: Mapping[str, Any]) -> dict[str, Any]:
        """Return the processor of videos, where the package is there that transformers needs."""
        import transformers

        pytest.importorskip("num2words", reason="the processor needs num2words, which isn't installed")
        return {"video_processor": transformers.SmolVLMVideoProcessor(**size)}


class TestInternVL(MultiModalConformance):
    """The standard tests, with a processor of tiles."""

    architecture = "native.InternVLForConditionalGeneration"
    #: By what transformers' processor calls special tokens, their names.
    tokens: ClassVar[Mapping[str, str]] = {
        "context_image_token": "<IMG_CONTEXT>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "video_token": "<video>",
    }

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the processor."""
        import transformers

        config = cls.find()[0].adapter.example_config
        last, side = config["image_token_id"], config["vision_config"]["image_size"]
        names = {f"t{last - index}": name for index, name in enumerate(cls.tokens.values())}
        _tokenizer_with(folder, config["text_config"]["vocab_size"], names).save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=dict(cls.tokens))
        square = {"height": side, "width": side}
        transformers.InternVLProcessor(
            transformers.GotOcr2ImageProcessor(
                size=square, crop_to_patches=True, min_patches=1, max_patches=3
            ),
            tokenizer,
            transformers.InternVLVideoProcessor(size=square),
            image_seq_length=config["image_seq_length"],
        ).save_pretrained(folder)

    def expected_logits(self, checkpoint: Checkpoint, tokens: list[int], images: list[Any]) -> Any:
        """Return the reference's logits [len(tokens), vocab]: it takes no count of tiles."""
        import torch

        from transformers import AutoProcessor

        inputs = {}
        if images:
            processor = AutoProcessor.from_pretrained(checkpoint.folder)
            inputs["pixel_values"] = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            return checkpoint.model(input_ids=torch.tensor([tokens]), **inputs).logits[0]


class TestInternVLChat(TestInternVL):
    """The same in the publisher's layout, whose tensors are those of Hugging Face's by other names."""

    architecture = "native.InternVLChatModel"
    engine_options: ClassVar[Mapping[str, Any]] = {"trust_remote_code": True}
    #: By the tokenizer of :meth:`write_files`: what stands for an embedding, and for an image in prompts.
    embedding_token, image_token = 255, 251
    #: Means and deviations of ImageNet's colours, which the publisher's processor knows.
    of_pixels = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    @classmethod
    def make(cls, folder: Path) -> Checkpoint:
        """Write both, and return the publisher's with Hugging Face's model."""
        from mszoo.adapters.native.internvl_checkpoints import as_hugging_face, write_publishers

        config = dict(cls.find()[0].adapter.example_config)
        fields = as_hugging_face(config, cls.embedding_token)
        made = make_checkpoint(fields, fields["architectures"][0], folder / "hugging-face", lambda _: {})
        write_publishers(folder, config, made.weights)
        cls.write_files(folder)
        read = config | {"text_config": config["llm_config"]}  # as vLLM calls it
        return Checkpoint(folder, read, made.weights, made.model)

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        """The tiny checkpoint."""
        del engines
        return cls.make(tmp_path_factory.mktemp("InternVLChatModel"))

    @classmethod
    def requests(cls, checkpoint: Checkpoint) -> list[Any]:
        """Return the standard prompts, with what stands for an image in prompts, and images of a tile each."""
        found = super().requests(checkpoint)
        side = checkpoint.config["vision_config"]["image_size"]
        for request in found:
            request.images[:] = [image.resize((side, side)) for image in request.images]
            words = [one for one in request.tokens if one != cls.image_token]
            request.tokens[:] = [cls.image_token if one == cls.embedding_token else one for one in words]
        return found

    def expected_logits(self, checkpoint: Checkpoint, tokens: list[int], images: list[Any]) -> Any:
        """Return the reference's logits [len(tokens), vocab]; transformers has no processor of this layout."""
        import torch

        import numpy as np

        inputs = {}
        if images:
            pixels = torch.tensor(np.stack([np.asarray(image) for image in images]), dtype=torch.float32)
            mean, deviation = (torch.tensor(one) for one in self.of_pixels)
            inputs["pixel_values"] = ((pixels / 255 - mean) / deviation).permute(0, 3, 1, 2)
        with torch.no_grad():
            return checkpoint.model(input_ids=torch.tensor([tokens]), **inputs).logits[0]

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the tokenizer: vLLM has the processor."""
        names = {f"t{cls.embedding_token - index}": name for index, name in enumerate(cls.tokens.values())}
        names[f"t{cls.image_token}"] = "<image>"
        vocabulary = cls.find()[0].adapter.example_config["llm_config"]["vocab_size"]
        _tokenizer_with(folder, vocabulary, names).save_pretrained(folder)


class TestQwen2VL(MultiModalConformance):
    """The standard tests, with a processor of patches."""

    architecture = "native.Qwen2VLForConditionalGeneration"
    processor = "Qwen2VLProcessor"
    image_processor = "Qwen2VLImageProcessor"
    video_processor = "Qwen2VLVideoProcessor"
    #: Names of special tokens, which processors know, by the config's fields.
    tokens: ClassVar[Mapping[str, str]] = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the processor."""
        import transformers

        config = cls.find()[0].adapter.example_config
        vision = config["vision_config"]
        side = vision["patch_size"] * vision["spatial_merge_size"]
        options = {
            "patch_size": vision["patch_size"],
            "merge_size": vision["spatial_merge_size"],
            "size": {"shortest_edge": 4 * side**2, "longest_edge": 24 * side**2},
        }
        images, videos = (
            getattr(transformers, name)(**options) for name in (cls.image_processor, cls.video_processor)
        )
        names = {f"t{config[field]}": name for field, name in cls.tokens.items()}
        tokenizer = _tokenizer_with(folder, config["text_config"]["vocab_size"], names)
        getattr(transformers, cls.processor)(images, tokenizer, videos).save_pretrained(folder)

    def expected_logits(self, checkpoint: Checkpoint, tokens: list[int], images: list[Any]) -> Any:
        """Return the reference's logits [len(tokens), vocab]: it is told which tokens are of images."""
        import torch

        from transformers import AutoProcessor

        ids, inputs = torch.tensor([tokens]), {}
        if images:
            processor = AutoProcessor.from_pretrained(checkpoint.folder)
            inputs = dict(processor.image_processor(images, return_tensors="pt"))
            inputs["mm_token_type_ids"] = (ids == checkpoint.model.config.image_token_id).int()
        with torch.no_grad():
            return checkpoint.model(input_ids=ids, **inputs).logits[0]


class TestQwen2_5_VL(TestQwen2VL):
    """The same."""

    architecture = "native.Qwen2_5_VLForConditionalGeneration"
    processor = "Qwen2_5_VLProcessor"


class TestQwen3VL(TestQwen2VL):
    """The same."""

    architecture = "native.Qwen3VLForConditionalGeneration"
    processor = "Qwen3VLProcessor"
    video_processor = "Qwen3VLVideoProcessor"


class TestQwen3VLMoe(TestQwen3VL):
    """The same."""

    architecture = "native.Qwen3VLMoeForConditionalGeneration"


class TestGlm4v(TestQwen2VL):
    """The same."""

    architecture = "native.Glm4vForConditionalGeneration"
    processor = "Glm4vProcessor"
    image_processor = "Glm4vImageProcessor"
    video_processor = "Glm4vVideoProcessor"
    tokens: ClassVar[Mapping[str, str]] = {
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "image_token_id": "<|image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
        "video_token_id": "<|video|>",
    }


class TestGlm4vMoe(TestGlm4v):
    """The same."""

    architecture = "native.Glm4vMoeForConditionalGeneration"


_KINDS = ("image", "video")


def _tokenizer_with(folder: Path, vocab_size: int, names: Mapping[str, str]) -> Any:
    """Write a tokenizer of words, of which some have other names and are special, and return it."""
    from transformers import AutoTokenizer

    write_tokenizer(folder, vocab_size)
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    for word, name in names.items():
        text = text.replace(f'"{word}"', f'"{name}"')
    file.write_text(text, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    return tokenizer
