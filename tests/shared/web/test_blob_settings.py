"""Settings of the blob store: what does not fit together is refused at the start, in words."""

from pathlib import Path

import pytest

from undersong.services.registry.settings import RegistrySettings
from undersong.shared.web.settings import load_settings

GOOD = {"BLOB_URL": "s3://bucket/models"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"BLOB_URL": "", "BLOB_ENDPOINT": "http://s3:8333"}, "for a blob_url that begins with s3://"),
        ({"BLOB_URL": "file:///x", "BLOB_ENCRYPTION": "AES256"}, "for a blob_url that begins with s3://"),
        ({"BLOB_ENDPOINT": "s3.example.org"}, "blob_endpoint must start with http"),
        ({"BLOB_KMS_KEY": "k"}, "blob_kms_key needs blob_encryption aws:kms"),
        ({"BLOB_ENCRYPTION": "rot13"}, "'AES256' or 'aws:kms'"),
        ({"BLOB_CREDENTIALS_FILE": "/nowhere"}, "blob_credentials_file cannot be read"),
        ({"BLOB_CREDENTIALS_FILE": "EMPTY"}, "needs a section [default]"),
    ],
)
def test_bad_settings_are_told(
    changes: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").write_text("")
    for name, value in (GOOD | changes).items():
        monkeypatch.setenv(f"REGISTRY_{name}", value.replace("EMPTY", str(tmp_path / "empty")))
    with pytest.raises(SystemExit) as ended:
        load_settings(RegistrySettings)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_bucket_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_DATA_DIR", str(tmp_path))
    folder = load_settings(RegistrySettings)
    assert (folder.blobs, folder.bucket.given) == (f"file://{tmp_path}/blobs", False)
    assert set(folder.volumes) == {"data", "blobs"}
    monkeypatch.setenv("REGISTRY_BLOB_URL", GOOD["BLOB_URL"])
    monkeypatch.setenv("REGISTRY_BLOB_ENCRYPTION", "aws:kms")
    bucket = load_settings(RegistrySettings)
    assert (bucket.blobs, bucket.bucket.encryption) == (GOOD["BLOB_URL"], "aws:kms")
    assert set(bucket.volumes) == {"data"}
