"""Records: what they accept, how they normalise it, and what they say about the rest."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from mszoo.registry import Capability, LayerAdapter, ModelAdapter, MszooError, OpAdapter, Suite
from mszoo.registry.devices import DEVICES
from mszoo.registry.errors import PluginError, RecordError, RefusalError, SettingsError


def model(**changes):
    return ModelAdapter(**{"architecture": "Arch", "model": "package.module:Class", **changes})


def test_iterables_become_tuples_and_sets():
    adapter = model(
        capabilities=["lora", Capability.QUANTIZATION],
        requires=["a>=1", "b"],
        devices=iter(["npu"]),
        dtypes={"float32", "bfloat16"},
        packed_modules_mapping={"qkv_proj": ["q_proj", "k_proj"]},
    )
    assert adapter.capabilities == frozenset({Capability.LORA, Capability.QUANTIZATION})
    assert adapter.requires == ("a>=1", "b")
    assert adapter.devices == ("npu",)
    assert adapter.dtypes == ("bfloat16", "float32")
    assert adapter.packed_modules_mapping == {"qkv_proj": ("q_proj", "k_proj")}


def test_records_are_frozen_hashable_and_their_mappings_read_only():
    config = {"hidden_size": 8}
    adapter = model(example_config=config)
    config["hidden_size"] = 9
    assert adapter.example_config == {"hidden_size": 8}
    with pytest.raises(TypeError):
        adapter.example_config["hidden_size"] = 9  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        adapter.priority = 1  # type: ignore[misc]
    assert hash(adapter) == hash(model())
    assert adapter != model()


RECORDS = [
    Suite("mindone", "MindSpore One", ["mindone>=0.4"], "pip install mindone"),
    model(example_config={"a": {"b": 1}}, packed_modules_mapping={"qkv": ["q"]}, capabilities=["lora"]),
    model(refused="its attention needs a kernel that is not there"),
    model(pooling="MEAN"),
    model(drafts="eagle3"),
    model(modalities=["image", "video"]),
    LayerAdapter("vllm:RMSNorm", "a.b:C"),
    LayerAdapter("mindone:mindone.nn.norm:Norm", "a.b:C", priority=-1),
    OpAdapter("rms_norm", "a.b:f", "cpu", devices=["cpu"]),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_survive_pickle_and_copy(record):
    assert pickle.loads(pickle.dumps(record)) == record
    assert copy.deepcopy(record) == record
    assert dataclasses.replace(record) == record


NOT_STRINGS = "Set it to a tuple of strings."
NOT_PATH = "Set it to 'module:Class'."
BAD_MODELS = [
    ({"architecture": "a.B"}, "architecture is 'a.B'", "Set it to a class name such as 'LlamaForCausalLM'."),
    ({"architecture": None}, "architecture is None", "Set it to a class name such as 'LlamaForCausalLM'."),
    ({"model": "package.module"}, "model is 'package.module'", NOT_PATH),
    ({"model": "package.module:"}, "model is 'package.module:'", NOT_PATH),
    ({"model": "a b:C"}, "model is 'a b:C'", NOT_PATH),
    ({"model": "a:B:C"}, "model is 'a:B:C'", NOT_PATH),
    ({"model": "a:B\n"}, "model is 'a:B\\n'", NOT_PATH),
    ({"capabilities": "lora"}, "capabilities is 'lora'", NOT_STRINGS),
    (
        {"requires": ["mindformers=>1.9"]},
        "requires is 'mindformers=>1.9'",
        "Set it to a requirement string such as 'mindformers>=1.9'.",
    ),
    ({"requires": "mindformers"}, "requires is 'mindformers'", NOT_STRINGS),
    ({"requires": [1]}, "requires is [1]", NOT_STRINGS),
    ({"requires": None}, "requires is None", NOT_STRINGS),
    ({"devices": ["cuda"]}, "devices is 'cuda'", f"Set it to any of {', '.join(DEVICES)}."),
    ({"devices": []}, "devices is []", f"Set it to at least one of {', '.join(DEVICES)}."),
    ({"dtypes": ["fp32"]}, "dtypes is 'fp32'", "Set it to any of float32, bfloat16, float16."),
    ({"priority": "high"}, "priority is 'high'", "Set it to an integer."),
    ({"priority": True}, "priority is True", "Set it to an integer."),
    ({"pooling": "cls"}, "pooling is 'cls'", "Set it to any of CLS, LAST, MEAN."),
    ({"pooling": None}, "pooling is None", "Set it to a string of one line."),
    ({"drafts": "ngram"}, "drafts is 'ngram'", "Set it to any of eagle, eagle3, medusa, mtp."),
    ({"modalities": ["images"]}, "modalities is 'images'", "Set it to any of image, video, audio."),
    ({"modalities": "image"}, "modalities is 'image'", NOT_STRINGS),
    (
        {"modalities": ["image"], "drafts": "mtp"},
        "modalities is ('image',) beside drafts",
        "Leave one of the two out.",
    ),
    ({"refused": True}, "refused is True", "Set it to a string of one line."),
    ({"refused": "a\nb"}, "refused is 'a\\nb'", "Set it to a string of one line."),
    ({"example_config": [1]}, "example_config is [1]", "Set it to a mapping with string keys."),
    (
        {"example_config": {1: 2}},
        "example_config isn't JSON (one of its keys is an int)",
        "Give it what a config.json may hold.",
    ),
    (
        {"packed_modules_mapping": {1: "q"}},
        "packed_modules_mapping is {1: 'q'}",
        "Set it to a mapping with string keys.",
    ),
    ({"packed_modules_mapping": {"qkv": "q"}}, "packed_modules_mapping['qkv'] is 'q'", NOT_STRINGS),
]


@pytest.mark.parametrize(("changes", "what", "hint"), BAD_MODELS)
def test_bad_model_adapter(changes, what, hint):
    with pytest.raises(RecordError) as caught:
        model(**changes)
    who = f"ModelAdapter({changes.get('architecture', 'Arch')!r})"
    assert (caught.value.who, caught.value.what, caught.value.hint) == (who, what, hint)


BAD_RECORDS = [
    (lambda: Suite("a.b"), "Suite('a.b'): name is 'a.b'. Set it to letters, digits, '_' and '-', such as "),
    (
        lambda: Suite("vllm"),
        "Suite('vllm'): name is 'vllm'. Set it to letters, digits, '_' and '-', such as ",
    ),
    (lambda: Suite("a", description=1), "Suite('a'): description is 1. Set it to a string of one line."),
    (lambda: Suite("a", install=None), "Suite('a'): install is None. Set it to a string of one line."),
    (
        lambda: Suite("a", requires=["!"]),
        "Suite('a'): requires is '!'. Set it to a requirement string such as ",
    ),
    (
        lambda: LayerAdapter("RMSNorm", "a:B"),
        "LayerAdapter('RMSNorm'): target is 'RMSNorm'. "
        "Set it to 'vllm:<LayerClass>' or '<suite>:<module>:<Class>'.",
    ),
    (lambda: LayerAdapter("vllm:a:B", "a:B"), "LayerAdapter('vllm:a:B'): target is 'vllm:a:B'. Set it to "),
    (
        lambda: LayerAdapter("vllm:A", "a"),
        "LayerAdapter('vllm:A'): implementation is 'a'. Set it to 'module:Class'.",
    ),
    (
        lambda: OpAdapter("rms norm", "a:f", "cpu"),
        "OpAdapter('rms norm'): op is 'rms norm'. "
        "Set it to the name of an op or primitive, such as 'rms_norm'.",
    ),
    (
        lambda: OpAdapter("a", "f", "cpu"),
        "OpAdapter('a'): implementation is 'f'. Set it to 'module:function'.",
    ),
    (
        lambda: OpAdapter("a", "a:f", ""),
        "OpAdapter('a'): kernel_set is ''. Set it to a kernel set such as 'mindspore' or 'cpu'.",
    ),
]


@pytest.mark.parametrize(("build", "text"), BAD_RECORDS)
def test_other_bad_records(build, text):
    with pytest.raises(RecordError) as caught:
        build()
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("kind", [MszooError, PluginError, RecordError, SettingsError, RefusalError])
def test_errors_say_who_what_mend_and_survive_pickle(kind):
    error = kind("plugin 'x'", "does not\n load.", "Fix it.")
    assert str(error) == "plugin 'x': does not load. Fix it."
    assert isinstance(error, MszooError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.who, again.what, again.hint) == (error.who, error.what, error.hint)
