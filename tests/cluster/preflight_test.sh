#!/bin/bash
# What speaks against moving a job is named before anything is stopped: by migrate, by its
# --dry-run and by ps --preflight, with the descriptor or the mapping, and with a remedy.
# shellcheck disable=SC2154 # scratch, pid are of lib.sh and jobs.sh
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# A job on node1 that does this in Python, then waits.
start_python() {
  start "$1" node1 python3 -c "import mmap, os, socket, sys, time
$2
os.write(2, b'ready %d\n' % os.getpid())
while not os.path.exists('/var/tmp/preflight-end'): time.sleep(0.05)"
  await_pid "$1"
}

# The job cannot move there, and nobody stops it: refused_there WHAT REMEDY.
refused_there() {
  local status=0
  expect_exit 5 migrate "$pid" node2 --dry-run
  gestalt migrate "$pid" node2 --dry-run --json >"$scratch/report" || status=$?
  assert_eq "$status" 5 "exit status of a dry run"
  assert_eq "$(jq '.[0].can_move' "$scratch/report")" false
  assert_contains "$(jq -r '.[0].blockers[].what' "$scratch/report")" "$1"
  assert_contains "$(jq -r '.[0].blockers[].remedy' "$scratch/report")" "$2"
  expect_exit 5 migrate "$pid" node2
  assert_contains "$(cat "$scratch/migration.err")" "$1"
  assert_eq "$(node_of "$pid")" node1
  grep -q "^State:.*[SR] " <(on node1 sh -c "cat /proc/\$(pgrep -o -f preflight-end)/status") || fail "it does not run"
}

# Nor anywhere else: ps says so, too.
refused() {
  refused_there "$@"
  [[ $(gestalt ps --preflight | grep -w "^ *$pid") == *"  descriptor "* || $1 != *" is "* ]] || fail "ps names no descriptor"
  gestalt ps --preflight --json | jq -r ".[] | select(.pid == $pid) | .blockers[].what" >"$scratch/blockers"
  assert_contains "$(cat "$scratch/blockers")" "$1"
}

ends_well() {
  on leader touch /var/tmp/preflight-end
  await_status "$1" 0
  on leader rm /var/tmp/preflight-end
}

test_an_internet_socket() {
  start_python tcp 's = socket.create_server(("127.0.0.1", 0))'
  refused "is an internet socket, bound to this node's address" "gestalt run --net own"
  ends_well tcp
}

test_a_socket_to_another_job() {
  local first
  start_python server 's = socket.socket(socket.AF_UNIX); s.bind("/var/tmp/preflight-socket"); s.listen(1)
import threading; kept = []
threading.Thread(target=lambda: kept.append(s.accept()), daemon=True).start()'
  first=$pid
  start_python client 'c = socket.socket(socket.AF_UNIX); c.connect("/var/tmp/preflight-socket")'
  refused "is connected to a process that would stay here" "start both as one job"
  pid=$first
  ends_well client
  await_status server 0
  on leader rm -f /var/tmp/preflight-socket
}

test_files_of_this_node_only() {
  start_python file 'f = open("/dev/shm/preflight", "w+")'
  refused "(/dev/shm/preflight) is a file that only this node has" "shared file system"
  ends_well file
  start_python mapped 'f = open("/dev/shm/preflight", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close()'
  refused "maps a device or node-local file (/dev/shm/preflight)" "unmap it"
  ends_well mapped
  on node1 rm /dev/shm/preflight
}

test_a_large_deleted_file() {
  start_python deleted 'f = open("/var/tmp/preflight-large", "w+"); os.unlink(f.name); f.truncate(100 << 20)'
  refused "is a deleted file of 100 MiB" "let the file keep a name"
  ends_well deleted
}

# Of the whole unit, and all at once.
test_a_child_with_several() {
  local child
  start_python several 'child = os.fork()
if child == 0:
    s = socket.create_server(("127.0.0.1", 0)); f = open("/dev/shm/preflight", "w+")
    print("child", os.getpid(), flush=True)
    while not os.path.exists("/var/tmp/preflight-end"): time.sleep(0.05)
    os._exit(0)'
  wait_until 10 grep -q '^child' "$scratch/several.out"
  child=$(sed -n 's/^child //p' "$scratch/several.out")
  refused "is an internet socket" "gestalt run --net own"
  refused "is a file that only this node has" "shared file system"
  assert_eq "$(jq '[.[0].blockers[].pid] | unique | .[]' "$scratch/report")" "$child" "whose they are"
  assert_contains "$(gestalt ps --preflight | grep -w "^ *$pid")" "(and 1 more)"
  ends_well several
  on node1 rm /dev/shm/preflight
}

