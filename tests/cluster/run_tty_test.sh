#!/bin/bash
# `gestalt run` at a terminal: size, keys that send signals, job control under bash, raw
# mode and its end; also when the program has moved. Python on the leader is the user.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# at_terminal: runs the Python code on stdin on the leader. tests/victims/expect.py.
at_terminal() {
  { printf 'import sys, subprocess, termios, time\nsys.path.insert(0, "%s")\nfrom expect import *\n' "$victims"; cat; } |
    on leader timeout --kill-after=5 80 python3 -
}

test_it_is_a_terminal() {
  at_terminal <<'END'
def test():
    t = Terminal("gestalt", "run", "--node", "node1", "--", "bash", "-c",
                 "test -t 0 && test -t 1 && test -t 2 && tty && echo to-tty >/dev/tty; uname -n; echo $TERM")
    t.expect(r"/dev/pts/\d+")
    t.expect("to-tty")
    t.expect("node1")
    equal(t.wait(), 0, "exit status")
main(test)
END
}

test_exit_status() {
  at_terminal <<'END'
def test():
    for command, status in (("exit 7", 7), ("kill -TERM $$", 143), ("true", 0)):
        t = Terminal("gestalt", "run", "--node", "node1", "--", "sh", "-c", command)
        equal(t.wait(), status, command)
    equal(Terminal("gestalt", "run", "--node", "node1", "--", "no-such-program").wait(), 127, "unknown")
main(test)
END
}

test_window_size() {
  at_terminal <<'END'
def test():
    t = Terminal("gestalt", "run", "--node", "node1", "--", "bash", "-c",
                 "trap 'echo size $(stty size)' WINCH; echo size $(stty size); while :; do sleep 0.1; done",
                 rows=31, columns=97)
    t.expect("size 31 97")
    t.resize(50, 132)
    t.expect("size 50 132")
    t.type("\x03")
    equal(t.wait(), 130, "exit status after Ctrl-C")
main(test)
END
}

test_keys_that_send_signals() {
  at_terminal <<'END'
def test():
    for key, name in (("\x03", "INT"), ("\x1c", "QUIT")):
        t = Terminal("gestalt", "run", "--node", "node1", "--", "bash", "-c",
                     f"trap 'echo got {name}; exit 5' {name}; echo set up; while :; do sleep 0.05; done")
        t.expect("set up")
        t.type(key)
        t.expect(f"got {name}")
        equal(t.wait(), 5, "exit status")
    t = Terminal("gestalt", "run", "--node", "node1", "--", "cat")
    t.type("a line\n")
    t.expect("a line\r\na line\r\n")
    t.type("\x04")
    equal(t.wait(), 0, "exit status of cat after Ctrl-D")
main(test)
END
}

test_terminal_is_as_before_after_the_end() {
  at_terminal <<'END'
def test():
    t = Terminal("bash", "--norc")
    t.type("PS1='pr''ompt> '\n")
    t.expect("prompt> ")
    for command in ("true", "sh -c 'kill -KILL $$'", "python3 -c 'import tty; tty.setraw(0)'", "no-such-program"):
        before = t.settings()
        t.type(f"gestalt run --node node1 -- {command}\n")
        t.expect("prompt> ")
        equal(t.settings(), before, f"the terminal after {command}")
    t.type("exit\n")
    t.wait()
main(test)
END
}

test_raw_mode_and_single_keys() {
  at_terminal <<'END'
PROGRAM = """import os, sys, tty
tty.setraw(0)
sys.stdout.write("raw now\\r\\n"); sys.stdout.flush()
while (key := os.read(0, 1)) != b"q":
    sys.stdout.write("key %d\\r\\n" % key[0]); sys.stdout.flush()
"""
def test():
    t = Terminal("gestalt", "run", "--node", "node1", "--", "python3", "-c", PROGRAM)
    t.expect("raw now")
    for key in ("x", "\x03", "\x1a", "\r", "\x04", "\x11", "\x13"):
        t.type(key)
        t.expect(f"key {ord(key)}\r\n")
    t.type("q")
    equal(t.wait(), 0, "exit status")
main(test)
END
}

test_job_control_under_bash() {
  at_terminal <<'END'
def test():
    t = Terminal("bash", "--norc")
    t.type("PS1='pr''ompt> '\n")
    t.expect("prompt> ")
    before = t.settings()
    t.type("gestalt run --node node1 -- bash -c 'while :; do echo al\"\"ive; sleep 0.1; done'\n")
    t.expect("alive")
    t.type("\x1a")
    t.expect("Stopped")
    t.expect("prompt> ")
    equal(t.settings(), before, "the terminal of a stopped job's shell")
    t.text = ""
    t.expect_not("alive", 0.7)
    t.type("fg\n")
    t.expect("alive.*alive.*alive".replace(".", "[\\s\\S]"))
    t.type("\x1a")
    t.expect("Stopped")
    t.expect("prompt> ")
    t.type("bg\n")
    t.expect("alive")
    t.type("fg\n")
    t.expect("gestalt run")
    t.type("\x03")
    t.expect("prompt> ")
    t.type("echo status $?\n")
    t.expect("status 130")
    t.type("exit\n")
    t.wait()
main(test)
END
}

