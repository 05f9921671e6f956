"""Builds the real Dockerfile with buildah, twice, on a base made with debootstrap, and looks into the result.

    python -m tests.image.build_images [directory]        needs root, buildah and debootstrap; about 10 GB

`make test-image`; not part of `make test`. Storage and logs stay in the directory (default /var/tmp/fitasks-image). A
later run takes the base and the layers of dependencies from there, and compiles its kernels again; remove it to begin
anew. This machine's pip configuration goes into the build as a secret, local directories that it names as read-only
mounts. CPU wheels of torch will do.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from tests.mirrors import pip_configuration
from tests.store.servers import KEYS, serving

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ROOT = Path(__file__).parents[2]
BASE, RUNTIME = "localhost/fitasks-base", "localhost/fitasks-runtime"
IMAGE, TOOLCHAIN = "localhost/fitasks-server", "localhost/fitasks-toolchain"
FIRST, MORE = ("page", "quantization"), ("cascade",)  # small ones, two files each
_FILES = ("Dockerfile", "Dockerfile.engine", ".dockerignore", "dodo.py", "Makefile", "pyproject.toml")
_TOOLS = ("gcc", "g++", "cc", "c++", "cc1plus", "clang", "nvcc", "cicc", "ninja", "make")
_STORE = "s3://bucket/where-kernels-are"
_KEYS = {**KEYS, "AWS_ACCESS_KEY_ID": "AKIANEVERTOBESEEN", "AWS_SECRET_ACCESS_KEY": "never-to-be-seen"}
_CUDART = "/opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib"  # bookworm's Python
_GATE = ("python", "/opt/fitasks/ahead_of_time.py")


class WrongError(Exception):
    """What was expected and isn't so."""


def say(line: str) -> None:
    """Print, at once."""
    print(line, flush=True)  # noqa: T201


@dataclass
class Workshop:
    """buildah with everything of its own below one directory."""

    root: Path
    begun: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        self.forget()  # no kernel of an earlier run
        self.mounts, self.secret = _pip(self.root)

    def buildah(self, *words: str | Path, status: int | None = 0, log: str = "") -> str:
        """Run it; standard output and errors, which also go into a log. The exit status must be `status`."""
        command = ["buildah", "--root", self.root / "storage", "--runroot", self.root / "run", *words]
        env = os.environ | {"TMPDIR": str(self.root / "tmp"), "BUILDAH_ISOLATION": "chroot"}
        done = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if log:
            (self.root / f"{log}.log").write_text(done.stdout)
        if status is not None and done.returncode != status:
            tail = "\n".join(done.stdout.splitlines()[-40:])
            raise WrongError(f"exit status {done.returncode} of {' '.join(map(str, words[:2]))}:\n{tail}")
        return done.stdout

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure, and say so."""
        say(f"{what} …")
        begun = time.monotonic()
        yield
        say(f"  {time.monotonic() - begun:.1f} s")

    def forget(self) -> None:
        """Remove the builds' cache mounts, which lie there, as on a builder that never built this."""
        shutil.rmtree(self.root / "tmp")
        (self.root / "tmp").mkdir()

    def build(self, context: Path, log: str, *words: str) -> str:
        """The real Dockerfile; its output."""
        arguments = [f"--build-arg=BUILD_BASE={BASE}", f"--build-arg=RUNTIME_BASE={RUNTIME}"]
        pip = ["--secret", f"id=pip,src={self.secret}", *self.mounts]
        return self.buildah("build", "--layers", "--pull-never", *arguments, *pip, *words, context, log=log)

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """A container of an image, for `buildah run`."""
        name = self.buildah("from", "--pull-never", image).split()[-1]
        try:
            yield name
        finally:
            self.buildah("rm", name)


def _pip(root: Path) -> tuple[list[str], Path]:
    """Mounts of the local places that pip's configuration names, and that configuration as one file."""
    places, text = pip_configuration()
    secret = root / "pip.conf"
    secret.write_text(text)
    secret.chmod(0o600)
    return [f"--volume={place}:{place}:ro" for place in places], secret


def make_base(shop: Workshop) -> None:
    """Debian, minimal, as an image; debootstrap takes its default mirror."""
    if BASE in shop.buildah("images", "--format", "{{.Name}}").split():
        return
    tree = shop.root / "debian"
    with shop.timed("base image by debootstrap"):
        shutil.rmtree(tree, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(tree)]
        subprocess.run(command, check=True, stdout=(shop.root / "debootstrap.log").open("w"))
        archive = shop.root / "debian.tar"
        subprocess.run(["tar", "-C", str(tree), "-cf", str(archive), "."], check=True)
        name = shop.buildah("from", "scratch").split()[-1]
        shop.buildah("add", name, archive, "/")
        shop.buildah("commit", "--rm", name, BASE)
        archive.unlink()
        shutil.rmtree(tree)


