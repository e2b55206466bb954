class _NpuFxCompiler:
    def _get_compiled_gm(self, graph, example_inputs):
        return graph
