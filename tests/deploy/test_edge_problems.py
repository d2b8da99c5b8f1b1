"""What the edge itself refuses is a problem document, as what the services refuse is."""

import json
import re
from pathlib import Path

import pytest

from shared.web.problems import Problem

NGINX = Path(__file__).parents[2] / "deploy" / "nginx"
TEXT = (NGINX / "services" / "problems.conf").read_text()
ANSWERS = dict(re.findall(r"return (\d{3}) '([^']*)';", TEXT))


@pytest.mark.parametrize("status", ["404", "413", "429", "502", "503", "504"])
def test_an_answer_of_the_edge_is_a_problem_document(status: str) -> None:
    assert f"error_page {status} @problem-{status};" in TEXT
    document = Problem.model_validate(json.loads(ANSWERS[status]))
    assert document.type.startswith("urn:undersong:problem:")
    assert (document.status, document.request_id) == (int(status), "$request_id")


def test_every_server_has_them() -> None:
    assert "include /etc/nginx/services/problems.conf;" in (NGINX / "services" / "common.conf").read_text()
    names = re.findall(r"include /etc/nginx/services/(\w+)\.conf;", (NGINX / "servers.conf").read_text())
    assert len(names) == 5
    for name in names:
        assert "include /etc/nginx/services/common.conf;" in (NGINX / "services" / f"{name}.conf").read_text()


def test_whoever_must_wait_is_told_how_long() -> None:
    (waits,) = re.findall(
        r'map "\$upstream_http_content_type\|\$status" \$own_retry_after \{(.*)\}', (NGINX / "nginx.conf").read_text()
    )
    assert {status for status in ANSWERS if f'"|{status}"' in waits} == {"429", "502", "503", "504"}
