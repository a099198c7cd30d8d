"""A bounded queue between requests, which bring films one by one, and a model, which is fastest with many at once."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from pneumojax.data.sources.unlabelled import Seen
from pneumojax.inference.predictions import Row

Predict = Callable[[Sequence[tuple[str, Seen]]], list[Row]]
_Waiting = tuple[str, Seen, asyncio.Future[Row]]


class Full(Exception):
    """As many films wait as may."""


class Batcher:
    """Predicts films of all requests together: those that came while the model was busy are its next batch.

    So a film waits for no other where the model is idle.
    """

    def __init__(self, predict: Predict, batch: int, places: int) -> None:
        """Take what predicts, how many films it takes at once, and how many may wait for their rows."""
        self._predict, self._batch, self._places = predict, batch, places
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many films have a place now."""
        return self._taken

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Keep places for so many films, from before they are read until their rows are there.

        Raises:
          Full: there are not so many.
        """
        if self._taken + count > self._places:
            raise Full
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count

    async def row(self, id: str, seen: Seen) -> Row:
        """Return a film's row, once `run` has come to it."""
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((id, seen, future))
        return await future

    async def run(self) -> None:
        """Predict what comes, until this is cancelled."""
        with ThreadPoolExecutor(1) as thread:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < self._batch and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._answer([one for one in batch if not one[2].done()], thread)

    async def _answer(self, batch: list[_Waiting], thread: ThreadPoolExecutor) -> None:
        """Predict a batch, and give each film's future its row, or the error."""
        if not batch:
            return
        films = [(id, seen) for id, seen, _ in batch]
        try:
            rows = await asyncio.get_running_loop().run_in_executor(thread, self._predict, films)
        except Exception as error:  # each request reports it, and the next batch may go well
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, _, future), row in zip(batch, rows, strict=True):
            if not future.done():
                future.set_result(row)
