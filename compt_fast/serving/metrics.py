"""What a server counts, for Prometheus."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Metrics:
    """The counters of one server, apart from those of others in the same process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, namespace="compt_fast", registry=self._registry)
        histogram = partial(Histogram, namespace="compt_fast", registry=self._registry)
        self.requests = counter("requests", "Requests that were answered", ["method", "path", "status"])
        self.latency = histogram("request_seconds", "From a request's head to its answer", ["path"], buckets=_SECONDS)
        self.queue_rows = Gauge(
            "queue_rows", "Rows that wait for the trunk", namespace="compt_fast", registry=self._registry
        )
        self._rows = counter("rows", "Rows that were answered")
        self._tokens = counter("tokens", "Tokens through the trunk, prompts among them; its rate is tokens/s")
        self._seconds = histogram("batch_seconds", "What the trunk took for a batch", buckets=_SECONDS)
        self._fill = histogram("batch_fill", "Tokens of a batch, of those that it may have", buckets=_SHARES)

    def of_batch(self, rows: int, tokens: int, most: int, seconds: float) -> None:
        """Count a batch of `tokens` of the `most` that it might have, which took `seconds`."""
        self._rows.inc(rows)
        self._tokens.inc(tokens)
        self._seconds.observe(seconds)
        self._fill.observe(tokens / most)

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self._registry)
