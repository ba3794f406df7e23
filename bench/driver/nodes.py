"""The nodes as the driver sees them: commands there, and what they came to."""

import concurrent.futures
import json
import socket
import time

from agent import PORT

SOURCE, DESTINATION = "node1", "node2"


class Failed(Exception):
    """A measurement failed: something that should have worked did not."""


class NotMeasured(Exception):
    """It cannot be measured here, or not yet; the text says why."""


def run(node, argv, timeout=60):
    """What the command came to, as the agent tells it; it may have failed."""
    request = {"argv": [str(word) for word in argv], "timeout": timeout}
    try:
        with socket.create_connection((node, PORT), timeout=10) as connection:
            connection.settimeout(timeout + 5)
            with connection.makefile("rw") as stream:
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                return json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise Failed(f"{node}: {argv[0]}: {error}") from error


def await_agents(names, seconds=20):
    """They are started along with the driver."""

    def answers(node):
        try:
            return run(node, ["true"])["status"] == 0
        except Failed:
            return False

    for node in names:
        wait_until(lambda: answers(node), f"the agent of {node} answers", seconds, 0.05)


def check(node, argv, timeout=60):
    """Its output; Failed with its last message if it did not exit 0."""
    result = run(node, argv, timeout)
    if result["status"] != 0:
        raise Failed(f"{node}: {argv[0]}: {last_line(result)}")
    return result["out"]


def shell(node, script, *arguments, timeout=60):
    """The script's output; its arguments are $1 and so on."""
    result = run(node, ["bash", "-c", script, "bench", *arguments], timeout)
    if result["status"] != 0:
        raise Failed(f"{node}: {last_line(result)}")
    return result["out"]


_pool = concurrent.futures.ThreadPoolExecutor(max_workers=8)


def start(function, *arguments, **options):
    """A future: the function runs meanwhile."""
    return _pool.submit(function, *arguments, **options)


def last_line(result):
    lines = [line for line in (result["err"] + "\n" + result["out"]).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit {result['status']} without a message"


def wait_until(true, what, seconds=30, poll=0.005):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(poll)


def await_listener(node, port):
    wait_until(
        lambda: run(node, ["ss", "-Hltn", f"sport = :{port}"])["out"].strip(),
        f"somebody listens at port {port} of {node}",
        10,
        0.02,
    )
