#!/usr/bin/env python3
"""A Python program that checks itself while it is moved between nodes.

A dictionary that grows, a generator in mid-flight, a SHA-256 in progress, an open file,
a thread, a random generator's state. Same lines and statuses as the other victims (see
victim.h): ready PID, tick N, ok COUNTERS and 0, BAD WHAT and 99.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time


def say(text):
    print(text, flush=True)


def check(good, what):
    if not good:
        say(f"BAD {what}")
        os._exit(99)


def fibonacci(modulus):
    a, b = 0, 1
    while True:
        yield a
        a, b = b, (a + b) % modulus


class Worker(threading.Thread):
    """Counts with its own local state until told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rounds = 0
        self.wanted = True

    def run(self):
        ident = threading.get_native_id()
        local = threading.local()
        local.seen = []
        while self.wanted:
            local.seen.append(self.rounds)
            check(local.seen == list(range(len(local.seen))), "thread-local list")
            if len(local.seen) >= 100:
                local.seen.clear()
                self.rounds = -1
            self.rounds += 1
            check(threading.get_native_id() == ident, "thread id")
            time.sleep(0.005)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--until", default="")
    options = parser.parse_args()

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    table = {}
    digest = hashlib.sha256()
    generator = fibonacci(10**30)
    dice = random.Random(42)
    file = tempfile.TemporaryFile("w+", dir=options.dir)
    worker = Worker()
    worker.start()
    pid, parent = os.getpid(), os.getppid()
    began = last_tick = time.monotonic()
    ticks = number = 0
    say(f"ready {pid}")

    while not stop.is_set() and (options.count == 0 or number < options.count):
        for _ in range(50):
            value = next(generator)
            table[f"key-{number}"] = value
            digest.update(b"%d\n" % value)
            file.write(f"{value} {dice.getrandbits(64)}\n")
            number += 1
        probe = number * 7919 % number
        check(f"key-{probe}" in table and len(table) == number, "dictionary")
        check((os.getpid(), os.getppid()) == (pid, parent), "pid or parent")
        check(worker.is_alive(), "thread")
        now = time.monotonic()
        check(now >= began, "clock went back")
        if now - began > options.seconds or (options.until and os.path.exists(options.until)):
            break
        if now - last_tick > 0.2:
            say(f"tick {ticks}")
            ticks, last_tick = ticks + 1, now
        time.sleep(0.01)

    # Everything once more, from the start.
    again, dice, expected = fibonacci(10**30), random.Random(42), hashlib.sha256()
    file.flush()
    file.seek(0)
    for i, line in enumerate(file):
        value = next(again)
        expected.update(b"%d\n" % value)
        check(table[f"key-{i}"] == value, f"entry {i}")
        check(line == f"{value} {dice.getrandbits(64)}\n", f"line {i} of the file")
    check(i + 1 == number, "length of the file")
    check(digest.digest() == expected.digest(), "SHA-256")
    worker.wanted = False
    worker.join()
    say(f"ok ticks={ticks} entries={number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
