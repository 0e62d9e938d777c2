"""Ctrl-C: the first interrupts a command, the second ends it, wherever it hangs."""

import os
import signal
import subprocess
import sys
import time

# A command that swallows every exception while it ends, as a library may.
HANGS = """
import time
from chatpipe.cli.interrupts import end_at_second_interrupt
end_at_second_interrupt()
try:
    print("running", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("ending", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def test_a_second_interrupt_ends_a_command_that_hangs_in_its_end():
    command = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True)
    assert command.stdout.readline() == "running\n"
    command.send_signal(signal.SIGINT)
    assert command.stdout.readline() == "ending\n"
    time.sleep(0.2)
    assert command.poll() is None
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=30) == -signal.SIGINT  # it would sleep for longer


def test_where_interrupts_are_ignored_they_stay_so():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from chatpipe.cli.interrupts import end_at_second_interrupt; end_at_second_interrupt();"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


KEEPS = """
import signal, sys
from pathlib import Path
from chatpipe.runtime.stopping import deferred_signals

class EndedMeanwhile(list):
    def append(self, number):
        super().append(number)
        if number == signal.SIGINT:  # the parent, which Ctrl-C reached as well, ends this process
            signal.raise_signal(signal.SIGTERM)

with deferred_signals(Path(sys.argv[1]).touch) as request:
    request.signals = EndedMeanwhile()
    signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_in_the_middle_of_another_one_loses_neither(tmp_path):
    stop_file = tmp_path / "stop"
    environment = {**os.environ, "CHATPIPE_CHILD": "1"}
    subprocess.run([sys.executable, "-c", KEEPS, stop_file], env=environment, check=True)
    assert stop_file.exists()
