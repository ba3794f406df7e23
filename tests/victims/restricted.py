#!/usr/bin/env python3
"""What a program has given up stays given up, wherever it runs: system calls (by filters of each
thread's own), capabilities, randomised addresses. Started by setpriv(1) and setarch(8).

restricted.py --until FILE: as the other victims do: ready, tick, ok.
"""
import ctypes
import errno
import os
import struct
import sys
import threading
import time

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
UNAME, SCHED_YIELD = 63, 24

libc = ctypes.CDLL(None, use_errno=True)


def refuse(number, error):
    """seccomp(2): from now on this thread's call fails so."""
    steps = [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | error), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter")


def result_of(number):
    buffer = ctypes.create_string_buffer(512)
    return 0 if libc.syscall(number, buffer) == 0 else ctypes.get_errno()


def told(thread):
    """By procfs, of which nothing is open while the program is moved: CRIU opens files by name
    before there are threads."""
    keys = ("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "Speculation")
    with open(f"/proc/self/task/{thread}/status") as status:
        return [line for line in status if line.startswith(keys)]


def known():
    return [libc.personality(0xFFFFFFFF), result_of(UNAME), result_of(SCHED_YIELD)]


def watch(expected, name):
    mine = threading.get_native_id()
    before, told_before = known(), told(mine)
    if before[1:] != expected:
        print("BAD", name, "begins with", before, flush=True)
    watching.wait()
    while not ended.is_set():
        now = known()
        if now != before:
            print("BAD", name, now, "instead of", before, flush=True)
            before = now
        time.sleep(0.02)
    if told(mine) != told_before:
        print("BAD", name, told(mine), "instead of", told_before, flush=True)


ended = threading.Event()
watching = threading.Barrier(4)
until = sys.argv[sys.argv.index("--until") + 1]


def other():
    refuse(UNAME, errno.ENOSYS)
    watch([errno.ENOSYS, errno.EPERM], "a thread with one more filter")


free = threading.Thread(target=watch, args=([0, 0], "a thread without filters"))
free.start()
refuse(SCHED_YIELD, errno.EPERM)
more = threading.Thread(target=other)
heir = threading.Thread(target=watch, args=([0, errno.EPERM], "a thread that inherits one"))
for each in (more, heir):
    each.start()
watching.wait()
print("ready", os.getpid(), flush=True)
ticks = 0
while not os.path.exists(until):
    print("tick", ticks, flush=True)
    ticks += 1
    time.sleep(0.1)
ended.set()
for each in (free, more, heir):
    each.join()
print(f"ok ticks={ticks}", flush=True)