test_in_the_background() {
  at_terminal <<'END'
def test():
    t = Terminal("bash", "--norc")
    t.type("PS1='pr''ompt> '\n")
    t.expect("prompt> ")
    t.type("gestalt run --node node1 -- bash -c 'sleep 0.5; echo from the back''ground' &\n")
    t.expect("prompt> ")
    t.type("echo the shell still rea''ds\n")
    t.expect("the shell still reads")
    t.expect("from the background")
    t.type("wait; echo status $?\n")
    t.expect("status 0")
    t.type("exit\n")
    t.wait()
main(test)
END
}

test_only_some_streams_are_the_terminal() {
  at_terminal <<'END'
def test():
    t = Terminal("bash", "--norc")
    t.type("PS1='pr''ompt> '\n")
    t.expect("prompt> ")
    t.type("gestalt run --node node1 -- bash -c 'for i in 0 1 2; do test -t $i; echo -n $?; done' | sed 's/^/tty /'\n")
    t.expect("tty 010")
    t.type("echo in''put | gestalt run --node node1 -- bash -c 'read x; for i in 0 1 2; do test -t $i; echo -n $?; done; echo \" $x\"'\n")
    t.expect("100 input")
    t.type("exit\n")
    t.wait()
main(test)
END
}

test_full_screen_program() {
  at_terminal <<'END'
def test():
    t = Terminal("gestalt", "run", "--node", "node1", "--", "less", "/etc/services")
    t.expect("# Network services")
    t.type("/postgresql\n")
    t.expect("postgresql")
    t.type("q")
    equal(t.wait(), 0, "exit status")
main(test)
END
}

# The user's terminal stays while the program moves.
test_a_terminal_program_moves() {
  at_terminal <<'END'
PROGRAM = """
import os, select, signal, sys, termios
# In handlers no print(): another may be in the middle of its work.
def size(*_):
    os.write(1, b"size %d %d\\n" % tuple(os.get_terminal_size()))
signal.signal(signal.SIGWINCH, size)
def interrupted(*_):
    os.write(1, b"interrupted\\n")
signal.signal(signal.SIGINT, interrupted)
print("ready", os.getpid(), os.ttyname(0), flush=True)
while True:
    # A signal just before read(2) would be handled only after it.
    while not select.select([0], [], [], 0.2)[0]:
        pass
    line = sys.stdin.readline().strip()
    if line == "quit":
        sys.exit(12)
    print("got", line, os.isatty(0), os.isatty(1), os.tcgetpgrp(0) == os.getpgrp(), os.getsid(0), flush=True)
    open("/dev/tty", "w").write("through /dev/tty\\n")
"""
def test():
    t = Terminal("gestalt", "run", "--node", "leader", "--", "python3", "-c", PROGRAM, rows=30, columns=100)
    pid = t.expect(r"ready (\d+)").group(1)
    t.type("first\n")
    session = t.expect(r"got first True True True (\d+)").group(1)
    t.expect("through /dev/tty")
    for number, node in enumerate(("node1", "node2", "leader")):
        moved = subprocess.run(["gestalt", "migrate", pid, node], capture_output=True, timeout=60, text=True)
        equal(moved.returncode, 0, f"migrate to {node}: {moved.stderr}")
        t.type(f"line{number}\n")
        t.expect(f"got line{number} True True True {session}")
        t.expect("through /dev/tty")
        t.resize(40 + number, 120)
        t.expect(f"size 120 {40 + number}")
        t.type("\x03")
        t.expect("interrupted")
    t.type("quit\n")
    equal(t.wait(), 12, "exit status")
main(test)
END
}

test_a_shell_moves_with_its_jobs() {
  at_terminal <<'END'
def test():
    t = Terminal("gestalt", "run", "--node", "leader", "--", "bash", "--norc")
    t.type("PS1='pr''ompt> '; echo pid $$\n")
    pid = t.expect(r"pid (\d+)").group(1)
    t.type("sleep 1000 &\n")
    t.expect("prompt> ")
    t.type("sh -c 'echo cat be''gins; exec cat'\n")
    t.expect("cat begins")  # before that bash would take what is typed
    t.type("to the cat\n")
    t.expect("to the cat\r\nto the cat")
    moved = subprocess.run(["gestalt", "migrate", pid, "node1"], capture_output=True, timeout=60, text=True)
    equal(moved.returncode, 0, f"migrate: {moved.stderr}")
    t.type("still there\n")
    t.expect("still there\r\nstill there")
    t.type("\x1a")
    t.expect("Stopped")
    t.type("jobs; uname -n\n")
    t.expect("Running")
    t.expect("sleep 1000")
    t.expect("cat")
    t.type("kill %1; fg %2\n")
    t.expect("fg %2[\\s\\S]*exec cat")  # before that bash would take what is typed
    t.type("again\n")
    t.expect("again\r\nagain")
    t.type("\x04")
    t.expect("prompt> ")
    t.type("exit 4\n")
    equal(t.wait(), 4, "exit status of the shell")
main(test)
END
}

cluster_up 3
run_tests "$@"
