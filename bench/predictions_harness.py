"""One project with one kernel, compiled once; for each situation put back as it was, changed, asked and served.

    Stage ──situation──▶ Stage.ask() what `doit check` says ─┐
                     └─▶ Stage.serve() what FlashInfer does ─┴─▶ verdict.judge

The serving environment is a virtual environment of the bench's own: FlashInfer and tvm_ffi are copies, everything else
is a link to the packages of the interpreter that runs this.
"""

from __future__ import annotations

import json
import os
import pickle  # of a file of this bench alone # nosec B403
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.environment import exports

ROOT = Path(__file__).parent.parent

_COPIED = ("flashinfer", "tvm_ffi")


class Untried(Exception):
    """A situation can't be brought about with this FlashInfer or on this machine."""


@dataclass(frozen=True)
class Said:
    """What `doit check` said of a kernel: a state of fitasks, or "error" or "traceback" where it made no table."""

    state: str
    reason: str = ""
    conditions: tuple[str, ...] = ()
    status: int = 0

    @property
    def good(self) -> bool:
        """It said that the server has nothing to compile and that nothing fails."""
        return self.state in {"ahead-of-time", "cached"}


@dataclass(frozen=True)
class Served:
    """What the server did: it "loaded" the kernel, "compiles" it, "refused" it, or "failed"; or "waits" for a lock."""

    kind: str
    words: str = ""
    libraries: tuple[Path, ...] = ()
    written: tuple[Path, ...] = ()  # objects and libraries that were made anew
    seconds: float = 0.0  # from the need to the answer


