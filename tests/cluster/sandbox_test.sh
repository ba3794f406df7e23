#!/bin/bash
# The sandbox itself, without daemons: what all other cluster tests rely on.
#
#   leader 10.77.0.1 ──┐
#   node1  10.77.0.2 ──┼── br0 (private network namespace)
#   node2  10.77.0.3 ──┘
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

state_of() { sandbox status | awk -v node="$1" '$1 == node { print $2 }'; }

other() { "$repo/pxe/sandbox" --name "$cluster-b" "$@"; }

# In the background, as the very process that $! names.
start_other_up() { exec "$repo/pxe/sandbox" --name "$cluster-b" up --nodes 8 --no-daemon; }

after_each() { other down; }

# What a sandbox could leave on the host. Other sandboxes may come and go.
traces() {
  local name=$1
  grep -F "gestalt-sandbox/$name/" /proc/mounts || true
  find /run/gestalt-sandbox -mindepth 1 -maxdepth 1 -name "$name" 2>/dev/null || true
  find /sys/fs/cgroup -path "*/gestalt-sandbox/$name" -prune -print 2>/dev/null || true
  grep -lsF "gestalt-sandbox/$name/" /proc/[0-9]*/cgroup || true
}

# The host's init may take a moment to reap what was killed.
expect_no_traces() {
  local i
  for ((i = 0; i < 100; i++)); do
    [[ -n $(traces "$cluster-b") ]] || return 0
    sleep 0.05
  done
  fail "left behind: $(traces "$cluster-b")"
}

test_nodes_reach_each_other_by_name() {
  on node1 ping -c1 -W2 node2
  on leader ping -c1 -W2 node1
}

test_nothing_leaves_the_sandbox() {
  assert_eq "$(on node1 ip route show default)" ""
  expect_exit 2 on node1 ping -c1 -W1 192.0.2.1
}

test_hostname_and_init() {
  assert_eq "$(on node2 hostname)" node2
  assert_contains "$(on node2 cat /proc/1/cmdline | tr '\0' ' ')" catatonit
}

test_orphans_are_reaped() {
  on node1 sh -c '(true & sleep 0.1) & exec true'
  sleep 0.3
  assert_eq "$(on node1 sh -c 'ps -eo stat= | grep -c Z || true')" 0 zombies
}

test_root_is_shared() {
  on node1 sh -c 'echo hello >/var/tmp/shared; mkdir /home/alice/new'
  assert_eq "$(on node2 cat /var/tmp/shared)" hello
  on leader test -d /home/alice/new
  on leader sh -c 'echo x >/tmp/tmp-is-shared'
  on node2 test -e /tmp/tmp-is-shared
}

test_run_dev_and_shm_are_local() {
  on node1 sh -c 'echo x >/run/only-here; echo x >/dev/shm/only-here'
  on node2 test ! -e /run/only-here
  on node2 test ! -e /dev/shm/only-here
}

test_pids_are_local() {
  on node1 sh -c 'sleep 4711 & sleep 0.1'
  assert_contains "$(on node1 ps ax)" "sleep 4711"
  assert_not_contains "$(on node2 ps ax)" "sleep 4711"
}

test_pid_max() {
  assert_eq "$(on node1 cat /proc/sys/kernel/pid_max)" 4194304
  assert_eq "$(cat /proc/sys/kernel/pid_max)" 4194304
}

test_leader_has_a_private_disk() {
  on leader sh -c 'echo secret >/var/lib/gestalt/leader/key'
  on node1 test ! -e /var/lib/gestalt/leader/key
  assert_eq "$(on leader stat -c %a /var/lib/gestalt/leader)" 700
}

test_exec_passes_status_input_and_arguments() {
  expect_exit 7 on node1 sh -c 'exit 7'
  expect_exit 143 on node1 sh -c 'kill -TERM $$'
  assert_eq "$(echo through | on node1 cat)" through
  assert_eq "$(on node1 printf '%s|' 'a b' '' "c'd")" "a b||c'd|"
  expect_exit 127 on node1 /no/such/program
}

test_exec_environment_is_clean() {
  FOO=bar on node1 sh -c 'test -z "${FOO:-}" && test "$HOME" = /root && test "$LANG" = C.UTF-8'
}

