#!/bin/bash
# Processes of a session move, and their shell does not notice: job control, signals, statuses,
# pipes and the terminal, with only a deputy left at home.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/sessions.sh
. "$repo/tests/cluster/sessions.sh"

[[ -e /dev/fuse ]] || skip_all "no FUSE in this kernel"

test_a_background_job_moves() {
  in_a_session <<'END'
def test():
    s = Session()
    for command, signal, status in (("sleep 300", "TERM", 143), ("sleep 300", "KILL", 137),
                                    ("sh -c 'while ! test -e /run/go; do sleep 0.1; done; exit 7'", None, 7)):
        pid = s.start(command)
        move(pid, "node1")
        equal(node_of(pid), "node1", "where it is")
        equal(s.run("jobs -r | wc -l").strip(), "1", "running jobs")
        move(pid, "node2")
        equal(node_of(pid), "node2", "where it is")
        if signal:
            s.run(f"kill -{signal} {pid}")
        else:
            gestalt("run", "--node", "node2", "--", "touch", "/run/go")
        s.run(f"wait {pid}")
        equal(s.status, status, "exit status")
        wait_until(lambda: node_of(pid) == "", "it is nowhere")
    s.leave()
main(test)
END
}

test_it_is_who_it_was() {
  in_a_session <<'END'
def test():
    s = Session()
    s.run("cd /usr/lib; ulimit -n 200; ulimit -c 0; umask 027")
    s.type(f"nice -n 3 python3 {VICTIMS}/identity.py\n")
    pid = s.expect(r"ready (\d+)\s").group(1)
    def identity():
        os.kill(int(host_pid), 10)
        return s.expect(r"I am [^\r]*\r").group(0)
    host_pid = host_pid_of(pid)
    before = identity()
    for node in ("node1", "node2", "node1"):
        move(pid, node)
        equal(identity(), before, f"what it says of itself on {node}")
    os.kill(int(host_pid), 12)
    s.expect(Session.PROMPT)
    equal(s.run("echo $?; (exit 23)").strip(), "23", "exit status")
    s.leave()
main(test)
END
}

test_job_control() {
  in_a_session <<'END'
LOOP = "bash -c 'echo re\"\"ady $$; while :; do echo al\"\"ive; sleep 0.1; done'"
def test():
    s = Session()
    before = s.settings()
    s.type(LOOP + "\n")
    pid = s.expect(r"ready (\d+)\s").group(1)
    move(pid, "node1")
    s.expect("alive[\\s\\S]*alive")
    s.type("\x1a")
    s.expect("Stopped")
    s.expect(Session.PROMPT)
    equal(s.settings(), before, "the terminal of a stopped job's shell")
    s.text = ""
    s.expect_not("alive", 0.7)
    s.type("bg\n")
    s.expect("alive[\\s\\S]*alive")
    move(pid, "node2")
    s.expect("alive[\\s\\S]*alive")
    s.type("fg\n")
    s.expect("alive[\\s\\S]*alive")
    s.type("\x03")
    s.expect(Session.PROMPT)
    equal(s.run("echo $?; true").strip(), "130", "exit status after Ctrl-C")
    equal(s.settings(), before, "the terminal after its end")
    s.leave()
main(test)
END
}

# What its parent is told. (bash may miss that a child goes on, also of a local one.)
# kill %1 is meant for all processes of the job, kill PID for one.
test_signals_to_a_group_and_to_a_process() {
  in_a_session <<'END'
import json
JOB = "sh -c 'sleep 311 & sleep 312 & wait'"

def sleeps():
    listed = json.loads(gestalt("ps", "--json").stdout)
    return sorted((each["pid"], each["state"]) for each in listed if each["command"].startswith("sleep 31"))

def test():
    s = Session()
    for signal, to_group in (("TERM", True), ("TERM", False), ("KILL", True), ("KILL", False)):
        pid = s.start(JOB)
        wait_until(lambda: len(sleeps()) == 2, "its children run")
        children = [pid for pid, _ in sleeps()]
        move(pid, "node1")
        s.run(f"kill -{signal} {'%%' if to_group else pid}; wait {pid}")
        equal(s.status, 128 + (15 if signal == "TERM" else 9), "exit status")
        if to_group:
            wait_until(lambda: not sleeps(), "all have ended")
        else:
            time.sleep(1)
            equal([pid for pid, _ in sleeps()], children, "the others go on")
            gestalt("kill", "-9", *children)
            wait_until(lambda: not sleeps(), "all have ended")
    pid = s.start(JOB)
    wait_until(lambda: len(sleeps()) == 2, "its children run")
    move(pid, "node1")
    s.run("kill -STOP %%; until jobs | grep -q Stopped; do sleep 0.1; done")
    wait_until(lambda: [state for _, state in sleeps()] == ["T", "T"], "all are stopped")
    s.run("bg")
    wait_until(lambda: [state for _, state in sleeps()] == ["S", "S"], "all go on")
    move(pid, "leader")
    move(pid, "node2")
    s.run(f"kill %%; wait {pid}")
    wait_until(lambda: not sleeps(), "all have ended")
    # Those of deputies that were killed stay for a moment.
    wait_until(lambda: s.run("pgrep gestalt-witness; jobs -p") == "", "nothing is left")
    s.leave()
main(test)
END
}