@dataclass
class Stage:
    """What situations change. `env` is the server's environment and, with `shell` on top, that of whoever asks."""

    root: Path
    kernel: str = "page"
    env: dict[str, str] = field(default_factory=dict)
    shell: dict[str, str] = field(default_factory=dict)
    serving: dict[str, str] = field(default_factory=dict)  # serving.env of kernels.yaml
    settings: str = ""  # further lines of kernels.yaml
    serving_keys: dict[str, str] = field(default_factory=dict)  # serving.engine, serving.user
    targets: tuple[str, ...] = ("9.0a",)
    gpu: str = "9.0a"  # what the server's GPU is: FlashInfer is told by FLASHINFER_CUDA_ARCH_LIST
    mounts: list[str] = field(default_factory=list)  # shell commands, in a mount namespace of this situation
    user: int | None = None
    server_user: int | None = None  # where it isn't the user who asks
    lines: bool = True  # the server has the lines of `doit env`, where it prints none now those of the build
    built_lines: str = ""
    patience: float | None = 3.0  # seconds that a compiler is left running; None: to its end
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # what doit printed, for a reader of --verbose

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def site(self) -> Path:
        return self.root / "venv" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)

    @property
    def python(self) -> Path:
        return self.root / "venv" / "bin" / "python"

    @property
    def flashinfer(self) -> Path:
        return self.site / "flashinfer"

    @property
    def header(self) -> Path:
        return self.flashinfer / "data/include/flashinfer/utils.cuh"

    @property
    def workspace(self) -> Path:
        """FlashInfer's directory for the first target."""
        (found,) = self.home.glob(f".cache/flashinfer/*/{self.targets[0].replace('.', '')}")
        return found

    @property
    def module(self) -> Path:
        return self.workspace / "cached_ops" / self.kernel

    @property
    def library(self) -> Path:
        return self.module / f"{self.kernel}.so"

    @property
    def toolkit(self) -> Path:
        (found,) = (self.root / "xdg" / "fitasks").glob("cuda-*")
        return found

    def doit(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run doit, as the user and with the mounts of the situation."""
        self.write_kernels()
        done = subprocess.run(
            self.inside(str(self.python), "-m", "doit", *words),
            cwd=self.project,
            env=self.env | self.shell | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        self.told.append(f"$ doit {shlex.join(words)}  → {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write_kernels(self) -> None:
        """kernels.yaml, where it isn't so already."""
        keys = "".join(f"  {name}: {value}\n" for name, value in self.serving_keys.items())
        env = "".join(f"    {name}: {json.dumps(value)}\n" for name, value in self.serving.items())
        serving = f"serving:\n{keys}" + (f"  env:\n{env}" if env else "") if keys or env else ""
        text = f"targets: {json.dumps(list(self.targets))}\n{serving}kernels:\n  {self.kernel}:\n{self.settings}"
        file = self.project / "kernels.yaml"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)

    def inside(self, *command: str, user: int | None = None) -> list[str]:
        """The command with this situation's mounts and user."""
        user = self.user if user is None else user
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        words = [*(as_user if user is not None else []), *command]
        if not self.mounts:
            return words
        return ["unshare", "--mount", "sh", "-ec", "\n".join([*self.mounts, 'exec "$@"']), "sh", *words]

    def remount(self, place: Path, options: str) -> None:
        """Mount a directory over itself with these options ("ro", "noexec")."""
        where = shlex.quote(str(place))
        self.mounts += [f"mount --bind {where} {where}", f"mount -o remount,bind,{options} {where}"]

    def hide(self, place: Path) -> None:
        """Mount an empty directory over one of the machine's."""
        if place.is_dir():
            self.mounts.append(f"mount -t tmpfs none {shlex.quote(str(place))}")

    def open_way(self, place: Path) -> None:
        """Let other users reach a directory (an interpreter's, say) that lies below one which they may not enter."""
        closed = next((above for above in reversed(place.parents) if not above.stat().st_mode & 0o001), None)
        if closed is None:
            return
        kept, there = self.root / "out" / "way", shlex.quote(str(place))
        kept.mkdir(exist_ok=True)
        self.mounts += [f"mount --bind {there} {kept}", f"mount -t tmpfs -o mode=755 none {shlex.quote(str(closed))}"]
        self.mounts += [f"mkdir -p {there}", f"mount --bind {kept} {there}"]

    # what check says

    def ask(self) -> Said:
        """`doit check`, of the kernel for the server's GPU."""
        answer = self.root / "out" / "check.json"
        answer.unlink(missing_ok=True)
        done = self.doit("check", "--json", str(answer))
        if "Traceback" in done.stdout + done.stderr:
            return Said("traceback", done.stderr.strip().splitlines()[-1], status=done.returncode)
        if not answer.exists():
            return Said("error", first_line(done.stdout + done.stderr), status=done.returncode)
        data = json.loads(answer.read_text())
        row = next(one for one in data["kernels"] if one["target"] == self.gpu or one is data["kernels"][-1])
        return Said(row["state"], row["reason"], tuple(data["conditions"]), done.returncode)

    # what the server does

    def serve(self) -> Served:
        """FlashInfer's build_and_load in the serving interpreter, stopped when its compilers have run for a while."""
        before = self.written()
        script = str(ROOT / "bench" / "predictions_server.py")
        command = self.inside(str(self.python), script, self.kernel, user=self.server_user)
        with (self.root / "out" / "server.log").open("w+") as log:
            process = subprocess.Popen(
                command, env=self.server_env(), stdout=log, stderr=log, cwd=self.root, start_new_session=True
            )
            compiles, stopped = watch(process, self.patience)
            log.seek(0)
            text = log.read()
        self.told.append(f"$ server\n{text}")
        written = tuple(file for file, time in self.written().items() if before.get(file) != time)
        if stopped:
            return Served(stopped, written=written)
        served = outcome(process.returncode, text)
        kind = "compiles" if served.kind == "loaded" and (compiles or written) else served.kind
        return replace(served, kind=kind, written=written)

    def server_env(self) -> dict[str, str]:
        """A clean shell's, the server's own, the lines of `doit env`, and a GPU."""
        env = dict(self.env) | self.serving
        if self.lines:
            asked = self.doit("env")
            env |= exports(self.built_lines if asked.returncode else asked.stdout, env)
        if self.serving_keys.get("engine") == "sglang":  # as `import sglang` does
            base = env.get("SGLANG_CACHE_DIR") or f"{env['HOME']}/.cache/sglang"
            env.setdefault("FLASHINFER_WORKSPACE_BASE", base)
        return env | {"FLASHINFER_CUDA_ARCH_LIST": self.gpu, "LD_BIND_NOW": "1"}

    def written(self) -> dict[Path, int]:
        """When each object and library of all caches was written."""
        return {file: file.stat().st_mtime_ns for file in self.root.glob("*/**/cached_ops/*/*.*o") if file.exists()}

    def end(self) -> None:
        """End what the situation has started."""
        for helper in self.helpers:
            helper.kill()
            helper.wait()


def outcome(status: int, text: str) -> Served:
    """What a server that ended by itself says, or its end itself where it says nothing."""
    if status < 0:
        return Served("failed", f"dies of {signal.Signals(-status).name}")
    try:
        said = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Served("failed", f"exit status {status}: {text.strip()[-100:]}")
    return Served(said["kind"], said["words"], tuple(map(Path, said["libraries"])), seconds=said.get("seconds", 0.0))


_PROGRESS = ("fitasks: planning", "check: FAILED", "install: FAILED")


def first_line(text: str) -> str:
    """What an error says first; progress isn't that."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_PROGRESS)]
    return lines[0].strip() if lines else ""


def watch(process: subprocess.Popen[bytes], patience: float | None) -> tuple[bool, str]:
    """Wait for a server: whether a ninja of its session ran a command, and why it was stopped ("" if it ended).

    It is stopped when a command has run for `patience` seconds, and as a waiting one after two minutes without any.
    """
    begin, first = time.monotonic(), 0.0
    while process.poll() is None:
        if not first and runs_command(process.pid):
            first = time.monotonic()
        late = first and patience is not None and time.monotonic() - first > patience
        if late or (not first and time.monotonic() - begin > 120):
            end_session(process)
            return bool(first), "compiles" if first else "waits"
        time.sleep(0.02)
    return bool(first), ""


def session(leader: int) -> Iterator[tuple[int, int, str]]:
    """(pid, parent, name) of the processes of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            words = rest.split()
            if int(words[3]) == leader:
                yield int(entry.name), int(words[1]), name


