"""A signal that Python's main thread sleeps through: a real process, a real signal."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The kernel may give a process's signal to any of its threads. The main one, asleep in a lock, isn't woken then; nor
# is it where the signal came between its last look and its falling asleep.
ASLEEP = """
import signal, sys, threading, time
from fitasks.processes import signals

signals.install()
number = int(sys.argv[1])

def given_to_another_thread():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), number)

threading.Thread(target=given_to_another_thread, daemon=True).start()
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_main_thread_that_slept_through_a_signal_is_woken(number: signal.Signals, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASLEEP, str(int(number))], capture_output=True, text=True, timeout=10, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