def make_runtime(shop: Workshop) -> None:
    """The base with libcudart: CPU wheels of torch bring none, and the gate loads the kernels."""
    if RUNTIME in shop.buildah("images", "--format", "{{.Name}}").split():
        return
    library = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "lib", "libcudart.so.13")
    if not library.exists():
        raise WrongError(f"{library} is missing; make install")
    name = shop.buildah("from", "--pull-never", BASE).split()[-1]
    shop.buildah("copy", name, library, "/usr/local/lib/")
    shop.buildah("run", name, "--", "ldconfig")
    shop.buildah("commit", "--rm", name, RUNTIME)


def make_context(shop: Workshop, kernels: tuple[str, ...], mark: str = "", libraries: str = "") -> Path:
    """The build context with a kernels.yaml of its own; fitasks itself as it is in the working tree.

    A `mark` keeps a layer of this run from being taken again. `libraries` is where the server finds some more.
    """
    context = shop.root / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(ROOT / "fitasks", context / "fitasks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models", context / "models")
    for name in _FILES:
        shutil.copy2(ROOT / name, context / name)
    lines = [
        f"# {shop.begun} {mark}: no layer of an earlier run",
        'targets: ["9.0a"]',
        *([f"serving: {{env: {{LD_LIBRARY_PATH: {libraries}}}}}"] if libraries else []),
        "kernels:",
        *(f"  {k}:" for k in kernels),
    ]
    (context / "kernels.yaml").write_text("\n".join(lines) + "\n")
    return context


def with_cudart(shop: Workshop, kernels: tuple[str, ...], mark: str = "") -> Path:
    """The context for an environment whose torch brings no libcudart, as CPU wheels do: the toolkit's is named."""
    return make_context(shop, kernels, mark, _CUDART)


def outcomes(log: str) -> dict[str, str]:
    """What became of each kernel: {"page": "compiled", "quantization": "adopted"}, of a build's output."""
    found = re.findall(r"^kernel:(\S+): (compiled|adopted|timestamps)\b", log, re.MULTILINE)
    return dict(found)


def expect(what: str, found: object, wanted: object) -> None:
    """Raises WrongError unless they are equal."""
    if found != wanted:
        raise WrongError(f"{what}: expected {wanted!r}, found {found!r}")
    say(f"  {what}: {found}")


def look_inside(shop: Workshop, kernels: tuple[str, ...]) -> None:
    """As the image's own user: no toolchain anywhere, the gate passes, and can fail."""
    with shop.container(IMAGE) as name:

        def run(*words: str, status: int = 0) -> str:
            return shop.buildah("run", name, "--", *words, status=status).strip()

        expect("user", run("id", "-un"), "server")
        named = [word for tool in _TOOLS for word in ("-o", "-name", tool)][1:]
        shell = f"find / -xdev \\( {' '.join(named)} \\) \\( -type f -o -type l \\) -perm /111 2>/dev/null; true"
        expect("compilers, nvcc, ninja, make on the disk", run("sh", "-c", shell), "")
        expect("modules of SGLang's own", run("ls", "-A", "/opt/engines/tvm-ffi"), "")
        said = run(*_GATE, "/opt/fitasks/kernels.json").splitlines()[-1]
        expect("wheels in the image", run("sh", "-c", "find / -xdev -name 'fitasks*.whl' 2>/dev/null; true"), "")
        expect("the gate", said.partition(" module(s)")[0].rpartition(" ")[2], str(len(kernels)))
        absent = json.dumps({"kernels": [{"name": "rope", "target": "9.0a"}, {"name": "page", "target": "8.0"}]})
        run("sh", "-c", f"echo '{absent}' > absent.json")
        said = run(*_GATE, "absent.json", status=1)
        wanted = ["rope: not found ahead of time for 9.0a", "page: not found ahead of time for 8.0"]
        expect("the gate on what isn't there", [line for line in said.splitlines() if "not found" in line], wanted)


