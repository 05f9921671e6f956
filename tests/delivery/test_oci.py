"""Bundles in a registry: Debian's docker-registry, and a proxy before it that spoils what it answers."""

from __future__ import annotations

import base64
import contextlib
import gc
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.errors import EnvironmentProblem, FitasksError
from fitasks.config.stores import unusable
from fitasks.delivery.bundle.filename import file_among
from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.oci import login
from fitasks.delivery.oci.artefact import LAYER, Layer, bundle_in, digest, manifest
from fitasks.delivery.oci.login import credentials
from fitasks.delivery.oci.reference import parse, to_push
from fitasks.delivery.oci.registry import Registry, pulled
from tests.processes.test_process import is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.doit_project import Planned

CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, maintenance: {{uploadpurging: {{enabled: false}}}}}}
http: {{addr: "{address}:{port}"{tls}}}
{auth}
"""
USER, PASSWORD = "builder", "geheim:wort"
HASH = "$2y$05$abcdefghijklmnopqrstuuUC5tQs4nqfFCAMi0LnlG6VN9tjEP9AW"  # of that password


# An answer that nobody reads to its end is closed when dxf's last reference to it goes.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    gc.collect()


# ---- names


@pytest.mark.parametrize(
    "word",
    [
        "oci://localhost:5000/kernels:h100",
        "oci://ghcr.io/company/fi/kernels:0.7.4_sm90a",
        f"oci://[::1]:5000/kernels@sha256:{'a' * 64}",
        f"oci://registry.example/kernels:tag@sha256:{'0' * 64}",
    ],
)
def test_a_name_is_read_as_it_is_written(word: str) -> None:
    assert str(parse(word)) == word


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("oci://localhost:5000/kernels", "has no tag"),
        ("oci://kernels:tag", "names no artefact of a registry"),
        ("oci://host/Kernels:tag", "in small letters"),
        ("oci://host/../kernels:tag", "names no artefact"),
        ("oci://host/kernels:tag?x=1", "names no artefact"),
        ("oci:///kernels:tag", "names no artefact"),
        ("oci://host/kernels@sha256:abc", "names no artefact"),
        ("oci://host/kernels:tag\n", "names no artefact"),
    ],
)
def test_what_is_no_name_is_told(word: str, said: str) -> None:
    with pytest.raises(EnvironmentProblem, match=said):
        parse(word)


def test_credentials_in_a_name_are_refused_and_not_shown() -> None:
    with pytest.raises(EnvironmentProblem, match="credentials don't belong") as told:
        parse("oci://me:geheim@host/kernels:tag")
    assert "geheim" not in str(told.value)


def test_only_a_tag_of_one_place_is_pushed_to() -> None:
    with pytest.raises(EnvironmentProblem, match="not 2"):
        to_push(["oci://host/a:b", "oci://host/a:c"])
    with pytest.raises(EnvironmentProblem, match="a tag is what is pushed to"):
        to_push([f"oci://host/a@sha256:{'0' * 64}"])


def test_a_registry_is_neither_a_file_nor_a_store() -> None:
    with pytest.raises(EnvironmentProblem, match="doit push oci://host/a:b"):
        file_among("", ["page", "oci://host/a:b"])
    assert "doit push oci://" in unusable("oci://host/a:b")


# ---- manifests


def test_a_manifest_names_its_bundle_and_is_the_same_each_time() -> None:
    layer = Layer(digest(b"bundle"), 6)
    assert bundle_in(manifest(layer).encode()) == layer
    assert manifest(layer) == manifest(layer)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\xff", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'{"a":' * 200_000, "no JSON object"),
        (b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}', "image.index"),
        (b'{"layers": 3}', "an artefact without a type"),
        (b'{"artifactType": 3, "layers": [{"mediaType": "text/html"}, 4]}', "'text/html'"),
        (json.dumps({"layers": [{"mediaType": LAYER, "digest": "md5:0", "size": 3}]}).encode(), "by no SHA-256"),
        (json.dumps({"layers": [{"mediaType": LAYER, "digest": digest(b""), "size": True}]}).encode(), "no size"),
        (json.dumps({"layers": [{"mediaType": LAYER, "digest": digest(b""), "size": -1}]}).encode(), "no size"),
        (json.dumps({"layers": [{"mediaType": LAYER}] * 2}).encode(), "and no bundle"),
    ],
)
def test_what_is_no_manifest_of_a_bundle_is_refused(said: bytes, why: str) -> None:
    with pytest.raises(BundleRefused, match=why):
        bundle_in(said)


# ---- credentials


def _login(place: Path, **said: Any) -> dict[str, str]:
    (place / "config.json").write_text(json.dumps(said))
    return {"DOCKER_CONFIG": str(place), "PATH": f"{place}:{os.environ['PATH']}"}


def test_credentials_are_those_of_docker(tmp_path: Path) -> None:
    here, hub = parse("oci://host:5000/a:b"), parse("oci://docker.io/a/b:c")
    assert credentials(here, {"DOCKER_CONFIG": str(tmp_path)}) is None
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    env = _login(tmp_path, auths={"host:5000": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth}})
    assert credentials(here, env) == credentials(hub, env) == (USER, PASSWORD)
    assert credentials(parse("oci://other/a:b"), env) is None
    assert credentials(here, _login(tmp_path, auths={"host:5000": 3}, credHelpers=[])) is None


@pytest.mark.parametrize("key", ["https://host", "https://host/v1/", "http://host", "host/v2/"])
def test_a_registry_may_be_named_by_an_address(tmp_path: Path, key: str) -> None:
    """As docker's earlier files did, and secrets of clusters do."""
    auth = base64.b64encode(b"u:s").decode()
    env = _login(tmp_path, auths={"https://host.example": {"auth": "other"}, "host:5000": {}, key: {"auth": auth}})
    assert credentials(parse("oci://host/a:b"), env) == ("u", "s")
    assert credentials(parse("oci://ost/a:b"), env) is None


