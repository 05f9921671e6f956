"""libcudart 12.4 and 12.9, really loaded, audited, patched and restored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file
from fitasks.base.memo import sealed
from fitasks.cuda import patch as patches
from fitasks.cuda.audit import audit
from fitasks.cuda.cudart import Cudart, cached, describe, discover
from fitasks.cuda.elf import inspect_library
from tests.cuda.cudart_wheels import library_of, site_of

OLD, NEW = "12.4.127", "12.9.79"
SYMBOL = "cudaGetDriverEntryPointByVersion"

EXTENSION = f"""
extern "C" int {SYMBOL}(const char*, void**, unsigned, unsigned long long, void*);
extern "C" int answer() {{ void* entry = 0; {SYMBOL}("cuInit", &entry, 12090, 0, 0); return 42; }}
"""


@dataclass(frozen=True)
class Serving:
    """A serving environment of our own, with the old runtime in it."""

    prefix: Path
    site: Path
    library: Path


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    site = tmp_path / "venv" / "lib" / "site-packages"
    shutil.copytree(site_of(OLD), site)
    return Serving(tmp_path / "venv", site, site / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12")


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled against 12.9, as a kernel by nvcc 12.9."""
    path = tmp_path_factory.mktemp("extension") / "page.so"
    command = ["c++", "-x", "c++", "-", "-shared", "-fPIC", "-o", str(path), "-x", "none", str(library_of(NEW))]
    subprocess.run(command, input=EXTENSION.encode(), check=True)
    return path


