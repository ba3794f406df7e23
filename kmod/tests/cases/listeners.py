# SPDX-License-Identifier: GPL-2.0
"""Many who listen, and those who do not read."""

import errno
import os
import resource
import subprocess

from cases.events import Listener, gaps
from gestalt import EXIT, FORK, Socket, refused
from machine import eventually, few, read, spinning, storm


def memory_free():
    words = [line.split() for line in read("/proc/meminfo").splitlines()]
    return {word[0]: int(word[1]) << 10 for word in words}["MemAvailable:"]


def test_a_thousand(_):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    listeners = []
    for _ in range(1000):
        netlink = Socket(timeout=20)
        netlink.listen()
        listeners.append(netlink)
    process = subprocess.Popen(["true"])
    process.wait()
    for netlink in listeners:
        kinds = []
        while EXIT not in kinds:
            kinds += [event.type for event in netlink.events() if event.pids[:1] == [process.pid]]
        assert kinds[0] == FORK
    for netlink in listeners:
        netlink.close()
    with Socket() as netlink:
        eventually(lambda: not netlink.status().listening)


def test_one_that_never_reads(_):
    """It gets ENOBUFS; memory is bounded; the others get everything."""
    idle = [Socket(timeout=5) for _ in range(10)]
    for netlink in idle:
        netlink.listen(64 << 10)
    before = memory_free()
    with Listener() as listener:
        storm(4, few(600, 300))
        events = listener.end()
    assert not gaps(events) and not listener.overruns
    assert len([event for event in events if event.type == FORK]) >= 4 * few(600, 300)
    assert before - memory_free() < 64 << 20
    for netlink in idle:
        error = refused(netlink.events, errno.ENOBUFS)
        assert error.errno == errno.ENOBUFS
        # What is there is still good, and ends before what was lost.
        old = netlink.events()
        assert not gaps(old) and old[-1].sequence < events[-1].sequence
        netlink.close()


def test_closed_while_events_come(_):
    forking = spinning()
    for _ in range(few(200, 50)):
        netlink = Socket()
        netlink.listen()
        netlink.events()
        netlink.close()
    forking.kill()
    forking.wait()
    assert os.path.exists("/sys/module/gestalt")