test_less_memory_than_it_needs() {
  start_python large 'b = bytearray(os.urandom(1 << 20)) * 64'
  on node2 sh -c 'sed "s/^MemAvailable:.*/MemAvailable: 40000 kB/" /proc/meminfo >/tmp/meminfo && mount --bind /tmp/meminfo /proc/meminfo'
  knows_it() { [[ $(gestalt node list --json | jq '.[] | select(.name == "node2").memory_available_bytes') == 40960000 ]]; }
  wait_until 10 knows_it
  refused_there "of memory, and node2 has 39 MiB available" "choose a node with more memory"
  on node2 umount /proc/meminfo
  knows_better() { ! knows_it; }
  wait_until 10 knows_better
  move "$pid" node2
  ends_well large
}

test_other_cpus() {
  start_python cpu 'pass'
  # A node is asked for its CPUs when it joins.
  on node2 sh -c 'sed -E "s/ (ssse3|avx2|popcnt)//g" /proc/cpuinfo >/tmp/cpuinfo && mount --bind /tmp/cpuinfo /proc/cpuinfo'
  sandbox daemon node2 restart
  wait_until 15 all_online
  refused_there "it may use what the CPUs of node2 do not have (" "--any-cpu"
  assert_contains "$(jq -r '.[0].blockers[].what' "$scratch/report")" ssse3
  assert_contains "$(jq -r '.[0].blockers[].what' "$scratch/report")" popcnt
  migrate "$pid" node2 --any-cpu --dry-run || fail "$(cat "$scratch/migration.err")"
  migrate "$pid" node2 --any-cpu || fail "$(cat "$scratch/migration.err")"
  # From there it may go to who can more, and to who can as much.
  move "$pid" leader
  on node2 umount /proc/cpuinfo
  sandbox daemon node2 restart
  wait_until 15 all_online
  move "$pid" node2
  ends_well cpu
}

all_online() { [[ $(gestalt node list --json | jq '[.[] | select(.state == "online")] | length') == 3 ]]; }

test_what_moves() {
  local row
  start_python plain 'a, b = socket.socketpair(); s = socket.socket(); r, w = os.pipe()'
  migrate "$pid" node2 --dry-run || fail "$(cat "$scratch/migration.err")"
  row=$(gestalt ps --preflight | grep -w "^ *$pid")
  [[ $row == *" - "* ]] || fail "ps says: $row"
  assert_eq "$(gestalt ps --preflight --json | jq -c ".[] | select(.pid == $pid).blockers")" "[]"
  assert_eq "$(gestalt ps --json | jq -c ".[] | select(.pid == $pid).blockers")" null
  ends_well plain
}

# Nodes of a sandbox have no RDMA device; a migration says the same in its report.
test_the_transport() {
  local why
  start_python plain 'pass'
  migrate "$pid" node2 --dry-run || fail "$(cat "$scratch/migration.err")"
  assert_eq "$(dry_run "$pid" node2 | jq -r '.[0].transport')" tcp
  why=$(dry_run "$pid" node2 | jq -r '.[0].transport_reason')
  assert_contains "$why" "the destination: "
  assert_contains "$(gestalt migrate "$pid" node2 --dry-run)" "transport: tcp; not RDMA: $why"
  assert_eq "$(dry_run "$pid" node2 --transport tcp | jq -c '.[0] | [.transport, .transport_reason]')" '["tcp",""]'
  refused_rdma
  move "$pid" node2
  assert_eq "$(reported .transport_reason)" "$why" "the migration's reason"
  ends_well plain
}

dry_run() { gestalt migrate "$@" --dry-run --json; }

refused_rdma() {
  local status=0
  dry_run "$pid" node2 --transport rdma >"$scratch/report" || status=$?
  assert_eq "$status" 5 "exit status of a dry run"
  assert_eq "$(jq -c '.[0] | [.can_move, .transport]' "$scratch/report")" '[false,""]'
  assert_contains "$(jq -r '.[0].blockers[].what' "$scratch/report")" "no RDMA: the destination: "
  expect_exit 6 migrate "$pid" node2 --transport rdma
  assert_contains "$(cat "$scratch/migration.err")" "$(jq -r '.[0].blockers[0].what' "$scratch/report")"
  assert_eq "$(node_of "$pid")" node1
}

# They name files: of others nobody is told.
test_of_others_nothing() {
  start_python roots 'f = open("/dev/shm/pre" + "flight", "w+")'
  assert_contains "$(gestalt ps --preflight)" /dev/shm/preflight
  assert_eq "$(on_as alice leader gestalt ps --preflight | grep -c /dev/shm/preflight)" 0
  assert_eq "$(on_as alice leader gestalt ps --preflight --json | jq -c ".[] | select(.pid == $pid).blockers")" null
  expect_exit 4 on_as alice leader gestalt migrate "$pid" node2 --dry-run
  ends_well roots
  on node1 rm /dev/shm/preflight
}

cluster_up 3
run_tests "$@"
