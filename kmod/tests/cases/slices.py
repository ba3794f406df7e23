# SPDX-License-Identifier: GPL-2.0
"""A pid namespace's slice: whose it is, when it ends, and what happens when it is full."""

import ctypes
import errno
import os
import signal
import threading

import machine
from cases.events import Listener
from gestalt import EXHAUSTED, OUTSIDE, REWOUND, Socket, refused
from machine import NEWPID, Background, eventually, few, inside, read, storm, write


def fork():
    """The pid of a child that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_set_get_clear(_):
    def use():
        with Socket() as netlink:
            netlink.slice_set(5000, 5009)
            assert [fork() for _ in range(25)] == [5000 + i % 10 for i in range(25)]
            told = netlink.slice_get()
            assert (told.first, told.last, told.next, told.exact) == (5000, 5009, 5005, 1)
            assert told.rewound == 3 and not told.outside and not told.exhausted, vars(told)
            # The same socket may change it.
            netlink.slice_set(7000, 7001)
            assert [fork() for _ in range(3)] == [7000, 7001, 7000]
            with Socket() as other:
                refused(lambda: other.slice_set(9000, 9999), errno.EBUSY)
                assert other.slice_get().first == 7000 and other.status().slices == 1
                other.slice_clear()
            assert fork() == 7001 and fork() == 7002
            refused(netlink.slice_get, errno.ENOENT)
        return True

    assert inside(use, NEWPID)


def test_one_pid(_):
    def use():
        with Socket() as netlink:
            netlink.slice_set(300, 300)
            assert [fork() for _ in range(3)] == [300, 300, 300]
        return True

    assert inside(use, NEWPID)


def test_ends_with_its_socket(_):
    def use():
        netlink = Socket()
        netlink.slice_set(5000, 5999)
        with Socket() as other:
            assert other.status().slices == 1
            netlink.close()
            assert other.status().slices == 0
        return True

    assert inside(use, NEWPID)


def keep_slice():
    netlink = Socket()
    netlink.slice_set(5000, 5999)
    fork()
    return netlink


def test_owner_killed(_):
    with Socket() as netlink:
        background = Background(keep_slice, NEWPID)
        assert netlink.status().slices == 1
        background.end(kill=True)
        eventually(lambda: netlink.status().slices == 0)


def test_namespace_ends_before_its_socket(_):
    """The socket lives on elsewhere; the slice, and the namespace, do not."""
    netlink = Socket()

    def use():
        netlink.slice_set(5000, 5999)
        fork()
        assert netlink.status().slices == 1

    inside(use, NEWPID)
    eventually(lambda: netlink.status().slices == 0)
    netlink.close()


def test_no_namespace_is_kept(_):
    """Five may be there at a time; thirty are made, each with a slice whose socket stays open."""
    def use():
        write("/proc/sys/user/max_pid_namespaces", "5")
        netlink = Socket()

        def one():
            try:
                inside(lambda: netlink.slice_set(5000, 5999), NEWPID)
                return True
            except AssertionError as error:
                # That the last one is being freed is no failure; that it never is, is.
                assert "ended early" in str(error), error
                return False

        for _ in range(30):
            eventually(one)
        return True

    assert inside(use, machine.NEWUSER)


def test_namespaces_below_have_their_own_pids(_):
    def inner():
        return [fork() for _ in range(3)]

    def use():
        with Socket() as netlink:
            netlink.slice_set(5000, 5999)
            assert inside(inner, NEWPID) == [2, 3, 4]
            # Four processes were made there: each took a pid here, too.
            assert netlink.slice_get().next >= 5005
            with Socket() as other:
                assert all(5000 <= task.pids[0] <= 5999 for task in other.tasks()
                           if task.pid != 1)
        return True

    assert inside(use, NEWPID)


class CloneArguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
        "set_tid", "set_tid_size", "cgroup")]


def clone_as(number):
    wanted = (ctypes.c_int * 1)(number)
    arguments = CloneArguments(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(wanted),
                               set_tid_size=1)
    child = machine.call(machine.libc.syscall(ctypes.c_long(435), ctypes.byref(arguments),
                                              ctypes.c_size_t(ctypes.sizeof(arguments))))
    if not child:
        os._exit(0)
    return child


def test_chosen_pids_stay_possible(_):
    """As a restored process needs: inside and outside, and the slice's own go on behind."""
    def use():
        with Socket() as netlink:
            netlink.slice_set(5000, 5999)
            assert fork() == 5000
            for number in (70000, 5500, 5001, 400):
                assert clone_as(number) == number
            refused(lambda: clone_as(5500), errno.EEXIST)
            assert [fork(), fork()] == [5002, 5003]
            told = netlink.slice_get()
            assert told.outside == 0, vars(told)
        return True

    assert inside(use, NEWPID)


