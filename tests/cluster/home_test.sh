#!/bin/bash
# Processes of a session come home: they are their parent's real children again, and nothing of
# deputies and jobs is left.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/sessions.sh
. "$repo/tests/cluster/sessions.sh"

[[ -e /dev/fuse ]] || skip_all "no FUSE in this kernel"

test_there_and_home() {
  in_a_session <<'END'
def test():
    s = Session()
    shell = int(s.run("echo $$"))
    for signal, status in (("TERM", 143), ("KILL", 137)):
        pid = s.start("sleep 300")
        before = residue(pid)
        for _ in range(3):
            move(pid, "node1")
            move(pid, "leader")
            equal(node_of(pid), "leader", "where it is")
            wait_until(lambda: residue(pid) == before, f"it is what it was: {before}, not {residue(pid)}")
        equal(s.run("jobs -r | wc -l").strip(), "1", "running jobs")
        equal(s.run(f"ps -o ppid=,comm= -p {pid}").split(), [str(shell), "sleep"], "as ps has it")
        s.run(f"kill -{signal} {pid}; wait {pid}")
        equal(s.status, status, "exit status")
    s.leave()
main(test)
END
}

test_job_control_at_home() {
  in_a_session <<'END'
LOOP = "bash -c 'echo re\"\"ady $$; while :; do echo al\"\"ive; sleep 0.1; done'"
def test():
    s = Session()
    before = s.settings()
    for _ in range(3):
        s.type(LOOP + "\n")
        pid = s.expect(r"ready (\d+)\s").group(1)
        move(pid, "node1")
        s.expect("alive[\\s\\S]*alive")
        move(pid, "leader")
        s.expect("alive[\\s\\S]*alive")
        s.type("\x1a")
        s.expect("Stopped")
        s.expect(Session.PROMPT)
        equal(s.settings(), before, "the terminal of a stopped job's shell")
        s.type("bg\n")
        s.expect("alive[\\s\\S]*alive")
        move(pid, "node2")
        move(pid, "leader")
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

test_home_in_every_mode() {
  in_a_session <<'END'
def test():
    s = Session()
    children = "ps -o pid= --ppid $$ | wc -l"
    before = s.run(children)
    for mode in ("eager", "lazy", "pre-copy", "post-copy", "hybrid"):
        pid = s.start(f"{VICTIMS}/memory --mib 48 --until /root/end-{mode} >/root/{mode}.out 2>&1")
        wait_until(lambda: "tick 3" in content(f"/root/{mode}.out"), "it works")
        unit = residue(pid)
        move(pid, "node1", "--mode", mode)
        move(pid, "leader", "--mode", mode)
        equal(node_of(pid), "leader", f"where it is after {mode}")
        wait_until(lambda: residue(pid) == unit, f"it is what it was after {mode}: {unit}, not {residue(pid)}")
        open(f"/root/end-{mode}", "w").close()
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

# What is under way between home and node when it comes home is neither lost nor doubled.
test_pipes_at_home() {
  in_a_session <<'END'
def test():
    s = Session()
    for round in range(3):
        s.run("rm -f /root/sum")
        s.type("seq -f 'line %g' 700000 | (sleep 1; exec cat) | (sleep 2; exec md5sum >/root/sum) &\n")
        s.expect(Session.PROMPT)
        pids = sorted(set(s.run("ps -o pid= --ppid $$ | head -n 3").split()), key=int)
        equal(len(pids), 3, "members of the pipeline")
        for pid, node in zip(pids, ("node1", "node2", "node1")):
            move(pid, node)
        for pid in pids[::-1] if round % 2 else pids:
            home = gestalt("migrate", pid, "leader")
            if home.returncode:  # it may have done its work by now
                wait_until(lambda: node_of(pid) == "", f"it has ended: {home.stderr}")
        s.run("wait", seconds=60)
        expected = s.run("seq -f 'line %g' 700000 | md5sum")
        equal(s.run("cat /root/sum"), expected, "what came through")
    s.leave()
main(test)
END
}

# Input that the deputy has taken in and the process has not read goes back in front of the rest.
test_unread_input_is_put_back() {
  in_a_session <<'END'
def test():
    s = Session()
    for home in (False, True):
        s.run("rm -f /root/sum /root/go")
        s.type("seq -f 'line %g' 300000 | sh -c 'while ! test -e /root/go; do sleep 0.05; done; exec md5sum >/root/sum' &\n")
        s.expect(Session.PROMPT)
        pid = s.run("echo $!").strip()
        if home:
            move(pid, "node1")
            time.sleep(0.5)  # the deputy takes in what its window holds
            move(pid, "leader")
        s.run("touch /root/go; wait", 30)
        if not home:
            expected = s.run("cat /root/sum")
    equal(s.run("cat /root/sum"), expected, "what it has read")
    s.leave()
main(test)
END
}

test_programs_at_the_terminal_at_home() {
  in_a_session <<'END'
def test():
    s = Session()
    before = s.settings()
    s.type("python3 -q\n")
    s.expect(">>> ")
    s.type("import os; os.getpid()\n")
    pid = s.expect(r"\n(\d+)\r").group(1)
    s.expect(">>> ")
    for i in range(3):
        s.type(f"x = {i}\n")
        s.expect(">>> ")
        move(pid, "node1")
        s.type("x * 7 + 1\n")
        s.expect(rf"\n{i * 7 + 1}\r")
        s.expect(">>> ")
        move(pid, "leader")
        s.type("x * 6 + 2\n")
        s.expect(rf"\n{i * 6 + 2}\r")
        s.expect(">>> ")
    s.type("exit()\n")
    s.expect(Session.PROMPT)
    equal(s.settings(), before, "the terminal after Python")
    s.leave()
main(test)
END
}

test_as_a_user_at_home() {
  in_a_session <<'END'
def test():
    s = Session(user="nobody")
    pid = s.start("sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'")
    before = residue(pid)
    for node in ("node1", "leader", "node2", "leader"):
        moved = s.run(f"gestalt migrate {pid} {node}")
        equal(s.status, 0, moved)
        equal(node_of(pid), node, "where it is")
    wait_until(lambda: residue(pid) == before, f"it is what it was: {before}, not {residue(pid)}")
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 9, "exit status")
    pid = s.start("setpriv --no-new-privs sleep 300")
    s.run(f"gestalt migrate {pid} node1")
    refused = s.run(f"gestalt migrate {pid} leader")
    equal("no_new_privs" in refused, True, refused)
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 143, "exit status of what cannot come home")
    s.leave()
main(test)
END
}

