#!/usr/bin/env python3
"""TCP peers for tests that move one of them, or both. What they receive they check.

network.py serve PORT                 echoes all that comes, until SIGTERM
network.py ping HOST PORT FILE        one number and its echo at a time, until FILE exists
network.py stream HOST PORT FILE      bytes both ways as fast as they go, until FILE exists

Prints `ready PID` (stderr) and at the end `ok …`; what is wrong is BAD, and ends it with 1.
"""
import hashlib
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time

CHUNK = 1 << 16
PATIENCE_SECONDS = 60


def ready():
    os.write(2, b"ready %d\n" % os.getpid())


def bad(text):
    print("BAD", text, flush=True)
    os._exit(1)


class Echo:
    """One connection: no more is read than could be written."""

    def __init__(self, connection):
        self.connection = connection
        self.waiting = b""
        self.ended = False

    def events(self):
        wanted = selectors.EVENT_WRITE if self.waiting else 0
        return wanted | (selectors.EVENT_READ if len(self.waiting) < CHUNK and not self.ended else 0)

    def step(self, events):
        if events & selectors.EVENT_READ:
            data = self.connection.recv(CHUNK)
            self.waiting += data
            self.ended = not data
        if self.waiting:
            try:
                self.waiting = self.waiting[self.connection.send(self.waiting):]
            except BlockingIOError:
                pass
        return not self.ended or self.waiting


def serve(port):
    listener = socket.create_server(("", port), backlog=64)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    served = broken = 0

    def finish(*_):
        print(f"ok served={served} broken={broken}", flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, finish)
    ready()
    while True:
        for key, events in selector.select():
            if key.data is None:
                connection, _ = listener.accept()
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, Echo(connection))
                served += 1
                continue
            try:
                goes_on = key.data.step(events)
            except OSError as error:
                print("broken:", error, flush=True)
                broken += 1
                goes_on = False
            if goes_on:
                selector.modify(key.fileobj, key.data.events(), key.data)
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def connect(host, port):
    connection = socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ping(host, port, until):
    connection = connect(host, port)
    ready()
    count, longest = 0, 0.0
    while not os.path.exists(until):
        began = time.monotonic()
        connection.sendall(struct.pack("!Q", count))
        answer = connection.recv(8, socket.MSG_WAITALL)
        if answer != struct.pack("!Q", count):
            bad(f"{answer!r} instead of {count}")
        longest = max(longest, time.monotonic() - began)
        count += 1
        print("tick", count, flush=True)
        time.sleep(0.002)
    print(f"ok pings={count} longest_pause_ms={longest * 1e3:.0f}", flush=True)


def stream(host, port, until):
    connection = connect(host, port)
    sent = hashlib.blake2b()
    totals = [0]

    def send():
        block, turn = os.urandom(CHUNK), 0
        while not os.path.exists(until):
            data = block[turn % CHUNK:] + struct.pack("!Q", turn)
            connection.sendall(data)
            sent.update(data)
            totals[0] += len(data)
            turn += 1
        connection.shutdown(socket.SHUT_WR)

    ready()
    sender = threading.Thread(target=send)
    sender.start()
    received, total, told = hashlib.blake2b(), 0, 0
    while data := connection.recv(CHUNK):
        received.update(data)
        total += len(data)
        if total - told >= 1 << 20:
            told = total
            print("tick", total >> 20, flush=True)
    sender.join()
    if total != totals[0] or received.digest() != sent.digest():
        bad(f"{total} bytes came back of {totals[0]}, or others")
    print(f"ok bytes={total}", flush=True)


def main():
    role, *rest = sys.argv[1:]
    try:
        if role == "serve":
            serve(int(rest[0]))
        elif role == "ping":
            ping(rest[0], int(rest[1]), rest[2])
        else:
            stream(rest[0], int(rest[1]), rest[2])
    except OSError as error:
        bad(f"{role}: {error}")


main()
