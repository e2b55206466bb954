"""What one run of `mszoo bench` does in its own process: its workload, its prompts, who may answer."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from mszoo.adapters.vllm.cli.bench import worker as bench_worker
from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError, Workload
from mszoo.adapters.vllm.cli.bench.worker import check_answerer, engine_options, prompts, with_images

from .bench_results import OURS, THEIRS


def test_every_prefill_fits_one_step():
    options = engine_options(Workload("m", batches=(1, 32), prompt=100, new=20, prefill=512))
    assert options["max_num_batched_tokens"] == 3200
    assert (options["max_num_seqs"], options["max_model_len"]) == (32, 513)
    options = engine_options(Workload("m", batches=(1,), prompt=1, new=2, prefill=1))
    assert options["max_model_len"] == options["max_num_batched_tokens"] == 129


def test_a_model_that_reads_images(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"text_config": {"max_position_embeddings": 5000}}', encoding="utf-8"
    )
    workload = Workload(str(tmp_path), prefill=512, reads=("image", "video"))
    options = engine_options(workload)
    assert options["limit_mm_per_prompt"] == {"image": 0, "video": 0}
    assert options["max_model_len"] == 513
    assert not options["skip_tokenizer_init"]
    options = engine_options(dataclasses.replace(workload, images=1))
    assert options["limit_mm_per_prompt"] == {"image": 1, "video": 0}
    assert options["max_model_len"] == options["max_num_batched_tokens"] == 513 + 4096
    assert engine_options(dataclasses.replace(workload, images=2))["max_model_len"] == 5000
    assert "limit_mm_per_prompt" not in engine_options(Workload("m"))


def test_code_that_comes_with_the_model_runs_where_it_is_trusted():
    assert engine_options(Workload("m", trust_remote_code=True))["trust_remote_code"] is True
    assert "trust_remote_code" not in engine_options(Workload("m"))


def test_proposals_are_counted():
    asked = {"method": "ngram", "num_speculative_tokens": 3}
    options = engine_options(Workload("m", speculative_config=asked))
    assert options["speculative_config"] == asked and options["disable_log_stats"] is False
    assert not {"speculative_config", "disable_log_stats"} & engine_options(Workload("m")).keys()


def test_images_are_noise_in_front_of_the_prompt():
    workload = Workload("m", images=2, image_size=7)
    (prompt,) = prompts(50, (3,), seed=1)
    made = [with_images(prompt, [51, 51], workload, seed) for seed in (1, 1, 2)]
    assert made[0]["prompt_token_ids"] == [51, 51, *prompt["prompt_token_ids"]]
    shown = [[image.tobytes() for image in one["multi_modal_data"]["image"]] for one in made]
    assert [image.size for image in made[0]["multi_modal_data"]["image"]] == [(7, 7)] * 2
    assert shown[0] == shown[1]
    assert len(set(shown[0] + shown[2])) == 4


def test_prompts_are_fixed_and_below_the_vocabulary():
    first = prompts(50, (3, 200), seed=1)
    assert first == prompts(50, (3, 200), seed=1)
    assert first != prompts(50, (3, 200), seed=2)
    assert [len(item["prompt_token_ids"]) for item in first] == [3, 200]
    assert {token for item in first for token in item["prompt_token_ids"]} <= set(range(50))


def test_the_right_answerers_pass():
    check_answerer(MINDSPORE, OURS)
    check_answerer(VLLM, THEIRS)


@pytest.mark.parametrize(
    ("side", "answerer", "text"),
    [
        (
            MINDSPORE,
            THEIRS,
            "vllm.model_executor.models.llama.LlamaForCausalLM served the MindSpore side, no adapter of mszoo. "
            "See why in the log's lines with 'mszoo'",
        ),
        (
            VLLM,
            OURS,
            "vLLM's side was served by native.LlamaForCausalLM. Check that nothing unsets MSZOO_DISABLE",
        ),
        (
            MINDSPORE,
            dataclasses.replace(OURS, forwards=0),
            "native.LlamaForCausalLM computed no step of the MindSpore side. Report this with the log",
        ),
    ],
)
def test_the_wrong_answerers_are_refused(side, answerer, text):
    with pytest.raises(BenchError) as raised:
        check_answerer(side, answerer)
    assert str(raised.value) == f"bench: {text}"


def test_a_small_kv_cache_is_refused():
    cache = SimpleNamespace(block_size=128, num_gpu_blocks=15)
    with pytest.raises(BenchError) as raised:
        bench_worker._check_cache(cache, Workload("m", batches=(1, 8), prompt=100, new=60))
    assert str(raised.value) == (
        "bench: the KV cache holds 1920 tokens, and batch 8 needs 2048. "
        "Set VLLM_CPU_KVCACHE_SPACE to more GiB, or give a smaller --batch"
    )
    bench_worker._check_cache(cache, Workload("m", batches=(1, 8), prompt=64, new=64))


def test_a_model_that_is_pooled():
    """Whole texts in one step, by vLLM's own task; nothing is generated."""
    options = engine_options(Workload("m", batches=(1, 32), prompt=100, prefill=512, task="classify"))
    assert (options["runner"], options["pooler_config"]) == ("pooling", {"task": "classify"})
    assert (options["max_model_len"], options["max_num_batched_tokens"]) == (512, 3200)
    assert options["skip_tokenizer_init"] is False
    assert "runner" not in engine_options(Workload("m"))
