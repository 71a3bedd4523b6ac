"""What Prometheus reads at /metrics. Every label has few values, none of them from a request."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STAGES = ("decode", "queue", "network", "finish")
TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """One registry for each app, so that several can live in one process.

    Attributes:
        stage: seconds of a photograph in each of `STAGES`.
        request: seconds from the first byte to the last, by route and status.
        batch: images in each call of the network.
        waiting: photographs that wait for the network.
        under_way: requests with photographs being served.
        rejected: requests refused, by the code of the answer.
        cancelled: requests whose client left before the answer.
        job_images: photographs of jobs, by outcome.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.stage = Histogram(
            "segmae_stage_seconds", "Seconds in a stage", ["stage"], registry=registry, buckets=SECONDS
        )
        self.request = Histogram(
            "segmae_request_seconds", "Seconds of a request", ["route", "status"], registry=registry, buckets=SECONDS
        )  # fmt: skip
        self.batch = Histogram(
            "segmae_batch_images", "Images in a batch", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.waiting = Gauge("segmae_queue_images", "Images that wait for the network", registry=registry)
        self.under_way = Gauge("segmae_requests_under_way", "Requests with photographs", registry=registry)
        self.rejected = Counter("segmae_rejected", "Requests refused", ["code"], registry=registry)
        self.cancelled = Counter("segmae_cancelled", "Clients that left", registry=registry)
        self.job_images = Counter("segmae_job_images", "Images of jobs", ["outcome"], registry=registry)
        for stage in STAGES:
            self.stage.labels(stage)

    def text(self) -> bytes:
        return generate_latest(self.registry)
