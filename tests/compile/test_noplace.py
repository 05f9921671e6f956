"""Which place it was that failed a kernel, and what is to be done about just that."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.compile.failure.noplace import no_place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workshop import Workshop


def test_a_file_where_the_logs_belong(workshop: Workshop) -> None:
    logs = workshop.root / ".fitasks" / "logs"
    logs.parent.mkdir()
    logs.touch()
    with pytest.raises(KernelFailure) as caught:
        workshop.build(workshop.kernel())
    assert f"mv {logs} {logs}.old: a directory belongs there; run doit again" in str(caught.value)
    assert "writable" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "place", "remedy"),
    [
        (errno.ENOSPC, "there/a/b", "leave room on the file system of {root}/there"),
        (errno.EDQUOT, "there/a/b", "leave room on the file system of {root}/there"),
        (errno.EROFS, "there/page.log", "make {root}/there writable"),
        (errno.EACCES, "there/file", "make {root}/there/file writable"),
        (errno.ENOTDIR, "there/file/a/b", "mv {root}/there/file {root}/there/file.old: a directory belongs there"),
        (errno.EISDIR, "there", "mv {root}/there {root}/there.old: a file belongs there"),
        (errno.EMFILE, "there/file", "raise the limit: ulimit -n 4096"),
        (errno.EIO, "there/file", "see `ls -ld {root}/there/file`"),
    ],
)
def test_the_remedy_is_about_the_place(
    workshop: Workshop, tmp_path: Path, number: int, place: str, remedy: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    failure = no_place(workshop.kernel(), OSError(number, os.strerror(number), str(tmp_path / place)))
    assert failure.message == f"page: {tmp_path / place}: {os.strerror(number)}"
    assert failure.remedy == f"{remedy.format(root=tmp_path)}; run doit again"


def test_a_write_that_does_not_say_where(workshop: Workshop) -> None:
    kernel = workshop.kernel()
    failure = no_place(kernel, OSError(errno.ENOSPC, "No space left on device"))
    assert failure.message.startswith("page: No space left on device, in ")
    assert failure.remedy.startswith(f"leave room in {kernel.build_dir.parent} and in ")
    assert no_place(kernel, OSError("odd")).message == f"page: {kernel.build_dir}: odd"