def runs_command(leader: int) -> bool:
    """A ninja of that session has a child."""
    found = list(session(leader))
    ninjas = {pid for pid, _, name in found if name.startswith("ninja")}
    return any(parent in ninjas for _, parent, _ in found)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a session's processes until it has none: ninja puts each command into a process group of its own."""
    while found := [pid for pid, _, _ in session(process.pid)]:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
        time.sleep(0.01)
    process.wait()


# A situation's beginning is the same for all.


@dataclass
class Snapshot:
    """Directories as they were, times included. What differs afterwards is found by its inode's change time."""

    places: tuple[Path, ...]
    saved: Path
    states: dict[Path, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def take(cls, places: tuple[Path, ...], saved: Path) -> Snapshot:
        saved.mkdir()
        for place in places:
            subprocess.run(["cp", "-a", place, saved / place.name], check=True)
        taken = cls(places, saved)
        taken.states = dict(taken.found())
        taken.keep()
        return taken

    @classmethod
    def kept(cls, saved: Path) -> Snapshot | None:
        """The one that an earlier run took, None if there is none."""
        try:
            written = (saved / "snapshot").read_bytes()
        except OSError:
            return None
        taken: Snapshot = pickle.loads(written)  # noqa: S301 - our own # nosec B301
        return taken

    def keep(self) -> None:
        (self.saved / "snapshot").write_bytes(pickle.dumps(self))

    def found(self) -> Iterator[tuple[Path, tuple[int, ...]]]:
        for place in self.places:
            for directory, names, files in os.walk(place):
                for name in (*names, *files, "."):
                    path = Path(directory, name)
                    yield path, _state(path)

    def restore(self) -> None:
        """Remove what is new, put back what was changed or is gone."""
        now = dict(self.found())
        for path in sorted(now.keys() - self.states.keys(), reverse=True):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in sorted(path for path, state in self.states.items() if now.get(path) != state):
            self.put_back(path)
        for path in sorted(self.states, reverse=True):  # directories' times last
            if _state(path) != self.states[path]:
                shutil.copystat(self.original(path), path, follow_symlinks=False)
                self.states[path] = _state(path)
        if now != self.states:
            self.keep()

    def put_back(self, path: Path) -> None:
        original = self.original(path)
        if original.is_dir() and not original.is_symlink():
            if path.is_symlink():
                path.unlink()
            path.mkdir(exist_ok=True)
            return
        path.unlink(missing_ok=True)
        shutil.copy2(original, path, follow_symlinks=False)
        shutil.chown(path, original.lstat().st_uid) if not path.is_symlink() else None

    def original(self, path: Path) -> Path:
        place = next(place for place in self.places if path.is_relative_to(place))
        return self.saved / place.name / path.relative_to(place)


def _state(path: Path) -> tuple[int, ...]:
    stat = path.lstat()
    if path.is_dir() and not path.is_symlink():
        return stat.st_mode, stat.st_uid, stat.st_mtime_ns
    return stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def describe(root: Path, kernel: str, targets: tuple[str, ...] = ("9.0a",)) -> Stage:
    """A project for these targets, and the environment that serves it; nothing is written."""
    stage = Stage(root, kernel, targets=targets)
    stage.env = {
        "HOME": str(stage.home),
        "XDG_CACHE_HOME": str(root / "xdg"),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{stage.python.parent}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
    stage.serving = {"LD_LIBRARY_PATH": str(toolkit_libraries())}
    return stage


def make(stage: Stage) -> None:
    """All that the stage has: the environment, the project, and its compiled kernels. Raises SystemExit."""
    for name in ("project", "home", "out"):
        (stage.root / name).mkdir(parents=True)
    stage.root.chmod(0o755)
    (stage.root / "out").chmod(0o777)
    shutil.copy(ROOT / "dodo.py", stage.project)
    make_venv(stage)
    done = stage.doit()
    if done.returncode:
        raise SystemExit(f"the project can't be built:\n{done.stdout}{done.stderr}")


def toolkit_libraries() -> Path:
    """Of pip's toolkit: torch without CUDA brings no libcudart."""
    (found,) = Path(sysconfig.get_path("purelib")).glob("nvidia/cu1?/lib/libcudart.so.1?")
    return found.parent


def make_venv(stage: Stage, copied: tuple[str, ...] = _COPIED) -> None:
    """Links to the packages of this interpreter, but for those that situations change."""
    ours = Path(sysconfig.get_path("purelib"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", stage.root / "venv"], check=True)
    for entry in ours.iterdir():
        if entry.name in copied:
            ignore = shutil.ignore_patterns("cubins")
            shutil.copytree(entry, stage.site / entry.name, symlinks=True, ignore=ignore)
        elif entry.suffix != ".pth" and not entry.name.startswith(("__", "fitasks", "_fitasks")):
            (stage.site / entry.name).symlink_to(entry)
    (stage.python.parent / "ninja").symlink_to(Path(sys.prefix, "bin", "ninja"))


Situation = Callable[[Stage], None]