test_the_background_does_not_read() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("sh -c 'until test -e /run/go; do sleep 0.05; done; read line; echo got $line'")
    move(pid, "node1")
    gestalt("run", "--node", "node1", "--", "touch", "/run/go")
    s.run("until jobs -l | grep -q 'tty input'; do sleep 0.1; done")
    s.run("echo type of a line")  # by the shell, while the job waits
    s.type("fg\n")
    time.sleep(0.3)
    s.type("hello\n")
    s.expect("got hello")
    s.expect(Session.PROMPT)
    gestalt("run", "--node", "node1", "--", "rm", "/run/go")
    s.leave()
main(test)
END
}

test_lines_of_the_background_end_once() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("sh -c 'trap \"printf \\\"one\\ntwo\\rthree\\n\\n\\\"; exit 0\" TERM; while :; do sleep 0.05; done'")
    move(pid, "node1")
    s.text = ""
    s.type(f"kill {pid}; wait {pid}; echo it has en''ded\n")
    said = s.expect(r"([\s\S]*)it has ended").group(1)
    equal("one\r\ntwo\rthree\r\n\r\n" in said, True, repr(said))
    s.leave()
main(test)
END
}

test_a_stop_that_nobody_sees() {
  in_a_session <<'END'
PARENT = """
import os
pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "300")
print("child", pid, flush=True)
while True:
    status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)[1]
    if os.WIFSTOPPED(status):
        print("stopped", os.WSTOPSIG(status), flush=True)
    elif os.WIFCONTINUED(status):
        print("continued", flush=True)
    else:
        print("ended", os.waitstatus_to_exitcode(status), flush=True)
        break
"""
def test():
    with open("/root/parent.py", "w") as file:
        file.write(PARENT)
    s = Session()
    s.type("python3 /root/parent.py\n")
    pid = s.expect(r"child (\d+)\s").group(1)
    move(pid, "node1")
    deputy = int(host_pid_of(pid))
    for _ in range(3):
        os.kill(deputy, 19)
        s.expect("stopped 19\\s")
        wait_until(lambda: processes(pid)[0]["state"] == "T", "it is stopped")
        os.kill(deputy, 18)
        s.expect("continued\\s")
        wait_until(lambda: processes(pid)[0]["state"] == "S", "it goes on")
    os.kill(deputy, 15)
    equal(s.expect(r"(\w+ -?\d+)\s").group(1), "ended -15", "what comes next")
    s.leave()
main(test)
END
}

# Several children of one shell on one node: only one stand-in can have the shell's pid there.
test_many_children_of_one_shell() {
  in_a_session <<'END'
def test():
    s = Session()
    pids = [s.start(f"sh -c 'while ! test -e /run/go; do sleep 0.1; done; exit {i}'") for i in range(5)]
    for pid in pids:
        move(pid, "node1")
    for pid in pids[:3]:
        move(pid, "node2")
    for node in ("node1", "node2"):
        gestalt("run", "--node", node, "--", "touch", "/run/go")
    for i, pid in enumerate(pids):
        s.run(f"wait {pid}")
        equal(s.status, i, f"exit status of {pid}")
    s.leave()
main(test)
END
}

test_a_pipeline_moves() {
  in_a_session <<'END'
def test():
    s = Session()
    s.run("rm -f /root/sum")
    s.type("seq -f 'line %g' 400000 | (sleep 2; exec cat) | (sleep 3; exec md5sum >/root/sum) &\n")
    s.expect(Session.PROMPT)
    members = s.run("jobs -p; ps -o pid= --ppid $$ | head -n 3").split()
    pids = sorted(set(members), key=int)[:3]
    equal(len(pids), 3, "members of the pipeline")
    for pid, node in zip(pids, ("node1", "node2", "node1")):
        move(pid, node)
    s.run("wait", seconds=60)
    expected = s.run("seq -f 'line %g' 400000 | md5sum")
    equal(s.run("cat /root/sum"), expected, "what came through")
    s.leave()
main(test)
END
}