# Whose parent has ended is the child of the session's stand-in.
test_an_orphan_comes_home() {
  in_a_session <<'END'
def test():
    s = Session()
    s.run("(sh -c 'trap \"touch /root/orphan.ended; exit\" TERM; while :; do sleep 0.1; done' & echo $! >/root/orphan)")
    pid = open("/root/orphan").read().strip()
    wait_until(lambda: "trap" in arguments_of(pid), "it runs")
    before = residue(pid)
    for _ in range(2):
        move(pid, "node1")
        move(pid, "leader")
        wait_until(lambda: residue(pid) == before, f"it is what it was: {before}, not {residue(pid)}")
    s.run(f"kill {pid}")
    wait_until(lambda: node_of(pid) == "" and os.path.exists("/root/orphan.ended"), "it has ended")
    s.leave()
main(test)
END
}

# Up to the leader's word it stays away, with a deputy that the shell knows.
# The terminal is held by Ctrl-S: what was written must come once, whenever it goes on.
test_output_that_nobody_takes() {
  in_a_session <<'END'
import re
def test():
    s = Session()
    pid = s.start("sh -c 'n=0; trap \"echo last \\$n; exit 0\" TERM; trap go=1 USR1; until [ $go ]; do sleep 0.05; done; while :; do echo line $((n=n+1)); sleep 0.01; done'")
    move(pid, "node1")
    gestalt("kill", "-USR1", pid)
    time.sleep(0.3)
    s.type("\x13")
    time.sleep(1)
    done = gestalt("migrate", pid, "leader")
    equal((done.returncode != 0, "nobody takes" in done.stderr), (True, True), done.stderr)
    equal(node_of(pid), "node1", "where it is")
    s.type("\x11")
    move(pid, "leader")
    s.type(f"kill {pid}; wait {pid}\n")
    said = s.expect(r"([\s\S]*)last (\d+)", 30)
    lines = [int(number) for number in re.findall(r"line (\d+)", said.group(1))]
    equal(lines, list(range(lines[0], int(said.group(2)) + 1)), "each line once")
    s.expect(Session.PROMPT)
    s.leave()
main(test)
END
}

