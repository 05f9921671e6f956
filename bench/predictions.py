"""Every prediction against what FlashInfer does: for each situation what `doit check` said, and what the server did.

    python bench/predictions.py [--only noexec,read-only] [--write] [--root DIR] [--verbose]

Needs root (mounts, another user's rights), the real nvcc and the real FlashInfer, and no GPU. One project is compiled
once; for each situation it is put back as it was, times and all, and changed; `doit check --json` is asked,
and then FlashInfer itself is the server: `build_and_load` in the serving interpreter, with every symbol bound at once
(LD_BIND_NOW). A compile is what ninja starts; it is stopped after a few seconds, unless its end is what matters.

Prints the table; --write puts it into docs/predictions.md. Exit status 1 if a prediction was wrong.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.predictions_harness import ROOT, Said, Served, Snapshot, Stage, describe, make
from bench.predictions_situations import SITUATIONS

_HEAD = """\
# Predictions and what came true

What `doit check` said in each of these situations, and what FlashInfer then did. The server is FlashInfer itself:
`gen_page_module().build_and_load()` in a process of the serving interpreter, in the situation's environment with the
lines of `doit env`, with every symbol bound at once (LD_BIND_NOW=1). One kernel, `page`, is compiled with the real
nvcc; before each situation everything is put back as it was, times included.

- **loaded**: the server's ninja started nothing, and the library was loaded. *Of no use to the GPU*: it has no machine
  code for it (the machine has no GPU, so it is the code that is looked at).
- **compiles**: its ninja started a command. It is stopped three seconds later, except where the end matters.
- **failed**: the last line of the exception. **refused**: FlashInfer's MissingJITCacheError.

`cached` and `ahead-of-time` are right where it loaded, `would compile` where it compiles, `would fail` where it failed,
`outdated` and `altered` where it loaded all the same. An `error` is check's own, without a table (exit status 2): right
where the server failed, too. **WRONG** is a promise that wasn't kept: the table's reason for being.
"""
_MADE = "Made by `python bench/predictions.py --write` on {date} with FlashInfer {version}, in {seconds:.0f} s."
DOCUMENT = ROOT / "docs" / "predictions.md"

VERDICTS = ("right", "unknown", "wrong", "WRONG", "untried")

# What the server does where a prediction is right.
_MEANS = {
    "ahead-of-time": {"loaded"},
    "cached": {"loaded"},
    "outdated": {"loaded"},
    "altered": {"loaded"},
    "would compile": {"compiles"},
    "would fail": {"failed"},
    "refused": {"refused"},
    "unplanned": {"failed"},
    "error": {"failed"},  # no table, exit status 2: the environment is unusable
}


@dataclass(frozen=True)
class Row:
    """A situation, what was said and done, and the seconds that each took."""

    title: str
    said: Said
    served: Served
    foreign: bool  # loaded, but without machine code for the server's GPU
    met: bool  # the server meets the conditions that check names: it has the lines of `doit env`
    seconds: tuple[float, float]

    @property
    def kind(self) -> str:
        return "loaded, of no use to the GPU" if self.foreign else self.served.kind

    @property
    def verdict(self) -> str:
        """Return "right", "unknown" (it says so), "wrong", "WRONG" (promised too much), "untried" (our fault)."""
        if self.said.state in {"unknown", "untried"}:
            return self.said.state
        if self.kind in self.expected():
            return "right"
        return "WRONG" if self.said.good else "wrong"

    def expected(self) -> set[str]:
        """What the server may do so that check was right."""
        if self.foreign and self.said.state in {"outdated", "altered", "would fail"}:
            return {self.kind}
        promised = _MEANS.get(self.said.state, set())
        return promised | self.without() if self.said.good else promised

    def without(self) -> set[str]:
        """What check says of a server that doesn't meet its conditions, if this is one."""
        text = "" if self.met else " ".join(self.said.conditions)
        return {kind for word, kind in (("compile", "compiles"), ("fail", "failed")) if word in text}


