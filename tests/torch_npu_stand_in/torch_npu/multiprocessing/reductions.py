def rebuild_npu_tensor(*_):
    raise NotImplementedError("torch_npu's stand-in hands no tensors to other processes")
