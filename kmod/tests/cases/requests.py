# SPDX-License-Identifier: GPL-2.0
"""What is asked is answered, and what is wrong is refused, with a reason."""

import errno
import os
import random
import struct

import gestalt
from gestalt import (A_PID, A_SLICE_FIRST, A_SLICE_LAST, A_STATUS, A_TASK_PID, A_THREADS, DUMP,
                     LOAD, PIDNS, SLICE_CLEAR, SLICE_GET, SLICE_SET, STATUS, TASKS, Socket,
                     attribute, refused)
from machine import read


def test_status(_):
    with Socket() as netlink:
        status = netlink.status()
        assert status.api == 1 and status.version, vars(status)
        assert status.slices == 0 and status.listening == 0, vars(status)
        assert len(dict(netlink.ask(STATUS))[A_STATUS]) == 64


def test_load(_):
    with Socket() as netlink:
        node, counts, cpus = netlink.load(os.getpid())
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024
              for line in read("/proc/meminfo").splitlines()}
    assert node.total == memory["MemTotal"], (node.total, memory["MemTotal"])
    for ours, name in ((node.free, "MemFree"), (node.available, "MemAvailable"),
                       (node.cached, "Cached"), (node.buffers, "Buffers"),
                       (node.shared, "Shmem"), (node.swap_free, "SwapFree")):
        assert abs(ours - memory[name]) < 32 << 20, (name, ours, memory[name])
    loads = [float(word) for word in read("/proc/loadavg").split()[:3]]
    for ours, other in zip((node.load1, node.load5, node.load15), loads):
        assert abs(ours / node.load_scale - other) < 0.2, (ours, other)
    assert node.runnable >= 1 and node.threads >= node.processes >= 10, vars(node)
    # We are in the initial namespace: the two counts are of the same.
    assert abs(counts.processes - node.processes) < 10 and counts.inum, vars(counts)
    assert len(cpus) == node.cpus == os.cpu_count()
    ticks = {line.split()[0]: [int(word) for word in line.split()[1:9]]
             for line in read("/proc/stat").splitlines() if line.startswith("cpu")}
    for cpu in cpus:
        ours = [cpu.user, cpu.nice, cpu.system, cpu.idle, cpu.iowait, cpu.irq, cpu.softirq,
                cpu.steal]
        for mine, other in zip(ours, ticks["cpu%d" % cpu.cpu]):
            assert abs(mine / 1e7 - other) < 100, (ours, ticks)


def test_unknown(_):
    with Socket() as netlink:
        refused(lambda: netlink.order(8), errno.EOPNOTSUPP)
        refused(lambda: netlink.order(99), errno.EOPNOTSUPP)
        refused(lambda: netlink.order(TASKS), errno.EOPNOTSUPP)
        refused(lambda: list(netlink.dump(STATUS)), errno.EOPNOTSUPP)
        for command in (STATUS, LOAD, SLICE_SET, SLICE_GET, SLICE_CLEAR):
            for kind in (6, 13, 14, 200, 0x3FFF):
                error = refused(lambda c=command, k=kind: netlink.order(c, attribute(k, 1)),
                                errno.EINVAL)
                assert "ttribute" in error.strerror, error.strerror
        for command in (PIDNS, TASKS):
            refused(lambda c=command: list(netlink.dump(c, attribute(60, 1))), errno.EINVAL)
        # Known, but not to this command.
        refused(lambda: netlink.ask(STATUS, attribute(A_PID, 1)), errno.EINVAL)
        refused(lambda: netlink.ask(LOAD, attribute(A_TASK_PID, 1)), errno.EINVAL)
        refused(lambda: list(netlink.dump(TASKS, attribute(A_SLICE_FIRST, 1))), errno.EINVAL)
        netlink.status()


