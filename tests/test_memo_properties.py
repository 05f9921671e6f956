"""What is remembered in files, altered in any way: nothing raises, and what was damaged is as good as not there."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.base import answers, memo
from fitasks.compile import begun
from fitasks.compile.failure import failed
from fitasks.compile.judge.contents import Contents
from fitasks.compile.ninja.ninja import DEPS, Ninja
from fitasks.compile.pool.costs import Costs, guess
from fitasks.config.model import Config, KernelConfig, ModelRequest, Position, Serving
from fitasks.cuda import assemble, chosen, cudart, loader, patch
from fitasks.cuda.probe import ProbeMemo
from fitasks.cuda.toolkit import Toolkit
from fitasks.plan import offers, server
from fitasks.plan import remembered as plans
from fitasks.plan.kernel import Artefact, as_record, from_record
from fitasks.plan.overruled import overruled
from fitasks.plan.reads import Reads
from fitasks.verify import proof
from tests.mutants import JSON, altered_bytes, altered_json
from tests.workshop import TARGET, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = 15  # of each memo and kind; bench/mutants.py makes thousands

_READS = Reads.of([{"files": [__file__], "looked": [[["/usr/lib"], ["x"]]]}], 0, Path(sys.executable)).as_record()


class Border:
    """One memo: what is written, and what is done with what is read, as the tasks do it."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "memo.json"
        self.shop = Workshop(directory, Ninja(Path("/bin/false"), "1.13"), None)  # type: ignore[arg-type]

    def write(self, data: dict[str, Any]) -> None:
        self.file.write_text(memo.sealed(data))


def contents(border: Border) -> Callable[[], object]:
    known = Contents(border.file)
    known.state(__file__)
    known.save()

    def use() -> object:
        found = Contents.load(border.file)
        return found.state(__file__), found.state("/nowhere\0"), found.stamp(__file__)

    return use


def costs(border: Border) -> Callable[[], object]:
    kernel = border.shop.kernel()
    Costs(border.file).learn(kernel, guess(kernel))

    def use() -> object:
        found = Costs.load(border.file)
        return found.of(kernel), found.files(kernel)

    return use


def probe(border: Border) -> Callable[[], object]:
    known = ProbeMemo(border.file)
    known.output(Path("/bin/true"), "--version")
    known.save()

    def use() -> object:
        found = ProbeMemo(border.file)
        answer = found.output(Path("/bin/true"), "--version"), found.failure(Path("/bin/false"), "1")
        found.save()
        return answer

    return use


def libraries(border: Border) -> Callable[[], object]:
    found = answers.Opened("/lib/libc.so.6", "")
    needs = loader.Needs(("libc.so.6",), (), ("memcpy",))
    defined: dict[str, tuple[str, ...]] = {"libc.so.6": ("GLIBC_2.34",)}
    offered = frozenset({"memcpy"})
    answer = loader.Answer("", "torch", "0.1", {"libc.so.6": found}, {"": offered}, offered, defined)
    asked = loader.Loader(Path("/bin/true"), {}, border.file)
    asked._answer, asked._learnt = answer, True
    asked._needs = {"/lib/x.so": ([1, 2, 3, 4], needs)}
    asked.save()

    def use() -> object:
        again = loader.Loader(Path("/bin/true"), {}, border.file)
        again._load()
        return again._answer and (again._answer.covers(needs), again._answer.offered(["libc.so.6"])), again._needs

    return use


def runtime(border: Border) -> Callable[[], object]:
    one = cudart.Cudart("/lib/libcudart.so.13", "/lib/libcudart.so.13.0.1", "libcudart.so.13", symbols=("cudaFree@13",))
    border.write({"version": 2, "key": ["a"], "runtime": asdict(cudart.Runtime(one, "torch", (one,), one))})

    def use() -> object:
        found = cudart._remembered(border.file, ["a"])
        return found and (
            found.toolkit.version,
            found.toolkit.major,
            cudart.missing(["libcudart"], ["cudaFree"], found.toolkit),
        )

    return use


