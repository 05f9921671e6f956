"""Predictions that need no compiler: each way in which a server would not do what one hopes."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.errors import EnvironmentProblem, Unbuildable
from fitasks.base.files import sha256_file
from fitasks.compile.failure import failed
from fitasks.compile.receipt import read, write
from fitasks.cuda.elf import is_shared_object, segments
from fitasks.graph.session import Session
from fitasks.plan.caches import bases
from fitasks.plan.kernel import Artefact
from fitasks.server.check import check
from fitasks.server.check import predict as predict_at
from fitasks.server.conditions import conditions
from fitasks.server.exports import exports
from fitasks.server.place import Place, place_of
from fitasks.server.sm90_switch import install
from fitasks.server.user import User
from fitasks.server.verdict import Verdict
from tests.cuda.fake_toolkit import Maker
from tests.delivery.wheelwright import module
from tests.sessions import session_of
from tests.workshop import TARGET, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.plan.kernel import Kernel
    from fitasks.server.user import Access


@pytest.fixture
def workshop(shop: Workshop) -> Workshop:
    return shop


@pytest.fixture
def page(workshop: Workshop) -> Kernel:
    return workshop.built()


def session(workshop: Workshop, arch: str = "90a", **env: str) -> Session:
    plan = workshop.plan()
    server = replace(plan.server, env=plan.server.env | {"HOME": str(workshop.root / "home")} | env)
    plan = replace(plan, server=server, targets={"9.0a": workshop.target(arch)})
    judge = replace(workshop.judge(), bases=bases(plan))
    return session_of(plan, ninja=workshop.ninja, judges={TARGET: judge})


@pytest.fixture
def own_ninja(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ninja of the plan is the first on PATH, as in an activated environment."""
    monkeypatch.setenv("PATH", str(workshop.ninja.executable.parent))


def predict(made: Session, kernel: Kernel) -> Verdict:
    with place_of(made.plan.config) as place:
        return predict_at(made, kernel, place)


def said(workshop: Workshop, kernel: Kernel, **env: str) -> str:
    verdict = predict(session(workshop, **env), kernel)
    return f"{verdict.state}: {verdict.reason}"


def test_a_fresh_kernel_is_cached(workshop: Workshop, page: Kernel) -> None:
    assert said(workshop, page) == "cached: "


def test_jit_forbidden_refuses_a_complete_cache(workshop: Workshop, page: Kernel) -> None:
    assert said(workshop, page, FLASHINFER_DISABLE_JIT="1") == (
        "refused: FLASHINFER_DISABLE_JIT is set and there is no ahead-of-time module; caches are not accepted"
    )


def test_a_touched_header_would_compile(workshop: Workshop, page: Kernel) -> None:
    import time

    header = workshop.include / "common.h"
    os.utime(header, ns=(time.time_ns() + 10**9,) * 2)
    assert said(workshop, page).startswith(
        "would compile: {FLASHINFER}/include/common.h has the right contents under a wrong timestamp"
    )


