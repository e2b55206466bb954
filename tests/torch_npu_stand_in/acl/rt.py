import ctypes


def memcpy(destination: int, limit: int, source: int, size: int, kind: int) -> None:
    """Copy memory from or to a device, where host memory stands for both."""
    ctypes.memmove(destination, source, size)