test_a_return_that_is_only_asked_about() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("sleep 300")
    move(pid, "node1")
    done = gestalt("migrate", pid, "leader", "--dry-run")
    equal(done.returncode, 0, done.stderr)
    s.run(f"kill -STOP {pid}; until jobs | grep -q Stopped; do sleep 0.1; done")
    for options in (["--dry-run"], []):
        done = gestalt("migrate", pid, "leader", *options)
        equal((done.returncode, "is stopped" in done.stdout + done.stderr), (5, True), done.stdout + done.stderr)
    equal(node_of(pid), "node1", "where it is")
    s.run(f"kill -CONT {pid}")
    move(pid, "leader")
    s.run(f"kill {pid}; wait {pid}")
    equal(s.status, 143, "exit status")
    s.leave()
main(test)
END
}

test_a_failed_return_changes_nothing() {
  in_a_session <<'END'
def test():
    s = Session()
    s.type("sh -c 'trap \"exit 9\" TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done' | cat >/root/lines &\n")
    s.expect(Session.PROMPT)
    pid = s.run("ps -o pid= --ppid $$ | head -n 1").strip()
    move(pid, "node1")
    for action, faults in (("", (21, 22, 23, 32, 33, 24, 26, 27, 28)), (":exit", (21, 22, 23, 32, 33))):
        for number in faults:
            with fault(f"{number}{action}"):
                moved = gestalt("migrate", pid, "leader", "--mode", "eager")
            equal(moved.returncode != 0, True, f"the migration with fault {number}{action} fails")
            if not action and number > 31:
                equal(f"injected fault {number}" in moved.stderr, True, f"with fault {number}: {moved.stderr}")
            wait_until(lambda: node_of(pid) == "node1", f"it is where it was after fault {number}{action}")
            equal(s.run("jobs -r | wc -l").strip(), "1", f"running jobs after fault {number}{action}")
    count = lambda: len(content("/root/lines").splitlines())
    seen = count()
    wait_until(lambda: count() > seen, "it works")
    move(pid, "leader")
    s.run(f"kill {pid}; wait")
    lines = open("/root/lines").read().splitlines()
    equal(lines, [f"line {i + 1}" for i in range(len(lines))], "what it has written")
    s.leave()
main(test)
END
}

# The parent has its child again then, and hears of its end.
test_a_crash_between_restore_and_word() {
  in_a_session <<'END'
def test():
    s = Session()
    pid = s.start("sleep 300")
    move(pid, "node1")
    with fault("27:exit"):
        moved = gestalt("migrate", pid, "leader", "--mode", "eager")
    equal(moved.returncode != 0, True, "the migration fails")
    s.run(f"wait {pid}")
    equal(s.status, 137, "what the shell is told")
    wait_until(lambda: node_of(pid) == "", "it is nowhere", 30)
    s.leave()
main(test)
END
}

# Ten jobs of one shell, a hundred moves in any order and mode.
test_many_moves_also_home() {
  in_a_session <<'END'
import random
MODES = ("eager", "lazy", "pre-copy", "post-copy", "hybrid")
NODES = ("leader", "node1", "node2")
def test():
    random.seed(11)
    s = Session()
    body = "n=0; while ! test -e /root/all-go; do n=$((n+1)); sleep 0.05; done; echo $n >/root/count.{i}; exit {i}"
    s.run("rm -f /root/count.* /root/all-go")
    pids = [s.start("sh -c '" + body.replace("{i}", str(i)) + "'") for i in range(10)]
    where = {pid: "leader" for pid in pids}
    for _ in range(100):
        pid = random.choice(pids)
        where[pid] = random.choice([node for node in NODES if node != where[pid]])
        move(pid, where[pid], "--mode", random.choice(MODES))
    for pid in pids:
        equal(node_of(pid), where[pid], f"where {pid} is")
    equal(s.run("jobs -r | wc -l").strip(), "10", "running jobs")
    open("/root/all-go", "w").close()
    for i, pid in enumerate(pids):
        s.run(f"wait {pid}", 30)
        equal(s.status, i, f"exit status of {pid}")
        equal(int(open(f"/root/count.{i}").read()) > 0, True, f"the work of {pid}")
    s.leave()
main(test)
END
}

cluster_up 3
run_tests "$@"