def test_a_header_under_its_old_time_is_outdated(workshop: Workshop, page: Kernel) -> None:
    header = workshop.include / "common.h"
    stat = header.stat()
    header.write_text("inline int common() { return 5; }\n")
    os.utime(header, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert said(workshop, page).startswith(
        "outdated: ninja sees nothing to do, but {FLASHINFER}/include/common.h changed"
    )


def test_a_lost_generated_source_would_compile(workshop: Workshop, page: Kernel) -> None:
    page.sources[0].unlink()
    assert said(workshop, page) == (
        "would compile: generated source {CACHE}/generated/page/page_0.cpp is missing and will be generated again"
    )


def test_a_truncated_library_would_fail(workshop: Workshop, page: Kernel) -> None:
    stat = page.library.stat()
    page.library.write_bytes(page.library.read_bytes()[:2000])
    os.utime(page.library, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert said(workshop, page).startswith("would fail: ")


def test_another_ninja_would_compile_and_its_log_is_left_alone(
    workshop: Workshop,
    page: Kernel,
    old_ninja: Any,
) -> None:
    log = page.build_dir / ".ninja_log"
    before = log.read_bytes()
    workshop.ninja = old_ninja
    assert said(workshop, page).startswith("would compile: ninja's log is another version's")
    assert log.read_bytes() == before


def test_a_file_in_flashinfers_own_aot_directory_is_loaded_unchecked(workshop: Workshop, page: Kernel) -> None:
    stale = workshop.root / "site" / "flashinfer" / "data" / "aot" / "page" / "page.so"
    stale.parent.mkdir(parents=True)
    shutil.copy(page.library, stale)
    assert said(workshop, page) == (f"ahead-of-time: {stale} is loaded without any check of version or architecture")
    stale.write_bytes(b"left by a crash")
    assert said(workshop, page).startswith(f"would fail: {stale} is no shared object")


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("cache/0.7.2.post1/80_90a", "its architecture set is 90a, not 80_90a"),
        ("cache/0.7.1/90a", "its FlashInfer is 0.7.2.post1, not 0.7.1"),
        ("home/.cache/sglang/.cache/flashinfer/0.7.2.post1/90a", "its cache is {cache}"),
    ],
)
def test_a_kernel_compiled_where_the_server_never_looks(
    workshop: Workshop,
    page: Kernel,
    place: str,
    why: str,
) -> None:
    other = workshop.root / place / "cached_ops" / "page"
    shutil.copytree(page.build_dir, other)
    shutil.rmtree(page.build_dir)
    where = other.parents[1]
    why = why.format(cache=workshop.root / "cache")
    assert said(workshop, page) == f"would compile: compiled in {where}, where this server never looks ({why})"


@pytest.mark.usefixtures("own_ninja")
def test_what_a_prediction_takes_for_granted(maker: Maker, workshop: Workshop) -> None:
    home, other = workshop.root / "cuda", workshop.root / "other"
    assert conditions(session(workshop, CUDA_HOME=str(home))) == []
    (told,) = conditions(session(workshop, CUDA_HOME=str(other)))
    without = f"without it FlashInfer would look for {other}, which isn't there, and fail"
    assert told == f"the server has CUDA_HOME={home} ({without}); `doit env` prints the lines"
    other.mkdir()
    (told,) = conditions(session(workshop, CUDA_HOME=str(other)))
    assert f"without it FlashInfer would find {other} and fail: it lacks bin/nvcc (nvcc)" in told
    maker.installed(other)
    (told,) = conditions(session(workshop, CUDA_HOME=str(other)))
    without = f"without it FlashInfer would find {other} and compile again"
    assert told == f"the server has CUDA_HOME={home} ({without}); `doit env` prints the lines"


def test_what_nvcc_cannot_do_would_fail(workshop: Workshop, page: Kernel) -> None:
    """Known from the planned flags, where there is work; what is compiled already is loaded all the same."""
    nvcc = workshop.root / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    script = '#!/bin/sh\ncase "$*" in *--compress-mode*) echo "nvcc fatal   : Unknown option \'--compress-mode=size\'"; exit 1;; esac\n'
    nvcc.write_text(script)
    nvcc.chmod(0o755)
    asks = replace(page, ninja=page.ninja + "cuda_cflags = $common_cflags $\n    --compress-mode=size\n")
    assert said(workshop, asks).startswith("outdated: "), "ninja has no work, and asks no nvcc"
    page.library.unlink()
    assert said(workshop, asks) == f"would fail: {nvcc} can't compile it: Unknown option '--compress-mode=size'"
    assert said(workshop, page).startswith("would compile: ")
    script = script.replace("Unknown option '--compress-mode=size'", "Unsupported gpu architecture 'compute_120f'")
    nvcc.write_text(script.replace("*--compress-mode*", "*compute_120f*"))
    newer = replace(page, ninja=page.ninja + "cuda_cflags = -gencode=arch=compute_120f,code=sm_120f\n")
    assert "can't compile it: Un" in said(workshop, newer)
    assert said(workshop, asks).startswith("would compile: ")


def without_sm90(workshop: Workshop, target: str = "9.0a", **env: str) -> Session:
    made = session(workshop, CUDA_HOME=str(workshop.root / "cuda"), **env)
    site = workshop.root / "site-packages"
    site.mkdir(exist_ok=True)
    config = replace(made.plan.config, sm90=False)
    server = replace(made.plan.server, prefix=workshop.root, site_directories=(site,))
    made._plan = replace(made.plan, config=config, server=server, targets={target: made.plan.first})
    return made