def test_the_helper_of_a_registry_goes_before_what_is_written(tmp_path: Path) -> None:
    """As docker has it: what is written is of an earlier login, and may have expired."""
    auths = {"host": {"auth": base64.b64encode(b"u:expired").decode()}}
    env = _helper(tmp_path, SAYS)
    env |= _login(tmp_path, auths=auths, credHelpers={"host": "ours"})
    assert credentials(parse("oci://host/a:b"), env) == ("u", "s")
    _login(tmp_path, auths=auths, credsStore="gone")
    assert credentials(parse("oci://host/a:b"), env) == ("u", "expired"), "where a helper for all isn't there"


def test_a_helper_of_docker_is_asked(tmp_path: Path) -> None:
    helper = tmp_path / "docker-credential-ours"
    helper.write_text('#!/bin/sh\nread host\n[ "$host" = host ] && echo \'{"Username": "u", "Secret": "s"}\'\n')
    helper.chmod(0o755)
    assert credentials(parse("oci://host/a:b"), _login(tmp_path, credsStore="ours")) == ("u", "s")
    assert credentials(parse("oci://other/a:b"), _login(tmp_path, credsStore="ours")) is None
    assert credentials(parse("oci://host/a:b"), _login(tmp_path, credHelpers={"host": "ours"})) == ("u", "s")


def _helper(place: Path, text: str) -> dict[str, str]:
    (place / "docker-credential-ours").write_text(f"#!/bin/sh\n{text}\n")
    (place / "docker-credential-ours").chmod(0o755)
    return _login(place, credsStore="ours")


SAYS = """echo '{"Username": "u", "Secret": "s"}'"""


@pytest.mark.parametrize(
    "text", [f"echo a warning >&2; {SAYS}", f"sleep 60 & {SAYS}", f"read host; read end; {SAYS}", f"exec <&-; {SAYS}"]
)
def test_what_a_helper_does_beside_its_answer_is_no_matter(tmp_path: Path, text: str) -> None:
    begun = time.monotonic()
    assert credentials(parse("oci://host/a:b"), _helper(tmp_path, text)) == ("u", "s")
    assert time.monotonic() - begun < 20, "nobody waits for what it leaves behind"


@pytest.mark.parametrize(
    "text",
    [
        "printf '\\377'",
        "echo '[1]'",
        "echo 7",
        """echo '{"Username": null, "Secret": "geheim"}'""",
        """echo '{"Username": "u"}'""",
        "yes [ | head -c 99999",
        "true",
    ],
)
def test_a_helpers_answer_that_is_none_is_told_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(EnvironmentProblem, match=r"docker-credential-ours .* gives no user and password") as told:
        credentials(parse("oci://host/a:b"), _helper(tmp_path, text))
    assert "geheim" not in str(told.value)