test_programs_at_the_terminal() {
  in_a_session <<'END'
def test():
    s = Session()
    before = s.settings()
    s.type("python3 -q\n")
    s.expect(">>> ")
    s.type("import os; os.getpid()\n")
    pid = s.expect(r"\n(\d+)\r").group(1)
    s.expect(">>> ")
    s.type("x = 6\n")
    s.expect(">>> ")
    move(pid, "node1")
    s.type("x * 7\n")
    s.expect(r"\n42\r")
    s.expect(">>> ")
    s.type("exit()\n")
    s.expect(Session.PROMPT)
    equal(s.settings(), before, "the terminal after Python")
    s.type("less /etc/services\n")
    s.expect("# Network services")
    pid = pid_of("less /etc/services")
    move(pid, "node2")
    s.type("/postgresql\n")
    s.expect("postgresql")
    s.type("q")
    s.expect(Session.PROMPT)
    equal(s.settings(), before, "the terminal after less")
    s.leave()

main(test)
END
}

# With pages that follow, the memory keeper has them while the deputy is at work already.
test_in_every_mode() {
  in_a_session <<'END'
def test():
    s = Session()
    children = "ps -o pid= --ppid $$ | wc -l"
    before = s.run(children)
    for mode in ("eager", "lazy", "pre-copy", "post-copy", "hybrid"):
        pid = s.start(f"{VICTIMS}/memory --mib 48 --until /run/end-{mode} >/root/{mode}.out 2>&1")
        wait_until(lambda: "tick 3" in content(f"/root/{mode}.out"), "it works")
        move(pid, "node1", "--mode", mode)
        equal(node_of(pid), "node1", f"where it is after {mode}")
        equal(s.run(f"ps -o comm= -p {pid}").strip(), "memory", "its name")
        gestalt("run", "--node", "node1", "--", "touch", f"/run/end-{mode}")
        s.run(f"wait {pid}", 30)
        equal(s.status, 0, f"exit status after {mode}")
        report = open(f"/root/{mode}.out").read()
        equal("BAD" in report, False, f"its report after {mode}")
        equal(report.splitlines()[-1].startswith("ok "), True, f"its end after {mode}")
        wait_until(lambda: s.run(children) == before, "the shell has no other children")
    s.leave()
main(test)
END
}

test_a_tree_moves() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("bash -c 'sleep 3001 & sleep 3002 & exec 3>&1; trap \"exit 9\" TERM; wait'")
    wait_until(lambda: len(named("sleep 300")) == 2, "its children run")
    move(pid, "node1")
    equal([each["node"] for each in named("sleep 300")], ["node1", "node1"], "where its children are")
    moved = gestalt("migrate", named("sleep 3001")[0]["pid"], "node2")
    equal("is not the root of its job" in moved.stderr, True, moved.stderr)
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 9, "exit status")
    equal(len(named("sleep 300")), 2, "its children, which live on")
    rest = " ".join(str(each["pid"]) for each in named("sleep 300"))
    def reachable():
        s.run(f"kill -0 {rest}")
        return s.status == 0
    wait_until(reachable, "the leader has ghosts of them")
    s.run(f"kill {rest}")
    wait_until(lambda: not named("sleep 300"), "they have ended")
    equal("stand-in" in s.run("ps -o args= -p $$"), False, "the shell as ps has it")
    s.leave()

def named(command):
    return [each for each in json.loads(gestalt("ps", "--json").stdout) if each["command"].startswith(command)]
import json
main(test)
END
}

# Up to the leader's word: the process is what it was, and the shell's.
test_a_failed_move_changes_nothing() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("bash -c 'sleep 3001 & trap \"exit 9\" TERM; wait'")
    job = processes(pid)[0]["job_id"]
    for number in (1, 2, 3, 4, 5, 7, 8, 9):
        with fault(number):
            moved = gestalt("migrate", pid, "node1", "--mode", "eager")
        equal(moved.returncode != 0, True, f"the migration with fault {number} fails")
        equal(f"injected fault {number}" in moved.stderr, True, moved.stderr)
        wait_until(lambda: [each["job_id"] for each in processes(pid)] == [job], "it is its session's again")
        equal(node_of(pid), "leader", "where it is")
        equal(s.run("jobs -r | wc -l").strip(), "1", "running jobs")
    move(pid, "node1")
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 9, "exit status")
    s.leave()
main(test)
END
}

test_no_deputy_can_be_left() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("sleep 300")
    with fault(15):
        gestalt("migrate", pid, "node1", "--mode", "eager")
    s.run(f"wait {pid}")
    equal(s.status, 137, "what the shell is told")
    wait_until(lambda: node_of(pid) == "", "it is nowhere", 30)
    s.leave()
main(test)
END
}

