from mszoo.conformance import ModelConformance


class TestA(ModelConformance):
    architecture = "native.LlamaForCausalLM"


class TestB(ModelConformance):
    architecture = "native.GPT2LMHeadModel"


class TestC(ModelConformance):
    architecture = "native.Qwen3MoeForCausalLM"


class TestD(ModelConformance):
    architecture = "native.DeepseekV3ForCausalLM"


class TestE(ModelConformance):
    architecture = "mindone.OPTForCausalLM"


class TestF(ModelConformance):
    architecture = "mindformers.Qwen3ForCausalLM"
