"""Credentials from a file."""

from pathlib import Path

import pytest

from undersong.shared.blobs.bucket import read_credentials

GOOD = "[default]\naws_access_key_id = A%K\naws_secret_access_key = S%(x)K\n"


def test_credentials_are_those_of_the_section_default(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[other]\naws_access_key_id = no\n{GOOD}aws_session_token = t\n")
    found = read_credentials(file)
    assert (found["access_key_id"], found["secret_access_key"], found["token"]) == ("A%K", "S%(x)K", "t")


@pytest.mark.parametrize(
    "text", ["", "[default]\n", "secret", "[default]\naws_secret_access_key = secret\n", "[default"]
)
def test_a_bad_file_is_told_without_what_is_in_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"needs a section \[default\]") as refused:
        read_credentials(file)
    assert "secret" not in str(refused.value).replace("aws_secret_access_key", "")
    assert refused.value.__cause__ is None
    with pytest.raises(FileNotFoundError):
        read_credentials(tmp_path / "absent")