test_exec_as_user() {
  assert_eq "$(on_as alice node1 id -un)" alice
  assert_eq "$(on_as bob node1 sh -c 'pwd; id -u')" "/home/bob"$'\n'1001
  expect_exit 1 on_as bob node1 touch /home/alice/not-allowed
}

test_exec_with_a_terminal() {
  assert_contains "$(sandbox exec node1 --tty -- tty)" /dev/pts/
  expect_exit 5 sandbox exec node1 --tty -- sh -c 'exit 5'
  expect_exit 1 on node1 tty </dev/null
}

test_exec_is_quick() {
  local began=${EPOCHREALTIME/./} i
  for ((i = 0; i < 10; i++)); do on node1 true; done
  local each=$(((${EPOCHREALTIME/./} - began) / 10000))
  ((each < 50)) || fail "one exec takes $each ms"
}

test_command_dies_with_its_caller() {
  "$repo/pxe/sandbox" --name "$cluster" exec node1 -- sleep 4712 &
  local pid=$!
  wait_until 5 on node1 pgrep -f 'sleep 471[2]'
  kill -TERM "$pid"
  wait "$pid" || true
  wait_until 5 on node1 sh -c '! pgrep -f "sleep 471[2]"'
}

# Also when he does while it is entering.
test_command_dies_with_a_caller_who_dies_at_once() {
  local i pid
  for ((i = 0; i < 40; i++)); do
    "$repo/pxe/sandbox" --name "$cluster" exec node1 -- sleep 4713 &
    pid=$!
    sleep "0.0$((10 + i))"
    kill -KILL "$pid"
    wait "$pid" || true
  done
  wait_until 5 on node1 sh -c '! pgrep -f "sleep 471[3]"'
}

test_node_sees_only_its_cgroup() {
  assert_eq "$(on node1 sh -c 'grep ^0:: /proc/self/cgroup')" 0::/
  on node1 sh -ec 'cd /sys/fs/cgroup; mkdir job; sleep 60 & echo $! >job/cgroup.procs
    echo 1 >job/cgroup.freeze
    for i in $(seq 100); do grep -q "frozen 1" job/cgroup.events && break; sleep 0.02; done
    grep -q "frozen 1" job/cgroup.events
    echo 1 >job/cgroup.kill
    for i in $(seq 100); do rmdir job 2>/dev/null && exit 0; sleep 0.02; done; exit 1'
  on node2 test ! -e /sys/fs/cgroup/job
}

test_pause_and_resume() {
  on node1 sh -c 'mkdir -p /sys/fs/cgroup/deep/er
    (i=0; while :; do i=$((i+1)); echo $i >/run/count; sleep 0.02; done) & echo $! >/sys/fs/cgroup/deep/er/cgroup.procs; sleep 0.2'
  sandbox pause node1
  assert_eq "$(state_of node1)" paused
  local root before after
  root=/proc/$(sandbox status | awk '$1 == "node1" { print $3 }')/root
  before=$(cat "$root/run/count")
  sleep 0.3
  after=$(cat "$root/run/count")
  assert_eq "$after" "$before" "counter of a paused node"
  sandbox resume node1
  assert_eq "$(state_of node1)" running
  wait_until 3 on node1 sh -c "test \$(cat /run/count) -gt $before"
}

test_cut_and_join_are_silent() {
  on node2 sh -c 'rm -f /tmp/got; nc -l -p 7000 >/tmp/got & sleep 0.2'
  # shellcheck disable=SC2016
  on node1 sh -c '(echo one; while [ ! -e /run/go ]; do sleep 0.1; done; echo two) | nc -N node2 7000 & sleep 0.3; echo $!' >/dev/null
  wait_until 5 on leader grep -q one /tmp/got
  sandbox cut node2
  assert_eq "$(state_of node2)" cut
  expect_exit 1 on node1 ping -c1 -W1 node2
  on node1 touch /run/go
  sleep 0.5
  on leader sh -c '! grep -q two /tmp/got'
  sandbox join node2
  assert_eq "$(state_of node2)" running
  wait_until 20 on leader grep -q two /tmp/got
}

