"""Ids sort by time, do not repeat, and digests are SHA-256."""

import hashlib
import time

import pytest

from undersong.shared.ids import PREFIXES, digest_of, is_digest, is_id, new_id


@pytest.mark.parametrize("prefix", sorted(PREFIXES))
def test_an_id_has_its_prefix_and_26_characters(prefix: str) -> None:
    made = new_id(prefix)
    assert is_id(made, prefix)
    assert len(made) == len(prefix) + 1 + 26
    assert made == made.lower()


def test_later_ids_sort_later() -> None:
    first = new_id("job")
    time.sleep(0.003)
    assert new_id("job") > first


def test_ids_do_not_repeat() -> None:
    assert len({new_id("task") for _ in range(2000)}) == 2000


def test_an_unknown_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix"):
        new_id("thing")


@pytest.mark.parametrize("text", ["job_", "job_" + "u" * 26, "JOB_" + "0" * 26, "job_" + "0" * 27, "task_" + "0" * 26])
def test_what_is_not_an_id(text: str) -> None:
    assert not is_id(text, "job")


def test_digest_is_lowercase_sha256() -> None:
    assert digest_of(b"abc") == digest_of(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()
    assert is_digest(digest_of(b""))
    assert not is_digest(digest_of(b"").upper())