def test_a_helper_that_waits_is_ended_with_all_that_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "_PATIENCE", 0.3)
    env = _helper(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(EnvironmentProblem, match=r"gives no answer in 0 s") as told:
        credentials(parse("oci://host/a:b"), env)
    assert told.value.remedy == f"see what it waits for: echo host | {tmp_path}/docker-credential-ours get"
    assert is_gone((tmp_path / "pid").read_text().strip())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"auths": {"host": {"auth": "geheim!"}}}, "no user and password in base64"),
        ({"auths": {"host": {"auth": "Z2VoZWlt"}}}, "no user and password in base64"),
        ({"credsStore": "gone"}, "docker-credential-gone: No such file"),
        ({"credsStore": "../sh"}, "is no name of a helper"),
    ],
)
def test_what_docker_has_wrong_is_told_and_not_shown(tmp_path: Path, said: dict[str, Any], why: str) -> None:
    with pytest.raises(EnvironmentProblem, match=why) as told:
        credentials(parse("oci://host/a:b"), _login(tmp_path, **said))
    assert "geheim" not in str(told.value)


# ---- a real registry


@contextlib.contextmanager
def registry(place: Path, *, tls: Path | None = None, users: str = "") -> Iterator[str]:
    """A registry over a directory; yields its host and port once it answers."""
    executable = shutil.which("docker-registry")
    if not executable:
        pytest.skip("docker-registry isn't installed (apt-get install docker-registry)")
    pytest.importorskip("dxf")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    secured = f', tls: {{certificate: "{tls}/cert.pem", key: "{tls}/key.pem"}}' if tls else ""
    auth = ""
    if users:
        (place / "htpasswd").write_text(users)
        auth = f"auth: {{htpasswd: {{realm: here, path: {place / 'htpasswd'}}}}}"
    config = place / "registry.yml"
    config.write_text(CONFIG.format(root=place / "registry", address="127.0.0.1", port=port, tls=secured, auth=auth))
    with (
        (place / "log").open("w") as log,
        subprocess.Popen([executable, "serve", config], stdout=log, stderr=log) as own,
    ):
        try:
            _wait_for(port, own, place / "log")
            yield f"{socket.gethostname() if tls else '127.0.0.1'}:{port}"
        finally:
            own.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(500):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Not a bundle: a registry doesn't look."""
    made = tmp_path / "any.tar.gz"
    made.write_bytes(os.urandom(300_000))
    return made


def push(name: str, bundle: Path, env: dict[str, str] | None = None) -> str:
    return Registry(parse(name), env or {"DOCKER_CONFIG": "/nonexistent"}, print).push(bundle)


def pull(name: str, state: Path, env: dict[str, str] | None = None) -> bytes:
    """What comes; nothing may be left of it."""
    before = set(state.iterdir())
    try:
        with pulled(parse(name), state, env or {"DOCKER_CONFIG": "/nonexistent"}, print) as file:
            return file.read_bytes()
    finally:
        assert set(state.iterdir()) == before


def test_what_is_pushed_comes_back_by_tag_and_by_digest(host: str, bundle: Path, tmp_path: Path) -> None:
    name = f"oci://{host}/fi/kernels:h100"
    pinned = push(name, bundle)
    assert push(name, bundle) == pinned
    assert pull(name, tmp_path) == bundle.read_bytes()
    bundle.write_bytes(b"another")
    push(name, bundle)
    assert pull(name, tmp_path) == b"another"
    assert len(pull(f"oci://{host}/fi/kernels@{pinned}", tmp_path)) == 300_000


def test_what_isnt_there_is_told_with_what_is(host: str, bundle: Path, tmp_path: Path) -> None:
    push(f"oci://{host}/tags:one", bundle)
    with pytest.raises(EnvironmentProblem, match=r"no such artefact \(manifest unknown\)\n  remedy: it has one$"):
        pull(f"oci://{host}/tags:two", tmp_path)
    with pytest.raises(EnvironmentProblem, match="remedy: doit push oci://"):
        pull(f"oci://{host}/nobody:two", tmp_path)


