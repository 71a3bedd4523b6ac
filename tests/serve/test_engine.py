"""How images are gathered into batches, without a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from serving import PATIENCE, until

from segmae.serve.engine import Closed, Engine, Full, Output

SIDE = 4


def image(value: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, np.uint8)


class Network:
    """Gives each image's value back; waits at a gate, and notes every batch with its views."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], int]] = []
        self.open, self.began = threading.Event(), threading.Semaphore(0)

    def __call__(self, images: np.ndarray, views: int) -> np.ndarray:
        self.batches.append((images[:, 0, 0, 0].tolist(), views))
        self.began.release()
        assert self.open.wait(PATIENCE)
        if 99 in images:
            raise ValueError("a bad image")
        return images[..., 0].astype(np.float32)


@pytest.fixture
def network() -> Iterator[Network]:
    one = Network()
    yield one
    one.open.set()


def busy(network: Network, **options: int) -> tuple[Engine, Future[Output]]:
    """An engine whose network is at work on a first image."""
    engine = Engine(network, **{"batch": 4, "window_s": 0, "limit": 10, **options})
    first = engine.submit(image(0))
    assert network.began.acquire(timeout=PATIENCE)
    return engine, first


def test_what_waits_is_computed_together_and_given_back_to_its_own(network: Network) -> None:
    engine, first = busy(network)
    futures = [engine.submit(image(value)) for value in range(1, 7)]
    network.open.set()
    for value, future in enumerate([first, *futures]):
        output = future.result(PATIENCE)
        assert (output.probability == value).all()
        assert output.probability.base is None, "a view keeps the whole batch in memory"
    assert network.batches == [([0], 1), ([1, 2, 3, 4], 1), ([5, 6], 1)]
    engine.close()


def test_a_batch_has_one_number_of_views_and_nobody_waits_for_ever(network: Network) -> None:
    engine, _ = busy(network)
    futures = [engine.submit(image(value), views) for value, views in ((1, 1), (2, 8), (3, 1), (4, 8))]
    network.open.set()
    assert [future.result(PATIENCE).probability[0, 0] for future in futures] == [1, 2, 3, 4]
    assert network.batches[1:] == [([1, 3], 1), ([2, 4], 8)]
    engine.close()


def test_what_was_cancelled_is_not_computed(network: Network) -> None:
    engine, _ = busy(network)
    futures = [engine.submit(image(value)) for value in (1, 2, 3)]
    assert futures[1].cancel()
    network.open.set()
    futures[2].result(PATIENCE)
    assert network.batches[1:] == [([1, 3], 1)]
    engine.close()


def test_jobs_and_requests_do_not_stop_each_other(network: Network) -> None:
    engine, _ = busy(network)
    jobs = [engine.submit(image(100 + n), job=True) for n in range(3)]
    requests = [engine.submit(image(value)) for value in range(1, 6)]
    network.open.set()
    for future in (*jobs, *requests):
        future.result(PATIENCE)
    assert network.batches[1:] == [([1, 2, 3, 100], 1), ([4, 5, 101, 102], 1)]
    engine.close()


def test_jobs_of_other_views_have_their_turn_among_requests_without_end(network: Network) -> None:
    engine, _ = busy(network)
    engine.submit(image(1))
    job = engine.submit(image(2), 8, job=True)
    for value in range(3, 8):
        engine.submit(image(value))
    network.open.set()
    job.result(PATIENCE)
    assert network.batches[1:3] == [([1, 3, 4], 1), ([2], 8)]
    engine.close()


def test_more_than_the_limit_is_refused(network: Network) -> None:
    engine, _ = busy(network, limit=2)
    left = engine.submit(image(1))
    engine.submit(image(2))
    with pytest.raises(Full):
        engine.submit(image(3))
    left.cancel()
    assert engine.submit(image(3)), "a client that left makes room"
    engine.submit(image(4), job=True)  # jobs have a limit of their own
    network.open.set()
    engine.close()


def test_a_bad_image_fails_alone(network: Network) -> None:
    engine, _ = busy(network)
    good, bad, fine = (engine.submit(image(value)) for value in (1, 99, 3))
    network.open.set()
    assert good.result(PATIENCE).probability[0, 0] == 1
    assert fine.result(PATIENCE).probability[0, 0] == 3
    with pytest.raises(ValueError, match="bad image"):
        bad.result(PATIENCE)
    engine.close()


def test_closing_computes_what_was_taken(network: Network) -> None:
    engine, first = busy(network)
    second = engine.submit(image(1))
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: engine._closed)
    with pytest.raises(Closed):
        engine.submit(image(2))
    network.open.set()
    closing.join(PATIENCE)
    assert first.done() and second.done()
