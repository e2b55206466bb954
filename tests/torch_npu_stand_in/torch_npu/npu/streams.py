"""Streams and events. Work is done as it is given; who waits for whom is remembered, and checked."""

import torch

from .. import _device
from . import graphs


class Stream(torch.Stream):
    """A stream of torch's, with the NPU's name of its handle."""

    def __new__(cls, device=None, priority=0, **known):
        if known:
            return super().__new__(cls, **known)
        index = (
            None if device is None else (device if isinstance(device, int) else torch.device(device).index)
        )
        index = _device.current_device() if index is None else index
        return super().__new__(cls, device=torch.device("npu", index), priority=priority)

    @property
    def npu_stream(self) -> int:
        return self.stream_id

    def record_event(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event) -> None:
        event.wait(self)


class Event(torch.Event):
    def __new__(cls, enable_timing=False, blocking=False, interprocess=False, **_):
        return super().__new__(cls, device=torch.device("npu"), enable_timing=enable_timing)

    def record(self, stream=None) -> None:
        super().record(current_stream() if stream is None else stream)

    def wait(self, stream=None) -> None:
        super().wait(current_stream() if stream is None else stream)

    def elapsed_time(self, end) -> float:
        return 0.0


class ExternalEvent:
    """An event that work inside a graph waits for, and somebody outside records."""

    def __init__(self) -> None:
        self._is_set = False

    def wait(self, stream=None) -> None:
        graphs.add("ExternalEvent.wait", lambda: self._is_set)

    def reset(self, stream=None) -> None:
        def reset() -> bool:
            self._is_set = False
            return True

        if not graphs.add("ExternalEvent.reset", reset):
            reset()

    def record(self, stream=None) -> None:
        self._is_set = True
        graphs.go_on()


def _known(stream: torch.Stream) -> Stream:
    return Stream(
        stream_id=stream.stream_id, device_index=stream.device_index, device_type=stream.device_type
    )


def current_stream(device=None) -> Stream:
    index = None if device is None else (device if isinstance(device, int) else torch.device(device).index)
    found = torch.accelerator.current_stream(
        torch.device("npu", _device.current_device() if index is None else index)
    )
    return _known(found)


def default_stream(device=None) -> Stream:
    current = current_stream(device)
    return Stream(stream_id=0, device_index=current.device_index, device_type=current.device_type)


def set_stream(stream: Stream) -> None:
    torch.accelerator.set_stream(stream)


class stream:
    """Put work on a stream inside; None changes nothing."""

    def __init__(self, stream) -> None:
        self._stream = stream

    def __enter__(self):
        if self._stream is not None:
            self._before = current_stream()
            set_stream(self._stream)
        return self._stream

    def __exit__(self, *_) -> None:
        if self._stream is not None:
            set_stream(self._before)


def synchronize(device=None) -> None:
    torch.accelerator.synchronize(_device.current_device())
