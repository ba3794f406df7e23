"""A user in a session (gestalt shell) at a terminal, whose processes move to other nodes
while he works; for tests. Those who move them are root or he, from elsewhere."""

import contextlib
import json
import os
import pwd
import subprocess
import time

from expect import Failed, Terminal, equal


class Session(Terminal):
    PROMPT = "prompt> "

    def __init__(self, user=None, shell="/bin/bash"):
        command = ["env", f"SHELL={shell}", "TERM=vt100", "PYTHON_BASIC_REPL=1", "gestalt", "shell"]
        if user:
            group = pwd.getpwnam(user).pw_gid
            command = ["env", "--chdir=/", "HOME=/", "setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups"] + command
        super().__init__(*command)
        self.type("cd; bind 'set enable-bracketed-paste off' 2>/dev/null; PS1='pr''ompt> '; PS2=\n")
        self.expect(self.PROMPT)

    def run(self, command, seconds=15):
        """What the command says, once the shell asks for the next."""
        self.text = ""
        self.type(command + "; echo st''atus $?\n")
        # Before its prompt the shell tells what has become of its jobs.
        said = self.expect(r"([\s\S]*?)status (\d+)\s[\s\S]*?" + self.PROMPT, seconds)
        self.status = int(said.group(2))
        return said.group(1).split("\n", 1)[-1].replace("\r", "")

    def start(self, command):
        """In the background; its pid."""
        self.type(command + " &\n")
        self.expect(self.PROMPT)
        pid, shell = (int(word) for word in self.run("echo $! $$").split())
        wait_until(lambda: arguments_of(pid) != arguments_of(shell), "the shell's child is the program")
        return pid

    def leave(self):
        self.type("exit\n")
        equal(self.wait(), 0, "exit status of the session")


def gestalt(*arguments):
    return subprocess.run(["timeout", "60", "gestalt", *map(str, arguments)],
                          capture_output=True, text=True, check=False)


def move(pid, node, *options):
    done = gestalt("migrate", pid, node, "--timeout", "30", *options)
    if done.returncode:
        raise Failed(f"{pid} did not move to {node}: {done.stderr}")


def processes(pid):
    listed = json.loads(gestalt("ps", "--json").stdout)
    return [each for each in listed if each["pid"] == int(pid)]


def node_of(pid):
    """Of all nodes that have it: there must be one."""
    return ",".join(each["node"] for each in processes(pid))


def residue(pid):
    """What would tell that it is not an ordinary child of its shell at home."""
    host = host_pid_of(pid)
    status = dict(line.split(":", 1) for line in open(f"/proc/{host}/status", encoding="utf-8"))
    return {
        "program": os.readlink(f"/proc/{host}/exe"),
        "parent": status["PPid"].strip(),
        "group": open(f"/proc/{host}/cgroup", encoding="utf-8").read(),
        "mounts": os.readlink(f"/proc/{host}/ns/mnt"),
        "streams": [os.readlink(f"/proc/{host}/fd/{number}") for number in range(3)],
        "tracer": status["TracerPid"].strip(),
        "jobs": sorted(each["job_id"] for each in processes(pid)),
        # As numbered in the cluster.
        "ids": [status[key].split()[-1] for key in ("NSpid", "NSpgid", "NSsid")],
    }


@contextlib.contextmanager
def fault(what, node="leader"):
    """A numbered fault of that node (common/fault.h): 33, or "33:exit"."""
    on_node = [] if node == "leader" else ["gestalt", "run", "--node", node, "--"]
    file = "/run/gestalt/fault"
    subprocess.run([*on_node, "sh", "-c", f"echo {what} >{file}"], check=True, timeout=60)
    time.sleep(0.05)  # a new file is noticed within 10 ms
    try:
        yield
    finally:
        subprocess.run([*on_node, "rm", file], check=True, timeout=60)


def content(path):
    """Of a file that may not be there yet."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def arguments_of(pid):
    return content(f"/proc/{host_pid_of(pid)}/cmdline")


def pid_of(command):
    """Of what was started by a command that begins so. What it has forked has its name until it executes something else."""
    found = []

    def is_alone():
        listed = json.loads(gestalt("ps", "--json").stdout)
        found[:] = [each["pid"] for each in listed if each["command"].startswith(command)]
        return len(found) == 1

    wait_until(is_alone, f"one process is {command!r}")
    return found[0]


def host_pid_of(pid):
    """Of what has this pid in the cluster here, as the leader itself numbers it."""
    for each in os.listdir("/proc"):
        try:
            if each.isdigit() and f"\nNSpid:\t{each}\t{pid}\n" in open(f"/proc/{each}/status", encoding="utf-8").read():
                return each
        except OSError:
            continue
    raise Failed(f"no process {pid}")


def wait_until(condition, what, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not so in time: {what}")
        time.sleep(0.1)
