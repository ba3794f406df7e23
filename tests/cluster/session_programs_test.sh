#!/bin/bash
# Programs that people use in a session, while processes of theirs move: make and its compilers,
# editors, multiplexers, tracers, another shell.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/sessions.sh
. "$repo/tests/cluster/sessions.sh"

[[ -e /dev/fuse ]] || skip_all "no FUSE in this kernel"

# Lua's own make file and sources, built twice: what comes out is the same to the byte.
test_compilers_move_under_make() {
  in_a_session 280 <<'END'
import json, random
def compilers():
    listed = json.loads(gestalt("ps", "--json").stdout)
    return [(each["pid"], each["node"]) for each in listed if "/cc1 " in each["command"] + " "]
def test():
    random.seed(3)
    s = Session()
    s.run("mkdir -p /root/make/tmp; cd /root/make; tar xf /usr/src/lua5.4_*.orig.tar.gz; export TMPDIR=/root/make/tmp")
    s.run("cp -a lua-* kept; mv lua-* lua")
    # So that each compiler works for some seconds.
    build = "make -j8 -C lua/src posix MYCFLAGS='-O3 -g -fsanitize=undefined' MYLIBS=-lubsan >make.log 2>&1"
    s.run(build, 120)
    equal(s.status, 0, open("/root/make/make.log").read()[-2000:])
    s.run("mv lua expected; cp -a kept lua; sync")
    s.type(f"({build}; echo $? >done) &\n")
    s.expect(Session.PROMPT)
    moves = home = 0
    while not os.path.exists("/root/make/done"):
        there = compilers()
        if not there:
            time.sleep(0.02)
            continue
        pid, node = random.choice(there)
        to = random.choice([name for name in ("leader", "leader", "node1", "node2") if name != node])
        moved = gestalt("migrate", pid, to)
        if moved.returncode == 0:
            moves += 1
            home += to == "leader"
    s.run("wait", 60)
    equal(open("/root/make/done").read().strip(), "0", open("/root/make/make.log").read()[-2000:])
    equal(s.run("for f in expected/src/*.o expected/src/*.a expected/src/lua expected/src/luac; do "
                "cmp $f lua/src/$(basename $f); done"), "", "what differs")
    equal(s.run("lua/src/lua -e 'print(6 * 7)'").strip(), "42", "what it says")
    print(f"{moves} moves of compilers, {home} of them home")
    equal(moves >= 10 and home >= 2, True, f"{moves} moves, {home} home, are enough")
    s.leave()
main(test)
END
}

test_an_editor_moves() {
  in_a_session <<'END'
def test():
    s = Session()
    before = s.settings()
    s.run("echo first line >/root/edited")
    s.type("vim.tiny -u NONE /root/edited\n")
    s.expect("first line")
    pid = pid_of("vim.tiny -u NONE /root/edited")
    move(pid, "node1")
    s.type("osecond line\x1b")
    s.expect("second line")
    s.type(":w\r")
    s.expect("written")
    equal(open("/root/edited").read(), "first line\nsecond line\n", "what it has written there")
    move(pid, "leader")
    s.type("othird line\x1b")
    s.expect("third line")
    s.type(":wq\r")
    s.expect(Session.PROMPT)
    equal(open("/root/edited").read(), "first line\nsecond line\nthird line\n", "what it has written")
    equal(s.settings(), before, "the terminal after it")
    s.leave()
main(test)
END
}

test_top_moves() {
  in_a_session <<'END'
def test():
    s = Session()
    before = s.settings()
    s.type("top -d 0.3\n")
    s.expect("load average[\\s\\S]*PID")
    pid = pid_of("top -d 0.3")
    for node in ("node1", "leader", "node2"):
        move(pid, node)
        s.text = ""
        s.expect("load average[\\s\\S]*load average")
    s.type("q")
    s.expect(Session.PROMPT)
    equal(s.settings(), before, "the terminal after it")
    s.leave()
main(test)
END
}

# What runs in its windows is in sessions of their own, on its pseudo-terminals.
test_windows_of_tmux() {
  in_a_session <<'END'
import re
def test():
    s = Session()
    tmux = "tmux -L test"
    s.run(f"{tmux} -f /dev/null new-session -d -x 80 -y 24 /bin/bash")
    equal(s.status, 0, "tmux has started")
    def window(pattern):
        wait_until(lambda: re.search(pattern, s.run(f"{tmux} capture-pane -p")), pattern)
    def keys(*what):
        s.run(f"{tmux} send-keys " + " ".join(what))
    keys("'n=0; sh -c \"while :; do n=\\$((n+1)); echo tick \\$n; sleep 0.1; done\"'", "Enter")
    window(r"tick [5-9]")
    pid = pid_of("sh -c while :;")
    last = lambda: max(int(word) for word in re.findall(r"tick (\d+)", s.run(f"{tmux} capture-pane -p")))
    for node in ("node1", "node2", "leader"):
        move(pid, node)
        seen = last()
        wait_until(lambda: last() > seen, f"it goes on, on {node}")
        keys("C-z")
        window("Stopped")
        keys("fg", "Enter")
        seen = last()
        wait_until(lambda: last() > seen, f"it goes on after fg, on {node}")
    keys("C-c")
    keys("'x=$?; clear; echo ended $x'", "Enter")
    window("ended 130")
    s.run(f"{tmux} kill-server")
    s.leave()
main(test)
END
}

