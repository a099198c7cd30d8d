"""The queue between requests and the model: bounded, and films that wait are predicted together."""

import asyncio
import threading

import pytest

from pneumojax.data.sources.unlabelled import Seen
from pneumojax.inference.predictions import Row
from pneumojax.serving.batching import Batcher, Full

SEEN = Seen(None, "", ())


def run(steps):
    """Run steps beside a batcher's work."""
    return asyncio.run(steps)


async def beside(batcher, steps):
    task = asyncio.create_task(batcher.run())
    try:
        return await steps
    finally:
        task.cancel()


def test_films_that_come_while_the_model_is_busy_are_its_next_batch():
    busy, batches = threading.Event(), []

    def predict(films):
        batches.append([id for id, _ in films])
        busy.wait(5)
        return [Row(id) for id, _ in films]

    async def steps():
        first = asyncio.create_task(batcher.row("first", SEEN))
        while not batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.row(str(number), SEEN)) for number in range(5)]
        await asyncio.sleep(0.01)
        busy.set()
        return await asyncio.gather(first, *others)

    batcher = Batcher(predict, 4, 10)
    rows = run(beside(batcher, steps()))
    assert [row.id for row in rows] == ["first", "0", "1", "2", "3", "4"], "each gets its own row"
    assert batches == [["first"], ["0", "1", "2", "3"], ["4"]], "four at most"


def test_more_films_than_places_are_refused_until_places_are_free():
    batcher = Batcher(lambda films: [], 4, 3)
    with batcher.places(2):
        with pytest.raises(Full), batcher.places(2):
            pass
        with batcher.places(1):
            assert batcher.taken == 3
    assert batcher.taken == 0


def test_an_error_reaches_its_batch_and_the_next_one_is_predicted():
    def predict(films):
        if films[0][0] == "bad":
            raise ValueError("no")
        return [Row(id) for id, _ in films]

    async def steps():
        with pytest.raises(ValueError):
            await batcher.row("bad", SEEN)
        return await batcher.row("good", SEEN)

    batcher = Batcher(predict, 4, 3)
    assert run(beside(batcher, steps())).id == "good"


def test_a_film_whose_request_has_ended_is_not_predicted():
    predicted = []

    def predict(films):
        predicted.extend(id for id, _ in films)
        return [Row(id) for id, _ in films]

    async def steps():
        gone = asyncio.create_task(batcher.row("gone", SEEN))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        task = asyncio.create_task(batcher.run())
        await batcher.row("here", SEEN)
        task.cancel()

    batcher = Batcher(predict, 4, 3)
    run(steps())
    assert predicted == ["here"]