# A dying node's kernel closes its connections; none of that may be seen.
test_kill_is_silent_and_boot_brings_it_back() {
  on node2 sh -c 'echo x >/run/lost; nc -l -p 7001 >/dev/null & sleep 0.2'
  on leader sh -c 'sleep 1000 | nc node2 7001 & sleep 0.3'
  assert_contains "$(on leader ss -Htn state established dport = :7001)" 7001
  sandbox kill node2
  assert_eq "$(state_of node2)" dead
  sleep 0.3
  assert_contains "$(on leader ss -Htn state established dport = :7001)" 7001 "connection to a dead node"
  expect_exit 1 on leader ping -c1 -W1 node2
  expect_exit 1 on node2 true
  sandbox boot node2
  assert_eq "$(state_of node2)" running
  on leader ping -c1 -W2 node2
  on node2 test ! -e /run/lost
}

test_paused_node_can_be_killed() {
  sandbox pause node2
  sandbox kill node2
  sandbox boot node2
  on node2 true
}

test_leader_disk_survives_power_loss() {
  on leader sh -c 'echo kept >/var/lib/gestalt/leader/kept'
  sandbox kill leader
  sandbox boot leader
  assert_eq "$(on leader cat /var/lib/gestalt/leader/kept)" kept
}

test_errors_name_the_remedy() {
  local message
  message=$(on nosuch true 2>&1) && fail "an unknown node was accepted"
  assert_contains "$message" "has no node 'nosuch'"
  message=$(sandbox up --no-daemon 2>&1) && fail "a second up was accepted"
  assert_contains "$message" "is up already"
  message=$(GESTALT_INSTALL=/nonexistent other up 2>&1) && fail "up without an install layer"
  assert_contains "$message" "make build"
  message=$(other status 2>&1) && fail "status of nothing"
  assert_contains "$message" "no sandbox '$cluster-b'"
}

test_two_side_by_side() {
  other up --nodes 2 --no-daemon
  other exec leader -- ping -c1 -W2 node1
  other exec node1 -- touch /var/tmp/in-b
  on node1 test ! -e /var/tmp/in-b
  assert_contains "$("$repo/pxe/sandbox" list)" "$cluster-b"
  other down
  on node1 true
  expect_no_traces
}

test_cpu_quota_is_applied() {
  other up --nodes 1 --no-daemon --cpus-per-node 0.2
  local used
  # User and system time of one second's spinning, in hundredths.
  # shellcheck disable=SC2016
  used=$(other exec leader -- bash -c 'TIMEFORMAT="%U %S"
    time timeout 1 sh -c "while :; do :; done" || true' 2>&1 | awk '{ printf "%d", ($1 + $2) * 100 }')
  other down
  ((used > 5 && used < 40)) || fail "a node with 0.2 CPUs used $used % of one"
}

test_crashed_up_is_cleaned() {
  start_other_up &
  local pid=$!
  wait_until 5 test -e "/run/gestalt-sandbox/$cluster-b/holder"
  kill -KILL "$pid"
  wait "$pid" || true
  other up --nodes 1 --no-daemon
  other exec leader -- true
  other down
  expect_no_traces
}

test_interrupted_up_cleans_up() {
  start_other_up &
  local pid=$!
  wait_until 5 test -e "/run/gestalt-sandbox/$cluster-b/holder"
  kill -TERM "$pid"
  wait "$pid" || true
  if [[ -e /run/gestalt-sandbox/$cluster-b/complete ]]; then other down; fi
  expect_no_traces
}

test_down_twice() {
  other up --nodes 2 --no-daemon
  other exec node1 -- sh -c 'sleep 4713 & mkdir -p /sys/fs/cgroup/a/b'
  other pause node1
  other down
  other down
  expect_no_traces
}

test_sixteen_nodes() {
  local began=$SECONDS i
  other up --nodes 16 --no-daemon
  ((SECONDS - began < 10)) || fail "16 nodes took $((SECONDS - began)) s"
  for ((i = 1; i < 16; i++)); do other exec leader -- ping -c1 -W2 "node$i"; done
  other down
}

cluster_up 3 --no-daemon
run_tests "$@"