test_traced_before_and_after() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("sh -c 'while :; do sleep 0.1; done'")
    for node in ("node1", None):
        tracer = s.start(f"strace -f -qq -o /root/trace -p {pid}")
        wait_until(lambda: "wait4" in content("/root/trace"), "it is traced")
        refused = gestalt("migrate", pid, "node1", "--dry-run")
        equal(f"process {tracer} traces it" in refused.stdout + refused.stderr, True, refused.stdout + refused.stderr)
        s.run(f"kill -INT {tracer}; wait {tracer}; rm /root/trace")
        if node:
            move(pid, node)
            move(pid, "leader")
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 143, "exit status")
    s.leave()
main(test)
END
}

test_job_control_of_dash() {
  in_a_session <<'END'
LOOP = "sh -c 'echo re\"\"ady $$; while :; do echo al\"\"ive; sleep 0.1; done'"
def test():
    s = Session(shell="/bin/dash")
    s.type(LOOP + "\n")
    pid = s.expect(r"ready (\d+)\s").group(1)
    for node in ("node1", "leader"):
        move(pid, node)
        s.expect("alive[\\s\\S]*alive")
        s.type("\x1a")
        s.expect("Stopped")
        s.type("bg\n")
        s.expect("alive[\\s\\S]*alive")
        s.type("fg\n")
        s.expect("alive[\\s\\S]*alive")
    s.type("\x03")
    s.expect(Session.PROMPT)
    equal(s.run("echo $?; true").strip(), "130", "exit status after Ctrl-C")
    pid = s.start("sleep 300")
    move(pid, "node2")
    s.run(f"kill %1; wait {pid}")
    equal(s.status, 143, "exit status")
    s.leave()
main(test)
END
}

# A process that has moved is the parent of new ones; what it leaves behind as orphans lives on.
test_children_born_elsewhere() {
  in_a_session <<'END'
import json
PROGRAM = """
import os, signal, subprocess, sys, time
print("re" + "ady", os.getpid(), flush=True)
for line in sys.stdin:
    what = line.strip()
    if what == "child":
        print("status", subprocess.run(["sh", "-c", "exit 5"]).returncode, flush=True)
    elif what == "zombie":
        child = os.fork()
        if child == 0:
            os._exit(6)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print("there is one", flush=True)
    elif what == "collect":
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    elif what == "orphan":
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                os.execvp("sleep", ["sleep", "3003"])
            os._exit(0)
        os.wait()
        print("gone", flush=True)
    elif what == "exec":
        os.execvp("sh", ["sh", "-c", "echo executed $$; read x; exit 8"])
"""
def test():
    with open("/root/program.py", "w") as file:
        file.write(PROGRAM)
    s = Session()
    s.type("python3 /root/program.py\n")
    pid = s.expect(r"ready (\d+)\s").group(1)
    move(pid, "node1")
    s.type("child\n")
    s.expect("status 5\\s")
    s.type("zombie\n")
    s.expect("there is one\\s")
    move(pid, "node2")
    s.type("collect\n")
    s.expect("status 6\\s")
    s.type("orphan\n")
    s.expect("gone\\s")
    orphans = lambda: [each for each in json.loads(gestalt("ps", "--json").stdout) if each["command"] == "sleep 3003"]
    wait_until(lambda: len(orphans()) == 1, "the orphan lives")
    s.type("exec\n")
    s.expect(f"executed {pid}\\s")
    s.type("\n")
    s.expect(Session.PROMPT)
    equal(s.run("echo $?; true").strip(), "8", "exit status")
    equal(len(orphans()), 1, "the orphan, which lives on")
    gestalt("kill", orphans()[0]["pid"])
    wait_until(lambda: not orphans(), "it has ended")
    s.leave()
main(test)
END
}

