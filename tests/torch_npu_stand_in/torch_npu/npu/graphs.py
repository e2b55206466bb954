"""Graphs: what is captured is recorded op by op, and computed again on the same memory in a replay.

What an NPU refuses while it captures is refused: waiting for the device, and streams that weren't joined. After a
capture the results are not numbers, since an NPU computes nothing while it records.
"""

import gc
from dataclasses import dataclass, field

from .. import _device


class NPUGraph:
    """A recorded piece of work."""

    def __init__(self) -> None:
        self._graph = _device.Graph()
        self._at: int | None = None
        self._stream = None
        self.replays = 0

    def capture_begin(self, pool=None, capture_error_mode="global") -> None:
        from .streams import current_stream

        self._graph.begin(current_stream().stream_id)

    def capture_end(self) -> None:
        self._graph.end()

    def replay(self) -> None:
        """Do it all again; it goes on later where it waits for an event that nobody has recorded yet."""
        from .streams import current_stream

        if _device.capturing() is not None:
            raise RuntimeError("torch_npu's stand-in: a graph is replayed while another is captured")
        self._stream = current_stream()
        self.replays += 1
        self._go_on(0)

    def _go_on(self, at: int) -> None:
        from .streams import stream

        with stream(self._stream):
            self._at = self._graph.replay_from(at)
        if self._at == len(self._graph.names()):
            self._at = None
        else:
            _device.block_stream(self._stream.stream_id, "a graph waits for an event that isn't recorded")
            _waiting.append(self)

    def reset(self) -> None:
        self._graph.reset()

    def pool(self):
        return (0, 1)

    @property
    def steps(self) -> list[str]:
        """Names of what was recorded, in order."""
        return self._graph.names()


_waiting: list[NPUGraph] = []


def go_on() -> None:
    """Let replays that wait look again."""
    waiting, _waiting[:] = _waiting[:], []
    for graph_ in waiting:
        _device.unblock_stream(graph_._stream.stream_id)
        graph_._go_on(graph_._at)


def add(name: str, call, outputs=()) -> bool:
    """Record a call where a graph is being captured; say whether one is."""
    capture = _device.capturing()
    if capture is None:
        return False
    capture.add(name, call, list(outputs))
    return True


class graph:
    """Capture what runs inside, on a stream of its own."""

    def __init__(self, npu_graph: NPUGraph, pool=None, stream=None, capture_error_mode="global", **_) -> None:
        self._npu_graph, self._given = npu_graph, stream

    def __enter__(self) -> None:
        from . import streams

        streams.synchronize()
        gc.collect()
        outer = streams.current_stream()
        self._context = streams.stream(self._given or streams.Stream())
        inner = self._context.__enter__()
        inner.wait_stream(outer)
        self._npu_graph.capture_begin()
        self._outer, self._inner = outer, inner

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._npu_graph.capture_end()
        else:
            self._npu_graph._graph.abort()
        self._context.__exit__()
        self._outer.wait_stream(self._inner)


def graph_pool_handle():
    return (0, 1)


def is_current_stream_capturing() -> bool:
    return _device.capturing() is not None


@dataclass
class TaskGroup:
    """Work in a graph whose arguments may be given anew."""

    graph: object
    steps: list[int] = field(default_factory=list)


_group: list[TaskGroup] = []
_update: list[tuple[TaskGroup, list[int]]] = []


def graph_task_group_begin(stream) -> None:
    capture = _device.capturing()
    if capture is None:
        raise RuntimeError("torch_npu's stand-in: a task group outside of a capture")
    _group.append(TaskGroup(capture))


def graph_task_group_end(stream) -> TaskGroup:
    return _group.pop()


def graph_task_update_begin(stream, handle: TaskGroup) -> None:
    _update.append((handle, list(handle.steps)))


def graph_task_update_end(stream) -> None:
    _, left = _update.pop()
    if left:
        raise RuntimeError(f"torch_npu's stand-in: {len(left)} tasks of a group got no new arguments")


def record(name: str, call, outputs) -> bool:
    """Take an op of the stand-in into what is captured or updated; say whether it is to run now, too."""
    if _update:
        group, left = _update[-1]
        group.graph.set_call(left.pop(0), call)
        return False
    capture = _device.capturing()
    if capture is not None:
        place = capture.add(name, call, list(outputs))
        if _group:
            _group[-1].steps.append(place)
    return True


def is_updating() -> bool:
    return bool(_update)
