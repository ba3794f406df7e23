# SPDX-License-Identifier: GPL-2.0
"""/proc/gestalt, for people."""

import os
import subprocess

from machine import NEWPID, NOBODY, inside, read, spinning


def test_load(_):
    values = dict(line.split(" ", 1) for line in read("/proc/gestalt/load").splitlines())
    assert int(values["threads"]) >= int(values["processes"]) > 1
    assert "cpu0_ns" in values and float(values["load_1"]) >= 0
    assert int(values["memory_total_bytes"]) > 1 << 20


def rows(path):
    lines = read(path).splitlines()
    names = lines[0].split()
    return [dict(zip(names, line.split(None, len(names) - 1))) for line in lines[1:]]


def test_tasks(_):
    found = {int(row["PID"]): row for row in rows("/proc/gestalt/tasks")}
    own = found[os.getpid()]
    assert own["COMM"] == read("/proc/self/comm").strip() and int(own["PPID"]) == os.getppid()
    assert own["S"] == "R" and 1 in found


def test_tasks_in_small_pieces(_):
    kept = [subprocess.Popen(["sleep", "1000"]) for _ in range(100)]
    shell = spinning()
    for size in (1, 7, 100, 4096):
        text = b""
        with open("/proc/gestalt/tasks", "rb", buffering=0) as file:
            while piece := file.read(size):
                text += piece
                if size == 1 and len(text) > 3000:
                    break
        pids = [int(line.split()[0]) for line in text.splitlines()[1:-1]]
        assert pids == sorted(set(pids))
        assert size == 1 or {process.pid for process in kept} <= set(pids)
    for process in kept + [shell]:
        process.kill()
        process.wait()


def test_reader_has_own_view(_):
    def look():
        tasks, spaces = rows("/proc/gestalt/tasks"), rows("/proc/gestalt/pidns")
        return [row["PID"] for row in tasks], [row["INIT"] for row in spaces]

    assert inside(look, NEWPID) == (["1"], ["1"])
    assert inside(look, 0, NOBODY)[0][0] == "1"


def test_newline_in_name(_):
    script = "import ctypes,sys; ctypes.CDLL(None).prctl(15, b'a\\nb \\\\', 0, 0, 0); " \
             "print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(["/usr/bin/python3", "-c", script], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    process.stdout.readline()
    [row] = [row for row in rows("/proc/gestalt/tasks") if int(row["PID"]) == process.pid]
    assert row["COMM"] == "a\\012b \\134", row
    process.stdin.close()
    process.wait()
