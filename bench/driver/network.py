"""How long the peers of a job with a network of its own wait while it moves.

Python's echo server, and clients on the leader, each with one request under way at a time.
"""

import csv
import json
import socket
import subprocess
import threading
import time

import nodes
from nodes import DESTINATION, SOURCE, Failed

PORT = 7723
CLIENTS = 8
MOVES = 10
PAUSE_SECONDS = 0.3  # between two moves
PATIENCE_SECONDS = 30

SERVER = """
import os, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
server = Server(("", %d), Echo)
print("ready", os.getpid(), flush=True)
server.serve_forever()
""" % PORT


class Client(threading.Thread):
    """Notes (when, how long) of each request, by time.time()."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.connection = socket.create_connection((address, PORT), timeout=PATIENCE_SECONDS)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests = []
        self.failed = None
        self.stopping = False

    def run(self):
        request = b"x" * 32
        try:
            while not self.stopping:
                began = time.time()
                self.connection.sendall(request)
                if self.connection.recv(len(request), socket.MSG_WAITALL) != request:
                    raise OSError("another answer")
                self.requests.append((began, time.time() - began))
                time.sleep(0.001)
        except OSError as error:
            self.failed = error
        finally:
            self.connection.close()

    def longest(self, began, ended):
        return max((length for at, length in self.requests if at + length >= began and at <= ended), default=0.0)


def gestalt_json(*arguments):
    ended = subprocess.run(
        ["gestalt", *map(str, arguments), "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if ended.returncode != 0:
        raise Failed(f"gestalt {arguments[0]}: {nodes.last_line({'err': ended.stderr, 'out': ended.stdout})}")
    return json.loads(ended.stdout)


def pauses(mode):
    """Of all moves, the longest pause of any client over the freeze time of that move."""

    def measure(_sizes):
        server = subprocess.Popen(
            ["gestalt", "run", "--net", "own", "--node", SOURCE, "--", "python3", "-c", SERVER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        clients = []
        try:
            pid = int(server.stdout.readline().split()[1])
            address = next(task["address"] for task in gestalt_json("ps") if task["pid"] == pid)
            clients = [Client(address) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            moves = []
            for i in range(MOVES):
                time.sleep(PAUSE_SECONDS)
                began = time.time()
                stats = gestalt_json("migrate", pid, SOURCE if i % 2 else DESTINATION, "--mode", mode)[0]
                moves.append((began, time.time() + PAUSE_SECONDS / 2, stats["freeze_seconds"]))
            time.sleep(PAUSE_SECONDS)
            for client in clients:
                client.stopping = True
            for client in clients:
                client.join(PATIENCE_SECONDS)
                if client.failed:
                    raise Failed(f"a connection broke: {client.failed}")
            longest = [(max(c.longest(began, ended) for c in clients), freeze) for began, ended, freeze in moves]
            pause, freeze = max(longest, key=lambda each: each[0] / each[1])
            return {"pause_seconds": pause, "freeze_seconds": freeze}
        finally:
            for client in clients:
                client.stopping = True
            server.terminate()
            server.wait(PATIENCE_SECONDS)

    return measure


REDIS_CLIENTS = 20


def redis_benchmark(address, requests):
    """Its seconds and its longest request; an error of any request is one of the program."""
    command = ["redis-benchmark", "-h", address, "-c", REDIS_CLIENTS, "-n", requests, "-t", "get", "--csv"]
    began = time.monotonic()
    ended = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    lines = list(csv.DictReader(ended.stdout.splitlines()))
    if ended.returncode != 0 or len(lines) != 1 or "rror" in ended.stderr:
        raise Failed(f"redis-benchmark: {ended.stdout} {ended.stderr}")
    return time.monotonic() - began, float(lines[0]["max_latency_ms"]) / 1e3


def redis(_sizes):
    """redis-server under load, moved ten times: the longest request ÷ the freeze of that move."""
    command = ["redis-server", "--save", "", "--protected-mode", "no", "--logfile", "/dev/null"]
    server = subprocess.Popen(
        ["gestalt", "run", "--net", "own", "--node", SOURCE, "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )

    def task():
        return next((each for each in gestalt_json("ps") if each["command"].startswith("redis-server")), None)

    try:
        nodes.wait_until(task, "redis-server runs", 10, 0.1)
        pid, address = task()["pid"], task()["address"]
        time.sleep(0.5)
        seconds, _ = redis_benchmark(address, 20000)
        requests = int(20000 / seconds * 1.5)
        worst = (0.0, 1.0)
        for i in range(MOVES):
            load = nodes.start(redis_benchmark, address, requests)
            time.sleep(PAUSE_SECONDS)
            stats = gestalt_json("migrate", pid, SOURCE if i % 2 else DESTINATION)[0]
            worst = max(worst, (load.result()[1], stats["freeze_seconds"]), key=lambda each: each[0] / each[1])
        return {"pause_seconds": worst[0], "freeze_seconds": worst[1]}
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)
