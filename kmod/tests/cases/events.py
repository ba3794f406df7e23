# SPDX-License-Identifier: GPL-2.0
"""Fork, exec and exit are told, in order, with all that belongs to them; what is lost is told, too."""

import os
import signal
import subprocess
import threading

from gestalt import EXEC, EXIT, F_LAST, F_THREAD, FORK, RESYNC, Socket
from machine import NEWPID, PATIENCE, Skip, few, inside, storm


class Listener:
    """Everything from a moment on, by a thread, until it is ended."""

    def __init__(self, buffer=64 << 20):
        self.netlink = Socket(timeout=0.5)
        self.netlink.listen(buffer)
        self.events, self.overruns, self.ended = [], 0, False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while True:
            try:
                self.events += self.netlink.events()
            except TimeoutError:
                if self.ended:
                    return
            except OSError as error:
                assert error.errno == 105, error
                self.overruns += 1

    def end(self):
        """Once half a second has passed without an event."""
        self.ended = True
        self.thread.join()
        self.netlink.close()
        return self.events

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if not self.ended:
            self.end()


def gaps(events):
    return [(a.sequence, b.sequence) for a, b in zip(events, events[1:])
            if b.sequence != a.sequence + 1]


def of(events, kind, pid):
    return [event for event in events if event.type == kind and event.pids[:1] == [pid]]


def test_fork_exec_exit(_):
    with Listener() as listener:
        process = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
        process.wait()
        killed = subprocess.Popen(["sleep", "1000"])
        killed.send_signal(signal.SIGTERM)
        killed.wait()
        events = listener.end()
    pid = process.pid
    [fork], [execed], [exit_] = (of(events, kind, pid) for kind in (FORK, EXEC, EXIT))
    assert fork.sequence < execed.sequence < exit_.sequence and not gaps(events)
    assert fork.time <= execed.time <= exit_.time and fork.start == exit_.start <= fork.time
    assert fork.ppids == [os.getpid()] == exit_.ppids and fork.tgids == [pid]
    assert execed.comm == "sh" and exit_.comm == "sh" and execed.value
    assert exit_.exit_code == 3 << 8 and exit_.flags == F_LAST and exit_.utime + exit_.stime > 0
    assert fork.inum == os.stat("/proc/self/ns/pid").st_ino
    [exit_] = of(events, EXIT, killed.pid)
    assert exit_.exit_code == signal.SIGTERM and exit_.flags == F_LAST


def test_threads(_):
    def work():
        threads = [threading.Thread(target=sum, args=(range(10000),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return os.getpid(), [thread.native_id for thread in threads]

    with Listener() as listener:
        pid, numbers = inside(work)
        events = listener.end()
    exits = [of(events, EXIT, number)[0] for number in numbers + [pid]]
    for number, exit_ in zip(numbers, exits):
        [fork] = of(events, FORK, number)
        assert fork.flags == F_THREAD and fork.tgids == [pid], vars(fork)
        assert exit_.flags & F_THREAD and exit_.tgids == [pid], vars(exit_)
    assert not exits[-1].flags & F_THREAD
    # A thread may still be going when it was joined, and then be the last one, or one of several.
    last = max((event for event in exits if event.flags & F_LAST), key=lambda event: event.sequence)
    assert last.utime + last.stime >= max(e.utime for e in exits)


def test_pids_at_each_level(_):
    def inner():
        child = subprocess.Popen(["true"])
        child.wait()
        return os.getpid(), child.pid

    def middle():
        return inside(inner, NEWPID)

    with Listener() as listener:
        assert inside(middle, NEWPID) == (1, 2)
        events = listener.end()
    [fork] = [event for event in events if event.type == FORK and event.pids[2:] == [2]]
    [exit_] = [event for event in events if event.type == EXIT and event.pids[2:] == [2]]
    assert fork.pids == fork.tgids == exit_.pids and len(fork.pids) == 3
    assert fork.ppids[2] == 1 and fork.ppids[0] and len(fork.ppids) == 3
    [init] = [event for event in events if event.type == FORK and event.pids[2:] == [1]]
    # Its parent is in the namespace above only.
    assert init.ppids[2] == 0 and init.ppids[1] and init.inum == fork.inum


def test_nothing_without_listeners(_):
    with Socket() as netlink:
        before = netlink.status()
        assert not before.listening
        subprocess.run(["true"], check=True)
        assert netlink.status().sequence == before.sequence
        with Listener() as listener:
            assert netlink.status().listening
            subprocess.run(["true"], check=True)
            assert listener.end()
        assert netlink.status().sequence > before.sequence


def accounted(events, overruns, forks):
    """No event is missing without a word: by the sequence, or by a RESYNC, or by ENOBUFS."""
    lost = sum(event.value for event in events if event.type == RESYNC)
    missing = sum(b - a - 1 for a, b in gaps(events))
    seen = len([event for event in events if event.type == FORK])
    assert missing >= lost or overruns, (missing, lost)
    assert not missing or lost or overruns, "a gap, and nobody said so"
    assert seen + missing >= forks, (seen, missing, forks)
    return seen, lost


def test_storm(_):
    """10,000 forks from four processes at once."""
    with Listener() as listener:
        assert not storm(4, few(2500))
        events = listener.end()
    seen, lost = accounted(events, listener.overruns, 4 * few(2500))
    print("# %d forks seen, %d events lost, %d overruns" % (seen, lost, listener.overruns))
    dead = {event.pids[0] for event in events if event.type == EXIT}
    born = {event.pids[0] for event in events if event.type == FORK}
    if not lost and not listener.overruns:
        assert len(born & dead) >= 4 * few(2500) and seen >= 4 * few(2500)


def test_overflow_is_told(module):
    """With rings of 4 KiB, and forks that do not let the sender run: events are lost, and told."""
    module.reload("ring_kib=4")
    forks = 500 // PATIENCE  # always enough to fill one

    def first():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))

    with Listener() as listener:
        storm(4, forks, preexec_fn=first)
        subprocess.run(["true"], check=True)
        events = listener.end()
        with Socket() as netlink:
            status = netlink.status()
    lost = sum(event.value for event in events if event.type == RESYNC)
    print("# %d events, %d lost, dropped %d" % (len(events), lost, status.dropped))
    if not lost and PATIENCE > 1:
        module.reload()
        raise Skip("forks are so slow here that a ring does not fill")
    assert lost and lost == status.dropped, (lost, status.dropped)
    accounted(events, listener.overruns, 4 * forks)
    # The gap is just where the RESYNC is.
    if not listener.overruns:
        assert sum(b - a - 1 for a, b in gaps(events)) == lost
    module.reload()


def test_wrong_parameters_refuse_to_load(module):
    module.unload()
    for value in ("0", "3", "1000", "1000000"):
        try:
            module.load("ring_kib=" + value)
        except OSError:
            continue
        raise AssertionError("loaded with ring_kib=" + value)
    module.load()
