# SPDX-License-Identifier: GPL-2.0
"""The module can go at any time; nothing of it stays."""

import errno
import os
import subprocess
import time

import machine
from gestalt import DUMP, TASKS, Socket, refused
from machine import NEWPID, Background, eventually, few, inside, read, spinning

CYCLES = few(100)
RING_BYTES = 256 << 10


def test_open_sockets(module):
    with Socket() as netlink, Socket() as listener:
        listener.listen()
        module.unload()
        refused(netlink.status, errno.ENOENT)
        subprocess.run(["true"], check=True)
        module.load()
        with Socket() as fresh:
            assert fresh.status().api == 1


def test_dump_under_way(module):
    """Then it is in use; and no more once the socket is closed."""
    kept = [subprocess.Popen(["sleep", "1000"]) for _ in range(few(200, 50))]
    netlink = Socket(size=4096)
    netlink.send(TASKS, flags=DUMP)
    netlink.receive()
    refused(module.unload, errno.EWOULDBLOCK)
    netlink.close()
    eventually(module.try_unload)
    for process in kept:
        process.kill()
        process.wait()


def test_slices_set(module):
    def keep():
        netlink = Socket()
        netlink.slice_set(5000, 5999)
        return netlink

    with Background(keep, NEWPID), Background(keep, NEWPID):
        module.unload()
        module.load()
        with Socket() as netlink:
            assert netlink.status().slices == 0
    # Their sockets close now, and are nobody's.
    with Socket() as netlink:
        netlink.slice_set(5000, 1 << 21)
        assert netlink.status().slices == 1


def test_open_files(module):
    files = [open("/proc/gestalt/" + name, "rb", buffering=0) for name in ("load", "pidns", "tasks")]
    for file in files:
        file.read(10)
    module.unload()
    for file in files:
        try:
            assert not file.read(10)
        except OSError as error:
            assert error.errno in (errno.EIO, errno.EINVAL, errno.ENODEV), error
        file.close()
    assert not os.path.exists("/proc/gestalt")


def listen_always():
    while True:
        try:
            with Socket(timeout=1) as netlink:
                netlink.listen()
                for _ in range(20):
                    netlink.events()
        except (OSError, IndexError, ValueError):
            time.sleep(0.01)


def dump_always():
    while True:
        try:
            with Socket(timeout=1) as netlink:
                list(netlink.tasks())
                netlink.pidns()
                netlink.load()
                read("/proc/gestalt/tasks")
        except (OSError, IndexError, ValueError):
            time.sleep(0.01)


def slice_always():
    def use():
        try:
            with Socket(timeout=1) as netlink:
                netlink.slice_set(5000, 5100)
                for _ in range(10):
                    subprocess.run(["true"], check=True)
        except (OSError, IndexError, ValueError):
            time.sleep(0.01)

    while True:
        inside(use, NEWPID)


def step_back():
    """All there is of the processors, but what who loads and unloads wants."""
    os.nice(10)


def kernel_bytes():
    """What the kernel has allocated for itself: a module's rings are in slabs or vmalloc.

    Free memory says nothing here: what programs and files take varies by more.
    """
    values = {line.split(":")[0]: int(line.split()[1]) << 10
              for line in read("/proc/meminfo").splitlines()}
    return {name: values[name] for name in ("SUnreclaim", "VmallocUsed", "Percpu")}


def cycle(module, count):
    for _ in range(count):
        if not module.loaded():
            module.load()
        time.sleep(0.05)
        eventually(module.try_unload, 60)


def worker(action):
    child = os.fork()
    if not child:
        try:
            step_back()
            action()
        finally:
            os._exit(0)
    return child


def test_again_and_again(module):
    """Loaded and unloaded while there are forks, dumps, listeners and slices."""
    forking = spinning(preexec_fn=step_back)
    workers = [worker(action) for action in (listen_always, dump_always, slice_always)]
    try:
        # What is kept for good is there after the first few.
        cycle(module, max(CYCLES // 10, 3))
        before = kernel_bytes()
        cycle(module, CYCLES)
        after = kernel_bytes()
    finally:
        for child in workers:
            os.kill(child, 9)
            os.waitpid(child, 0)
        forking.kill()
        forking.wait()
    growth = {name: after[name] - before[name] for name in before}
    print("# %d cycles: %s" % (CYCLES, ", ".join(
        "%s %+d KiB" % (name, size >> 10) for name, size in growth.items())))
    # One of the rings, lost in every second cycle, would be more.
    assert sum(growth.values()) < CYCLES * RING_BYTES // 2, growth
    assert machine.Module.loaded() is False
