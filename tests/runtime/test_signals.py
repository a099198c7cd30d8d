"""Ctrl-C and SIGTERM: held back while a step or a save is under way, unless they come twice."""

import signal
import subprocess
import sys
import threading

import pytest
from support import ROOT

from pneumojax.runtime import signals


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_signal_is_held_back_and_noted(number):
    before = signal.getsignal(number)
    with signals.deferred() as interrupted:
        assert not interrupted()
        signal.raise_signal(number)
        assert interrupted()
    assert signal.getsignal(number) == before


@pytest.fixture
def interruptible():
    """Handle SIGINT as Python does, whatever other tests in this process have left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_acts_at_once():
    with pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal was held back too")


def test_off_the_main_thread_nothing_is_held_back():
    """Python delivers signals to the main thread only, and lets no other thread set handlers."""
    answers = []

    def body():
        with signals.deferred() as interrupted:
            answers.append(interrupted())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_ends_the_process_with_a_message_and_its_own_status(number):
    program = f"import signal; from pneumojax.runtime import signals; signals.leave_on_signals(); {RAISE}"
    done = subprocess.run([sys.executable, "-c", program, str(int(number))], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (75, f"pneumojax: {signals.MESSAGE}\n")


def test_at_the_end_signals_are_ignored():
    """The exit status is decided by then."""
    program = f"import signal; from pneumojax.runtime import signals; signals.ignore_signals(); {RAISE}; print('end')"
    done = subprocess.run([sys.executable, "-c", program, "15"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "end\n")


RAISE = "import sys; signal.raise_signal(int(sys.argv[1]))"