def interpreter(border: Border) -> Callable[[], object]:
    packages = {"torch": {"root": "/nowhere/torch", "version": "2"}}
    described = {"prefix": "/usr", "path": ["/usr/lib"], "site": ["/usr/lib"], "packages": packages}
    border.write({"key": ["a"], "described": described, "reads": _READS})

    def use() -> object:
        found = server._remembered(border.file, ["a"])
        return found and (list(server._imported(found)), list(map(Path, found["path"])), Path(found["prefix"]))

    return use


def ops(border: Border) -> Callable[[], object]:
    parameter = {"name": "a", "required": True, "default": [1], "type": "int", "accepted": [1, "x", None]}
    record = {"op": "page", "generator": "m:f", "parameters": [parameter], "doc": "", "note": "", "kind": "sglang"}
    border.write({"key": {"a": 1}, "ops": [record], "reads": _READS})
    return lambda: list(map(offers._op, offers._remembered(border.file, {"a": 1}) or []))


def failure(border: Border) -> Callable[[], object]:
    kernel, judge = border.shop.kernel(), border.shop.judge()
    border.file = kernel.build_dir / failed.NAME
    failed.remember(kernel, judge, "error: no")
    return lambda: failed.remembered(kernel, judge)


def beginning(border: Border) -> Callable[[], object]:
    kernel, judge, ninja = border.shop.kernel(), border.shop.judge(), border.shop.ninja
    border.file = kernel.build_dir / begun.NAME
    begun.begin(kernel, judge, ninja, ())
    (kernel.build_dir / DEPS).write_bytes(b"# ninjadeps\n\4\0\0\0")
    return lambda: begun._resumable(kernel, begun._record(kernel, judge, ninja)) > 0


def proofs(border: Border) -> Callable[[], object]:
    border.file = border.file.with_name(proof.NAME)
    checks = (answers.Checked("x", 0.1, 0.2, None),)
    one = proof.Proof("00", "9.0", "H100", "570", "2", "0.7", "numerical", checks, "", "now")
    proof.add(border.file.parent, one)
    return lambda: {name: one.worst for name, one in proof.read(border.file.parent, "00").items()}


def patched(border: Border) -> Callable[[], object]:
    target = border.file.with_name("libcudart.so.13")
    border.file = patch._beside(target, "json")
    border.file.write_text(json.dumps({"original": "0", "patched": "1", "source": "/x"}))
    return lambda: patch._read_record(target)


def assembled(border: Border) -> Callable[[], object]:
    border.file = border.file.with_name(assemble.MARKER)
    border.file.write_text(json.dumps({"root": "/x"}))
    return lambda: assemble.assembled_root(border.file.parent)


def planned(border: Border) -> Callable[[], object]:
    shop, place = border.shop, Position("kernels.yaml", 1, 1)
    kernels = [shop.kernel(), shop.kernel("rope")]
    entry = KernelConfig("page", "page", "page", {"a": 1}, place, {"a": place}, ("9.0a",))
    model = ModelRequest("m", "m", "vllm", place)
    config = Config("kernels.yaml", Serving(), ("auto",), sm90=True, cudart="patch", kernels=(entry,), models=(model,))
    targets = {TARGET: shop.target().as_record()}
    records = [as_record(kernel) for kernel in kernels]
    records[1] |= {"aot": [{"path": "/x/y.so", "architectures": ["sm90a"]}]}
    assert from_record(records[1]).aot == (Artefact(Path("/x/y.so"), ("sm90a",)),)
    home = Path("/cuda")
    toolkit = Toolkit(home, "CUDA_HOME", home, "13.0", "V13", home / "libcudart.so")
    border.write(
        {
            "key": {"version": plans.VERSION, "kernels.yaml": "digest", "targets": ["9.0a"]},
            "config": asdict(config),
            "kernels": records,
            "targets": targets,
            "resolved": {},
            "chosen": chosen.as_record(toolkit, {}),
            "needs": ["cuda.h"],
            "commands": {"V13": [["-O3"]]},
            "overruled": {},
            "host": [],
            "not_loaded": [{"entry": "norm", "target": "9.0a", "why": "CuTe-DSL"}],
            "reads": _READS,
            "written": {"/generated": {"page.cu": [3, 1, 1, 7, "0" * 64]}},
        }
    )

    def use() -> object:
        found = plans.remembered(border.file)
        if not found:
            return None
        read = tuple(map(from_record, found["kernels"]))
        plans.restored_config(found["config"])
        plans.holding(found, found["key"])
        overruled(found["kernels"])
        plans.resolved(found["targets"])
        chosen.again(found["chosen"], {"CUDA_HOME": "/other"}, ProbeMemo(border.file.with_name("probe.json")))
        return [(one.label, one.name, one.build_dir, one.sources) for one in read]

    return use


