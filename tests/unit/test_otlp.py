"""Metrics reach a collector of OpenTelemetry as they are."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from monitor.histogram import BOUNDS_S
from monitor.metrics import families
from monitor.otlp import ExportError, OtlpExporter
from tests.unit.test_metrics import SEEN, fleet

PATH = "/v1/metrics"


class Collector(HTTPServer):
    """A receiver of metrics that answers with ``status``."""

    def __init__(self, status):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.got = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == PATH:
            assert self.headers["Content-Type"] == "application/x-protobuf"
            self.server.got.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(self.server.status if self.path == PATH else 404)
        self.end_headers()
        self.wfile.write(ExportMetricsServiceResponse().SerializeToString())

    def log_message(self, *_):
        pass


@contextmanager
def collector(status=200):
    server = Collector(status)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}{PATH}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(url, view, **options):
    exporter = OtlpExporter(url, timeout_s=2.0)
    try:
        exporter.send(families(view, SEEN), 50.0, since=1.5, fleet="pumps", **options)
    finally:
        exporter.close()


def attributes(point):
    return {one.key: one.value.string_value for one in point.attributes}


@pytest.fixture(scope="module")
def received():
    with collector() as (server, url):
        send(url, fleet())
    (request,) = server.got
    (resource,) = request.resource_metrics
    (scope,) = resource.scope_metrics
    return resource.resource, {one.name: one for one in scope.metrics}


def test_the_collector_gets_every_value_with_its_labels_and_the_fleet(received):
    resource, metrics = received
    assert {one.key: one.value.string_value for one in resource.attributes} == {
        "service.name": "slimfleet",
        "service.namespace": "pumps",
    }
    expected = {
        (one.metric.name, tuple(zip(one.metric.labels, at, strict=True))): value
        for one in families(fleet(), SEEN)
        for at, value in one.values.items()
    }
    found = {
        (name, tuple(attributes(point).items())): point.as_double
        for name, one in metrics.items()
        for point in (*one.sum.data_points, *one.gauge.data_points)
    }
    assert found == expected
    assert len(found) > 60


def test_counters_are_cumulative_since_the_campaign_began(received):
    counts = received[1]["slimfleet_rounds_total"].sum
    assert counts.is_monotonic
    cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert counts.aggregation_temporality == cumulative
    assert {point.start_time_unix_nano for point in counts.data_points} == {1_500_000_000}
    assert {point.time_unix_nano for point in counts.data_points} == {50_000_000_000}


def test_a_histogram_has_its_buckets_and_claims_no_smallest_and_largest_value(received):
    bars = received[1]["slimfleet_update_duration_seconds"]
    (point,) = bars.histogram.data_points
    assert list(point.explicit_bounds) == list(BOUNDS_S)
    assert list(point.bucket_counts) == [0, 0, 1, *[0] * 10]
    assert (point.count, point.sum) == (1, 4.0)
    assert not point.HasField("min")
    assert not point.HasField("max")


def test_units_are_those_of_the_names(received):
    assert received[1]["slimfleet_round_duration_seconds"].unit == "s"
    assert received[1]["slimfleet_transfer_bytes_total"].unit == "By"
    assert received[1]["slimfleet_devices"].unit == ""


def test_a_collector_that_refuses_is_named_with_its_reason_and_what_to_check():
    with collector(status=400) as (_, url), pytest.raises(ExportError) as refused:
        send(url, fleet())
    assert str(refused.value).startswith(f"{url}: ")
    assert "400" in str(refused.value)
    assert "check that a collector" in str(refused.value)


def test_a_wrong_path_is_an_error_too():
    with collector() as (server, url), pytest.raises(ExportError, match="/v1/metrics"):
        send(url.replace("/v1", "/v7"), fleet())
    assert server.got == []
