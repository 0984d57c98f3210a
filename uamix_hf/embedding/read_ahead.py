"""Reading of recordings in a thread of its own, while the encoder computes."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")


def read_ahead(source: Iterable[Item], ahead: int) -> Generator[Item]:
    """Yields the items of a source, of which the next ones are read by a thread meanwhile.

    Errors of the source are raised where its item would have been. The first two items are read by the caller, so that
    a single one, such as a short clip, needs no thread. The thread ends with the iteration: when the source has no more
    items, and when the iterator is closed, after the item that is just being read. It has the caller's context
    variables and modes of gradients.

    Args:
        source: Read in order, by one thread at a time.
        ahead: Items that are read before they are asked for, from 1 on: they are in memory.
    """
    items = iter(source)
    count = 0
    for item in islice(items, 2):
        count += 1
        yield item
    if count < 2:
        return
    end, context = object(), copy_context()
    with_graph, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def read() -> Item | object:
        with torch.inference_mode(inference), torch.set_grad_enabled(with_graph):
            return next(items, end)

    reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        coming: deque[Future] = deque(reader.submit(context.run, read) for _ in range(ahead))
        while (item := coming.popleft().result()) is not end:
            coming.append(reader.submit(context.run, read))
            yield item
    finally:
        reader.shutdown(cancel_futures=True)


__all__ = ["read_ahead"]