test_pre_flight() {
  in_a_session <<'END'
def test():
    s = Session()
    def refused(pid, *reasons):
        for options in (["--dry-run"], []):
            asked = gestalt("migrate", pid, "node1", *options)
            for reason in reasons:
                equal(reason in asked.stdout + asked.stderr, True, f"{reason} in {asked.stdout}{asked.stderr}")
        equal(node_of(pid), "leader", "where it is")
    s.run("exec 7> >(cat >/dev/null)")
    pid = s.start("sleep 300")
    refused(pid, "descriptor 7 (pipe:", "is connected to a process that would stay here")
    s.run(f"exec 7>&-; kill {pid}; rm -f /root/fifo; mkfifo /root/fifo")
    pid = s.start("sleep 300 <>/root/fifo")
    refused(pid, "descriptor 0 (/root/fifo)", "a named pipe")
    s.run(f"kill {pid}")
    pid = s.start("bash -c 'sleep 300 & echo $! >/root/child; wait'")
    wait_until(lambda: content("/root/child"), "it has a child")
    child = open("/root/child").read().strip()
    move(child, "node2")
    refused(pid, child, "it has moved away itself")
    s.run(f"kill {child}; wait {pid}")
    equal(s.status, 0, "exit status")
    # The session's own mounts it can leave, others not. (--dry-run looks from the session.)
    pid = s.start("unshare -m sh -c 'mount -t tmpfs none /mnt; exec sleep 300'")
    wait_until(lambda: processes(pid)[0]["command"] == "sleep 300", "it has mounted something")
    refused(pid, "it has its own mounts")
    s.run(f"kill {pid}")
    shell = s.run("echo $$").strip()
    refused(shell, "it has its own mounts")
    s.leave()
main(test)
END
}

test_as_a_user() {
  in_a_session <<'END'
def test():
    s = Session(user="nobody")
    pid = s.start("sleep 300")
    moved = s.run(f"gestalt migrate {pid} node1")
    equal(s.status, 0, moved)
    equal(node_of(pid), "node1", "where it is")
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 143, "exit status")
    other = Session()
    pid = other.start("sleep 300")
    s.run(f"gestalt migrate {pid} node1")
    equal(s.status != 0, True, "somebody else's process is refused")
    equal(node_of(pid), "leader", "where that is")
    other.run(f"kill {pid}")
    other.leave()
    s.leave()
main(test)
END
}

# Ten jobs of one shell, forty moves in any order and mode.
test_many_moves() {
  in_a_session <<'END'
import random
MODES = ("eager", "lazy", "pre-copy", "post-copy", "hybrid")
def test():
    random.seed(7)
    s = Session()
    body = "n=0; while ! test -e /run/all-go; do n=$((n+1)); sleep 0.05; done; echo $n >/root/count.{i}; exit {i}"
    s.run("rm -f /root/count.*")
    pids = [s.start("sh -c '" + body.replace("{i}", str(i)) + "'") for i in range(10)]
    where = {pid: "leader" for pid in pids}
    for _ in range(40):
        pid = random.choice(pids)
        where[pid] = random.choice([node for node in ("node1", "node2") if node != where[pid]])
        move(pid, where[pid], "--mode", random.choice(MODES))
    for pid in pids:
        equal(node_of(pid), where[pid], f"where {pid} is")
    equal(s.run("jobs -r | wc -l").strip(), "10", "running jobs")
    open("/run/all-go", "w").close()
    for node in ("node1", "node2"):
        gestalt("run", "--node", node, "--", "touch", "/run/all-go")
    for i, pid in enumerate(pids):
        s.run(f"wait {pid}", 30)
        equal(s.status, i, f"exit status of {pid}")
        equal(int(open(f"/root/count.{i}").read()) > 0, True, f"the work of {pid}")
    s.leave()
main(test)
END
}

test_the_leaders_daemon_is_restarted() {
  on leader rm -f /run/moved /run/restarted
  in_a_session <<'END' &
def test():
    s = Session()
    pid = s.start("sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'")
    move(pid, "node1")
    open("/run/moved", "w").close()
    wait_until(lambda: os.path.exists("/run/restarted"), "the daemon is back", 40)
    equal(node_of(pid), "node1", "where it is")
    equal(s.run("jobs -r | wc -l").strip(), "1", "running jobs")
    s.run(f"kill {pid}; wait {pid}", 30)
    equal(s.status, 9, "exit status")
    s.leave()
main(test)
END
  local session=$!
  wait_until 60 on leader test -e /run/moved
  sandbox daemon leader restart
  wait_until 20 node_is node1 online
  on leader touch /run/restarted
  wait "$session"
}

test_the_node_is_lost() {
  on leader rm -f /run/moved
  in_a_session <<'END' &
def test():
    s = Session()
    pid = s.start("sleep 300")
    move(pid, "node2")
    s.type(f"wait {pid}; echo ended $?\n")
    open("/run/moved", "w").close()
    s.expect("node node2 failed; the job is lost", seconds=40)
    s.expect("ended 125")
    s.leave()
main(test)
END
  local session=$!
  wait_until 60 on leader test -e /run/moved
  sandbox kill node2
  wait "$session"
}

cluster_up 3
run_tests "$@"
