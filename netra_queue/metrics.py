"""Prometheus metrics. docs/metrics.md has each name with its meaning.

    netra_queue_…          this process (in multiprocess mode: the processes that share PROMETHEUS_MULTIPROC_DIR),
                           native objects in the default registry, fed from what the process counts
    netra_queue_store_…    the store as it stands, the same whichever process is asked: default registry and ours
    netra_queue_cluster_…  what all processes have ever done, from the store's statistics: in our registry alone

Nothing in here is about single queues: their number has no bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import prometheus_client
from prometheus_client import REGISTRY, CollectorRegistry, Counter
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from . import statistics
from .core.breaker import BreakerState
from .core.message import Priority
from .core.statistics import BOUNDS, NONE, Event, Figures, Gauge, Histogram, Timing
from .fullness import near_limit
from .known import Known
from .maintenance import COUNT_LIMIT
from .stores import guarded
from .stores.base import Overview
from .sweeps import LastSweep

BOUNDLESS = float("inf")

MESSAGES = "Events of messages, by what happened and by priority"
OTHERS = {
    Event.CONNECTED: ("connections_opened", "Connections that began"),
    Event.BELL_MISSED: ("bells_missed", "Times a poll found messages that no bell had told of"),
    Event.BUCKET_MERGED: ("statistics_merged", "Ten-second buckets of statistics counted with a later one"),
    Event.CONNECTION_LIMITED: ("connections_limited", "Connections refused above their rate"),
    Event.CLIENT_LIMITED: ("clients_limited", "Connections closed because their clients sent frames above their rate"),
    Event.SWEPT: ("sweeps", "Sweeps of expired messages that ended without an error"),
    Event.BREAKER_OPENED: ("breaker_opened", "Times the breaker around the store opened, or stayed open after a try"),
}
ACK_SECONDS = "From a message's sending to its acknowledgement, by whether it was there before the connection"
NEAR_LIMIT = "Queues that hold 80 % of what their policies allow, of up to 1,000 that may"
LIVE_SECONDS = "From a connection's beginning to the end of its replay"
GAUGES = {
    Gauge.CONNECTIONS: ("connections", "Connections of this process"),
    Gauge.IN_FLIGHT: ("in_flight", "Deliveries of this process without an acknowledgement"),
    Gauge.OWN_SENDS: ("own_sends", "Consumers' own sends that only this process's memory has"),
}
BREAKER = "1 for the state that this process's breaker around the store is in, 0 for the others"
LAST_SWEEP = "When expired messages were swept last, in seconds since 1970"
STORE_GAUGES: dict[str, tuple[str, Callable[[Overview], float]]] = {
    "messages": ("Messages that wait, counted up to a limit", lambda found: found.messages),
    "bytes": ("Bytes of their payloads", lambda found: found.size),
    "expired": ("Messages that have expired and are not removed yet", lambda found: found.expired),
    "dead_letters": ("Dead letters that are kept, counted up to a limit", lambda found: found.letters),
    "queues": ("Queues and devices that are known", lambda found: found.queues),
    "connections": ("Connections of all server processes", lambda found: found.connections),
    "servers": ("Server processes that are alive", lambda found: found.servers),
    "complete": ("1 if no count has met its limit", lambda found: found.complete),
}


# --- of this process -----------------------------------------------------------------------------------------------


class Times(prometheus_client.Histogram):
    """Takes many observations at once. The two attributes it uses are those that ``observe`` does."""

    def add(self, histogram: Histogram) -> None:
        self._sum.inc(histogram.total)
        for bucket, count in zip(self._buckets, histogram.counts, strict=True):
            if count:
                bucket.inc(count)


class ProcessMetrics:
    """Native objects in a registry: they work in multiprocess mode, too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(_UpToDate(self))  # before the others: a registry asks in this order
        names = ["event", "priority"]
        self._messages = Counter("netra_queue_messages", MESSAGES, names, registry=registry)
        self._others = {
            e: Counter(f"netra_queue_{name}", text, registry=registry) for e, (name, text) in OTHERS.items()
        }
        self._ack = Times("netra_queue_ack_seconds", ACK_SECONDS, ["replayed"], buckets=BOUNDS, registry=registry)
        self._live = Times("netra_queue_live_seconds", LIVE_SECONDS, buckets=BOUNDS, registry=registry)
        self._gauges = {
            gauge: prometheus_client.Gauge(f"netra_queue_{name}", text, registry=registry, multiprocess_mode="livesum")
            for gauge, (name, text) in GAUGES.items()
        }
        self._breaker = prometheus_client.Gauge(
            "netra_queue_breaker_state", BREAKER, ["state"], registry=registry, multiprocess_mode="livesum"
        )

    def feed(self, figures: Figures) -> None:
        """These have happened since the last call."""
        for event in Event:
            for priority, count in zip(Priority, figures.counts[event], strict=True):
                if count and event.has_priority:
                    self._messages.labels(event.name.lower(), priority.name.lower()).inc(count)
            if not event.has_priority and figures.counts[event][NONE]:
                self._others[event].inc(figures.counts[event][NONE])
        for timing, replayed in ((Timing.ACK, "no"), (Timing.REPLAY_ACK, "yes")):
            if figures.timings[timing].count:
                self._ack.labels(replayed).add(figures.timings[timing])
        self._live.add(figures.timings[Timing.LIVE])
        self.set_gauges()

    def set_gauges(self) -> None:
        for gauge, native in self._gauges.items():
            native.set(statistics.ledger.gauge(gauge))
        now = guarded.current_guard().state
        for state in BreakerState:
            self._breaker.labels(state.value).set(state is now)


