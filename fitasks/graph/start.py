"""`python -m fitasks init`: a first kernels.yaml and dodo.py, from flags and, on a terminal, questions."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import ConfigError, EnvironmentProblem, FitasksError
from fitasks.base.files import create, write_atomic
from fitasks.config.starter import SCHEMA, Start, model_name, starter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DODO = '''"""fitasks' tasks for the kernels of kernels.yaml: `doit list`."""

from fitasks.dodo import *  # noqa: F403
'''
_ENGINES = ("sglang", "vllm")
_KNOWN = "9.0a: H100, H200; 10.0a: B200; 8.0: A100; 8.9: L4, L40S, RTX 4090; 12.0: RTX 5090"


def main(words: Sequence[str], doit: Callable[[list[str]], int]) -> int:
    """Write what isn't there; the exit status. `doit` runs one of our tasks."""
    wanted = _parser().parse_args(words)
    try:
        written = begin(Path.cwd(), wanted, ask=_asked if sys.stdin.isatty() and sys.stdout.isatty() else None)
    except FitasksError as error:
        print(f"fitasks init: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except OSError as error:
        print(f"fitasks init: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:  # at a question
        return 130
    print("\n".join(written))  # noqa: T201
    return _imported(wanted.trace, doit) if wanted.trace else 0


def _imported(traces: Sequence[str], doit: Callable[[list[str]], int]) -> int:
    """Write the entries of traces; where that fails, kernels.yaml is said to be still without."""
    status = 130
    try:
        status = doit(["import_trace", *traces, "--write"])
    finally:
        if status:
            again = f"fitasks import_trace {' '.join(traces)} --write"
            print(f"fitasks init: kernels.yaml names no kernels yet; then: {again}", file=sys.stderr)  # noqa: T201
    return status


def begin(root: Path, wanted: argparse.Namespace, ask: Callable[[str], str] | None) -> list[str]:
    """Write kernels.yaml and dodo.py where they aren't; lines about it. Raises FitasksError, with nothing written."""
    file, said = root / "kernels.yaml", []
    for link in (file, root / "dodo.py"):
        if link.is_symlink() and not link.exists():
            raise EnvironmentProblem(
                f"{link.name} is a link to {link.readlink()}, which isn't there", remedy="remove it"
            )
    if file.exists():
        if any((wanted.target, wanted.model, wanted.trace, wanted.engine, wanted.python)):
            problem = f"{file.name} is there already; nothing was written"
            raise EnvironmentProblem(problem, remedy="edit it, or move it; `doit import_trace` adds what a trace has")
        said.append(f"{file.name}: there already, left as it is")
    else:
        text = starter(_start(root, wanted, ask))
        _refuse_unsound(text)
        write_atomic(root / ".fitasks" / SCHEMA.name, SCHEMA.read_text(encoding="utf-8"))
        said.append(_created(file, text, "which kernels, for which GPUs"))
    said.append(_created(root / "dodo.py", DODO, "doit's tasks"))
    name = "doit" if _is_ours(root / "dodo.py") else "fitasks"
    said.append(f"next: `{name} list` shows the kernels and all tasks, `{name}` compiles, `{name} check` foretells")
    if name == "fitasks":
        said.append("for `doit` as well: add `from fitasks.dodo import *` to dodo.py")
    said.append('for version control: .fitasks/ is a cache; for a shell: eval "$(doit tabcompletion)" completes tasks')
    return said


def _is_ours(dodo: Path) -> bool:
    """Whether a dodo.py has our tasks."""
    try:
        return "fitasks.dodo" in dodo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fitasks init",
        description="Write kernels.yaml and dodo.py into this directory. Nothing is overwritten.",
    )
    for name, metavar, said in (
        ("--target", "ARCH", 'GPU architectures, e.g. 9.0a, or "8.0 9.0a" for a mixed host'),
        ("--model", "DIR", "a model's directory or config.json: its kernels"),
        ("--trace", "FILE", "what a server asked for: a trace, log or cache"),
    ):
        parser.add_argument(name, metavar=metavar, help=f"{said}; may be given again", action="append", default=[])
    parser.add_argument("--engine", choices=(*_ENGINES, "none"), help="by default the one that is installed")
    parser.add_argument("--python", default="", help="the server's interpreter, if it isn't this one")
    return parser


def _start(root: Path, wanted: argparse.Namespace, ask: Callable[[str], str] | None) -> Start:
    for trace in wanted.trace:
        if not Path(trace).exists():
            raise EnvironmentProblem(f"{trace}: no such file", remedy="name a trace of python -m fitasks.record")
    if wanted.python and not shutil.which(wanted.python):
        raise EnvironmentProblem(f"{wanted.python} can't be run", remedy="name the server's interpreter")
    engine = wanted.engine or _engine(wanted.python, ask)
    models = _models(root, wanted.model)
    if models and engine == "none":
        raise EnvironmentProblem("which kernels a model needs depends on its engine", remedy="--engine sglang or vllm")
    python = os.path.abspath(shutil.which(wanted.python) or "") if wanted.python else ""  # noqa: PTH100 - links stay
    targets, schema = wanted.target or _targets(ask), f".fitasks/{SCHEMA.name}"
    _refuse_others(targets)
    return Start(targets, schema, python, engine, models, traced=bool(wanted.trace))


def _engine(python: str, ask: Callable[[str], str] | None) -> str:
    """Return the engine of the serving environment; "none" where there is none."""
    found = [name for name in _ENGINES if _is_installed(name, python)]
    if len(found) < 2:
        return found[0] if found else "none"
    if ask and (said := ask(f"which engine, {' or '.join(found)}? ")) in found:
        return said
    raise EnvironmentProblem(f"{' and '.join(found)} are installed", remedy=f"--engine {found[0]}")


def _is_installed(name: str, python: str) -> bool:
    """Whether an interpreter has a distribution; of another one, as far as it lies in an environment of its own."""
    from fitasks.plan.server import find_package

    places = _sites(python) if python else map(Path, filter(None, sys.path))
    return find_package(name, tuple(places)) is not None


def _sites(python: str) -> list[Path]:
    """Where an interpreter's packages lie: Debian's own, which many server images use, has them in /usr/local."""
    own = Path(os.path.abspath(shutil.which(python) or python)).parent.parent  # noqa: PTH100 - links stay
    patterns = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
    return [place for pattern in patterns for place in own.glob(pattern)]


def _targets(ask: Callable[[str], str] | None) -> list[str]:
    from fitasks.cuda.gpus import architectures

    if found := architectures(os.environ):
        return [found]
    if ask and (said := ask(f"no GPU is visible here. The server's GPU architectures ({_KNOWN}): ")):
        return [said]
    raise EnvironmentProblem("no GPU is visible here, so targets must be named", remedy=f"--target 9.0a ({_KNOWN})")


def _refuse_others(targets: Sequence[str]) -> None:
    """Raise EnvironmentProblem for what isn't a target, in the words of a flag: there is no kernels.yaml yet."""
    from fitasks.config.schema import TARGET

    for one in targets:
        if not re.fullmatch(TARGET, one):
            remedy = f'--target 9.0a, or "8.0 9.0a" for a mixed host ({_KNOWN})'
            raise EnvironmentProblem(f"{one!r} is no GPU architecture", remedy=remedy)


def _models(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the models' paths by what they are called; a second `llama` is `llama-2`."""
    models: dict[str, str] = {}
    for path in paths:
        name = model_name(os.path.abspath(path))  # noqa: PTH100 - a link's target may move
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        models[next(one for one in names if one not in models)] = _model(root, path)
    return models


def _model(root: Path, path: str) -> str:
    """Return a model's path as kernels.yaml has it: relative where it lies below. Raises EnvironmentProblem."""
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise EnvironmentProblem(f"{file}: no such file", remedy="--model takes a model's directory, or config.json")
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - a link's target may move
    return str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)


def _refuse_unsound(text: str) -> None:
    """Raise ConfigError for what the flags made wrong, such as a target that is none."""
    from fitasks.config.load import load_config

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "kernels.yaml")
        file.write_text(text, encoding="utf-8")
        try:
            load_config(file)
        except ConfigError as error:
            raise ConfigError(tuple(one.replace(f"{directory}/", "") for one in error.problems)) from None


def _created(file: Path, text: str, what: str) -> str:
    try:
        create(file, text)
    except FileExistsError:
        return f"{file.name}: there already, left as it is"
    except OSError as error:
        raise EnvironmentProblem(f"{file}: {error.strerror}", remedy=f"see ls -ld {file.parent}") from None
    return f"{file.name}: written ({what})"


def _asked(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""