def test_malformed(_):
    def wrong(command, payload, dump=False, codes=(errno.EINVAL, errno.ERANGE)):
        with Socket() as netlink:
            refused(lambda: list(netlink.dump(command, payload)) if dump
                    else netlink.order(command, payload), *codes)

    for data in (b"", b"1", b"12", b"123", b"12345", b"12345678", b"x" * 400):
        wrong(LOAD, attribute(A_PID, data))
        wrong(TASKS, attribute(A_PID, data), dump=True)
        wrong(SLICE_SET, attribute(A_SLICE_FIRST, 5000) + attribute(A_SLICE_LAST, data))
    wrong(TASKS, attribute(A_THREADS, b"1234"), dump=True)
    wrong(TASKS, attribute(A_PID, 0), dump=True)
    wrong(LOAD, attribute(A_PID, 0))
    # Attributes that end before they began, or behind the message's end.
    for length in (0, 1, 2, 3):
        wrong(LOAD, struct.pack("=HH", length, A_PID) + b"\1\0\0\0")
    wrong(LOAD, struct.pack("=HH", 100, A_PID) + b"\1\0\0\0")
    wrong(LOAD, b"\x08")
    wrong(LOAD, b"\x08\0\1")
    with Socket() as netlink:
        netlink.send(STATUS, reserved=7)
        refused(netlink.receive, errno.EINVAL)
    refused(lambda: Socket().load((1 << 22) + 1), errno.ESRCH)
    refused(lambda: Socket().load(0xFFFFFFFF), errno.ESRCH)


def test_truncated_messages(_):
    """Headers that lie: nothing is answered, or an error, and the next request is."""
    with Socket(timeout=5) as netlink:
        whole = struct.pack("=IHHII", 28, netlink.family, 1, 77, 0)
        whole += struct.pack("=BBH", LOAD, 1, 0) + attribute(A_PID, os.getpid())
        for end in range(1, len(whole)):
            netlink.socket.send(whole[:end])
        for length in (0, 15, 16, 19, 21, 27, 29, 4096, 0xFFFFFFFF):
            netlink.socket.send(struct.pack("=I", length) + whole[4:])
        with Socket() as other:
            assert other.status().api == 1
        # What came back is errors only.
        netlink.socket.setblocking(False)
        while True:
            try:
                netlink.receive()
            except BlockingIOError:
                break
            except gestalt.NetlinkError as error:
                assert error.errno in (errno.EINVAL, errno.ERANGE), error


def test_garbage(_):
    generator = random.Random(7)
    with Socket(timeout=5) as netlink:
        for _ in range(3000):
            body = bytes(generator.randrange(256) for _ in range(generator.randrange(80)))
            command = generator.randrange(12)
            # Never a slice: it would be ours.
            if command == SLICE_SET:
                body = body[:3]
            flags = generator.choice((1, 5, DUMP | 1))
            netlink.send_raw(netlink.family, flags, bytes([command, 1, 0, 0]) + body)
            netlink.socket.setblocking(False)
            try:
                while True:
                    netlink.socket.recv(65536)
            except OSError:
                pass
    with Socket() as netlink:
        assert netlink.status().slices == 0
        assert any(task.pid == os.getpid() for task in netlink.tasks())


def test_messages_say_what_is_wrong(_):
    with Socket() as netlink:
        for action, words in (
                (lambda: netlink.order(SLICE_SET), "first and its last"),
                (lambda: netlink.slice_set(299, 5000), "before 300"),
                (lambda: netlink.slice_set(5000, 4999), "ends behind"),
                (lambda: netlink.slice_set(5000, 1 << 22), "pid_max"),
                (lambda: netlink.slice_get(), "no slice"),
                (lambda: netlink.slice_clear(), "no slice"),
                (lambda: netlink.load((1 << 22) - 1), "no such process")):
            error = refused(action, errno.EINVAL, errno.ERANGE, errno.ENOENT, errno.ESRCH)
            assert words in error.strerror, error.strerror
        error = refused(lambda: netlink.tasks((1 << 22) - 1), errno.ESRCH)
        # 6.1 has nowhere to put what a dump says when it begins.
        if not os.uname().release.startswith("6.1."):
            assert "no such process" in error.strerror, error.strerror


def test_many_requests_in_one_message(_):
    with Socket() as netlink:
        one = struct.pack("=IHHII", 20, netlink.family, 1, 1, 0) + struct.pack("=BBH", STATUS, 1, 0)
        netlink.socket.send(one * 100)
        assert sum(len(netlink.receive()) for _ in range(100)) == 100


