"""Run as a script: one checkpoint on a Ray cluster of two nodes of this machine, a data parallel rank on each.

Standard input: ``{"model": folder, "prompts": [token ids]}``. The argument names the file to write: what each rank
answered, who served it there, on which node, and the digest of its decision.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from mszoo.adapters.vllm.cli.process import free_port

HERE = "127.0.0.1"


class Rank:
    """One of two ranks, in a Ray worker; vLLM finds the other by its own variables."""

    def __init__(self, rank: int, model: str, port: int) -> None:
        place = {
            "VLLM_DP_RANK": rank,
            "VLLM_DP_RANK_LOCAL": 0,
            "VLLM_DP_SIZE": 2,
            "VLLM_DP_MASTER_IP": HERE,
            "VLLM_DP_MASTER_PORT": port,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ALLOW_INSECURE_SERIALIZATION": 1,
            "VLLM_ENABLE_V1_MULTIPROCESSING": 0,
        }
        os.environ.update({name: str(value) for name, value in place.items()})
        from vllm import LLM

        self.llm = LLM(
            model,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=128,
            max_num_seqs=4,
            num_gpu_blocks_override=64,
            enforce_eager=True,
        )

    def answer(self, prompts: list[list[int]]) -> dict[str, Any]:
        """Answer prompts greedily, and say who did."""
        from vllm import SamplingParams

        from mszoo.adapters.vllm.install import install
        from tests.engine.answers import look

        sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)
        done = self.llm.generate([{"prompt_token_ids": one} for one in prompts], sampling, use_tqdm=False)
        (who,) = self.llm.apply_model(look)
        return {
            "answers": [item.outputs[0].token_ids for item in done],
            "adapter": who["adapter"],
            "digest": install().digest(),
            "node": ray.get_runtime_context().get_node_id(),
        }


def main() -> None:
    job = json.load(sys.stdin)
    first = {"num_cpus": 1, "include_dashboard": False, "resources": {"node0": 1}}
    cluster = Cluster(initialize_head=True, head_node_args=first)
    cluster.add_node(num_cpus=1, resources={"node1": 1})
    ray.init(address=cluster.address)
    worker, port = ray.remote(Rank), free_port()
    ranks = [worker.options(resources={f"node{rank}": 1}).remote(rank, job["model"], port) for rank in (0, 1)]
    found = ray.get([rank.answer.remote(job["prompts"]) for rank in ranks])
    Path(sys.argv[1]).write_text(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