@pytest.mark.usefixtures("own_ninja")
def test_a_plan_without_hoppers_modules_needs_a_server_that_does_without(workshop: Workshop) -> None:
    variable = (
        "the server has FLASHINFER_DISABLE_SM90=1 (without it FlashInfer would choose Hopper's modules and compile "
        "them); `doit env` prints the lines"
    )
    hook = "the server has the hook that heeds FLASHINFER_DISABLE_SM90; `doit install_sm90_switch`"
    assert conditions(without_sm90(workshop)) == [variable, hook]
    assert conditions(without_sm90(workshop, FLASHINFER_DISABLE_SM90="off")) == [variable, hook]
    assert conditions(without_sm90(workshop, FLASHINFER_DISABLE_SM90="1")) == [hook]
    install(workshop.root, [workshop.root / "site-packages"])
    assert conditions(without_sm90(workshop)) == [variable]
    assert conditions(without_sm90(workshop, "8.0 9.0")) == [variable]
    assert conditions(without_sm90(workshop, "10.0a")) == []
    assert conditions(without_sm90(workshop, FLASHINFER_DISABLE_SM90="1")) == []
    ahead = Verdict("page", "page", "9.0a", "ahead-of-time")
    assert conditions(without_sm90(workshop), [ahead]) == [variable], "the choice comes before the load"


def test_what_is_exported_then(workshop: Workshop) -> None:
    plan = without_sm90(workshop).plan
    assert exports(plan, Path("/bin"))["FLASHINFER_DISABLE_SM90"] == "1"
    assert "FLASHINFER_DISABLE_SM90" not in exports(replace(plan, targets={"8.0": plan.first}), Path("/bin"))
    assert "FLASHINFER_DISABLE_SM90" not in exports(session(workshop).plan, Path("/bin"))


def test_a_receipt_that_is_gone_is_said(workshop: Workshop, page: Kernel) -> None:
    (page.build_dir / "fitasks-receipt.json").unlink()
    assert said(workshop, page) == "cached: incomplete: page.so has no receipt: somebody else compiled it"


def test_no_path_is_left_in_scratch(workshop: Workshop, page: Kernel) -> None:
    before = set(Path(page.build_dir).iterdir())
    said(workshop, page)
    assert set(Path(page.build_dir).iterdir()) == before


# Ahead of time


def installed(workshop: Workshop, kernel: Kernel, directory: str = "sm90a", *served: str) -> Kernel:
    """The kernel as planned where our package has its library, too; `served` as FlashInfer answered."""
    library = workshop.root / "venv" / "fitasks_kernels" / directory / kernel.name / kernel.library.name
    library.parent.mkdir(parents=True)
    shutil.copy(kernel.library, library)
    receipt = read(kernel)
    assert receipt is not None
    one = {"directory": directory, "name": kernel.name}
    output = receipt.outputs[kernel.library.name]
    said = {
        "manifest.json": one | {"sha256": output.sha256, "size": output.size},
        "receipts.json": one | {"fingerprint": receipt.fingerprint},
    }
    for name, record in said.items():
        file = library.parents[2] / name
        others = json.loads(file.read_text())["kernels"] if file.exists() else []
        file.write_text(json.dumps({"kernels": [*others, record]}))
    return replace(kernel, aot=(*kernel.aot, Artefact(library, served or ("sm90a",))))


def with_code(workshop: Workshop, kernel: Kernel, *codes: str) -> Kernel:
    """Built as FlashInfer's build.ninja says it for several architectures."""
    flags = " ".join(f"-gencode=arch=compute_{code[3:]},code={code}" for code in codes)
    kernel = replace(kernel, ninja=f"# {flags}\n{kernel.ninja}")
    workshop.build(kernel)
    return kernel


def mixed(workshop: Workshop, kernel: Kernel, **env: str) -> str:
    """What is said of it on a host with A100 and H100."""
    verdict = predict(session(workshop, "80_90a", **env), kernel)
    return f"{verdict.state}: {verdict.reason}"