def main() -> int:
    options = _options()
    begin = time.monotonic()
    root = options.root or Path(tempfile.mkdtemp(prefix="fitasks-predictions-"))
    try:
        stage, snapshot = build(root, "page", ("9.0a", "8.0"))
        print(f"built in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        rows = list(play_all(options, stage, snapshot, begin + options.minutes * 60))
    finally:
        if not options.root:
            shutil.rmtree(root, ignore_errors=True)
    text = report(rows, time.monotonic() - begin)
    print(text)
    if options.write:
        DOCUMENT.write_text(text)
    return int(any(row.verdict in {"wrong", "WRONG", "untried"} for row in rows))


def build(root: Path, kernel: str, targets: tuple[str, ...]) -> tuple[Stage, Snapshot]:
    """The project, compiled for each target, and a copy of everything that situations change; the first is served."""
    stage = describe(root / "stage", kernel, targets)
    if kept := Snapshot.kept(root / "saved"):  # of an earlier run with --root
        kept.restore()
        stage.targets = targets[:1]
        stage.built_lines = stage.doit("env").stdout
        return stage, kept
    make(stage)
    stage.targets = targets[:1]
    stage.doit("list")  # the plan for this target alone
    stage.built_lines = stage.doit("env").stdout
    said, served = stage.ask(), stage.serve()  # and with it, Python's byte code is written
    if not said.good or served.kind != "loaded":
        raise SystemExit(f"without any change: {said}, {served}\n{stage.told[-1]}")
    places = tuple(stage.root / name for name in ("project", "home", "xdg", "venv", "out"))
    return stage, Snapshot.take(places, root / "saved")


def play_all(options: argparse.Namespace, stage: Stage, snapshot: Snapshot, end: float) -> Iterator[Row]:
    """Each situation that was asked for, until the time is up; a line as soon as a row is known."""
    for name in options.only:
        if time.monotonic() > end:
            print(f"{options.minutes} minutes are over before {name}", file=sys.stderr)
            return
        row = play(name, stage, snapshot, verbose=options.verbose)
        print(
            f"{row.verdict:8} {line(row)}  ({row.seconds[0]:.1f} s, {row.seconds[1]:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
        yield row


def play(name: str, stage: Stage, snapshot: Snapshot, *, verbose: bool) -> Row:
    """One situation, from the beginning that all have."""
    title, change = SITUATIONS[name]
    snapshot.restore()
    shutil.rmtree(stage.root / "checkout", ignore_errors=True)
    here = replace(copy.deepcopy(stage), told=[], helpers=[])
    begin = asked = time.monotonic()
    try:
        change(here)
        begin = time.monotonic()
        said = here.ask()
        asked = time.monotonic()
        served = here.serve()
    except Exception as error:  # noqa: BLE001, the others are still to be tried
        said, served = Said("untried", repr(error)), Served("untried")
    finally:
        here.end()
        if verbose:
            print("\n".join([f"--- {name}", *here.told]), file=sys.stderr, flush=True)
    return Row(title, said, served, _foreign(served, here), here.lines, (asked - begin, time.monotonic() - asked))


def _foreign(served: Served, stage: Stage) -> bool:
    """Whether what was loaded has no machine code that the server's GPU runs: its first call fails."""
    from fitasks.cuda.architecture import with_code
    from fitasks.cuda.elf import machine_code_architectures

    if served.kind != "loaded" or not served.libraries:
        return False
    gpus = tuple(f"sm{target.replace('.', '')}" for target in stage.gpu.split())
    return with_code(machine_code_architectures(served.libraries[0]), gpus) != gpus


def line(row: Row) -> str:
    """A row of the table."""
    said = f"{row.said.state}: {row.said.reason}" if row.said.reason else row.said.state
    did = f"{row.kind}: {row.served.words}" if row.served.words else row.kind
    mark = "" if row.verdict == "right" else f"**{row.verdict}**"
    return f"| {row.title} | {_cell(said)} | {_cell(did)} | {mark} |"


def _cell(text: str, width: int = 170) -> str:
    """The text without the stage's directory, with its beginning and its end."""
    text = re.sub(r"/\S*?/stage/", "", text.replace("|", "\\|").replace("\n", " "))
    text = re.sub(r"RuntimeError: Check failed: .*? Failed to load dynamic shared library", "can't load", text)
    return text if len(text) <= width else f"{text[: width // 2]} … {text[-width // 2 :]}"


def report(rows: list[Row], seconds: float) -> str:
    """The document: what was tried with what, the count of each verdict, and the table."""
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    wrong = count["wrong"] + count["WRONG"]
    summary = (
        f"{len(rows)} of {len(SITUATIONS)} situations: {count['right']} right, {count['unknown']} unknown, "
        f"**{wrong} wrong** ({count['WRONG']} of them promised too much), {count['untried']} not brought about."
    )
    made = _MADE.format(
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        version=version("flashinfer-python"),
        seconds=seconds,
    )
    head = "| situation | `doit check` said | the server did | |\n|---|---|---|---|"
    return "\n".join([_HEAD, made, "", summary, "", head, *map(line, rows), ""])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_names, default=list(SITUATIONS), help="names, with commas; a trailing * is any")
    parser.add_argument("--write", action="store_true", help="write docs/predictions.md")
    parser.add_argument(
        "--root", type=Path, help="a directory to work in, which is kept: the next run finds the project compiled"
    )
    parser.add_argument("--minutes", type=float, default=600, help="begin no further situation after this time")
    parser.add_argument("--verbose", action="store_true", help="what doit and the server printed")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    from fnmatch import fnmatch

    patterns = text.split(",")
    found = [name for name in SITUATIONS if any(fnmatch(name, pattern) for pattern in patterns)]
    if not found:
        raise argparse.ArgumentTypeError(f"no situation {text!r}; there are {', '.join(SITUATIONS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