class _UpToDate(Collector):
    """Has none of its own: being asked, it sees to it that the others know the latest."""

    def __init__(self, metrics: ProcessMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        statistics.ledger.gather()
        self._metrics.set_gauges()
        return []


# --- of the store --------------------------------------------------------------------------------------------------


class StoreCollector(Collector):
    """The store as it stands."""

    def __init__(self) -> None:
        self._overview = Known(lambda store: (store.overview(0, COUNT_LIMIT), len(near_limit(store)), store.now()))

    def describe(self) -> Iterable[Metric]:
        names = (*STORE_GAUGES, "near_limit", "oldest_seconds", "up")
        return [GaugeMetricFamily(f"netra_queue_store_{name}", "") for name in names]

    def collect(self) -> Iterator[Metric]:
        known = self._overview.get()
        if known is None and not self._overview.was_asked:
            return
        yield GaugeMetricFamily("netra_queue_store_up", "1 if the store has answered", float(known is not None))
        if known is None:
            return
        overview, full, now = known
        for name, (text, value) in STORE_GAUGES.items():
            yield GaugeMetricFamily(f"netra_queue_store_{name}", text, float(value(overview)))
        yield GaugeMetricFamily("netra_queue_store_near_limit", NEAR_LIMIT, float(full))
        age = (now - overview.oldest_at).total_seconds() if overview.oldest_at is not None else 0.0
        yield GaugeMetricFamily("netra_queue_store_oldest_seconds", "Age of the oldest message that waits", age)


class ClusterCollector(Collector):
    """What all processes have ever done, as they have written it: about ten seconds late."""

    def __init__(self) -> None:
        last_sweep = LastSweep()
        self._known = Known(lambda store: (store.statistics_total(), last_sweep.ask(store)))

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        known = self._known.get()
        if known is None:
            return
        total, swept_at = known
        messages = CounterMetricFamily("netra_queue_cluster_messages", MESSAGES, labels=["event", "priority"])
        for event in Event:
            for priority in Priority if event.has_priority else ():
                messages.add_metric([event.name.lower(), priority.name.lower()], total.count(event, priority))
        yield messages
        for event, (name, text) in OTHERS.items():
            yield CounterMetricFamily(f"netra_queue_cluster_{name}", text, total.count(event))
        ack = HistogramMetricFamily("netra_queue_cluster_ack_seconds", ACK_SECONDS, labels=["replayed"])
        for timing, replayed in ((Timing.ACK, "no"), (Timing.REPLAY_ACK, "yes")):
            ack.add_metric([replayed], _cumulative(total.timings[timing]), total.timings[timing].total)
        yield ack
        if swept_at is not None:
            name = "netra_queue_cluster_last_sweep_timestamp_seconds"
            yield GaugeMetricFamily(name, LAST_SWEEP, swept_at.timestamp())
        live = total.timings[Timing.LIVE]
        yield HistogramMetricFamily("netra_queue_cluster_live_seconds", LIVE_SECONDS, _cumulative(live), live.total)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """As Prometheus has it: how many were up to each bound."""
    found: list[tuple[str, float]] = []
    count = 0
    for bound, mine in zip((*BOUNDS, BOUNDLESS), histogram.counts, strict=True):
        count += mine
        found.append(("+Inf" if bound == BOUNDLESS else repr(bound), count))
    return found


# --- where they are shown ------------------------------------------------------------------------------------------

process_metrics = ProcessMetrics(REGISTRY)
store_collector = StoreCollector()
REGISTRY.register(store_collector)
cluster_registry = CollectorRegistry()
cluster_registry.register(store_collector)
cluster_registry.register(ClusterCollector())


def begin() -> None:
    """Feed this process's metrics from now on. Idempotent."""
    if process_metrics.feed not in statistics.ledger.listeners:
        statistics.ledger.listeners.append(process_metrics.feed)


def exposition() -> tuple[bytes, str]:
    """The store's and the cluster's metrics as text, and its content type."""
    return prometheus_client.generate_latest(cluster_registry), prometheus_client.CONTENT_TYPE_LATEST
