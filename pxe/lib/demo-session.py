"""A user at a terminal on the leader, for pxe/demo: what he types and sees is printed.

A session, with processes on three nodes in stock ps and top; then a job of the shell's that
moves while it is in the foreground, and is stopped, continued and ended by keys."""

import os
import pty
import re
import select
import subprocess
import sys
import time

PROMPT = "you@leader$ "
JOB = "bash -c 'while :; do echo \"still at work, pid $$\"; sleep 1; done'"


class Terminal:
    def __init__(self):
        self.text = ""
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.environ.update(TERM="vt100", SHELL="/bin/bash")
            os.execvp("gestalt", ["gestalt", "shell"])

    def expect(self, pattern, seconds=20):
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                sys.exit(f"\ndemo: no {pattern!r} on the terminal within {seconds} s")
            data = os.read(self.fd, 65536).decode(errors="replace")
            self.text += data
            if self.shown:
                sys.stdout.write(re.sub(r"\x1b[\[(][0-9;?]*[A-Za-z]|\r", "", data))
                sys.stdout.flush()
        self.text = self.text[found.end():]
        return found

    shown = False

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def run(self, command):
        self.type(command + "\n")
        self.expect(re.escape(PROMPT))


def migrate(pid, node):
    """As from another terminal."""
    done = subprocess.run(["gestalt", "migrate", pid, node], capture_output=True, text=True, check=False)
    print(f"\n    [from elsewhere: gestalt migrate {pid} {node}]\n    {(done.stdout or done.stderr).splitlines()[0]}")
    if done.returncode:
        sys.exit("demo: it did not move")


def main():
    user = Terminal()
    user.type(f"bind 'set enable-bracketed-paste off'; PS1='you@''leader$ '; stty cols 100\n")
    user.expect(re.escape(PROMPT))
    user.run("gestalt run --node node1 -- sleep 500 & gestalt run --node node2 -- sleep 500 & sleep 2.5")
    user.shown = True
    user.run("ps -eo pid,ppid,lxc,stat,args | grep -E 'LXC|[s]leep 500|[b]ash'")
    user.run("top -b -n 1 | head -n 5")
    user.type(JOB + "\n")
    pid = user.expect(r"at work, pid (\d+)\s").group(1)
    migrate(pid, "node1")
    user.expect("(?s)still at work.*still at work")
    user.type("\x1a")  # Ctrl-Z
    user.expect(re.escape(PROMPT))
    user.run("jobs %%")
    user.type("fg\n")
    user.expect("(?s)still at work.*still at work")
    user.type("\x03")  # Ctrl-C
    user.expect(re.escape(PROMPT))
    user.run("echo its status: $?")
    user.shown = False
    user.run("kill %1 %2; wait")
    user.type("exit\n")
    os.waitpid(user.child, 0)
    print()


main()
