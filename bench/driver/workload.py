"""The program that is moved (bench/workloads/memory.cc), under Gestalt or on its own."""

import glob
import itertools
import json
import os
import subprocess

import nodes
from nodes import DESTINATION, SOURCE, Failed

PROGRAMS = "/usr/lib/gestalt/bench"
CONTROL = "/var/tmp/bench"  # on the root that all nodes share

_numbers = itertools.count(1)


class Workload:
    """Common to both ways: the files by which it is told and tells."""

    def __init__(self, *options):
        os.makedirs(CONTROL, exist_ok=True)
        self.control = f"{CONTROL}/{next(_numbers)}"
        self.pid = 0
        self.argv = self.program(*map(str, options))
        self._report = None

    def program(self, *options):
        return [f"{PROGRAMS}/memory", "--control", self.control, *options]

    def _has(self, suffix):
        return os.path.exists(self.control + suffix)

    def _tell(self, suffix):
        open(self.control + suffix, "w").close()

    def ended_early(self):
        return None

    def _await(self, suffix, seconds):
        def there():
            why = self.ended_early()
            if why and not self._has(suffix):
                raise Failed(why)
            return self._has(suffix)

        nodes.wait_until(there, f"{suffix[1:]} of {' '.join(self.argv[3:])}", seconds)

    def begin(self):
        self._tell(".begin")

    def await_done(self, seconds=60):
        self._await(".done", seconds)

    def report(self):
        """Ends it, and has what it tells of itself."""
        if self._report is None:
            self._tell(".end")
            self._await(".report", 60)
            with open(self.control + ".report") as file:
                self._report = json.load(file)
        return self._report

    def freeze_gap_seconds(self):
        """How long it stood still when it moved: after that gap it was on another node."""
        gaps = [length for _, length, moved in self.report()["gaps"] if moved]
        if len(gaps) != 1:
            raise Failed(f"the program noticed {len(gaps)} moves instead of one")
        return gaps[0] / 1e9

    def longest_gap_seconds(self, began, ended):
        """The longest time that it stood still between two times, its waits for a CPU too."""
        return max(
            length
            for start, length, _ in self.report()["gaps"]
            if start + length >= began * 1e9 and start <= ended * 1e9
        ) / 1e9

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        for path in glob.glob(self.control + ".*"):
            os.unlink(path)

    def end(self):
        raise NotImplementedError


class Job(Workload):
    """Run by `gestalt run` on the source."""

    def __init__(self, *options):
        super().__init__(*options)
        self._client = subprocess.Popen(
            ["gestalt", "run", "--node", SOURCE, "--", *self.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self._await(".ready", 60)
        except Failed:
            self.end()
            raise
        with open(self.control + ".ready") as file:
            self.pid = int(file.read())

    def ended_early(self):
        if self._client.poll() is None:
            return None
        said = self._client.stdout.read().strip().splitlines()[-1:] or ["nothing"]
        return f"the job ended with {self._client.returncode}, saying {said[0]}"

    def end(self):
        """However it is: nothing of it stays."""
        if self._client.poll() is None and self.pid:
            if self._report is None:
                subprocess.run(["gestalt", "kill", "-KILL", str(self.pid)], capture_output=True, timeout=20)
        try:
            self._client.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._client.kill()
            self._client.wait()
        self._client.stdout.close()


class Process(Workload):
    """Without Gestalt, on the source, for CRIU alone.

    Its pids are free on the other node. Its parent is the node's init, which reaps it at
    once when CRIU has killed it, and nothing but /dev/null is open in it.
    """

    _pids = itertools.count(3_000_000, 100)
    _START = """echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; shift
        setsid "$@" </dev/null >/dev/null 2>&1 &"""

    def __init__(self, *options):
        super().__init__(*options)
        self.pid = next(self._pids)
        nodes.shell(SOURCE, self._START, self.pid, *self.argv)
        try:
            self._await(".ready", 60)
            with open(self.control + ".ready") as file:
                if int(file.read()) != self.pid:
                    raise Failed(f"the process has not pid {self.pid}")
        except Failed:
            self.end()
            raise

    def end(self):
        for node in (SOURCE, DESTINATION):
            nodes.run(node, ["kill", "-KILL", self.pid])
