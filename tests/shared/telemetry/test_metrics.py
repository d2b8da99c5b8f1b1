"""Metric names follow the conventions, and no label identifies a person."""

from prometheus_client import REGISTRY

from undersong.shared.telemetry import metrics

PRIVATE = {"owner", "site", "agent", "run", "user", "site_id", "user_id", "job_id", "round_id"}


def test_no_metric_is_labelled_by_person_or_site() -> None:
    assert metrics.HTTP_DURATION
    for family in REGISTRY.collect():
        for sample in family.samples:
            assert not PRIVATE & set(sample.labels), sample.name


def test_units_are_in_the_names() -> None:
    names = {family.name for family in REGISTRY.collect()}
    assert {"http_server_request_duration_seconds", "fl_rounds", "fl_signature_failures", "build_info"} <= names
