"""What a deputy costs: for the freeze of its process, in memory, and for what passes through it.

Sessions on the leader, whose processes move to node1.
"""

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time

import criu
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


# Of a session: starts a child, and notes for how long it did not run itself.
WATCHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
time.sleep(0.5)
print(child.pid, flush=True)
gaps, before = [], time.monotonic()
while child.poll() is None:
    until = time.monotonic() + 0.01
    while (now := time.monotonic()) < until:
        if now - before > 0.001:
            gaps.append((before, now - before))
        before = now
print(gaps, flush=True)
"""


def criu_restore_seconds():
    """By its command line, of a process like the one that comes home."""
    process = subprocess.Popen(
        ["setsid", "python3", "-c", "import time; time.sleep(600)"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        options = ["-D", directory, *criu.OPTIONS.split()]
        subprocess.run(["criu", "dump", "--tree", str(process.pid), *options], check=True, capture_output=True, timeout=60)
        process.wait(PATIENCE_SECONDS)
        began = time.monotonic()
        subprocess.run(["criu", "restore", "--restore-detached", *options], check=True, capture_output=True, timeout=60)
        seconds = time.monotonic() - began
    os.kill(process.pid, signal.SIGKILL)
    return seconds


def parent_stop_seconds():
    """What the parent loses while its child comes home: it is stopped twice."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(WATCHER)
        program.flush()
        watcher = session(f"python3 {program.name}")
        pid = int(watcher.stdout.readline())
        gestalt_json("migrate", pid, SOURCE)
        time.sleep(0.5)
        began = time.monotonic()
        gestalt_json("migrate", pid, "leader")
        time.sleep(0.2)
        ended = time.monotonic()
        subprocess.run(["gestalt", "kill", "-KILL", str(pid)], check=True, capture_output=True, timeout=60)
        out, _ = watcher.communicate(timeout=PATIENCE_SECONDS)
    gaps = sorted(gap for at, gap in json.loads(out.replace("(", "[").replace(")", "]")) if began < at < ended)
    if len(gaps) < 1:
        raise nodes.Failed("the parent was not stopped at all")
    return sum(gaps[-2:])


def home(_sizes):
    stops = [parent_stop_seconds() for _ in range(MOVES)]
    restores = [criu_restore_seconds() for _ in range(MOVES)]
    return {"stop_seconds": statistics.median(stops), "restore_seconds": statistics.median(restores)}


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
