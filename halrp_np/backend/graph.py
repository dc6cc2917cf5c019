"""Work on a GPU recorded once as a CUDA graph and replayed: one launch in place of some dozens.

The recorded work reads and writes the same memory at every replay. So what changes from call to call (which rows, what
rate) must be written into arrays that the work reads, its results are the same arrays every time, and memory that it
takes in passing comes from a pool of its own, in which nothing else is ever put. What the work does on the host is
done once, while it is recorded: a number drawn there would be drawn once for ever.

https://docs.cupy.dev/en/stable/reference/generated/cupy.cuda.Stream.html (begin_capture), .../cupy.cuda.Graph.html
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

WARM_UP = 2
"""Calls before the one that is recorded: they compile kernels, and leave the pool the memory that the work takes."""


class Replay:
    """`work` as a function of no arguments: called op by op at first, then recorded, then replayed.

    Where it cannot be recorded, it goes on op by op, and `note` says why, once.
    """

    def __init__(self, work: Callable[[], Any], xp: Any, note: Callable[[str], None]) -> None:
        self.work, self.xp, self.note = work, xp, note
        self.calls = 0
        self.refused = not recordable(xp)
        self.graph: Any = None
        self.result: Any = None
        if not self.refused:
            self.stream = xp.cuda.Stream(non_blocking=True)  # the default stream cannot be recorded
            self.pool = xp.cuda.MemoryPool()

    def __call__(self) -> Any:
        """The result of `work`; of a replay, in the arrays of the last one."""
        self.calls += 1
        if self.refused:
            return self.work()
        if self.graph is None and self.calls <= WARM_UP:
            return self._apart()
        if self.graph is None and not self._record():
            return self.work()
        self.graph.launch()  # on the stream of everything else, so in its turn
        return self.result

    def _apart(self) -> Any:
        """Run the work on the stream and in the memory of the recording."""
        self.xp.cuda.get_current_stream().synchronize()
        with self._own_memory(), self.stream:
            result = self.work()
        self.stream.synchronize()
        return result

    def _record(self) -> bool:
        """Record the work, which does nothing yet; False, with a note, if it cannot be."""
        self.xp.cuda.get_current_stream().synchronize()
        with self._own_memory(), self.stream:
            try:
                self.stream.begin_capture()
                self.result = self.work()
                self.graph = self.stream.end_capture()
            except Exception as error:  # each library has its own way to refuse
                with suppress(Exception):  # a recording that failed ends with an error of its own
                    self.stream.end_capture()
                self.refused, self.result = True, None
                self.note(f"training goes on without a CUDA graph, which could not be recorded: {error}")
        return self.graph is not None

    def _own_memory(self) -> AbstractContextManager[Any]:
        """Within, arrays are made in the recording's own pool."""
        memory: AbstractContextManager[Any] = self.xp.cuda.using_allocator(self.pool.malloc)
        return memory


def recordable(xp: Any) -> bool:
    """Whether arrays of this module live where work can be recorded."""
    return getattr(xp, "__name__", "") == "cupy"
