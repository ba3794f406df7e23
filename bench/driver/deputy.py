"""What a deputy costs: for the freeze of its process, in memory, and for what passes through it.

Sessions on the leader, whose processes move to node1.
"""

import os
import statistics
import subprocess
import tempfile
import time

import nodes
from network import gestalt_json
from nodes import SOURCE

MOVES = 5
RELAYED_BYTES = 256 << 20
PATIENCE_SECONDS = 120

SLEEPER = "import os, time; m = bytearray(os.urandom(1 << 20)) * 64; print(os.getpid(), flush=True); time.sleep(600)"


def session(command):
    """A session that runs a command line of bash."""
    return subprocess.Popen(
        ["env", "SHELL=/bin/bash", "gestalt", "shell", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process, pid):
    gestalt_kill = ["gestalt", "kill", "-KILL", str(pid)]
    subprocess.run(gestalt_kill, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    process.communicate(timeout=PATIENCE_SECONDS)


def freeze_of(process):
    pid = int(process.stdout.readline())
    try:
        return gestalt_json("migrate", pid, SOURCE)[0]["freeze_seconds"]
    finally:
        end(process, pid)


def freezes(_sizes):
    """The same program, by turns as a job's root and as a session's process."""
    of_root, of_member = [], []
    for _ in range(MOVES):
        root = subprocess.Popen(
            ["gestalt", "run", "--node", "leader", "--", "python3", "-c", SLEEPER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        of_root.append(freeze_of(root))
        of_member.append(freeze_of(session(f'python3 -c "{SLEEPER}" & wait')))
    return {"root_seconds": statistics.median(of_root), "member_seconds": statistics.median(of_member)}


def deputy_process(pid):
    """The deputy of a cluster pid, by its number on the leader itself."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/exe").endswith("/gestalt-deputy"):
                with open(f"/proc/{entry}/status", encoding="utf-8") as status:
                    if any(line.split()[-1:] == [str(pid)] for line in status if line.startswith("NSpid:")):
                        return entry
        except OSError:
            continue
    return None


def memory(_sizes):
    """Of a deputy that has nothing to do: what is anonymous and its own."""
    process = session("sleep 600 & echo $!; wait")
    pid = int(process.stdout.readline())
    try:
        gestalt_json("migrate", pid, SOURCE)
        nodes.wait_until(lambda: deputy_process(pid), "there is a deputy", 10, 0.1)
        time.sleep(1)
        with open(f"/proc/{deputy_process(pid)}/smaps_rollup", encoding="utf-8") as smaps:
            sizes = dict(line.split()[:2] for line in smaps.read().splitlines()[1:])
        return {"kib": int(sizes["Anonymous:"])}
    finally:
        end(process, pid)


def relay(_sizes):
    """How fast bytes pass through a `cat` in a pipeline that has moved."""
    with tempfile.TemporaryDirectory() as directory:
        pid_file, go = f"{directory}/pid", f"{directory}/go"
        process = session(
            f"(until [ -e {go} ]; do sleep 0.02; done; head -c {RELAYED_BYTES} /dev/zero) |"
            f" (echo $BASHPID >{pid_file}.new; mv {pid_file}.new {pid_file}; exec cat) | wc -c"
        )
        nodes.wait_until(lambda: os.path.exists(pid_file), "the pipeline runs", 10, 0.05)
        with open(pid_file, encoding="utf-8") as file:
            pid = int(file.read())
        time.sleep(0.5)  # for its exec
        gestalt_json("migrate", pid, SOURCE)
        with open(go, "w", encoding="utf-8"):
            began = time.monotonic()
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        seconds = time.monotonic() - began
    if int(out) != RELAYED_BYTES:
        raise nodes.Failed(f"{out.strip()} bytes came through the pipeline instead of {RELAYED_BYTES}")
    return {"bytes_per_second": RELAYED_BYTES / seconds}