# Those who wait for others, or for a time, whoever of them moves.
test_timeout_xargs_and_nohup() {
  in_a_session 150 <<'END'
def test():
    s = Session()
    pid = s.start("timeout 4 sleep 321")
    move(pid, "node1")
    s.run(f"wait {pid}", 30)
    equal(s.status, 124, "timeout that has moved")
    pid = s.start("timeout 4 sleep 322")
    move(pid_of("sleep 322"), "node1")
    s.run(f"wait {pid}", 30)
    equal(s.status, 124, "timeout of what has moved")
    wait_until(lambda: not [each for each in all_processes() if each["command"].startswith("sleep 32")], "both have ended")

    for what in ("itself", "its children"):
        s.run("rm -f /root/xargs.*")
        pid = s.start("sh -c 'seq 9 | xargs -P 3 -I{} sh -c \"sleep 1.{}; echo {}\" >/root/xargs.out; echo $? >/root/xargs.status'")
        if what == "itself":
            move(pid_of("xargs"), "node2")
        while not content("/root/xargs.status"):
            for each in all_processes():
                if what != "itself" and each["command"].startswith("sh -c sleep 1.") and each["node"] == "leader":
                    gestalt("migrate", each["pid"], "node1")
            time.sleep(0.1)
        equal(content("/root/xargs.status").strip(), "0", f"exit status of xargs, with {what} moved")
        equal(sorted(content("/root/xargs.out").split()), [str(i + 1) for i in range(9)], f"what {what} did")
        s.run(f"wait {pid}")

    pid = s.start("nohup sh -c 'trap \"echo ended >/root/nohup.out; exit\" TERM; while :; do sleep 0.1; done' </dev/null >/dev/null 2>&1")
    move(pid, "node1")
    s.run("shopt -s huponexit; kill -HUP %%; sleep 1; jobs -r | wc -l")
    equal(s.run("jobs -r | wc -l").strip(), "1", "what ignores SIGHUP")
    s.run(f"kill {pid}; wait {pid}")
    equal(content("/root/nohup.out"), "ended\n", "its end")
    s.leave()

def all_processes():
    return json.loads(gestalt("ps", "--json").stdout)
main(test)
END
}

# Commands that write one file, behind each other, by one offset.
test_a_file_that_is_shared() {
  in_a_session <<'END'
def test():
    s = Session()
    for home in (False, True):
        s.run("rm -f /root/all /root/on")
        held = "until [ -e /root/on ]; do sleep 0.05; done; echo {0} works; sleep 1; echo {0} complains >&2; echo {0} ends"
        s.type("sh -c 'echo first; sh -c \"" + held.format("second") + "\"; echo third; (" + held.format("fourth") + "); echo last' >/root/all 2>&1 &\n")
        s.expect(Session.PROMPT)
        wait_until(lambda: content("/root/all"), "it works")
        time.sleep(0.3)
        pid = pid_of("sh -c until")
        move(pid, "node1")
        gestalt("run", "--node", "node1", "--", "touch", "/root/on")
        s.run("touch /root/on")
        if home:
            wait_until(lambda: "second works" in content("/root/all"), "it works there")
            move(pid, "leader")
        s.run("wait", 30)
        s.run("rm /root/on")
        gestalt("run", "--node", "node1", "--", "rm", "-f", "/root/on")
        expected = ["first", "second works", "second complains", "second ends", "third",
                    "fourth works", "fourth complains", "fourth ends", "last"]
        equal(content("/root/all").splitlines(), expected, f"what they have written, home {home}")
    s.leave()
main(test)
END
}

test_find_sort_and_uniq() {
  in_a_session <<'END'
def test():
    s = Session()
    search = "find /usr/share /usr/lib -type f -printf '%s %f\\n'"
    expected = s.run(f"({search}) | sort | uniq -c | sort | md5sum", 60)
    s.run("rm -f /root/go /root/pid.* /root/found")
    held = lambda number, command: f"(echo $BASHPID >/root/pid.{number}; until [ -e /root/go ]; do sleep 0.05; done; exec {command})"
    s.type(f"{held(1, search)} | {held(2, 'sort')} | {held(3, 'uniq -c')} | sort | md5sum >/root/found &\n")
    s.expect(Session.PROMPT)
    s.run("until [ -s /root/pid.1 -a -s /root/pid.2 -a -s /root/pid.3 ]; do sleep 0.1; done")
    s.run("touch /root/go; sleep 0.2")
    for number, node in ((2, "node1"), (3, "node2"), (1, "node1"), (2, "leader"), (3, "node1")):
        gestalt("migrate", s.run(f"cat /root/pid.{number}").strip(), node)  # if it still runs
    s.run("wait", 60)
    equal(s.run("cat /root/found"), expected, "what came through")
    s.leave()
main(test)
END
}

# Jobs in the background live on, as they would anywhere.
test_the_shell_is_killed() {
  in_a_session <<'END'
def test():
    s = Session()
    shell = s.run("echo $$").strip()
    pids = [s.start("sleep 300") for _ in range(3)]
    for pid, node in zip(pids, ("node1", "node2")):
        move(pid, node)
    gestalt("kill", "-KILL", shell)
    s.wait()
    time.sleep(1)
    equal([node_of(pid) for pid in pids], ["node1", "node2", "leader"], "where they are")
    gestalt("kill", *pids)
    wait_until(lambda: not any(node_of(pid) for pid in pids), "they have ended")
main(test)
END
}

cluster_up 3 --with-dev
run_tests "$@"
