"""Bundles to a registry and back, through python-dxf: it knows the protocol, tokens, and compares digests.

A file that is torn, longer or another than its manifest says is not believed, and goes.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import re
import time
from typing import TYPE_CHECKING, Any

from fitasks.base import temporary
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file
from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.oci.artefact import EMPTY, NAME, Layer, bundle_in, digest, manifest
from fitasks.delivery.oci.login import credentials, file_of
from fitasks.store.remote.trouble import line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from fitasks.delivery.oci.reference import Reference

EXTRA = "pip install 'fitasks[oci]'"
PATIENCE = 30.0  # seconds without a byte
_CHUNK = 1 << 16
_EVERY = 10.0  # seconds between two lines that say how far a transfer is
_CAUSE = re.compile(r"(?:\[Errno -?\d+\] |\[SSL[^\]]*\] |\w\(')([^'\")(]+)")
_AGAIN = "try again; what is there already isn't sent twice"


class Registry:
    """One artefact's registry. `say` is told how far a long transfer is."""

    def __init__(self, reference: Reference, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        """Nothing is asked yet. Raises EnvironmentProblem where the library isn't installed."""
        self._reference, self._env, self._say = reference, env, say
        self._known = False  # whether there were credentials to be sent
        host, name, plain = reference.server, reference.repository, reference.local
        self._dxf = _library().DXF(host, name, auth=self._authenticate, insecure=plain, timeout=PATIENCE)

    def push(self, bundle: Path) -> str:
        """Send a bundle, and have the tag name it; the digest of its manifest. Raises EnvironmentProblem."""
        size = bundle.stat().st_size
        text = manifest(Layer(f"sha256:{sha256_file(bundle)}", size))
        told = _Progress(self._say, f"sent to {self._reference}", size)
        with self._told(), self._dxf:
            self._dxf.push_blob(filename=str(bundle), progress=lambda _name, chunk, _size: told.moved(len(chunk)))
            self._dxf.push_blob(data=io.BytesIO(EMPTY), digest=digest(EMPTY))
            self._dxf.set_manifest(self._reference.tag, text)
        return digest(text.encode())

    def pull(self, file: Path) -> None:
        """Write the bundle to a new file. Raises BundleRefused, EnvironmentProblem, and OSError about the file."""
        with self._told(), self._dxf:
            layer = bundle_in(self._manifest())
            self._lay(layer, file)

    def _manifest(self) -> bytes:
        pinned = self._reference.digest
        _, response = self._dxf.get_manifest_and_response(pinned or self._reference.tag)
        said = pinned or response.headers.get("Docker-Content-Digest", "")
        found = bytes(response.content)
        if said.startswith("sha256:") and digest(found) != said:
            raise BundleRefused("its manifest isn't what its digest says")
        return found

    def _lay(self, layer: Layer, file: Path) -> None:
        """Raises BundleRefused unless the file is what the manifest says, to the byte."""
        told = _Progress(self._say, f"fetched from {self._reference}", layer.size)
        with file.open("xb") as stream:
            for chunk in self._dxf.pull_blob(layer.digest, chunk_size=_CHUNK):
                if told.moved(len(chunk)) > layer.size:
                    raise BundleRefused("it is longer than its manifest says")
                stream.write(chunk)
        if told.bytes != layer.size:
            raise BundleRefused("it is shorter than its manifest says")

    def _authenticate(self, dxf: Any, response: Any) -> None:
        user, password = credentials(self._reference, self._env) or (None, None)
        self._known = user is not None
        dxf.authenticate(user, password, response=response)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in our words what the library, and requests below it, raise: of many classes, also Python's own."""
        from dxf import exceptions
        from requests import RequestException

        try:
            yield
        except (EnvironmentProblem, BundleRefused):
            raise
        except exceptions.DXFDigestMismatchError:
            raise BundleRefused("what came isn't what its digest says") from None
        except exceptions.DXFUnauthorizedError:
            raise self._refused("") from None
        except exceptions.DXFAuthInsecureError:
            raise self._problem("asks for credentials, which aren't sent over plain HTTP", "give it TLS") from None
        except RequestException as error:
            raise self._answered(error) from None
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a KeyError where a header lacks, a ValueError for what is no JSON
            why = f"doesn't answer as a registry does ({type(error).__name__}: {line(str(error))})"
            raise self._problem(why, "is it a registry?") from None

    def _answered(self, error: Any) -> EnvironmentProblem:
        """What a request came to."""
        from requests import Timeout

        response = error.response
        if response is None:
            why = f"no answer in {PATIENCE:.0f} s" if isinstance(error, Timeout) else _cause(error)
            return self._problem(f"can't be reached, or broke off: {why}", f"is it there? Then {_AGAIN}")
        said = _message(response)
        if response.status_code in {401, 403}:
            return self._refused(said)
        if response.status_code == 404 and response.request.method == "GET":
            return EnvironmentProblem(f"{self._reference}: no such artefact{said}", remedy=self._there())
        return self._problem(f"answers {response.status_code}{said}", _AGAIN)

    def _refused(self, said: str) -> EnvironmentProblem:
        file = file_of(self._env)
        asked = f"asks for credentials, and {file} has none for it"
        known = f"refuses what {file} has for it" if self._known else asked
        return self._problem(f"{known}{said}", f"docker login {self._reference.host}")

    def _problem(self, why: str, remedy: str) -> EnvironmentProblem:
        return EnvironmentProblem(f"{self._reference}: the registry {why}", remedy=remedy)

    def _there(self) -> str:
        """Which tags there are instead."""
        tags: list[str] = []
        with contextlib.suppress(Exception):
            tags = sorted(filter(_is_shown, self._dxf.list_aliases(batch_size=20)))[:20]
        return f"it has {', '.join(tags)}" if tags else f"doit push {self._reference}"


@contextlib.contextmanager
def room(state: Path) -> Iterator[Path]:
    """A directory for a bundle on its way, gone afterwards; also where a run is stopped, which ends doit's threads.

    Raises OSError.
    """
    state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(temporary.directory("fetch", state))
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        yield place


@contextlib.contextmanager
def pulled(reference: Reference, state: Path, env: Mapping[str, str], say: Callable[[str], None]) -> Iterator[Path]:
    """The bundle of an artefact, proven by its digest, in a file that is gone afterwards.

    Raises BundleRefused, EnvironmentProblem.
    """
    with room(state) as place:
        try:
            Registry(reference, env, say).pull(place / NAME)
        except BundleRefused as error:
            raise BundleRefused(
                f"{reference} is refused: {error.message}; nothing was changed", remedy=error.remedy or "push it again"
            ) from None
        except OSError as error:
            raise EnvironmentProblem(
                f"{reference} can't be kept in {state}: {error.strerror}; nothing was changed", remedy="make room there"
            ) from None
        yield place / NAME


class _Progress:
    """Says every ten seconds how much of a transfer is done; `bytes` is how much."""

    def __init__(self, say: Callable[[str], None], what: str, size: int) -> None:
        self.bytes = 0
        self._say, self._what, self._size, self._next = say, what, size, time.monotonic() + _EVERY

    def moved(self, count: int) -> int:
        self.bytes += count
        if time.monotonic() > self._next:
            self._next += _EVERY
            self._say(f"{self._what}: {self.bytes / 1e6:,.0f} of {self._size / 1e6:,.0f} MB")
        return self.bytes


def _cause(error: Exception) -> str:
    """Return the innermost reason of what requests says at length."""
    found = _CAUSE.findall(str(error))
    return line(found[-1] if found else str(error))


def _message(response: Any) -> str:
    """Return what a registry says of its refusal, in brackets; "" where it says nothing."""
    with contextlib.suppress(Exception):
        said = response.json()["errors"][0]["message"]
        return f" ({line(said)})" if isinstance(said, str) and said else ""
    return ""


def _is_shown(tag: Any) -> bool:
    return isinstance(tag, str) and re.fullmatch(r"\w[\w.-]{0,127}", tag, re.ASCII) is not None


def _library() -> Any:
    try:
        import dxf
    except ImportError:
        raise EnvironmentProblem("a registry needs the package python-dxf", remedy=EXTRA) from None
    return dxf
