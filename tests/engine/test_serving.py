"""What `vllm serve` can do, it does on a MindSpore model, with the answers of vLLM's own: real servers over HTTP.

The reference is vLLM's own Llama on the same checkpoint, served without mszoo, one request at a time, with neither
prefix caching nor chunked prefill nor a shortage of KV cache. The server under test has all three.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from mszoo.adapters.vllm.cli.demo.serve import find_answerer

from .conftest import assert_mindspore, running_engine
from .server import MODEL, Server, byte_tokenizer, make_text_checkpoint, running_server

ADAPTER = "native.LlamaForCausalLM"
STEP_TOKENS = 64
BLOCK_TOKENS = 32
BLOCKS = 18  # one context of 512 tokens takes 16, and vLLM keeps one for itself
OPTIONS = [
    *("--max-model-len", "512"),
    *("--max-num-seqs", "32"),
    *("--block-size", str(BLOCK_TOKENS)),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
]
INSPECTION = "vllm.model_executor.models.registry"  # the module that vLLM's inspection subprocess runs

GREEDY = {"temperature": 0, "ignore_eos": True, "return_token_ids": True}
SHORT = [f"{index}: what is {index * 37} minus {index * index}" + "?" * (index % 9) for index in range(32)]
LONG = [" ".join(f"{start + step * 7} sheep," for step in range(18)) for start in range(100, 108)]
LONGEST = " ".join(str(number * number) for number in range(96))[:400]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "colour": {"enum": ["red", "green", "blue"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "parts": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "colour", "size", "parts"],
    "additionalProperties": False,
}
PAINT = {"name": "paint", "description": "Paints.", "parameters": SCHEMA, "strict": True}
TOOL = {"type": "function", "function": PAINT}
USER = [{"role": "user", "content": "Describe a house."}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "house", "schema": SCHEMA}}

Request = tuple[str, dict[str, Any]]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def completion(prompt: str, max_tokens: int, **fields: Any) -> Request:
    return COMPLETIONS, GREEDY | {"prompt": prompt, "max_tokens": max_tokens} | fields


def chat(max_tokens: int, **fields: Any) -> Request:
    return CHAT, {"messages": USER, "temperature": 0, "max_tokens": max_tokens} | fields


SHORT_REQUESTS = [completion(prompt, 24) for prompt in SHORT]
LONG_REQUESTS = [completion(prompt, 64) for prompt in LONG]
LONGEST_REQUEST = completion(LONGEST, 32)
CHAT_REQUEST = chat(40, ignore_eos=True, logprobs=True, top_logprobs=5)
# Few enough tokens for one step: on a CPU, vLLM 0.32 itself dies of a seed on a request prefilled in chunks.
SAMPLES_REQUEST = completion(SHORT[0], 24, temperature=1.0, seed=7, n=3)
FORMAT_REQUEST = chat(150, response_format=FORMAT)
TOOL_REQUEST = chat(40, ignore_eos=True, tools=[TOOL], tool_choice="auto")
NAMED_TOOL_REQUEST = chat(150, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "paint"}})
ALL_REQUESTS = [
    *SHORT_REQUESTS,
    *LONG_REQUESTS,
    LONGEST_REQUEST,
    CHAT_REQUEST,
    SAMPLES_REQUEST,
    FORMAT_REQUEST,
    TOOL_REQUEST,
    NAMED_TOOL_REQUEST,
]


class Reference:
    """The answers of vLLM's own model.

    Attributes:
        log: what its server printed.
        children: command lines of the processes that its server started.
    """

    def __init__(self, server: Server) -> None:
        self._responses = {json.dumps(request): server.post(*request) for request in ALL_REQUESTS}
        self.log, self.children = server.log(), server.children

    def choices(self, request: Request) -> list[dict[str, Any]]:
        return self._responses[json.dumps(request)]["choices"]

    def text(self, request: Request) -> str:
        return self.choices(request)[0]["text"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_text_checkpoint(tmp_path_factory.mktemp("served") / "llama")


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory) -> Reference:
    options = [*OPTIONS, "--enforce-eager", "--no-enable-prefix-caching", "--max-num-batched-tokens", "512"]
    with running_server(folder, tmp_path_factory.mktemp("reference"), *options, MSZOO_DISABLE="1") as server:
        return Reference(server)


@pytest.fixture(scope="module")
def server(folder, reference, tmp_path_factory) -> Iterator[Server]:
    """The server under test, in vLLM's default mode: compiled, and with prefix caching."""
    tight = ["--max-num-batched-tokens", str(STEP_TOKENS), "--num-gpu-blocks-override", str(BLOCKS)]
    with running_server(folder, tmp_path_factory.mktemp("server"), *OPTIONS, *tight) as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    """The client that people use."""
    base_url = str(server.http.base_url.join("/v1"))
    http_client = openai.DefaultHttpxClient(trust_env=False)  # no proxy
    with openai.OpenAI(base_url=base_url, api_key="none", http_client=http_client, max_retries=0) as client:
        yield client


