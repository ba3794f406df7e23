# SPDX-License-Identifier: GPL-2.0
"""Many that fork at once: no pid leaves a slice that has room."""

import os
import signal
import subprocess
import threading

from cases.events import Listener
from gestalt import FORK, OUTSIDE, Socket
from machine import NEWPID, few, inside, storm


def in_slice(first, last, work):
    """The pids outside, as counted by who forked, by fork events, and by the module."""
    def use():
        with Socket() as netlink:
            netlink.slice_set(first, last)
            outside = work(netlink)
            return outside, vars(netlink.slice_get()), os.stat("/proc/self/ns/pid").st_ino

    with Listener() as listener:
        outside, told, _ = inside(use, NEWPID)
        events = listener.end()
    numbers = [event.pids[1] for event in events
               if event.type == FORK and event.inum == told["inum"]]
    strays = [number for number in numbers if not first <= number <= last and number != 1]
    print("# %d forks, %d outside, rewound %d times" % (len(numbers), len(strays), told["rewound"]))
    assert not outside and not strays, (outside[:5], strays[:5])
    assert told["outside"] == 0 and told["rewound"] > 0, told
    assert not any(event.type == OUTSIDE for event in events)
    return len(numbers)


def test_usual_slice(_):
    """2^12 pids, 5,000 forks, from eight processes."""
    first, last = 49152, 49151 + few(4096)
    assert in_slice(first, last, lambda _: storm(8, few(625), first, last)) >= few(4500)


def test_tiny_slice(_):
    first, last = 10000, 9999 + few(1024)
    assert in_slice(first, last, lambda _: storm(8, few(500), first, last)) >= few(3500)


def test_crowded_slice(_):
    """Nearly all of it is in use, in long runs."""
    def work(_):
        gate = threading.Event()
        threading.stack_size(65536)
        threads = [threading.Thread(target=gate.wait) for _ in range(900)]
        for thread in threads:
            thread.start()
        outside = storm(6, few(150), 20000, 20999)
        gate.set()
        for thread in threads:
            thread.join()
        return outside

    assert in_slice(20000, 20999, work) >= 900 + few(800)


def test_forks_that_fail(_):
    """Pids that are allocated and given back at once, by a limit on processes."""
    place = "/tmp/gestalt-pids"
    os.makedirs(place, exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup2", "none", place], check=True)
    try:
        with open(place + "/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write("+pids")
        os.makedirs(place + "/limited", exist_ok=True)
        with open(place + "/limited/pids.max", "w", encoding="ascii") as file:
            file.write("24")

        def work(_):
            def join():
                with open(place + "/limited/cgroup.procs", "w", encoding="ascii") as file:
                    file.write("0")

            failing = subprocess.Popen(
                ["/usr/bin/python3", "-c", FAILING], preexec_fn=join, stdout=subprocess.PIPE)
            # Python may need longer to start than all of a storm takes.
            failing.stdout.readline()
            outside = storm(4, few(350), 30000, 30511)
            failing.send_signal(signal.SIGTERM)
            text, _ = failing.communicate()
            assert int(text) > few(100), "forks did not fail"
            print("# %d forks failed" % int(text), flush=True)
            return outside

        in_slice(30000, 30511, work)
    finally:
        os.rmdir(place + "/limited")
        subprocess.run(["umount", place], check=True)


FAILING = """
import os, signal, sys
failed, going = 0, True
def end(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, end)
children = []
while going:
    try:
        child = os.fork()
    except OSError:
        failed += 1
        if failed == 1:
            print("failing", flush=True)
        continue
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pause()
        os._exit(0)
    children.append(child)
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
print(failed)
"""


def test_cursor_written_all_the_time(_):
    """By a poller, as there is without the module: both want it in the slice."""
    def work(_):
        script = "while :; do echo 9999 >/proc/sys/kernel/ns_last_pid; done"
        writer = subprocess.Popen(["/bin/sh", "-c", script])
        outside = storm(4, few(350), 10000, 11023)
        writer.kill()
        writer.wait()
        return outside

    def use():
        with Socket() as netlink:
            netlink.slice_set(10000, 11023)
            return work(netlink), vars(netlink.slice_get())

    outside, told = inside(use, NEWPID)
    assert not outside and told["outside"] == 0, (outside[:5], told)