def test_half_of_a_mixed_host_is_served(workshop: Workshop, page: Kernel) -> None:
    """FlashInfer loads the module for the A100, and compiles at the H100's first call."""
    planned = installed(workshop, with_code(workshop, page, "sm_80", "sm_90a"), "sm80", "sm80")
    gap = "no ahead-of-time module for sm90a, only for sm80"
    assert mixed(workshop, planned) == f"cached: {gap}"
    assert mixed(workshop, planned, FLASHINFER_DISABLE_JIT="1").startswith(f"refused: {gap}; FLASHINFER_DISABLE_JIT ")
    page.library.unlink()
    assert mixed(workshop, planned).startswith(f"would compile: {gap}; ")


def test_a_module_for_one_gpu_of_a_mixed_host_needs_no_other(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, with_code(workshop, page, "sm_90a"), "sm80-sm90a", "sm90a")
    assert mixed(workshop, planned) == "ahead-of-time: "
    verdict = predict(session(workshop, "80_90a"), planned)
    assert verdict.architectures == ("sm90a",)
    assert verdict.bytes == planned.aot[0].path.stat().st_size


def test_all_of_a_mixed_host_is_served_by_two_modules(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, with_code(workshop, page, "sm_80", "sm_90a"), "sm80", "sm80")
    planned = installed(workshop, planned, "sm90a", "sm90a")
    other = planned.aot[1].path
    assert mixed(workshop, planned) == "ahead-of-time: "
    other.write_bytes(b"damaged")
    assert mixed(workshop, planned).startswith(f"would fail: {other} is no shared object")


def test_an_installed_library_that_was_altered(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    assert said(workshop, planned) == "ahead-of-time: "
    library = planned.aot[0].path
    content = bytearray(library.read_bytes())
    content[-1] ^= 1
    library.write_bytes(content)
    first, second = sha256_file(library)[:12], sha256_file(page.library)[:12]
    assert said(workshop, planned) == (
        f"altered: {library} is altered: its hash is {first}, {second} by its package's manifest; doit install"
    )
    assert not predict(session(workshop), planned).good


@pytest.mark.parametrize(
    ("code", "without"),
    [(("sm_80", "sm_86"), "sm_80, sm_86, none for sm90a"), (("ptx_100",), "ptx_100, none for sm80, sm90a")],
)
def test_a_file_in_flashinfers_own_aot_directory_for_other_gpus(
    workshop: Workshop, tmp_path: Path, code: tuple[str, ...], without: str
) -> None:
    """FlashInfer loads it all the same."""
    other = Workshop(tmp_path / "other", workshop.ninja, workshop.pool)
    foreign = module(other, "page", code)
    other.build(foreign)
    page = workshop.kernel()
    workshop.build(page)
    stale = workshop.root / "site" / "flashinfer" / "data" / "aot" / "page" / "page.so"
    stale.parent.mkdir(parents=True)
    shutil.copy(foreign.library, stale)
    reason = f"{stale} is loaded, and its first call fails: it has code for "
    assert mixed(workshop, page) == f"would fail: {reason}{without}"
    assert said(workshop, page) == f"would fail: {reason}{without.replace('sm80, ', '')}"


def test_an_installed_library_that_flashinfer_passes_over(workshop: Workshop, page: Kernel) -> None:
    """Since JitSpec.try_load a module that can't be loaded is warned of, and the cache is looked at."""
    planned = installed(workshop, page)
    planned.aot[0].path.write_bytes(b"damaged")
    made = session(workshop)
    assert predict(made, planned).state == "would fail"
    made.plan.targets["9.0a"] = replace(made.plan.first, passes_over=True)
    verdict = predict(made, planned)
    assert verdict.state == "cached"
    assert verdict.reason.endswith("; FlashInfer passes over what it can't load")
    made = session(workshop, FLASHINFER_DISABLE_JIT="1")
    made.plan.targets["9.0a"] = replace(made.plan.first, passes_over=True)
    assert predict(made, planned).state == "refused"


def test_an_installed_library_that_was_cut_is_not_passed_over(workshop: Workshop, page: Kernel) -> None:
    """The loader maps it, and a page that isn't there is a SIGBUS, which no server survives."""
    planned = installed(workshop, page)
    library = planned.aot[0].path
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])
    for variables in ({}, {"FLASHINFER_DISABLE_JIT": "1"}):
        made = session(workshop, **variables)
        made.plan.targets["9.0a"] = replace(made.plan.first, passes_over=True)
        assert predict(made, planned).state == "would fail"