def tokens(choices: list[dict[str, Any]]) -> list[list[int]]:
    return [choice["token_ids"] for choice in choices]


def together(server: Server, requests: list[Request]) -> list[list[list[int]]]:
    """Send requests at the same time; return the tokens of each one's choices."""
    with ThreadPoolExecutor(len(requests)) as pool:
        responses = list(pool.map(lambda request: server.post(*request), requests))
    return [tokens(response["choices"]) for response in responses]


def test_mszoo_answers_and_the_reference_is_vllms_own(server, reference) -> None:
    server.post(*SHORT_REQUESTS[0])
    answerer = find_answerer(server.log())
    assert answerer is not None
    assert (answerer.adapter, answerer.kernel_set) == (ADAPTER, "cpu")
    assert find_answerer(reference.log) is None
    assert "falls back to vLLM's own model" not in server.log()


def test_no_inspection_subprocess_appears(server, reference) -> None:
    assert not [command for command in server.children if INSPECTION in command]
    # The look-out works: it saw this server's engine, and the inspection of vLLM's own model.
    assert any("multiprocessing.spawn" in command for command in server.children)
    assert any(INSPECTION in command for command in reference.children)


def test_the_answers_to_compare_differ_from_each_other(reference) -> None:
    answers = [reference.text(request) for request in [*SHORT_REQUESTS, *LONG_REQUESTS]]
    assert len(set(answers)) == len(answers)
    assert min(len(set(answer)) for answer in answers) > 5


def test_sequential_requests(server, reference) -> None:
    for request in [*SHORT_REQUESTS[:6], LONG_REQUESTS[0]]:
        response = server.post(*request)
        assert tokens(response["choices"]) == tokens(reference.choices(request))
        assert response["choices"][0]["text"] == reference.text(request)


def test_32_concurrent_requests(server, reference) -> None:
    answers = together(server, SHORT_REQUESTS)
    assert answers == [tokens(reference.choices(request)) for request in SHORT_REQUESTS]


def test_streaming(client, reference) -> None:
    arguments = {"model": MODEL, "messages": USER, "temperature": 0, "max_tokens": 40}
    arguments["extra_body"] = {"ignore_eos": True}
    whole = client.chat.completions.create(**arguments).choices[0].message.content
    chunks = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**arguments, stream=True)
        if chunk.choices
    ]
    assert len([chunk for chunk in chunks if chunk]) > 3  # on a busy machine one chunk holds several tokens
    assert "".join(chunks) == whole == reference.choices(CHAT_REQUEST)[0]["message"]["content"]


def test_logprobs(server, reference) -> None:
    choice = server.post(*CHAT_REQUEST)["choices"][0]
    expected = reference.choices(CHAT_REQUEST)[0]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 40
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    for entry, other in zip(entries, expected["logprobs"]["content"], strict=True):
        top = [candidate["logprob"] for candidate in entry["top_logprobs"]]
        assert len(top) == 5
        assert top == sorted(top, reverse=True)
        assert entry["top_logprobs"][0]["token"] == entry["token"] == other["token"]
        assert top[0] == entry["logprob"] < 0
        assert top == pytest.approx([candidate["logprob"] for candidate in other["top_logprobs"]], abs=1e-4)