def loads(runtime: Path, extension: Path) -> str:
    """What the dynamic loader says in a process that has `runtime` first."""
    script = "import ctypes, sys\nctypes.CDLL(sys.argv[1])\nprint(ctypes.CDLL(sys.argv[2], mode=2).answer())"
    done = subprocess.run(
        [sys.executable, "-c", script, str(runtime), str(extension)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def told(extension: Path, runtime: Path) -> str:
    library = inspect_library(extension)
    return audit(extension.name, library.needed, [str(symbol) for symbol in library.undefined], describe(runtime))


def decision(serving: Serving, failures: tuple[str, ...] = ()) -> patches.Decision:
    return patches.decide(describe(serving.library), describe(library_of(NEW)), [serving.prefix], failures)


def test_the_hang_that_gave_rise_to_all_this(serving: Serving, extension: Path) -> None:
    original = serving.library.read_bytes()
    assert f"undefined symbol: {SYMBOL}, version libcudart.so.12" in loads(serving.library, extension)
    failure = told(extension, serving.library)
    assert failure == f"page.so needs {SYMBOL}, not in libcudart {OLD} at {serving.library}"
    assert "replaced" in patches.patch(decision(serving, (failure,)))
    assert loads(serving.library, extension) == "42"
    assert told(extension, serving.library) == ""
    assert patches.restore(serving.library) == f"restored {serving.library}"
    assert serving.library.read_bytes() == original
    assert SYMBOL in loads(serving.library, extension)
    assert sorted(path.name for path in serving.library.parent.glob("libcudart*")) == [
        "libcudart.so.12",
        "libcudart.so.12.fitasks.lock",
    ]


def test_a_running_process_keeps_its_mapping(serving: Serving) -> None:
    script = textwrap.dedent("""
        import ctypes, sys
        library = ctypes.CDLL(sys.argv[1])
        def version():
            number = ctypes.c_int()
            library.cudaRuntimeGetVersion(ctypes.byref(number))
            return number.value
        for _ in range(3):
            print(version(), flush=True)
            sys.stdin.readline()
    """)
    command = [sys.executable, "-c", script, str(serving.library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        steps: list[Callable[[], object]] = [
            lambda: patches.patch(decision(serving)),
            lambda: patches.restore(serving.library),
            str,
        ]
        seen = []
        for step in steps:
            seen.append(server.stdout.readline().strip())
            step()
            server.stdin.write("\n")
            server.stdin.flush()
        assert seen == ["12040"] * 3
        assert server.wait(10) == 0


def test_versions_from_package_file_and_library_are_compared(serving: Serving) -> None:
    found = replace(describe(serving.library, 12040), sha256="")
    assert (found.package, found.runtime, found.version, found.major) == (OLD, "12.4", OLD, 12)
    assert found.disagreement == ""
    assert replace(found, runtime="12.9").disagreement == "its package says 12.4, cudaRuntimeGetVersion says 12.9"


def test_discovery_asks_a_process_of_the_serving_interpreter(serving: Serving, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    memo = tmp_path / "memo.json"
    runtime = discover(Path(sys.executable), env, [serving.site], library_of(NEW), memo)
    found, *of_the_machine = runtime.found
    assert [Path(one.path) for one in of_the_machine] == cached()
    assert (found.path, found.runtime, found.package) == (str(serving.library), "12.4", OLD)
    assert "torch" in runtime.how
    said = json.loads(memo.read_text().replace("torch", "remembered"))
    del said["seal"]
    memo.write_text(sealed(said))
    assert "remembered" in discover(Path(sys.executable), env, [serving.site], library_of(NEW), memo).how
    patches.patch(decision(serving))
    assert "remembered" not in discover(Path(sys.executable), env, [serving.site], library_of(NEW), memo).how


# ---- decisions


def test_the_newer_one_of_the_same_major_is_wanted(serving: Serving) -> None:
    decided = decision(serving)
    assert (decided.action, decided.target) == ("patch", serving.library)
    assert decided.reason == f"the toolkit's libcudart {NEW} is newer than the server's {OLD}"


def test_never_a_downgrade(serving: Serving, extension: Path) -> None:
    decided = patches.decide(describe(library_of(NEW)), describe(serving.library), [Path("/")], ["a symbol is missing"])
    assert (decided.action, decided.reason) == (
        "none",
        f"the server's libcudart {NEW} is newer than the toolkit's {OLD}",
    )


def test_never_another_major_version(serving: Serving) -> None:
    toolkit = replace(describe(library_of(NEW)), soname="libcudart.so.13")
    decided = patches.decide(describe(serving.library), toolkit, [serving.prefix], [])
    assert decided.action == "refuse"
    assert decided.remedy == "compile with a CUDA 12 toolkit"
    with pytest.raises(EnvironmentProblem, match="is CUDA 12, the toolkit's"):
        patches.patch(decided)


def test_another_major_version_is_named_by_the_audit(serving: Serving) -> None:
    said = audit("page.so", ["libcudart.so.13"], ["cudaFree@libcudart.so.13"], describe(serving.library))
    assert said == (
        f"page.so needs libcudart.so.13, the server has libcudart.so.12 at {serving.library}: "
        "compile it again with a CUDA 12 toolkit"
    )


def test_never_a_file_outside_the_environment(serving: Serving, tmp_path: Path) -> None:
    outside = tmp_path / "system" / "libcudart.so.12"
    outside.parent.mkdir()
    shutil.copy(serving.library, outside)
    serving.library.unlink()
    serving.library.symlink_to(outside)
    decided = decision(serving, ("a symbol is missing",))
    assert decided.action == "refuse"
    assert decided.reason == f"{outside} lies outside the serving environment ({serving.prefix})"


def test_a_link_inside_the_environment_is_followed(serving: Serving) -> None:
    real = serving.library.with_name("libcudart.so.12.4.127")
    serving.library.rename(real)
    serving.library.symlink_to(real.name)
    assert patches.patch(decision(serving)).startswith(f"replaced {real} by ")
    assert serving.library.is_symlink()
    assert sha256_file(real) == sha256_file(library_of(NEW))
    assert patches.restore(serving.library) == f"restored {real}"


def test_the_other_name_of_a_hard_link_keeps_its_bytes(serving: Serving, tmp_path: Path) -> None:
    cache = tmp_path / "uv-cache.so"
    cache.hardlink_to(serving.library)
    before = cache.read_bytes()
    patches.patch(decision(serving))
    assert cache.read_bytes() == before
    assert serving.library.read_bytes() != before


def test_mode_and_owner_stay(serving: Serving) -> None:
    serving.library.chmod(0o755)
    patches.patch(decision(serving))
    assert serving.library.stat().st_mode & 0o777 == 0o755
    assert serving.library.stat().st_uid == os.getuid()


def test_twice_is_once_and_dry_runs_do_nothing(serving: Serving) -> None:
    before = sorted(path.name for path in serving.library.parent.iterdir())
    assert patches.patch(decision(serving), dry_run=True).startswith(f"would replace {serving.library} by ")
    assert sorted(path.name for path in serving.library.parent.iterdir()) == before
    first = decision(serving)
    patches.patch(first)
    patches.patch(first)
    assert decision(serving).action == "none"
    assert patches.restore(serving.library, dry_run=True).startswith("would restore ")
    assert patches.restore(serving.library) == f"restored {serving.library}"
    assert patches.restore(serving.library) == f"nothing to restore: {serving.library} was not patched"


def test_what_pip_has_replaced_since_is_not_touched(serving: Serving) -> None:
    patches.patch(decision(serving))
    other = b"\x7fELF a later version"
    serving.library.write_bytes(other)
    said = patches.restore(serving.library)
    assert said == f"nothing to restore: {serving.library} has been replaced since, by pip for instance; it stays"
    assert serving.library.read_bytes() == other


def test_a_damaged_original_is_not_restored(serving: Serving) -> None:
    patches.patch(decision(serving))
    kept = serving.library.with_name("libcudart.so.12.fitasks-original")
    kept.write_bytes(b"something else")
    with pytest.raises(EnvironmentProblem, match="is not the file that was kept"):
        patches.restore(serving.library)
    assert sha256_file(serving.library) == sha256_file(library_of(NEW))


CRASH = """
import os, sys
from pathlib import Path
from fitasks.cuda import patch as patches
from fitasks.cuda.cudart import describe
steps, prefix, library, new = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
def watch(event, args):
    global steps
    if event in ("os.rename", "os.remove", "os.mkdir", "tempfile.mkstemp", "open") and "libcudart" in str(args[0]):
        steps -= 1
        if steps < 0:
            os._exit(9)
decision = patches.decide(describe(library), describe(new), [prefix], [])
sys.addaudithook(watch)
patches.patch(decision)
if len(sys.argv) > 5:
    patches.restore(library)
"""


@pytest.mark.parametrize("restoring", [False, True])
def test_a_crash_between_any_two_steps_leaves_a_library_and_the_truth(
    serving: Serving, tmp_path: Path, restoring: bool
) -> None:
    root = Path(patches.__file__).parents[2]
    good = {sha256_file(library_of(OLD)), sha256_file(library_of(NEW))}
    for steps in range(60):
        words = [
            str(steps),
            str(serving.prefix),
            str(serving.library),
            str(library_of(NEW)),
            *(["restore"] * restoring),
        ]
        done = subprocess.run(
            [sys.executable, "-c", CRASH, *words], env=os.environ | {"PYTHONPATH": str(root)}, check=False
        )
        assert sha256_file(serving.library) in good, steps
        patches.patch(decision(serving))
        assert sha256_file(serving.library) == sha256_file(library_of(NEW)), steps
        patches.restore(serving.library)
        assert sha256_file(serving.library) == sha256_file(library_of(OLD)), steps
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert steps > 5


# ---- bad files


def as_text(path: Path) -> None:
    path.write_text("not a library\n")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def other_machine(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[18:20] = b"\xf3\x00"
    path.write_bytes(data)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [as_text, truncated, other_machine, dangling, directory])
def test_an_unusable_libcudart_is_refused_with_its_place(serving: Serving, damage: object) -> None:
    damage(serving.library)  # type: ignore[operator]
    found = describe(serving.library)
    assert str(serving.library) in found.problem
    assert decision(serving).action == "refuse"
    said = audit("page.so", ["libcudart.so.12"], [], found)
    assert said == f"page.so needs libcudart.so.12, and the server's is unusable: {found.problem}"


@pytest.mark.parametrize(
    ("major", "driver", "said"),
    [
        (12, "535.104.05", "CUDA 12.x needs driver 525.60.13 or newer; 535.104.05 is"),
        (13, "535.104.05", "CUDA 13.x needs driver 580 or newer; 535.104.05 is NOT"),
        (13, "", "CUDA 13.x needs driver 580 or newer; none is visible here"),
        (11, "535.104.05", ""),
    ],
)
def test_the_driver_that_a_runtime_needs(major: int, driver: str, said: str) -> None:
    assert patches.driver_sentence(Cudart("x", "x", soname=f"libcudart.so.{major}"), driver) == said


def test_the_record_names_hashes_and_source(serving: Serving) -> None:
    patches.patch(decision(serving))
    record = json.loads(serving.library.with_name("libcudart.so.12.fitasks.json").read_text())
    assert record == {
        "original": sha256_file(library_of(OLD)),
        "patched": sha256_file(library_of(NEW)),
        "source": str(library_of(NEW)),
    }


def test_versions_are_compared_as_far_as_they_are_known(serving: Serving) -> None:
    """Of a system's libcudart only cudaRuntimeGetVersion tells, and that has two digits."""
    toolkit = describe(library_of(NEW))
    system = replace(describe(serving.library), package="", runtime="12.9")
    assert patches.decide(system, toolkit, [serving.prefix], []).reason == (
        f"the server's libcudart is as new as the toolkit's, {NEW}"
    )


def test_the_loaders_cache_is_looked_into(tmp_path: Path) -> None:
    cache = tmp_path / "ld.so.cache"
    paths = b"libcudart.so.13\0/usr/local/cuda/lib/libcudart.so.13\0/lib/libc.so.6\0/opt/x/libcudart.so.12.4.127\0"
    cache.write_bytes(b"glibc-ld.so.cache1.1\x03\0\0\0" + paths)
    assert cached(cache) == [Path("/usr/local/cuda/lib/libcudart.so.13"), Path("/opt/x/libcudart.so.12.4.127")]
    assert cached(tmp_path / "none") == []
