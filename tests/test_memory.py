import gc
import signal
import sys
import weakref
from pathlib import Path

import pytest

from monai_fusenet.utils.memory import collecting_is_cheap, release_memory


class Circle:
    def __init__(self):
        self.own = self


def test_circles_of_the_past_go_and_older_ones_may_stay():
    old = weakref.ref(Circle())
    with collecting_is_cheap():
        new = weakref.ref(Circle())
        release_memory()
        assert new() is None
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    release_memory()
    assert old() is None


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_circles_go_is_not_lost():
    circle = Circle()
    weakref.finalize(circle, signal.raise_signal, signal.SIGINT)
    del circle
    with pytest.raises(KeyboardInterrupt):
        release_memory()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_freed_blocks_go_back_to_the_system():
    before = resident_bytes()
    blocks = [bytes(50_000) for _ in range(2000)]  # too small to come from anywhere but the heap
    barrier = bytes(50_000)
    blocks.clear()
    release_memory()
    assert resident_bytes() - before < 50_000_000
    assert len(barrier) == 50_000