def test_stop_strings(server, reference) -> None:
    answer = reference.text(SHORT_REQUESTS[3])
    stop = answer[9:12]
    path, body = SHORT_REQUESTS[3]
    choice = server.post(path, body | {"stop": [stop, "never written"]})["choices"][0]
    assert choice["text"] == answer[: answer.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)


def test_several_samples_with_a_seed(server, reference) -> None:
    first, second = (tokens(server.post(*SAMPLES_REQUEST)["choices"]) for _ in range(2))
    assert len(first) == 3
    assert len({tuple(sample) for sample in first}) == 3
    assert first == second == tokens(reference.choices(SAMPLES_REQUEST))


def test_several_greedy_answers_are_one(client, reference) -> None:
    greedy = {"top_k": 1, "ignore_eos": True}  # vLLM refuses n > 1 at temperature 0
    choices = client.completions.create(
        model=MODEL, prompt=SHORT[5], temperature=1, max_tokens=24, n=3, extra_body=greedy
    ).choices
    assert [choice.text for choice in choices] == [reference.text(SHORT_REQUESTS[5])] * 3


def test_structured_output(server, reference) -> None:
    choice = server.post(*FORMAT_REQUEST)["choices"][0]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    assert choice["message"]["content"] == reference.choices(FORMAT_REQUEST)[0]["message"]["content"]


def test_tool_calls(server, reference) -> None:
    free = server.post(*TOOL_REQUEST)["choices"][0]["message"]
    assert free["content"] == reference.choices(TOOL_REQUEST)[0]["message"]["content"]
    (call,) = server.post(*NAMED_TOOL_REQUEST)["choices"][0]["message"]["tool_calls"]
    (expected,) = reference.choices(NAMED_TOOL_REQUEST)[0]["message"]["tool_calls"]
    assert call["function"] == expected["function"]
    assert call["function"]["name"] == "paint"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)


def test_prefix_caching(server, reference) -> None:
    path, body = LONGEST_REQUEST
    fresh = path, body | {"cache_salt": "prefix"}  # what earlier requests left in the cache doesn't count
    expected = tokens(reference.choices(LONGEST_REQUEST))
    hits = [server.metric("vllm:prefix_cache_hits_total")]
    for _ in range(2):
        assert tokens(server.post(*fresh)["choices"]) == expected
        hits.append(server.metric("vllm:prefix_cache_hits_total"))
    before, once, twice = hits
    assert once == before
    assert twice - once >= len(LONGEST) - 2 * BLOCK_TOKENS


def test_chunked_prefill(server, reference) -> None:
    path, body = LONGEST_REQUEST
    assert len(LONGEST) > 6 * STEP_TOKENS
    response = server.post(path, body | {"cache_salt": "chunks"})
    assert response["usage"]["prompt_tokens"] == len(LONGEST)
    assert tokens(response["choices"]) == tokens(reference.choices(LONGEST_REQUEST))
    # The test with the mindspore kernels counts the steps.
    assert f"Chunked prefill is enabled with max_num_batched_tokens={STEP_TOKENS}" in server.log()


def test_preemption(server, reference) -> None:
    before = server.metric("vllm:num_preemptions_total")
    expected = [tokens(reference.choices(request)) for request in LONG_REQUESTS]
    for attempt in range(10):  # on a busy machine the requests may come one after another
        # Without what earlier requests left in the cache: prefixes that are shared need less of it.
        fresh = [(path, body | {"cache_salt": f"preemption {attempt}"}) for path, body in LONG_REQUESTS]
        assert together(server, fresh) == expected
        if server.metric("vllm:num_preemptions_total") > before:
            break
    assert server.metric("vllm:num_preemptions_total") > before


