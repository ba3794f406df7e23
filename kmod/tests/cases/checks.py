# SPDX-License-Identifier: GPL-2.0
"""What only a kernel with checks of its own can tell: pxe/kernels has one, called debug."""

import ctypes
import errno
import os
import subprocess
import time

from cases.events import Listener, accounted
from gestalt import Socket
from machine import NEWPID, Skip, eventually, inside, leaks, libc, read, storm, write

FAILSLAB = "/sys/kernel/debug/failslab/"
FINIT_MODULE = 313
# What the module is loaded by and its self-tests make too many others.
LOADING = ("__alloc_workqueue", "genl_register_family", "tracepoint_add_func", "__proc_create")


def settings(**values):
    for name, value in values.items():
        write(FAILSLAB + name.replace("_", "-"), str(value))


def need_failures():
    if not os.path.exists(FAILSLAB + "require-start"):
        raise Skip("this kernel cannot be told to fail some of the allocations")


def below(start, end):
    """Those allocations may fail that are made below code from START to END."""
    need_failures()
    settings(verbose=0, ignore_gfp_wait="N", task_filter="N", interval=1, space=0, times=-1,
             stacktrace_depth=32, require_start=hex(start), require_end=hex(end))


class Failing:
    """A share of the allocations that the module makes fails, whoever runs it."""

    def __init__(self, percent):
        self.percent = percent

    def __enter__(self):
        start = int(read("/sys/module/gestalt/sections/.text"), 16)
        below(start, start + int(read("/sys/module/gestalt/coresize")))
        settings(probability=self.percent)

    def __exit__(self, *unused):
        settings(probability=0, require_start=0, require_end=hex((1 << 64) - 1))


def attempts(action, count):
    """How many of them failed for want of memory; an answer may be lost altogether."""
    failed = 0
    for _ in range(count):
        try:
            action()
        except TimeoutError:
            failed += 1
        except OSError as error:
            assert error.errno in (errno.ENOMEM, errno.ENOBUFS), error
            failed += 1
    return failed


def test_requests_without_memory(module):
    """Each may fail, and nothing worse; afterwards all is as before."""
    need_failures()

    def use():
        with Socket(timeout=2) as netlink:
            def procfs():
                for name in ("load", "pidns", "tasks"):
                    read("/proc/gestalt/" + name)

            actions = (netlink.status, netlink.load, lambda: netlink.load(os.getpid()),
                       netlink.pidns, netlink.tasks, lambda: netlink.tasks(threads=True),
                       lambda: netlink.slice_set(1000, 2000), procfs)
            with Failing(40):
                failed = [attempts(action, 40) for action in actions]
            netlink.slice_set(1000, 2000)
            return failed, netlink.slice_get().exact

    module.reload()
    failed, exact = inside(use, NEWPID)
    print("# failed, of 40 each: %s" % failed)
    assert all(failed), failed
    assert exact, "the slice has no probe"
    with Socket() as netlink:
        assert netlink.status().slices == 0


def test_events_without_memory(_):
    """Each that could not be sent is told of."""
    with Listener() as listener:
        with Failing(30):
            storm(2, 300)
        subprocess.run(["true"], check=True)
        time.sleep(0.5)
        events = listener.end()
    seen, lost = accounted(events, listener.overruns, 600)
    print("# %d forks seen, %d events lost, %d overruns" % (seen, lost, listener.overruns))
    assert lost or listener.overruns, "nothing failed"


def code_of(function):
    addresses = {}
    for line in read("/proc/kallsyms").splitlines():
        words = line.split()
        addresses[words[2]] = int(words[0], 16)
    start = addresses[function]
    return start, min(address for address in addresses.values() if address > start)


def load_failing(module, count):
    """Whether it was loaded although its allocation number COUNT failed; None: it has fewer."""
    with open(module.path, "rb") as image, open("/proc/thread-self/fail-nth", "r+b", 0) as nth:
        os.pwrite(nth.fileno(), b"%d" % count, 0)
        result = libc.syscall(ctypes.c_long(FINIT_MODULE), image.fileno(), b"", 0)
        left = int(os.pread(nth.fileno(), 20, 0))
        os.pwrite(nth.fileno(), b"0", 0)
    if result == 0:
        eventually(module.try_unload)
    return None if left else result == 0


def test_loading_without_memory(module):
    """Where its parts come into being, the Nth allocation fails, for each N there is."""
    need_failures()
    refused = 0
    eventually(lambda: not module.loaded() or module.try_unload())
    try:
        for function in LOADING:
            below(*code_of(function))
            results = []
            while (loaded := load_failing(module, len(results) + 1)) is not None:
                results.append(loaded)
            print("# %s: %d allocations, loaded without %d of them" % (
                function, len(results), sum(results)), flush=True)
            refused += len(results) - sum(results)
    finally:
        settings(require_start=0, require_end=hex((1 << 64) - 1))
    # The kernel can do without some, as for telling listeners of a new family.
    assert refused, "it was always loaded"
    module.load()


def test_no_leak(module):
    """While it is loaded, when a report has names of functions; and once it is gone."""
    def nothing_lost():
        found = leaks()
        assert not found, "\n".join(found)

    if not module.loaded():
        module.load()
    nothing_lost()
    eventually(module.try_unload)
    nothing_lost()


def test_locks_were_checked(_):
    """lockdep ends with its first complaint, and if it has no room."""
    if not os.path.exists("/proc/lockdep_stats"):
        raise Skip("this kernel does not check locks")
    lines = dict(line.rsplit(":", 1) for line in read("/proc/lockdep_stats").splitlines()
                 if ":" in line)
    values = {name.strip(): value.strip() for name, value in lines.items()}
    print("# " + ", ".join("%s: %s" % (name, values[name]) for name in sorted(values)
                           if name.startswith(("lock-classes", "direct dep", "dependency chains"))))
    assert values["debug_locks"] == "1", "lockdep has ended: see the kernel's first complaint"
