#!/bin/bash
# A session's process is to leave, and to come home, in each mode, as root's and as a user's, and
# something fails at each step before the leader's word, at either end, also as a crash of the
# destination. Each time it goes on where it was, as its shell's child and job; then it moves.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/sessions.sh
. "$repo/tests/cluster/sessions.sh"

[[ -e /dev/fuse ]] || skip_all "no FUSE in this kernel"

# each_step USER: the cases below for a session of his.
each_step() {
  {
    printf 'USER = "%s"\n' "$1"
    cat <<'END'
FETCHES_BEFORE = ("eager", "pre-copy")
HAVE_ROUNDS = ("pre-copy", "hybrid")

def source_faults(mode):
    return [1, 2, 3, 4, 5, 7, 8, 9] + [6] * (mode in FETCHES_BEFORE) + [13] * (mode in HAVE_ROUNDS)

def destination_faults(mode):
    pages = [24] * (mode in FETCHES_BEFORE + HAVE_ROUNDS)
    return [20, 21, 22, 23, 25, 26, 27, 28] + pages

class Case:
    def __init__(self, session, mode):
        self.session, self.mode = session, mode
        self.report = f"/tmp/report-{USER}-{mode}"
        self.pid = session.start(f"{VICTIMS}/memory --mib 4 --rate 0 --tick-ms 20 >{self.report} 2>&1")
        wait_until(lambda: "tick 2" in content(self.report), "it works")
        self.job = processes(self.pid)[0]["job_id"]

    def migrate(self, node):
        options = ["--max-rounds", "1", "--downtime-goal", "1us"] if self.mode in HAVE_ROUNDS else []
        return gestalt("migrate", self.pid, node, "--mode", self.mode, "--timeout", "10", *options)

    def fails(self, number, at, node):
        what = f"{self.mode} to {node}, fault {number} on {at}"
        before = node_of(self.pid)
        with fault(number, at):
            moved = self.migrate(node)
        equal(0 < moved.returncode < 124, True, f"exit status: {what}: {moved.stderr}")
        wait_until(lambda: node_of(self.pid) == before, f"it is where it was: {what}")
        if before == "leader":
            wait_until(lambda: [each["job_id"] for each in processes(self.pid)] == [self.job], f"it is its session's: {what}")
        equal(self.session.run("jobs -r | wc -l").strip(), "1", f"running jobs: {what}")
        ticks = content(self.report).count("tick")
        wait_until(lambda: content(self.report).count("tick") > ticks, f"it works: {what}")

    def moves(self, node):
        moved = self.migrate(node)
        equal(moved.returncode, 0, f"{self.mode} to {node}: {moved.stderr}")

    def end(self):
        self.session.run(f"kill {self.pid}; wait {self.pid}")
        equal("BAD" in content(self.report), False, f"its memory: {self.mode}")

def test():
    s = Session(user=USER)
    for mode in ("eager", "lazy", "pre-copy", "post-copy", "hybrid"):
        case = Case(s, mode)
        for number in source_faults(mode):
            case.fails(number, "leader", "node1")
        for number in destination_faults(mode):
            case.fails(number, "node1", "node1")
        for number in (22, 23, 27):
            case.fails(f"{number}:exit", "node1", "node1")
        case.moves("node1")
        for number in (3, 4, 5, 7, 9):
            case.fails(number, "node1", "leader")
        for number in destination_faults(mode) + [32, 33]:
            if number not in (20, 25):
                case.fails(number, "leader", "leader")
        for number in (22, 33):
            case.fails(f"{number}:exit", "leader", "leader")
        case.moves("leader")
        case.end()
    s.leave()
main(test)
END
  } | in_a_session 300
}

test_as_root() { each_step root; }

test_as_a_user() { each_step alice; }

cluster_up 3
run_tests "$@"