def test_a_client_that_disconnects_disturbs_nobody(server, reference) -> None:
    requests = SHORT_REQUESTS[1:9]
    length, samples = 450, 16
    for _ in range(15):  # on a busy machine the first chunk may come when all is written
        before = server.metric("vllm:generation_tokens_total")
        path, body = completion(SHORT[0], length, n=samples, temperature=1, stream=True, model=MODEL)
        with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as connection:
            response = connection.enter_context(server.http.stream("POST", path, json=body))
            first = next(line for line in response.iter_lines() if line)
            assert json.loads(first.removeprefix("data: "))["choices"]
            others = pool.submit(together, server, requests)
            connection.close()
            assert others.result() == [tokens(reference.choices(request)) for request in requests]
        deadline = time.monotonic() + 60
        while server.metric("vllm:num_requests_running") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.metric("vllm:num_requests_running") == 0
        written = server.metric("vllm:generation_tokens_total") - before
        if written < length * samples:
            return  # it was cut short, as nobody listened any more
    pytest.fail("vLLM went on writing for a client that had left")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "tiny", "prompt": ',
        {"prompt": "a", "max_tokens": -1},
        {"prompt": "a" * 600, "max_tokens": 1},
        {"prompt": [100_000], "max_tokens": 1},
        {"prompt": "a", "temperature": "warm"},
    ],
    ids=["not-json", "negative-length", "too-long", "unknown-token", "wrong-type"],
)
def test_a_malformed_request_is_refused_and_the_server_lives(body, server, reference) -> None:
    content = body if isinstance(body, bytes) else json.dumps({"model": MODEL} | body).encode()
    headers = {"Content-Type": "application/json"}
    response = server.http.post(COMPLETIONS, content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert server.http.get("/health").status_code == 200
    answer = server.post(*SHORT_REQUESTS[0])["choices"]
    assert tokens(answer) == tokens(reference.choices(SHORT_REQUESTS[0]))


def test_mindspore_kernels_with_chunks_preemption_and_cached_prefixes(folder, reference, monkeypatch) -> None:
    """The same answers with every op computed by MindSpore, and the same shortages."""
    from vllm import SamplingParams

    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    requests = [*SHORT_REQUESTS[:8], *LONG_REQUESTS[:4], LONGEST_REQUEST]
    tokenizer = byte_tokenizer()
    prompts = [{"prompt_token_ids": tokenizer(body["prompt"])["input_ids"]} for _, body in requests]
    sampling = [
        SamplingParams(temperature=0, max_tokens=body["max_tokens"], ignore_eos=True, detokenize=False)
        for _, body in requests
    ]
    with running_engine(
        folder,
        max_model_len=512,
        max_num_batched_tokens=STEP_TOKENS,
        block_size=BLOCK_TOKENS,
        num_gpu_blocks_override=BLOCKS,
        disable_log_stats=False,
    ) as llm:

        def answers(chosen: slice) -> list[list[list[int]]]:
            outputs = llm.generate(prompts[chosen], sampling[chosen], use_tqdm=False)
            return [[list(choice.token_ids) for choice in output.outputs] for output in outputs]

        def metric(name: str) -> float:
            return sum(found.value for found in llm.get_metrics() if found.name == name)

        expected = [tokens(reference.choices(request)) for request in requests]
        alone = slice(-1, None)
        steps = [assert_mindspore(llm, ADAPTER, "mindspore")]
        assert answers(alone) == expected[alone]
        steps.append(assert_mindspore(llm, ADAPTER, "mindspore"))
        assert metric("vllm:prefix_cache_hits") == 0
        assert answers(alone) == expected[alone]
        steps.append(assert_mindspore(llm, ADAPTER, "mindspore"))
        assert metric("vllm:prefix_cache_hits") > 0
        chunks = math.ceil(len(LONGEST) / STEP_TOKENS)
        decoding = LONGEST_REQUEST[1]["max_tokens"] - 1
        assert [after - before for before, after in itertools.pairwise(steps)] == [
            chunks + decoding,
            1 + decoding,
        ]
        assert answers(slice(None)) == expected
        assert metric("vllm:num_preemptions") > 0
