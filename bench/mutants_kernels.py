"""The borders of compiled kernels: the receipt beside a library, the store, bundles, packages."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from bench.mutants_mutate import VICTIM, mutate, of_json, unsealed
from bench.mutants_worlds import NAMED, Border, as_it_was, keep_as_it_is, programs, remove, workshop_place

# receipts and the store


def receipt(world: Path) -> Border:
    """The receipt beside a library, as `doit list --status`, `why` and `check` read it."""
    from fitasks.compile import receipt as receipts

    place = workshop_place(world)
    kernel = place.kernels[0]

    def use(_: Path) -> None:
        judged = place.workshop.verdict(kernel)
        print(judged, *judged.reasons)
        if found := receipts.read(kernel):
            from fitasks.compile import begun

            print(receipts.parse_inputs(found.inputs)[:3], begun.edited(found, place.workshop.judge(), 0))
            with contextlib.suppress(Declined):
                _bundled(place, world / "bundle")

    file = receipts.path_of(kernel)
    return Border([file.read_bytes()], file, use, renew=lambda: as_it_was(world), programs=programs(place))


def store(world: Path) -> Border:
    """An entry of the store, as an adopting run takes it: its receipt, with files of the names that it says."""
    from fitasks.compile import receipt as receipts

    place = workshop_place(world)
    kernel, files = place.kernels[0], place.session.store
    (entry,) = (files.root / kernel.name).iterdir()

    def use(_: Path) -> None:
        judge = place.workshop.judge()
        print(files.explain(kernel, judge, place.workshop.verdict(kernel)))
        if found := files.find(kernel, judge):
            with contextlib.suppress(OSError):
                files.take(*found, kernel.build_dir)
        if whole := receipts.read(kernel):
            files.put(kernel.name, kernel.build_dir, whole)
        files.contents()
        files.gc(10**9)

    def mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
        """A receipt whose hashes are right for whatever its names lead to: who plants one can compute them."""
        if rng.random() < 0.4:
            return mutate(data, others, rng, outside)
        said, seal = unsealed(data)
        names = ["../" * 4 + VICTIM, "../" * rng.randrange(9) + VICTIM, f"{outside}/{VICTIM}", "..", ".", "sub/x.o"]
        name = rng.choice([*names, "/etc/hostname", "../../x", "a\0b", "link.o", "x" * 300, "\x1b[2J.o"])
        _plant(entry, name, outside)
        output = {"sha256": _digest(entry, name), "size": 5, "mtime_ns": 1}
        said["outputs"] |= {name: output}
        if rng.random() < 0.3:
            del said["outputs"][rng.choice(list(said["outputs"]))]
        return seal(said)

    file = entry / receipts.NAME
    return Border([file.read_bytes()], file, use, mutant, lambda: as_it_was(world), programs(place))


def elsewhere(world: Path) -> Border:
    """Manifest, index and a file of a store elsewhere, as `doit`, `why`, `check`, `store` and `doctor` take them.

    Half of the manifests are unsigned ones that fit what they say, as whoever may write there can make them.
    """
    from fitasks.compile.judge.reasons import Reason, judgement
    from fitasks.config.stores import StoreRequest
    from fitasks.store.chain import Chain
    from fitasks.store.local import Store
    from fitasks.store.remote.loop import Loop
    from fitasks.store.remote.remote import Remote
    from fitasks.ui.store_table import remote_lines

    place, share, loop = workshop_place(world), world / "share", Loop()
    kernel, files = place.kernels[0], place.session.store

    def remote(*, push: bool = False) -> Remote:
        return Remote(StoreRequest(str(share), push), loop, {"XDG_CONFIG_HOME": str(world)}, print)

    found = files.find(kernel, place.workshop.judge())
    if not found or not remote(push=True).share(*found):
        raise SystemExit("nothing was put into the store")
    keep_as_it_is(world)

    def use(_: Path) -> None:
        judge, one = place.workshop.judge(), remote()
        chain = Chain(Store(world / "own" / "store"), [one], loop, print)
        chain.fetch(kernel, judge)
        if came := chain.find(kernel, judge):
            shutil.rmtree(kernel.build_dir)
            kernel.build_dir.mkdir()
            chain.take(*came, kernel.build_dir)
        print(chain.explain(kernel, judge, judgement("stale", [Reason("new", "never built")])))
        print(chain.holding([kernel], {kernel.target: judge}), one.trouble(), *remote_lines(one.url, one.contents()))

    paths = [next((share / "v1" / kind).glob("*/*")) for kind in ("kernels", "index", "files")]
    samples = [path.read_bytes() for path in paths]
    return Border(samples, paths[0], use, _manifest_mutant, lambda: as_it_was(world), programs(place), files=paths)


def _manifest_mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
    """Of a manifest mostly the receipt in it, with a seal and a fingerprint that fit what it then says."""
    first, signed, body = (*data.split(b"\n", 2), b"", b"")[:3]
    if not first.startswith(b"fitasks kernel") or rng.random() < 0.2:
        return mutate(data, others, rng, outside)
    from fitasks.compile import receipt as receipts

    said = receipts.parse(of_json(body, rng, outside))
    if said is None or rng.random() < 0.5:
        return b"\n".join([first, signed, of_json(body, rng, outside)])
    fits = receipts.fingerprint(said.commands, said.toolchain, said.inputs)
    return b"\n".join([first, signed, receipts.to_json(replace(said, fingerprint=fits)).encode()])


def _plant(entry: Path, name: str, outside: str) -> None:
    if name == "link.o":
        (entry / name).symlink_to(f"{outside}/{VICTIM}")
    if name == "sub/x.o":
        (entry / "sub").mkdir()
        (entry / name).write_bytes(b"x")


def _digest(entry: Path, name: str) -> str:
    try:
        return hashlib.sha256((entry / name).read_bytes()).hexdigest()
    except (OSError, ValueError):
        return "0" * 64


# bundles


class Declined(Exception):
    """One of fitasks' own errors."""