def test_written_cursor_is_put_right(_):
    def use():
        with Socket() as netlink:
            netlink.slice_set(5000, 5999)
            fork()
            for text, expected in (("5500", 5501), ("70000", 5000), ("10", 5000), ("5999", 5000)):
                write("/proc/sys/kernel/ns_last_pid", text)
                assert fork() == expected, (text, expected)
        return True

    # ns_last_pid is the reader's namespace's, whatever /proc is mounted.
    assert inside(use, NEWPID)


def test_full(_):
    """Forks go on, outside, and that is told; and come back when there is room."""
    gate = threading.Event()

    def use():
        write("/proc/sys/kernel/ns_last_pid", "8000")
        with Socket() as netlink:
            netlink.slice_set(5000, 5019)
            threads = [threading.Thread(target=gate.wait) for _ in range(30)]
            for thread in threads:
                thread.start()
            numbers = sorted(thread.native_id for thread in threads)
            assert numbers[:20] == list(range(5000, 5020)), numbers
            outside = numbers[20:]
            told = netlink.slice_get()
            assert told.outside == len(outside) == 10 and told.exhausted == 1, vars(told)
            gate.set()
            for thread in threads:
                thread.join()
            # A thread may still be going when it was joined.
            eventually(lambda: 5000 <= fork() <= 5019)
            again = [fork() for _ in range(25)]
            assert all(5000 <= pid <= 5019 for pid in again), again
            return outside, os.stat("/proc/self/ns/pid").st_ino

    with Listener() as listener:
        outside, _ = inside(use, NEWPID)
        events = [event for event in listener.end() if event.first == 5000]
    assert [event.value for event in events if event.type == OUTSIDE][:10] == outside
    assert len([event for event in events if event.type == EXHAUSTED]) >= 1
    assert any(event.type == REWOUND for event in events)
    assert all(event.last == 5019 and not event.pids for event in events)


def test_beyond_pid_max(_):
    """A slice that the kernel would not give out is full from the beginning."""
    if os.path.exists("/proc/sys/kernel/pid_max"):
        kept = read("/proc/sys/kernel/pid_max").strip()

    def use():
        with Socket() as netlink:
            try:
                netlink.slice_set(40000, 40100)
            except OSError as error:
                # Where each namespace has its own, it is refused at once.
                assert error.errno == errno.ERANGE
                return True
            assert fork() < 40000 and netlink.slice_get().outside == 1
        return True

    def limited():
        write("/proc/sys/kernel/pid_max", "33000")
        return use()

    try:
        assert inside(limited, NEWPID)
    finally:
        write("/proc/sys/kernel/pid_max", kept)


def test_many_slices(_):
    with Socket() as netlink:
        kept = [Background(keep_slice, NEWPID) for _ in range(20)]
        assert netlink.status().slices == 20
        for background in kept:
            background.end()
        eventually(lambda: netlink.status().slices == 0)


def test_without_the_probe(module):
    """The other way: less exact, and said so."""
    module.reload("use_probe=N")

    def use():
        with Socket() as netlink:
            netlink.slice_set(20000, 36383)
            assert netlink.slice_get().exact == 0 and netlink.status().features & 1 == 0
            fork()
            outside = storm(4, few(500), 20000, 36383)
            print("# without the probe %d of %d pids were outside" % (
                len(outside), 4 * few(500)), flush=True)
            # The first forks find the cursor where it was.
            assert len(outside) <= 8 and netlink.slice_get().rewound
        return True

    assert inside(use, NEWPID)
    module.reload()
