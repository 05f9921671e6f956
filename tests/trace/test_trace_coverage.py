"""What a server asked for against what is there."""

import json
from pathlib import Path

from fitasks.plan.server import Package, Server
from fitasks.trace.coverage import coverage, packaged_names
from fitasks.trace.model import Requested
from fitasks.ui.trace_table import covered

USED = frozenset({"compiled"})
PAGE = Requested("page", how=USED, architectures="90a")
ROPE = Requested("rope", how=USED, architectures="90a", seconds=12.0)
DSL = Requested("rmsnorm", how=USED, kind="cute-dsl", seconds=3.25)
UNUSED = Requested("topk", how=frozenset({"generated"}))


def test_counts_and_names() -> None:
    found = coverage([PAGE, ROPE, DSL, UNUSED], {"90a": frozenset({"page"})}, None)
    assert found.missing == (ROPE,)
    assert list(covered(found, "kernels.yaml")) == [
        "kernels.yaml covers 1 of 2 requested modules; not",
        "  rope, 12.0 s",
        "`doit import_trace` adds what kernels.yaml can say",
        "not covered by precompilation: 1 module, 3.2 s in the server",
        "  rmsnorm (cute-dsl), 3.2 s",
        "left out: 1 module, generated and never loaded",
        "what this server waited for, each module by the process that waited longest:",
        "  FlashInfer, nvcc: 2 modules, 2 of them compiled in 12.0 s",
        "  FlashInfer, CuTe-DSL: 1 module, 1 of them compiled in 3.2 s",
    ]


def test_nothing_missing() -> None:
    found = coverage([PAGE], {"90a": frozenset({"page"})}, None)
    assert list(covered(found, "kernels.yaml")) == ["kernels.yaml covers 1 of 1 requested module"]
    assert found.missing == ()


def test_another_architecture_set_is_another_cache() -> None:
    assert coverage([PAGE], {"80_90a": frozenset({"page"})}, None).missing == (PAGE,)


def test_the_official_package_counts_for_itself() -> None:
    found = coverage([PAGE, ROPE], {"90a": frozenset({"page"})}, {"": frozenset({"rope"})})
    assert (found.not_planned, found.not_packaged, found.missing) == ((ROPE,), (PAGE,), ())


def test_every_architecture_needs_a_provider() -> None:
    both = Requested("page", how=USED, architectures="80_90a")
    one = {"90a": frozenset({"page"})}
    assert coverage([PAGE, both], {}, one).not_packaged == (both,)
    assert coverage([PAGE, both], {}, one | {"80": frozenset({"page"})}).not_packaged == ()


def server(site: Path, package: str, flashinfer: str = "0.7.2") -> Server:
    packages = (Package("flashinfer-python", flashinfer, ""), Package("flashinfer-jit-cache", package, ""))
    return Server(Path("python"), "none", site, (site,), {}, packages if package else packages[:1])


def test_packages_by_libraries_or_manifest(tmp_path: Path) -> None:
    library = tmp_path / "flashinfer_jit_cache" / "jit_cache" / "page" / "page.so"
    library.parent.mkdir(parents=True)
    library.touch()
    library.with_name("other.so").touch()
    manifest = tmp_path / "flashinfer_jit_cache_sm90a" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"cuda_architectures": ["sm90a"], "modules": ["rope", "norm"]}))
    manifest.with_name("other.json").write_text("[]")
    want = {"": frozenset({"page"}), "90a": frozenset({"rope", "norm"})}
    assert packaged_names(server(tmp_path, "0.7.2+cu130")) == want
    assert packaged_names(server(tmp_path, "0.7.1")) == {}  # FlashInfer ignores it
    assert packaged_names(server(tmp_path, "")) is None