BORDERS = (
    contents,
    costs,
    probe,
    libraries,
    runtime,
    interpreter,
    ops,
    failure,
    beginning,
    proofs,
    patched,
    assembled,
    planned,
)
UNSEALED = (patched, assembled)


@pytest.fixture(params=BORDERS, ids=lambda border: border.__name__)
def border(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[], object], bool]:
    made = Border(tmp_path)
    use = request.param(made)
    return made.file, use, request.param not in UNSEALED


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_memo_says_nothing_raises(border: Any, data: st.DataObject) -> None:
    """Sealed, as whoever may write the file can do."""
    file, use, sealed = border
    whole = file.read_text()
    said = json.loads(data.draw(st.one_of(altered_json(whole), altered_json(whole), JSON.map(json.dumps))))
    try:
        file.write_text(memo.sealed(said) if sealed and isinstance(said, dict) and said else json.dumps(said))
        use()
    finally:
        file.write_text(whole)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_as_good_as_nothing(border: Any, data: st.DataObject) -> None:
    file, use, sealed = border
    whole = file.read_bytes()
    damaged = data.draw(altered_bytes(whole))
    try:
        file.unlink()
        without = use()
        file.write_bytes(damaged)
        if sealed and json_of(damaged) != json_of(whole):
            assert use() == without
        else:
            use()
    finally:
        file.write_bytes(whole)


def json_of(data: bytes) -> object:
    """What it says, None of what says nothing: blanks at its end are no damage."""
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize("lost", ["{", "}", "page", "9.0a", '"digest"', "/cuda", "page_0.cpp"])
def test_a_plan_of_which_a_word_is_lost_is_none(tmp_path: Path, lost: str) -> None:
    made = Border(tmp_path)
    use = planned(made)
    assert use()
    whole = made.file.read_text()
    made.file.write_text(whole.replace(lost, lost[1:], 1))
    assert use() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "../page"},
        {"label": ""},
        {"label": "rope"},
        {"target": "8.0"},
        {"twin": "nobody"},
        {"twin": "page"},
        {"build_dir": "page"},
        {"library": "/etc/passwd"},
        {"ninja_file": "/tmp/build.ninja"},
        {"sources": []},
        {"sources": ["page.cpp"]},
        {"lock": "."},
    ],
    ids=str,
)
def test_a_plan_with_a_kernel_that_cannot_be_one_is_none(tmp_path: Path, fields: dict[str, object]) -> None:
    """Without a name it was compiled at every run, with exit status 0."""
    made = Border(tmp_path)
    use = planned(made)
    said = json.loads(made.file.read_text())
    del said["seal"]
    said["kernels"][0] |= fields
    made.write(said)
    assert use() is None


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "link round in circles", "too deep"])
def test_only_regular_files_are_read(border: Any, kind: str) -> None:
    file, use, _ = border
    file.unlink()
    {
        "pipe": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "directory": file.mkdir,
        "link round in circles": lambda: file.symlink_to(file),
        "too deep": lambda: file.write_text("[" * 200_000),
    }[kind]()
    use()


def test_a_plan_that_knows_nothing_of_its_targets_is_none(tmp_path: Path) -> None:
    made = Border(tmp_path)
    use = planned(made)
    data = json.loads(made.file.read_text())
    del data["seal"]
    made.file.write_text(memo.sealed(data | {"targets": {}, "kernels": []}))
    assert use() is None
    assert not plans.remembered(made.file)
