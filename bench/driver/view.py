"""The single view against native /proc: 1,000 local and 9,000 remote tasks against 10,000
local ones, of which 500 change each second, in both."""

import json
import os
import subprocess
import time

import nodes
from nodes import DESTINATION, SOURCE, Failed

PROGRAMS = "/usr/lib/gestalt/bench"
LOCAL, REMOTE = 1000, 9000
CHANGES_PERCENT = 5  # a second
PS = ("ps", "-eo", "pid,stat,rss,comm")
TOP = ("top", "-b", "-n2", "-d1")
DAEMONS = ("gestaltd", "gestalt-view", "gestalt-ghosts")


def _json(argv, timeout=120):
    try:
        ended = subprocess.run(
            [str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"not finished in {timeout} s: {argv[-1]}") from error
    if ended.returncode != 0:
        raise Failed((ended.stderr.strip().splitlines() or [f"exit {ended.returncode}"])[-1])
    return json.loads(ended.stdout)


def _timing(times, argv):
    return ["python3", "-B", f"{PROGRAMS}/timing.py", times, *argv]


class Started:
    """A program of ours that runs until the end of a `with`, and says "ready PID"."""

    def __init__(self, *argv):
        self.child = subprocess.Popen(
            [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.name = " ".join(map(str, argv[-3:]))

    def await_ready(self):
        line = self.child.stdout.readline()
        if not line.startswith("ready "):
            raise Failed(f"{self.name} did not begin: {line!r}")
        self.pid = int(line.split()[1])
        return self

    def end(self):
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def _crowd(node, tasks):
    argv = (f"{PROGRAMS}/crowd", tasks, tasks * CHANGES_PERCENT // 100)
    return Started("gestalt", "run", "--node", node, "--", *argv)


def _native_crowd(tasks):
    argv = (f"{PROGRAMS}/crowd", tasks, tasks * CHANGES_PERCENT // 100)
    return Started("unshare", "--pid", "--fork", "--kill-child=TERM", "--mount-proc", *argv)


def _child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


class Crowds:
    """Both worlds, populated."""

    def __init__(self):
        # A worker that begins has a cold view, whatever ran before.
        subprocess.run(["pkill", "-KILL", "-f", "gestalt-view.*--worker"], check=False)
        self.programs = [
            _crowd("leader", LOCAL),
            _crowd(SOURCE, REMOTE // 2),
            _crowd(DESTINATION, REMOTE - REMOTE // 2),
            Started("gestalt", "run", "--node", SOURCE, "--", f"{PROGRAMS}/crowd", "clock"),
            _native_crowd(LOCAL + REMOTE),
        ]

    def __enter__(self):
        try:
            for program in self.programs:
                program.await_ready()
            self.local, _, _, self.clock, self.native = self.programs
            # By its pid outside; it is the first process of its own namespace.
            self.native_pid = _child_of(self.native.child.pid)
            # In the session all are to be seen before anything is measured.
            self._session_sees_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for program in self.programs:
            program.end()

    def _session_sees_all(self):
        def complete():
            out = self.in_session(_timing(1, ("ls", "/proc")))
            return out["runs"][0]["lines"] >= LOCAL + REMOTE

        nodes.wait_until(complete, "the session sees all tasks", 60, 0.2)

    def in_session(self, argv):
        return _json(["gestalt", "shell", "-c", " ".join(map(str, argv))])

    def natively(self, argv):
        return _json(["nsenter", "-t", self.native_pid, "-p", "-m", "--", *argv])

    def timed(self, where, argv):
        run = where(_timing(1, argv))["runs"][0]
        if run["lines"] < LOCAL + REMOTE:
            raise Failed(f"{argv[0]} showed {run['lines']} lines for {LOCAL + REMOTE} tasks")
        return run


def _pids_of_daemons():
    out = subprocess.run(["pgrep", "-x", "|".join(DAEMONS)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in out.split()]


def daemons_cpu_seconds():
    """Of all threads of ours on the leader, that live."""
    total = 0
    for pid in _pids_of_daemons():
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def _top(crowds):
    before = daemons_cpu_seconds()
    shown = crowds.timed(crowds.in_session, TOP)
    ours = daemons_cpu_seconds() - before
    return {"top_cpu_seconds": shown["cpu_seconds"], "daemons_cpu_seconds": ours}


def _age(crowds, seconds=10):
    before, began = daemons_cpu_seconds(), time.monotonic()
    found = crowds.in_session([f"{PROGRAMS}/proc_reader", "age", crowds.clock.pid, seconds])
    share = (daemons_cpu_seconds() - before) / (time.monotonic() - began)
    return {
        "age_median_seconds": found["median_ms"] / 1000,
        "age_max_seconds": found["max_ms"] / 1000,
        "leader_share_of_a_cpu": share,
    }


def _local_stat(crowds, count=100_000):
    reader = (f"{PROGRAMS}/proc_reader", "cost")
    one = crowds.in_session([*reader, crowds.local.pid, count])["ns_each"]
    other = crowds.natively([*reader, 1, count])["ns_each"]
    return {"stat_seconds": one / 1e9, "native_stat_seconds": other / 1e9}


def view(_sizes):
    """All that is measured, once; ours and native in turns."""
    result = {}
    with Crowds() as crowds:
        first = crowds.timed(crowds.in_session, PS)
        result["first_ps_seconds"] = first["wall_seconds"]
        crowds.timed(crowds.natively, PS)
        ours, native = zip(
            *((crowds.timed(crowds.in_session, PS), crowds.timed(crowds.natively, PS)) for _ in range(5))
        )
        result["ps_seconds"] = sorted(run["wall_seconds"] for run in ours)[2]
        result["native_ps_seconds"] = sorted(run["wall_seconds"] for run in native)[2]
        crowds.timed(crowds.in_session, TOP)  # it reads a file more than ps
        result |= _top(crowds)
        result["native_top_cpu_seconds"] = crowds.timed(crowds.natively, TOP)["cpu_seconds"]
        result |= _local_stat(crowds)
        result |= _age(crowds)
    return result
