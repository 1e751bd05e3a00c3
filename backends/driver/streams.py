"""The output of requests on its way to whoever waits for it, in other threads.

It must not know workers or the scheduler.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvsim.core.messages import FinishReason, RequestId


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more comes: why, or the error with which the service ended."""

    why: FinishReason | None
    error: BaseException | None = None


class Stream:
    """The output tokens of one request, as they come. One thread reads it."""

    def __init__(self, request: RequestId) -> None:
        self.request = request
        self.ended: Ended | None = None
        self._items: queue.SimpleQueue[Sequence[int] | Ended] = queue.SimpleQueue()

    def put(self, item: Sequence[int] | Ended) -> None:
        """More tokens, or the end."""
        self._items.put(item)

    def next_tokens(self, timeout_s: float) -> Sequence[int]:
        """The tokens that have come since the last call, waiting for the first of them; none at the end.

        Raises TimeoutError if none comes in time, and the service's error if it ended before the request did.
        """
        if self.ended is None:
            try:
                item = self._items.get(timeout=timeout_s)
            except queue.Empty:
                raise TimeoutError(f"request {self.request}: no token within {timeout_s} s") from None
            if not isinstance(item, Ended):
                return item
            self.ended = item
        if self.ended.error is not None:
            raise self.ended.error
        return ()

    def tokens(self, timeout_s: float) -> Iterator[int]:
        """Every token until the end; ``timeout_s`` for each as in ``next_tokens``."""
        while tokens := self.next_tokens(timeout_s):
            yield from tokens


class Streams:
    """The driver's ``Client``: hands each request's output to its stream, if it has one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[RequestId, Stream] = {}
        self._error: BaseException | None = None

    def open(self, request: RequestId) -> Stream:
        """A stream for a request that is about to be submitted."""
        stream = Stream(request)
        with self._lock:
            if self._error is not None:
                raise self._error
            self._streams[request] = stream
        return stream

    def on_tokens(self, request: RequestId, tokens: Sequence[int]) -> None:
        """More output tokens."""
        stream = self._streams.get(request)
        if stream is not None:
            stream.put(tokens)

    def on_finish(self, request: RequestId, why: FinishReason) -> None:
        """Nothing more comes."""
        with self._lock:
            stream = self._streams.pop(request, None)
        if stream is not None:
            stream.put(Ended(why))

    def fail(self, error: BaseException) -> None:
        """The service has ended: so has every stream."""
        with self._lock:
            self._error = error
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.put(Ended(None, error))