def bundle(world: Path) -> Border:
    """A bundle, as `doit unbundle` takes it into the cache."""
    from fitasks.compile import receipt as receipts
    from fitasks.delivery.bundle.unbundle import unbundle

    place = workshop_place(world)
    sample = _bundled(place, world / "good")
    receipts.path_of(place.kernels[0]).unlink()  # so that the one here isn't kept
    keep_as_it_is(world)

    def use(path: Path) -> None:
        print(unbundle(place.machine, path))

    def renew() -> None:
        as_it_was(world)

    asks = frozenset({"ninja"})  # whether the kernel that came is fresh
    return Border([sample], world / "bundle", use, _bundle_mutant, renew, programs(place), asks, others=NAMED)


def _bundled(place: Any, path: Path) -> bytes:
    from fitasks.base.errors import FitasksError
    from fitasks.delivery.bundle.bundle import bundle as make

    try:
        make(place.machine, path)
    except FitasksError as error:
        raise Declined(str(error)) from None
    return path.read_bytes()


def _bundle_mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
    """Bytes of the file, or of the tar in it; header fields; the manifest; a file that the manifest then fits."""
    import gzip

    plain = gzip.decompress(data)
    match rng.randrange(6):
        case 0:
            return mutate(data, others, rng, outside)
        case 1:
            return gzip.compress(mutate(plain, [plain], rng, outside)[: 1 << 22], 1)
        case 2:
            return gzip.compress(_header_mutant(plain, rng, outside), 1)
        case _:
            return gzip.compress(_members_mutant(plain, rng, outside), 1)


_FIELDS = (
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 16),
    (345, 155),
)


def _header_mutant(plain: bytes, rng: Random, outside: str) -> bytes:
    """One field of one header, mostly with the checksum that fits."""
    headers = [at for at in range(0, len(plain) - 512, 512) if plain[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(headers)
    header = bytearray(plain[at : at + 512])
    start, length = rng.choice(_FIELDS)
    value = rng.choice(
        [
            b"../" * 4 + VICTIM.encode(),
            f"{outside}/{VICTIM}".encode(),
            b"\0" * length,
            b"7" * length,
            b"\x80" + b"\xff" * (length - 1),
            b"-1",
            rng.choice(b"0123456789gxLKSDVM").to_bytes(1, "big"),
            rng.randbytes(length),
        ]
    )
    header[start : start + length] = value[:length].ljust(length, b"\0")
    if rng.random() < 0.8:
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
    return plain[:at] + bytes(header) + plain[at + 512 :]


def _members_mutant(plain: bytes, rng: Random, outside: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = [(one, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]
    said = json.loads(members[0][1])
    index = rng.randrange(len(members))
    member, content = members[index]
    if index and rng.random() < 0.7:
        content = mutate(content, [one for _, one in members], rng, outside)[: 1 << 22] if content else b"x"
        said["files"][member.name] |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = json.dumps(said).encode()
    else:
        manifest = of_json(members[0][1], rng, outside)
    members[index] = (member, content)
    members[0] = (members[0][0], manifest)
    if rng.random() < 0.1:
        members.insert(rng.randrange(1, len(members)), rng.choice(members))
    return _packed(members)


def _packed(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, content in members:
            copied = tarfile.TarInfo(member.name)
            copied.mtime, copied.mode, copied.size = member.mtime, member.mode, len(content)
            archive.addfile(copied, io.BytesIO(content))
    return stream.getvalue()


# packages


def wheel(world: Path) -> Border:
    """manifest.json and receipts.json of an installed package, as `check`, `list` and `doctor` read them."""
    from fitasks.delivery.wheel import install
    from fitasks.delivery.wheel import installed as package
    from fitasks.plan.server import Package
    from fitasks.trace.coverage import packaged_names
    from tests.delivery.wheelwright import Shop, module, unpacked

    place = workshop_place(world)
    made = Shop().add(place.workshop, module(place.workshop, "norm", ("sm_90a",)))
    site = unpacked(made.wheel(world / "wheels").path, world / "site-packages")
    root = site / package.PACKAGE
    (library,) = root.rglob("norm.so")
    official = root.parent / "flashinfer_jit_cache_sm90a" / "manifest.json"
    official.parent.mkdir()
    official.write_text('{"cuda_architectures": ["sm90a"], "modules": ["page", "sampling"], "version": "0.7.4"}')
    plan = made.stocked(site, Path(world / "flashinfer")).plan
    has = tuple(Package(name, "0.7.4", "") for name in ("flashinfer-jit-cache", "flashinfer-python"))
    server = replace(plan.server, site_packages=(site,), packages=has)
    (world / "flashinfer" / "jit").mkdir(parents=True)
    (world / "flashinfer" / "jit" / "env.py").write_text("get_jit_cache_providers\n")
    plan = replace(plan, server=server)

    def use(_: Path) -> None:
        # Their memos go by path and mtime, which a file system may give twice within its clock's tick.
        for cached in (getattr(package, name, None) for name in ("_read", "_built_with", "_by_key")):
            getattr(cached, "cache_clear", lambda: None)()
        said = package.packaged(library)
        print(package.altered(library, said), package.built_with(library), install.notice(plan))
        print(packaged_names(server))

    files = [root / "manifest.json", root / "receipts.json", official]
    before = [file.read_bytes() for file in files]

    def renew() -> None:
        for file, data in zip(files, before, strict=True):
            remove(file)
            file.write_bytes(data)

    return Border(before, files[0], use, renew=renew, files=files, programs=programs(place))