def test_an_image_is_no_bundle(host: str, bundle: Path, tmp_path: Path) -> None:
    registry = Registry(parse(f"oci://{host}/image:1"), {}, print)
    text = manifest(Layer(digest(bundle.read_bytes()), 300_000)).replace(
        LAYER, "application/vnd.oci.image.layer.v1.tar"
    )
    registry._dxf.push_blob(filename=str(bundle))
    registry._dxf.push_blob(data=io.BytesIO(b"{}"), digest=digest(b"{}"))
    registry._dxf.set_manifest("1", text)
    with pytest.raises(
        BundleRefused, match=r"oci://\S+/image:1 is refused: it is an artefact of the type .*nothing was"
    ):
        pull(f"oci://{host}/image:1", tmp_path)


def test_no_registry_is_told_at_once(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("dxf")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        name = f"oci://127.0.0.1:{taken.getsockname()[1]}/fi:1"
        begun = time.monotonic()
        with pytest.raises(EnvironmentProblem, match="can't be reached, or broke off: Connection refused"):
            push(name, bundle)
        with pytest.raises(EnvironmentProblem, match="can't be reached, or broke off: Connection refused"):
            pull(name, tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"can't be reached.*(not known|failure in name resolution)"):
        pull("oci://nowhere.invalid/fi:1", tmp_path)
    assert time.monotonic() - begun < 10


def test_a_full_disk_keeps_nothing(host: str, bundle: Path, full: Path) -> None:
    push(f"oci://{host}/full:1", bundle)
    with pytest.raises(EnvironmentProblem, match=r"can't be kept in \S+/full: No space left on device; nothing was"):
        pull(f"oci://{host}/full:1", full)


_STOPPED = """
import sys, threading, time
from pathlib import Path
from fitasks.delivery.oci.reference import parse
from fitasks.delivery.oci.registry import pulled

def pull():
    with pulled(parse(sys.argv[1]), Path(sys.argv[2]), {"DOCKER_CONFIG": "/nonexistent"}, print):
        pass

threading.Thread(target=pull, daemon=True).start()  # as doit's
while not list(Path(sys.argv[2]).iterdir()):
    time.sleep(0.01)
"""


def test_a_run_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("dxf")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        command = [sys.executable, "-c", _STOPPED, f"oci://127.0.0.1:{silent.getsockname()[1]}/fi:1", str(tmp_path)]
        subprocess.run(command, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


# ---- credentials, which need TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine's name."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with contextlib.suppress(OSError):
        if socket.gethostbyname(socket.gethostname()).startswith("127."):
            place, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry")])
            made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            made = made.serial_number(1).not_valid_before(datetime.now(UTC) - timedelta(days=1))
            made = made.not_valid_after(datetime.now(UTC) + timedelta(days=1))
            alternative = x509.SubjectAlternativeName([x509.DNSName(socket.gethostname())])
            signed = made.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
            (place / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
            kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            (place / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *kinds))
            return place
    pytest.skip("this machine's name doesn't lead to itself")


def test_credentials_are_used_and_never_shown(
    certificate: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate / "cert.pem"))
    (tmp_path / "registry").mkdir()
    with registry(tmp_path / "registry", tls=certificate, users=f"{USER}:{HASH}\n") as host:
        name = f"oci://{host}/fi:1"
        with pytest.raises(EnvironmentProblem, match=f"asks for credentials.*\n  remedy: docker login {host}"):
            push(name, bundle)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / "login").mkdir()
        env = _login(tmp_path / "login", auths={host: {"auth": auth}})
        push(name, bundle, env)
        assert pull(name, tmp_path, env) == bundle.read_bytes()
        env = _login(tmp_path / "login", auths={host: {"auth": base64.b64encode(b"builder:verraten").decode()}})
        with pytest.raises(EnvironmentProblem, match=r"refuses what \S+config.json has for it") as told:
            pull(name, tmp_path, env)
        assert "verraten" not in str(told.value)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(EnvironmentProblem, match="certificate verify failed"):
            pull(name, tmp_path, env)