def test_an_installed_module_of_another_build_than_the_kernel_here(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    header = workshop.include / "common.h"
    header.write_text("inline int common() { return 5; }\n")
    told = said(workshop, planned)
    assert told.startswith("ahead-of-time: {FLASHINFER}/include/common.h changed (")
    assert told.endswith("): doit install makes it anew")
    workshop.build(page)
    assert said(workshop, planned) == ("ahead-of-time: installed from another build than the kernel here: doit install")


@pytest.mark.parametrize("name", ["manifest.json", "receipts.json"])
@pytest.mark.parametrize("text", [None, "", "[]", '{"kernels": [{"directory": "sm90a", "name": "page"}]}'])
def test_a_library_of_which_its_package_says_nothing(
    text: str | None, name: str, workshop: Workshop, page: Kernel
) -> None:
    planned = installed(workshop, page)
    library = planned.aot[0].path
    (library.parents[2] / name).unlink()
    if text is not None:
        (library.parents[2] / name).write_text(text)
    assert said(workshop, planned) == (
        f"altered: {library} has no usable entry in its package's manifest.json and receipts.json; doit install"
    )


def test_a_module_that_serves_another_target_too(workshop: Workshop, page: Kernel) -> None:
    """Of targets "8.0" and "8.0 9.0a" FlashInfer loads the latter's module for both; each has a kernel of that name."""
    both = with_code(workshop, page, "sm_80", "sm_90a")
    served = installed(workshop, both, "sm80-sm90a", "sm80").aot
    other = Workshop(workshop.root / "other", workshop.ninja, workshop.pool)
    alone = with_code(other, other.with_flag(other.kernel(), "-g"), "sm_80")
    alone = replace(alone, target="8.0", aot=served)
    both = replace(both, label="page@80_90a", target="8.0 9.0a", aot=served)
    made = session(workshop)
    targets = {"8.0": workshop.target("80"), "8.0 9.0a": workshop.target("80_90a")}
    made._plan = replace(made.plan, kernels=(alone, both), targets=targets)
    made.judges = dict.fromkeys(targets, made.judges[TARGET])
    verdict = predict(made, alone)
    assert (verdict.state, verdict.reason) == ("ahead-of-time", "")
    made._plan = replace(made.plan, kernels=(alone,))
    assert predict(made, alone).reason == "installed from another build than the kernel here: doit install"


def serve(workshop: Workshop, kernel: Kernel) -> None:
    """What a server's FlashInfer does: writes build.ninja if it differs, and runs ninja."""
    import subprocess

    if kernel.ninja_file.read_text() != kernel.ninja:
        kernel.ninja_file.write_text(kernel.ninja)
    subprocess.run(workshop.ninja.command(kernel.build_dir, kernel.ninja_file), check=True, capture_output=True)


def header_changed(workshop: Workshop, page: Kernel) -> Kernel:
    (workshop.include / "common.h").write_text("inline int common() { return 7; }\n")
    return page


def flag_changed(workshop: Workshop, page: Kernel) -> Kernel:
    return workshop.with_flag(page, "-DMORE=1")


def library_lost(workshop: Workshop, page: Kernel) -> Kernel:
    page.library.unlink()
    return header_changed(workshop, page)


@pytest.mark.parametrize("change", [header_changed, flag_changed, library_lost])
def test_what_a_server_compiled_since_is_no_older_than_its_inputs(
    workshop: Workshop, page: Kernel, change: Callable[[Workshop, Kernel], Kernel]
) -> None:
    page = change(workshop, page)
    assert said(workshop, page).startswith("would compile: ")
    serve(workshop, page)
    assert said(workshop, page) == "cached: compiled by a server since: fitasks has no receipt of it"


def test_a_receipt_of_a_library_that_was_damaged_is_no_server_work(workshop: Workshop, page: Kernel) -> None:
    stat, text = page.library.stat(), page.library.read_bytes()
    page.library.write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    os.utime(page.library, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    serve(workshop, page)
    assert said(workshop, page).startswith("outdated: ninja sees nothing to do, but ")


@pytest.mark.parametrize(("again", "state"), [(False, "would fail"), (True, "would compile")])
def test_where_flashinfer_cannot_build_what_is_ahead_of_time_is_loaded(
    workshop: Workshop, page: Kernel, again: bool, state: str
) -> None:
    made = session(workshop)
    made.problem = Unbuildable("the cache is in '/a b'", remedy="set FLASHINFER_WORKSPACE_BASE", again=again)
    verdict = predict(made, page)
    assert (verdict.state, verdict.reason) == (state, "the cache is in '/a b'; set FLASHINFER_WORKSPACE_BASE")
    ahead = workshop.root / "site" / "flashinfer" / "data" / "aot" / "page" / "page.so"
    ahead.parent.mkdir(parents=True)
    shutil.copy2(page.library, ahead)
    assert predict(made, page).state == "ahead-of-time"


# ---- the place, step by step, and what is said of each


def asked_of(made: Any, kernel: Kernel, place: Place) -> tuple[str, str]:
    verdict = predict_at(made, kernel, place)
    return verdict.state, verdict.reason


def forbidding(kernel: Kernel, step: str, answer: bool | None) -> Place:
    """A place where one file may not be used; None where nobody knows whether it may."""
    path = {
        "import": kernel.workspace.parent,
        "source": kernel.sources[0],
        "lock": kernel.lock,
        "log": kernel.build_dir / ".ninja_log",
        "library": kernel.library,
        "module": kernel.build_dir,
    }[step]
    return Place(None, lambda asked, mode: answer if asked == path else True)


@pytest.mark.parametrize("answer", [False, None])
@pytest.mark.parametrize(
    ("step", "verb"),
    [("import", "make files in"), ("source", "read"), ("lock", "write"), ("log", "read"), ("library", "read")],
)
def test_each_step_that_is_barred_ends_the_prediction(
    workshop: Workshop, page: Kernel, step: str, verb: str, answer: bool | None
) -> None:
    if step == "import":
        shutil.move(page.workspace, workshop.root / "kept")
        page.workspace.parent.mkdir(exist_ok=True)
    made, place = session(workshop), forbidding(page, step, answer)
    verdict = predict_at(made, page, place)
    assert verdict.state == ("would fail" if answer is False else "unknown")
    assert verdict.reason.startswith("this user " if answer is False else "whether this user ")
    assert f" {verb} " in verdict.reason
    assert verdict.architectures == ("sm90a",)
    assert verdict.library == (str(page.library) if step == "library" else "")
    assert verdict.bytes == 0


def test_where_the_module_may_not_be_written_only_work_is_barred(workshop: Workshop, page: Kernel) -> None:
    made = session(workshop)
    for answer, state in ((False, "would fail"), (None, "unknown")):
        assert asked_of(made, page, forbidding(page, "module", answer)) == ("cached", "")
        page.library.unlink(missing_ok=True)
        found, reason = asked_of(session(workshop), page, forbidding(page, "module", answer))
        assert found == state
        assert reason.startswith("page.so is missing; ")
        assert f"{page.build_dir}" in reason
        workshop.build(page)
        made = session(workshop)


def test_a_module_ahead_of_time_needs_import_and_sources_but_no_lock(workshop: Workshop, page: Kernel) -> None:
    planned, made = installed(workshop, page), session(workshop)
    assert asked_of(made, planned, forbidding(page, "lock", False)) == ("ahead-of-time", "")
    assert asked_of(made, planned, forbidding(page, "source", False))[0] == "would fail"
    library = planned.aot[0].path
    place = Place(None, lambda asked, mode: asked != library)
    state, reason = asked_of(made, planned, place)
    chmod = f"chmod a+r {library}, and a+x each directory above it"
    assert (state, reason) == ("would fail", f"this user (uid {os.geteuid()}) may not read {library}; {chmod}")


def barring(barred: Path) -> Access:
    def access(path: Path, mode: int) -> bool:
        return path != barred

    return access


def test_another_user_must_be_able_to_start_the_interpreter_and_read_the_package(
    workshop: Workshop, page: Kernel
) -> None:
    made, user = session(workshop), User("serve", 77, 77, frozenset({77}))
    package = workshop.root / workshop.site / "flashinfer" / "__init__.py"
    package.touch()
    assert asked_of(made, page, Place(user, lambda asked, mode: True)) == ("cached", "")
    for path in (made.plan.server.python, package):
        state, reason = asked_of(made, page, Place(user, barring(path)))
        assert state == "would fail"
        assert str(path) in reason


# ---- each verdict in full


def test_all_kernels_are_told_in_the_plans_order_or_those_that_are_named(workshop: Workshop, page: Kernel) -> None:
    made = session(workshop)
    others = [workshop.kernel(name) for name in ("rope", "norm")]
    made._plan = replace(made.plan, kernels=(others[0], page, others[1]))
    assert [verdict.label for verdict in check(made)] == ["rope", "page", "norm"]
    assert [verdict.state for verdict in check(made)] == ["would compile", "cached", "would compile"]
    assert [verdict.label for verdict in check(made, ["page", "rope"])] == ["page", "rope"]


def test_a_cached_kernel_in_full(workshop: Workshop, page: Kernel) -> None:
    size = page.library.stat().st_size
    expected = Verdict("page", "page", "9.0a", "cached", "", str(page.library), size, ("sm90a",))
    assert predict(session(workshop), page) == expected
    assert expected.good


@pytest.mark.parametrize(("name", "state"), [("", "unplanned"), ("page", "would fail")])
def test_what_could_not_be_planned_is_told_as_the_plan_tells_it(workshop: Workshop, name: str, state: str) -> None:
    """Without a name nothing is known of it; with one it runs on none of the target's GPUs."""
    kernel = replace(workshop.kernel(), name=name, problem="no such dtype")
    expected = Verdict("page", name, "9.0a", state, "no such dtype")  # type: ignore[arg-type]
    assert predict(session(workshop), kernel) == expected
    assert not expected.good


def test_an_empty_variable_forbids_nothing(workshop: Workshop, page: Kernel) -> None:
    assert said(workshop, page, FLASHINFER_DISABLE_JIT="") == "cached: "


def test_where_there_is_no_toolchain_nothing_in_the_cache_is_accepted(workshop: Workshop, page: Kernel) -> None:
    """FlashInfer asks for nvcc before it looks."""
    made = session(workshop)
    made.problem = EnvironmentProblem("no CUDA toolkit", remedy="pip install one")
    verdict = predict(made, page)
    assert (verdict.state, verdict.reason) == ("would fail", "nothing to compile it with: no CUDA toolkit")
    assert verdict.library == ""


def test_without_a_host_compiler_work_would_fail(workshop: Workshop, page: Kernel) -> None:
    assert said(workshop, page, CXX="/no/such/g++") == "cached: "
    page.library.unlink()
    assert said(workshop, page, CXX="/no/such/g++") == "would fail: no host compiler: /no/such/g++ is not on PATH"


def test_a_compile_that_failed_before_would_fail_again(workshop: Workshop) -> None:
    kernel = workshop.kernel()
    made = session(workshop)
    kernel.build_dir.mkdir(parents=True)
    failed.remember(kernel, workshop.judge(), "page_0.cpp:1: error: nonsense")
    verdict = predict(made, kernel)
    assert (verdict.state, verdict.reason) == (
        "would fail",
        "compiling it failed, and nothing has changed since: page_0.cpp:1: error: nonsense",
    )


def test_a_kernel_that_was_adopted_says_from_where(workshop: Workshop, page: Kernel) -> None:
    receipt = read(page)
    assert receipt
    write(page, replace(receipt, notes={"adopted_from": "0.7.1"}))
    assert said(workshop, page) == "cached: adopted from FlashInfer 0.7.1, all inputs equal"


@pytest.mark.parametrize("kind", ["toolchain", "command"])
def test_what_ninja_does_not_look_for_is_outdated(workshop: Workshop, page: Kernel, kind: str) -> None:
    made = session(workshop)
    judge = workshop.judge()
    receipt = read(page)
    assert receipt
    if kind == "toolchain":
        judge.toolchain = judge.toolchain | {"nvcc": "V13.1.1"}
    else:
        write(page, replace(receipt, commands=receipt.commands.replace("-O0", "-O1")))
    made.judges = {TARGET: judge}
    verdict = predict(made, page)
    assert verdict.state == "outdated"
    assert verdict.reason == f"ninja sees nothing to do, but {judge.judge(page).first}"
    assert not verdict.good
    assert verdict.library == str(page.library)


def test_a_log_that_is_older_than_the_receipts_library_is_no_servers(workshop: Workshop, page: Kernel) -> None:
    """Another log alone is none: a server's link is later than ours."""
    receipt = read(page)
    assert receipt
    log = page.build_dir / ".ninja_log"
    made = receipt.outputs["page.so"].mtime_ns
    for later, state in ((0, "cached: "), (1, "cached: compiled by a server since: fitasks has no receipt of it")):
        lines = [line.split("\t") for line in log.read_text().splitlines()[1:]]
        for fields in lines:
            fields[2] = str(made + later)
        log.write_text("\n".join([log.read_text().splitlines()[0], *map("\t".join, lines), ""]))
        assert said(workshop, page) == state


def test_an_object_that_was_compiled_since_and_not_linked_is_no_servers_work(workshop: Workshop, page: Kernel) -> None:
    receipt, log = read(page), page.build_dir / ".ninja_log"
    assert receipt
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    for fields in lines[1:]:
        if not fields[3].endswith(".so"):
            fields[2] = str(receipt.outputs["page.so"].mtime_ns + 1)
    log.write_text("\n".join([*map("\t".join, lines), ""]))
    assert said(workshop, page) == "cached: "


def test_damage_that_still_loads_is_not_known(workshop: Workshop, page: Kernel) -> None:
    """The table of sections is at the end of a file; a loader doesn't need it."""
    data = page.library.read_bytes()
    stat = page.library.stat()
    page.library.write_bytes(data[: int.from_bytes(data[40:48], "little")])
    os.utime(page.library, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert segments(page.library) == "whole"
    verdict = predict(session(workshop), page)
    assert verdict.state == "unknown"
    problem, reason = verdict.reason.split("; ", 1)
    assert problem == is_shared_object(page.library)
    assert reason.startswith("ninja sees nothing to do, but page.so is not what was built (")
    assert verdict.bytes == 0


def test_two_modules_of_a_mixed_host_are_one_verdict(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, with_code(workshop, page, "sm_80", "sm_90a"), "sm80", "sm80")
    planned = installed(workshop, planned, "sm90a", "sm90a")
    first, second = (artefact.path for artefact in planned.aot)
    verdict = predict(session(workshop, "80_90a"), planned)
    assert (verdict.library, verdict.bytes) == (str(first), first.stat().st_size + second.stat().st_size)
    assert verdict.architectures == ("sm80", "sm90a")
    second.write_bytes(b"damaged")
    verdict = predict(session(workshop, "80_90a"), planned)
    assert (verdict.state, verdict.library, verdict.bytes) == ("would fail", str(second), 0)


def test_a_module_that_is_passed_over_is_told_before_what_comes_of_the_cache(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    library = planned.aot[0].path
    library.write_bytes(b"damaged")
    made = session(workshop)
    made.plan.targets["9.0a"] = replace(made.plan.first, passes_over=True)
    page.library.unlink()
    verdict = predict(made, planned)
    assert verdict.state == "would compile"
    assert verdict.reason == (
        f"{is_shared_object(library)}; FlashInfer passes over what it can't load; page.so is missing"
    )


def test_what_is_installed_says_nothing_of_a_kernel_that_is_not_built_here(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    (workshop.include / "common.h").write_text("inline int common() { return 5; }\n")
    made = session(workshop)
    assert predict(made, planned).reason.endswith(": doit install makes it anew")
    made.problem = EnvironmentProblem("no CUDA toolkit", remedy="")
    assert predict(made, planned).reason == "", "nothing could make it anew"
    shutil.rmtree(page.build_dir)
    assert said(workshop, planned) == "ahead-of-time: "


def test_what_only_timestamps_changed_is_no_other_build(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    header = workshop.include / "common.h"
    os.utime(header, ns=(header.stat().st_mtime_ns + 10**9,) * 2)
    assert said(workshop, planned) == "ahead-of-time: "


def test_a_library_elsewhere_than_in_our_package_is_compared_with_nothing(workshop: Workshop, page: Kernel) -> None:
    """FlashInfer's own provider's: who made it vouches for it."""
    planned = installed(workshop, page)
    place = workshop.root / "venv" / "flashinfer_jit_cache" / "sm90a" / "page" / "page.so"
    place.parent.mkdir(parents=True)
    planned.aot[0].path.rename(place)
    (workshop.include / "common.h").write_text("inline int common() { return 5; }\n")
    assert said(workshop, replace(planned, aot=(Artefact(place, ("sm90a",)),))) == "ahead-of-time: "
