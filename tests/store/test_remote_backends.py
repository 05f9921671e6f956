"""Each backend by a real server, started once: what one machine puts there, another takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.elsewhere import Client, find, request, stand_in, whole
from tests.store.servers import KEYS, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("obstore")

Backend = tuple[str, str, dict[str, str]]  # URL to write, URL to read, environment


@pytest.fixture(scope="module", params=["directory", "s3", "webdav", "http"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    place = tmp_path_factory.mktemp("served")
    (place / "bucket").mkdir()
    match request.param:
        case "directory":
            yield f"file://{place}/bucket/fi", f"{place}/bucket/fi", {}
        case "s3":
            words = ["--auth-key", f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"]
            with serving("s3", place, *words) as at:
                yield "s3://bucket/fi", "s3://bucket/fi", KEYS | {"AWS_ENDPOINT_URL": f"http://{at}"}
        case "webdav":
            with serving("webdav", place) as at:
                yield f"http://{at}/bucket/fi", f"http://{at}/bucket/fi", {}
        case "http":
            with serving("http", place, "--dir-cache-time", "0s") as at:
                yield f"{place}/bucket/fi", f"http://{at}/bucket/fi", {}


@pytest.fixture
def environment(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """obstore asks its process's own."""
    for name, value in backend[2].items():
        monkeypatch.setenv(name, value)
    return backend[2] | {"XDG_CONFIG_HOME": str(tmp_path)}


def test_what_one_machine_puts_another_takes(backend: Backend, environment: dict[str, str], tmp_path: Path) -> None:
    writer, reader = Client(tmp_path / "one"), Client(tmp_path / "two")
    small, large = stand_in(tmp_path / "small", "page"), stand_in(tmp_path / "large", "rope", files=1, size=9 << 20)
    remote = writer.remote(request(backend[0], push=True), environment)
    assert remote.share(tmp_path / "small", small) == 3000
    assert remote.share(tmp_path / "large", large) == 2 * (9 << 20), "in parts, where the service knows parts"
    assert remote.share(tmp_path / "small", small) == 0
    chain = reader.chain(request(backend[1]), env=environment)
    for receipt in (small, large):
        found = find(chain, receipt)
        assert found
        assert whole(found[0], receipt)
    assert find(chain, stand_in(tmp_path / "other", "norm")) is None
    assert writer.said + reader.said == []


def test_an_altered_file_is_not_taken(backend: Backend, environment: dict[str, str], tmp_path: Path) -> None:
    receipt = stand_in(tmp_path / "built", "decode", flavour=backend[0])
    remote = Client(tmp_path / "one").remote(request(backend[0], push=True), environment)
    assert remote.share(tmp_path / "built", receipt)
    victim = f"v1/files/{receipt.outputs['decode_1.o'].sha256[:2]}/{receipt.outputs['decode_1.o'].sha256}"
    remote._loop.run(remote.objects.put(victim, b"x" * 1000))
    client = Client(tmp_path / "two")
    assert find(client.chain(request(backend[1]), env=environment), receipt) is None
    assert len(client.said) == 1
    assert "decode is not taken: decode_1.o isn't what its receipt says" in client.said[0]


def test_a_server_that_takes_nothing_fails_nothing(
    backend: Backend, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone's http takes nothing, its S3 nothing with another key; the others aren't there."""
    url = backend[1]
    if url.startswith("s3:"):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    elif url.startswith("/"):
        (tmp_path / "file").write_text("")
        url = f"{tmp_path}/file/store"
    elif backend[0] == url:
        url = url.replace("127.0.0.1", "127.0.0.2")  # where nobody listens
    client = Client(tmp_path / "one")
    receipt = stand_in(tmp_path / "built", "cascade")
    remote = client.remote(request(url, push=True), environment)
    assert remote.share(tmp_path / "built", receipt) is None
    assert remote.share(tmp_path / "built", receipt) is None
    assert len(client.said) == 1
    assert "nothing more is put there in this run" in client.said[0]
    assert "another" not in client.said[0]
