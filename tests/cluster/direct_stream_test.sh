#!/bin/bash
# Pipes between nodes through which much passes have connections of their own. Whatever happens to
# these, and however often the process moves, every byte comes once.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/sessions.sh
. "$repo/tests/cluster/sessions.sh"

[[ -e /dev/fuse ]] || skip_all "no FUSE in this kernel"

# in_a_flow: as in_a_session, with a pipeline whose middle can move.
in_a_flow() {
  {
    cat <<'END'
import subprocess

class Flow:
    """In a session: random bytes without end | sums | what moves | sums."""

    def __init__(self, session, middle="cat"):
        self.session = session
        session.run("rm -f stop sent came pid; [ -e data ] || head -c 3333333 /dev/urandom >data")
        session.type("(until [ -e stop ]; do cat data; done) | tee >(md5sum >sent) |"
                     f" (echo $BASHPID >pid.new; mv pid.new pid; exec {middle}) | md5sum >came &\n")
        session.expect(Session.PROMPT)
        session.run("until [ -s pid ]; do sleep 0.1; done")
        self.pid = int(session.run("cat pid"))
        self.name = middle.split()[0]
        wait_until(lambda: arguments_of(self.pid).startswith(self.name), "the middle runs")

    def ports(self):
        """Here, of the deputy's connections to where the process is."""
        listed = subprocess.run(["ss", "-tnHp", "state", "established"], capture_output=True, text=True, check=True).stdout
        return [line.split()[2].split(":")[-1] for line in listed.splitlines() if f'(("{self.name}",' in line]

    def await_connections(self, count=2):
        wait_until(lambda: len(self.ports()) == count, f"{count} connections of their own")

    def end(self):
        self.session.run("touch stop; wait", seconds=60)
        equal(self.session.run("cat came"), self.session.run("cat sent"), "what came through")

END
    cat
  } | in_a_session
}

test_a_job_s_streams() {
  head -c 50000000 /dev/urandom >"$scratch/blob"
  assert_eq "$(gestalt run --node node1 -- cat <"$scratch/blob" | sha256sum)" \
    "$(sha256sum <"$scratch/blob")"
  assert_eq "$(gestalt run -- cat <"$scratch/blob" | sha256sum)" "$(sha256sum <"$scratch/blob")"
  assert_contains "$(sandbox daemon node1 log)" "stream has its own connection"
}

test_moves_in_full_flow() {
  in_a_flow <<'END'
def test():
    s = Session()
    flow = Flow(s)
    for mode, node in (("eager", "node1"), ("pre-copy", "node2"), ("lazy", "node1"), ("post-copy", "leader"),
                       ("hybrid", "node2"), ("eager", "leader"), ("eager", "node1")):
        move(flow.pid, node, "--mode", mode)
        if node != "leader":
            flow.await_connections()
    flow.end()
    s.leave()
main(test)
END
}

test_as_a_user_and_to_standard_error() {
  in_a_flow <<'END'
def test():
    s = Session(user="alice")
    s.run("cd $(mktemp -d)")
    s.run("head -c 30000000 /dev/urandom >blob")
    s.type("(sleep 2; exec cat blob) | (echo $BASHPID >pid; exec sh -c 'exec cat >&2') 2>&1 >/dev/null | md5sum >came &\n")
    s.expect(Session.PROMPT)
    s.run("until [ -s pid ]; do sleep 0.1; done; sleep 0.3")
    move(int(s.run("cat pid")), "node2")
    s.run("wait", seconds=60)
    equal(s.run("cat came"), s.run("md5sum <blob"), "what came through")
    s.leave()
main(test)
END
}

test_connections_that_break() {
  in_a_flow <<'END'
def test():
    s = Session()
    flow = Flow(s)
    move(flow.pid, "node1")
    for number in range(4):
        flow.await_connections()
        port = flow.ports()[number % 2]
        subprocess.run(["ss", "-K", "state", "established", "sport", "=", port], capture_output=True, check=True)
        wait_until(lambda: port not in flow.ports(), "it is broken")
    flow.await_connections()
    flow.end()
    s.leave()
main(test)
END
}

test_a_daemon_is_restarted_meanwhile() {
  on leader rm -f /run/moved /run/restarted
  in_a_flow >"$scratch/session" 2>&1 <<'END' &
def test():
    s = Session()
    flow = Flow(s)
    move(flow.pid, "node1")
    flow.await_connections()
    s.run("touch /run/moved")
    wait_until(lambda: os.path.exists("/run/restarted"), "the daemon is back", 40)
    flow.await_connections()
    flow.end()
    s.leave()
main(test)
END
  local session=$!
  wait_until 40 on leader test -e /run/moved
  sandbox daemon leader restart
  wait_until 30 node_is node1 online
  on leader touch /run/restarted
  wait "$session" || { cat "$scratch/session" && false; }
}

test_the_reader_goes_away() {
  in_a_flow <<'END'
def test():
    s = Session()
    s.run("rm -f pid statuses")
    s.type("yes | (echo $BASHPID >pid; exec cat) | (sleep 3; head -c 20000000 >/dev/null);"
           " echo ${PIPESTATUS[@]} >statuses\n")
    wait_until(lambda: content("/root/pid"), "the pipeline runs")
    time.sleep(0.3)
    move(int(content("/root/pid")), "node1")
    wait_until(lambda: content("/root/statuses"), "all have ended", 30)
    s.expect(Session.PROMPT)
    equal(s.run("cat statuses").split(), ["141", "141", "0"], "SIGPIPE for those before")
    s.leave()
main(test)
END
}

test_it_is_killed_in_full_flow() {
  in_a_flow <<'END'
def test():
    s = Session()
    s.run("rm -f pid statuses")
    s.type("(echo $BASHPID >pid; exec cat /dev/zero) | cat >/dev/null; echo ${PIPESTATUS[@]} >statuses\n")
    wait_until(lambda: content("/root/pid"), "the pipeline runs")
    time.sleep(0.3)
    pid = int(content("/root/pid"))
    move(pid, "node1")
    time.sleep(1)
    gestalt("kill", "-9", pid)
    wait_until(lambda: content("/root/statuses"), "all have ended", 30)
    equal(content("/root/statuses").split(), ["137", "0"], "as it was killed")
    s.leave()
main(test)
END
}

cluster_up 3
run_tests "$@"
