"""What a Triton kernel computes that lies on the way, by torch: there is no Triton for a CPU here."""

from .npu import graphs
from . import _device


class SlotMapping:
    """vLLM's kernel of this name: where each token's key and value go, and -1 behind the last one."""

    def __getitem__(self, grid):
        def run(tokens, most, starts, positions, table, stride, block_size, slots, **_):
            tensors = (starts, positions, table, slots)
            device = slots.device.index or 0
            _device.launch("triton::slot_mapping", device, list(tensors), [slots])
            starts, positions, table, slots = (_device.alias_on_cpu(item) for item in tensors)
            for row in range(grid[0] - 1):
                first, end = int(starts[row]), int(starts[row + 1])
                at = positions[first:end].long()
                slots[first:end] = (table[row, at // block_size].long() * block_size + at % block_size).to(
                    slots.dtype
                )
            slots[tokens:most] = -1

        if graphs.is_current_stream_capturing():
            raise RuntimeError("torch_npu's stand-in: slots are mapped while a graph is captured")
        return run
