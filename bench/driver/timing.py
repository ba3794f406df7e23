"""Runs a command again and again: timing.py TIMES COMMAND…

Prints JSON: {"runs": [{"wall_seconds", "cpu_seconds", "lines"}]}, of the command alone.
"""

import json
import os
import subprocess
import sys
import time


def run(argv):
    began = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    if child.returncode != 0:
        sys.exit(f"{argv[0]} ended with {child.returncode}")
    return {
        "wall_seconds": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "lines": out.count(b"\n"),
    }


if __name__ == "__main__":
    print(json.dumps({"runs": [run(sys.argv[2:]) for _ in range(int(sys.argv[1]))]}))