def test_credentials_are_not_sent_over_plain_http(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    told = "asks for credentials, which aren't sent over plain HTTP"
    with registry(tmp_path / "registry", users=f"{USER}:{HASH}\n") as host, pytest.raises(FitasksError, match=told):
        pull(f"oci://{host}/fi:1", tmp_path)


# ---- a proxy that spoils answers


class _Spoiling(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class has it so
        """Nothing is told."""

    def do_GET(self) -> None:
        headers = {"Accept": self.headers["Accept"]}
        asked = urllib.request.Request(f"http://{self.server.behind}{self.path}", headers=headers)
        with urllib.request.urlopen(asked) as found:  # noqa: S310 - http
            data, headers = found.read(), dict(found.headers.items())
        part, fault = self.path.split("/")[-2], self.server.fault
        wrong = part == self.server.part
        sent = {"cut": data[: len(data) // 2], "altered": bytes([data[0] ^ 1]) + data[1:], "long": data + b"x"}
        sent |= {"short": data[: len(data) // 2], "html": b"<html>", "500": b"", "endless": data}
        told = sent[fault] if wrong else data
        self.send_response(500 if wrong and fault == "500" else 200)
        length = len(data) if wrong and fault == "cut" else 1 << 40 if wrong and fault == "endless" else len(told)
        for name in ("Docker-Content-Digest", "Content-Type"):
            self.send_header(name, headers[name])
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(told)
        if len(told) < length:
            for _ in range(100 if fault == "endless" else 0):
                self.wfile.write(bytes(1 << 16))
            self.close_connection = True


@contextlib.contextmanager
def spoiling(behind: str) -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Spoiling) as server:
        made: Any = server
        made.behind, made.fault, made.part, made.handle_error = behind, "", "", lambda *_: None
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield made
        server.shutdown()


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (("blobs", "cut"), "broke off"),
        (("blobs", "altered"), "what came isn't what its digest says"),
        (("blobs", "long"), "longer than its manifest says"),
        (("blobs", "endless"), "longer than its manifest says"),
        (("blobs", "short"), "what came isn't what its digest says"),
        (("blobs", "500"), "answers 500"),
        (("manifests", "cut"), "broke off"),
        (("manifests", "altered"), "its manifest isn't what its digest says"),
        (("manifests", "html"), "its manifest isn't what its digest says"),
        (("manifests", "500"), "answers 500"),
    ],
)
def test_what_arrives_torn_or_altered_is_not_believed(
    host: str, bundle: Path, tmp_path: Path, spoilt: tuple[str, str], said: str
) -> None:
    push(f"oci://{host}/torn:1", bundle)
    with spoiling(host) as proxy:
        proxy.part, proxy.fault = spoilt
        with pytest.raises(FitasksError, match=said):
            pull(f"oci://127.0.0.1:{proxy.server_address[1]}/torn:1", tmp_path)
        proxy.part = ""
        assert pull(f"oci://127.0.0.1:{proxy.server_address[1]}/torn:1", tmp_path) == bundle.read_bytes()


# ---- through doit


def test_one_pushes_and_another_unbundles(planned: Planned, host: str, tmp_path: Path) -> None:
    project, name = planned.project(), f"oci://{host}/doit/kernels:all"
    project.env["PYTHONPATH"] = f"{project.env['PYTHONPATH']}:{os.environ.get('PYTHONPATH', '')}"
    project.doit("kernel:page", "kernel:cascade")
    lines = project.doit("push", name, "page", "cascade").splitlines()
    assert lines[0].startswith(f"{name}: 2 kernels, ")
    pinned = lines[1].rpartition(" ")[2]
    assert pinned.startswith(f"oci://{host}/doit/kernels@sha256:")
    assert "left out  kernel:quantization" in project.doit("push", name, status=1)
    assert not list((project.root / ".fitasks").glob(".fitasks-*"))

    shutil.rmtree(project.cached_ops)
    project.calls()
    assert project.doit("unbundle", pinned) == "2 kernels into FlashInfer's cache\n"
    assert project.doit("kernel:page", "kernel:cascade") == "2 kernels: 2 fresh\n"
    assert project.calls() == 0
    assert not list((project.root / ".fitasks").glob(".fitasks-*"))
    told = project.doit("unbundle", name.replace(":all", ":none"), status=2) + project.stderr
    assert "no such artefact (manifest unknown)\n    remedy: it has all\n" in told
    assert project.doit("unbundle", "--wheel", name).splitlines()[-1].startswith("to install it: ")
    assert len(list((project.root / "dist").iterdir())) == 1