def store_variant(shop: Workshop) -> None:
    """Builders without a cache, and a store: the first one fills it, the second one compiles nothing."""
    kept, secret = shop.root / "kept", shop.root / "store.env"
    shutil.rmtree(kept, ignore_errors=True)
    (kept / "bucket").mkdir(parents=True)
    with serving("s3", kept, "--auth-key", f"{_KEYS['AWS_ACCESS_KEY_ID']},{_KEYS['AWS_SECRET_ACCESS_KEY']}") as at:
        lines = [f"{name}={value}" for name, value in {**_KEYS, "AWS_ENDPOINT_URL": f"http://{at}"}.items()]
        secret.write_text("\n".join(lines) + "\n")
        secret.chmod(0o600)
        given = [f"--build-arg=FITASKS_STORE={_STORE}", "--secret", f"id=store,src={secret}", f"--tag={IMAGE}"]
        for what, outcome in (("empty", "compiled"), ("filled", "adopted")):
            pushing = ["--build-arg=FITASKS_STORE_PUSH=1"] if what == "empty" else []
            shop.forget()
            with shop.timed(f"a fresh builder, and a store that is {what}"):
                log = shop.build(with_cudart(shop, FIRST, f"store {what}"), f"store-{what}", *given, *pushing)
            expect("kernels", outcomes(log), dict.fromkeys(FIRST, outcome))
    look_inside(shop, FIRST)
    words = (_STORE, _KEYS["AWS_ACCESS_KEY_ID"], _KEYS["AWS_SECRET_ACCESS_KEY"], f"http://{at}")
    expect("layers with a credential, the store's name or its server", told_in(shop, words), {})
    expect("the search, for what is there", bool(told_in(shop, ["not found ahead of time"])), True)


def told_in(shop: Workshop, words: Collection[str]) -> dict[str, str]:
    """Which blob of the image, a layer or its configuration, has one of these words in it."""
    place, found = shop.root / "layers", {}
    shutil.rmtree(place, ignore_errors=True)
    shop.buildah("push", "--disable-compression", IMAGE, f"dir:{place}")
    for blob in place.iterdir():
        with blob.open("rb") as stream, _plain(stream) as plain:
            before = b""
            while chunk := plain.read(1 << 22):
                if told := [word for word in words if word.encode() in before + chunk]:
                    found[blob.name] = told[0]
                before = chunk[-200:]
    shutil.rmtree(place)
    return found


def _plain(stream: IO[bytes]) -> IO[bytes]:
    """A blob's bytes; layers are packed with gzip, or not at all."""
    start = stream.read(2)
    stream.seek(0)
    return cast("IO[bytes]", gzip.open(stream)) if start == b"\x1f\x8b" else stream


def volume_variant(shop: Workshop) -> None:
    """compose.yaml's way: doit at container start, over volumes that lost their timestamps."""
    volumes, moved = shop.root / "volumes", shop.root / "moved"
    shutil.rmtree(volumes, ignore_errors=True)
    context = with_cudart(shop, FIRST[:1])
    shop.build(context, "toolchain", "--target=toolchain", f"--tag={TOOLCHAIN}")
    places = {context / "kernels.yaml": "/src/kernels.yaml:ro"}
    places |= {volumes / "kernels": "/root/.cache", volumes / "plan": "/src/.fitasks"}
    mounts = [f"--volume={here}:{there}" for here, there in places.items()]

    def start(what: str) -> dict[str, str]:
        with shop.container(TOOLCHAIN) as name, shop.timed(f"container start, {what} volume"):
            log = shop.buildah("run", *mounts, name, "--", "sh", "-c", "doit && doit check", log=what)
        return outcomes(log)

    for name in ("kernels", "plan"):
        (volumes / name).mkdir(parents=True)
    expect("kernels", start("empty"), {"page": "compiled"})
    expect("kernels", start("filled"), {})
    shutil.copytree(volumes, moved, symlinks=True, copy_function=shutil.copyfile)  # no timestamps, no modes
    shutil.rmtree(volumes)
    moved.rename(volumes)
    expect("kernels", start("copied"), {"page": "timestamps"})


def main(arguments: list[str]) -> int:
    """Build, look, say; the exit status."""
    absent = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
    if absent or os.geteuid() != 0:
        say(f"make test-image needs root, buildah and debootstrap; apt-get install {' '.join(absent)}")
        return 2
    shop = Workshop(Path(*arguments or ["/var/tmp/fitasks-image"]).resolve())
    try:
        make_base(shop)
        make_runtime(shop)
        with shop.timed("first build: " + ", ".join(FIRST)):
            log = shop.build(with_cudart(shop, FIRST), "first", f"--tag={IMAGE}")
        expect("kernels", outcomes(log), dict.fromkeys(FIRST, "compiled"))
        look_inside(shop, FIRST)
        context = with_cudart(shop, FIRST + MORE)
        with shop.timed("second build: one kernel more"):
            log = shop.build(context, "second", f"--tag={IMAGE}")
        expect("kernels", outcomes(log), dict.fromkeys(FIRST, "adopted") | dict.fromkeys(MORE, "compiled"))
        look_inside(shop, FIRST + MORE)
        with shop.timed("third build: nothing changed"):
            shop.build(context, "third", f"--tag={IMAGE}")
        store_variant(shop)
        volume_variant(shop)
    except (WrongError, subprocess.CalledProcessError) as error:
        say(f"{error}\nlogs: {shop.root}/*.log")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
