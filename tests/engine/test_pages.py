"""The pages' `vllm serve` commands have options that vLLM has; no engine is started."""

from __future__ import annotations

import pytest

from tests.tools.pages import PAGES, blocks, commands, lines


def test_the_options_of_vllm_serve_exist() -> None:
    from vllm.entrypoints.cli.serve import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    found = [
        words[words.index("vllm") + 2 :]
        for page in PAGES
        for block in blocks(page)
        if block.language == "console"
        for line in lines(block)
        for words in commands(line)
        if "vllm" in words and words[words.index("vllm") + 1] == "serve"
    ]
    assert len(found) > 10
    for arguments in found:
        parser.parse_args(arguments)
    with pytest.raises(SystemExit):
        parser.parse_args(["DIR", "--tensor-paralel-size", "2"])
