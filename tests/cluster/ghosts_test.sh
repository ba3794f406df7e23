#!/bin/bash
# Ghosts: stock kill(1), pkill(1) and kill(2) of programs in a session on the leader reach
# processes on other nodes, with the rights that the kernel gives.
# shellcheck disable=SC2154 # scratch, pid are of lib.sh and jobs.sh
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/view.sh
. "$repo/tests/cluster/view.sh"

# In a session: whether a signal could be sent to the pid.
can_signal() { view_as "${2:-root}" "kill -0 $1 2>/dev/null"; }

cannot_signal() { ! can_signal "$@"; }

# A program on NODE that a signal can reach: start_target NAME NODE [CMD…].
start_target() {
  local name=$1 node=$2
  shift 2
  (($#)) || set -- exec sleep 1020
  start "$name" "$node" sh -c 'echo "ready $$" >&2; '"$*"
  await_pid "$name"
  wait_until 15 can_signal "$pid" "${user:-root}"
}

state_of() { native "$1" "sed -n 's/^State:\t\(.\).*/\1/p' $2/status"; }

state_is() { [[ $(state_of "$1" "$2") == "$3" ]]; }

shown_state_is() { [[ $(view "ps -o stat= -p $1") == "$2"* ]]; }

test_kill_ends_a_remote_process() {
  local name
  # What starts these tests may ignore SIGINT and SIGQUIT, and so would the jobs.
  for name in TERM HUP KILL USR1 ALRM 34; do
    start_target "by$name" node1
    view "kill -$name $pid"
    case $name in
      TERM) await_status byTERM 143 ;;
      HUP) await_status byHUP 129 ;;
      KILL) await_status byKILL 137 ;;
      USR1) await_status byUSR1 138 ;;
      ALRM) await_status byALRM 142 ;;
      34) await_status by34 162 ;;
    esac
    # Nobody holds its pid any more.
    wait_until 15 cannot_signal "$pid"
    wait_until 10 not_shown "$pid"
  done
}

test_kill_of_a_child() {
  local child
  start tree node2 sh -c 'sleep 1021 & echo "child $!"; echo "ready $$" >&2; wait $!; exit $?'
  await_pid tree
  wait_until 10 grep -q '^child ' "$scratch/tree.out"
  child=$(sed -n 's/^child //p' "$scratch/tree.out")
  wait_until 15 can_signal "$child"
  view "kill $child"
  await_status tree 143
}

test_nobody_is_there() {
  assert_contains "$(view 'LC_ALL=C /bin/kill -0 4190000 2>&1 || :')" "No such process"
  expect_exit 1 view 'kill 4190000 2>/dev/null'
}

test_a_handler_runs_there() {
  start_target handler node1 'trap "echo got USR1" USR1; trap "echo got TERM; exit 9" TERM
    while :; do sleep 0.1; done'
  heard() { grep -q "got $1" "$scratch/handler.out"; }
  view "kill -USR1 $pid"
  wait_until 10 heard USR1
  view "kill $pid"
  await_status handler 9
}

test_stop_and_continue() {
  start_target stopped node1
  view "kill -STOP $pid"
  wait_until 10 state_is node1 "$pid" T
  wait_until 10 shown_state_is "$pid" T
  view "kill -CONT $pid"
  wait_until 10 state_is node1 "$pid" S
  wait_until 10 shown_state_is "$pid" S
  view "kill -STOP $pid"
  wait_until 10 state_is node1 "$pid" T
  view "kill -KILL $pid"
  await_status stopped 137
}

# Also when it is continued in another way.
test_signals_to_a_stopped_process() {
  start_target held node1 'trap "echo got TERM; exit 9" TERM; while :; do sleep 0.1; done'
  view "kill -STOP $pid"
  wait_until 10 state_is node1 "$pid" T
  view "kill -TERM $pid"
  sleep 2
  state_is node1 "$pid" T
  gestalt kill -CONT "$pid"
  await_status held 9
}

test_process_groups() {
  local children
  start_target group node1 'echo "group $(ps -o pgid= -p $$)"; sleep 1030 & sleep 1031 & wait; exit 3'
  wait_until 10 grep -q '^group ' "$scratch/group.out"
  [[ $(sed -n 's/^group *//p' "$scratch/group.out") == "$pid" ]] || fail "not a group's leader"
  two_children() { [[ $(view "pgrep -P $pid" | wc -l) == 2 ]]; }
  wait_until 10 two_children
  children=$(view "pgrep -g $pid" | grep -vx "$pid" | xargs)
  group_shows() {
    local each
    for each in $children; do state_is node1 "$each" "$1" || return; done
  }
  for each in $children; do wait_until 15 can_signal "$each"; done
  view "kill -STOP -- -$pid"
  wait_until 10 group_shows T
  wait_until 10 state_is node1 "$pid" T
  view "kill -CONT -- -$pid"
  wait_until 10 group_shows S
  expect_exit 1 view_as alice "kill -TERM -- -$pid 2>/dev/null"
  view "kill -TERM -- -$pid"
  await_status group 143
  for each in $children; do wait_until 15 cannot_signal "$each"; done
  expect_exit 1 view "kill -TERM -- -$pid 2>/dev/null"
}

# All members have a signal before any acts on it: a shell does not see its children's end.
test_a_groups_signal_comes_at_once() {
  local i children
  for i in {1..8}; do
    start_target "once$i" node1 'sleep 1041 & sleep 1042 & sleep 1043 & wait; exit 3'
    children_signalled() {
      local each
      children=$(view "pgrep -P $pid") && [[ $(wc -w <<<"$children") == 3 ]] || return
      for each in $children; do can_signal "$each" || return; done
    }
    wait_until 15 children_signalled
    view "kill -$((i % 2 ? 15 : 9)) -- -$pid"
    await_status "once$i" "$((i % 2 ? 143 : 137))"
  done
}

# The group is still there when its leader is not.
test_a_group_without_its_leader() {
  local child group
  start headless node2 sh -c 'setsid sh -c "sleep 1032 & echo child \$!; exec sleep 1033" &
    echo "ready $$" >&2; sleep 1034'
  await_pid headless
  wait_until 10 grep -q '^child ' "$scratch/headless.out"
  child=$(sed -n 's/^child //p' "$scratch/headless.out")
  wait_until 10 shown_on "$child" node2
  group=$(view "ps -o pgid= -p $child" | xargs)
  wait_until 15 can_signal "$child"
  view "kill -KILL $group"
  wait_until 15 cannot_signal "$group"
  can_signal "$child"
  view "kill -TERM -- -$group"
  wait_until 15 cannot_signal "$child"
  view "kill -TERM -- -$pid"
  await_status headless 143
}

# What is on its way when the daemons stop is not lost, and not done twice.
test_signals_while_a_daemon_is_away() {
  local node
  # Handlers of Python take two of a kind for one.
  start away node1 python3 -c 'import os, signal
signals = {signal.SIGRTMIN, signal.SIGRTMIN + 1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
os.write(2, b"ready %d\n" % os.getpid())
number = 0
while number != signal.SIGTERM:
    number = signal.sigwait(signals)
    print("got", int(number), flush=True)
os._exit(4)'
  await_pid away
  wait_until 15 can_signal "$pid"
  heard_of() { [[ $(grep -c "got $1" "$scratch/away.out") == "$2" ]]; }
  local stopped sender
  for stopped in 1:leader 2:node1; do
    node=${stopped#*:}
    on leader rm -f /var/tmp/signals-go /var/tmp/signals-gone
    # No session begins without the leader's daemon.
    view "touch /var/tmp/signals-wait; until [ -e /var/tmp/signals-go ]; do sleep 0.1; done
      kill -34 $pid; kill -34 $pid; kill -35 $pid; touch /var/tmp/signals-gone" &
    sender=$!
    wait_until 20 on leader rm /var/tmp/signals-wait
    sandbox daemon "$node" kill
    on leader touch /var/tmp/signals-go
    wait_until 20 on leader test -e /var/tmp/signals-gone
    sandbox daemon "$node" start
    wait_until 20 healthy node1
    wait_until 20 heard_of 35 "${stopped%:*}"
    wait "$sender" || true
  done
  heard_of 34 4 || fail "$(cat "$scratch/away.out")"
  view "kill $pid"
  await_status away 4
}

test_pkill_and_killall_by_name() {
  local name=ghost-$$ first each
  on leader cp /usr/bin/sleep "/usr/local/bin/$name"
  start_target one node1 exec "$name" 1022
  first=$pid
  start_target two node2 exec "$name" 1023
  wait_until 10 shown_on "$first" node1
  wait_until 10 shown_on "$pid" node2
  for each in "$first" "$pid"; do wait_until 10 shown_named "$each" "$name"; done
  view "pkill -f '^$name 102[2]'"
  await_status one 143
  ! ended two || fail "the other one was ended, too"
  view "pkill -x $name"
  await_status two 143
}

# killall(1) signals by a descriptor of /proc/PID.
test_killall_by_name() {
  local name=ghostall-$$
  on leader cp /usr/bin/sleep "/usr/local/bin/$name"
  view "$name 1024 & killall $name; wait" # the leader's own
  start_target all node1 exec "$name" 1025
  wait_until 10 shown_named "$pid" "$name"
  expect_exit 1 view_as alice "killall $name 2>/dev/null"
  ! ended all || fail "alice has ended root's process"
  view "killall $name"
  await_status all 143
  user=alice start_target hers node2 'sleep 1035 & exec '"$name"' 1026'
  start_target too node1 exec "$name" 1027
  wait_until 10 shown_named "$pid" "$name"
  wait_until 15 view_as alice "killall -0 $name 2>/dev/null"
  view_as alice "killall -q $name" || true
  await_status hers 143
  ! ended too || fail "alice has ended root's process"
  # Of the group that the name leads to.
  view "killall -g $name"
  await_status too 143
}

# What opens /proc/PID otherwise sees the process.
test_directories_of_processes() {
  start_target listed node1
  wait_until 10 shown_named "$pid" sleep
  assert_contains "$(view "ls /proc/$pid")" cmdline
  assert_contains "$(view "find /proc/$pid -maxdepth 1 -name stat")" stat
  assert_eq "$(view "cd /proc/$pid; cat comm")" sleep
  assert_eq "$(view "python3 -c 'import os, signal
for _ in range(20):
    fd = os.open(\"/proc/$pid\", os.O_RDONLY | os.O_DIRECTORY)
    signal.pidfd_send_signal(fd, 0)
    os.close(fd)
    assert os.readlink(\"/proc/$pid/exe\").endswith(\"sleep\")
    assert \"cmdline\" in os.listdir(\"/proc/$pid\")
    break
print(open(\"/proc/$pid/comm\").read())'")" sleep
  view "kill $pid"
  await_status listed 143
}

test_a_user_signals_his_own_only() {
  local bobs
  user=bob start_target bobs node1
  bobs=$pid
  user=alice start_target alices node1
  wait_until 15 can_signal "$bobs" root
  assert_contains "$(view_as alice "LC_ALL=C /bin/kill -0 $bobs 2>&1 || :")" "not permitted"
  assert_contains "$(view_as alice "LC_ALL=C /bin/kill -KILL $bobs 2>&1 || :")" "not permitted"
  expect_exit 1 view_as alice "pkill -f 'sleep 102[0]' -u bob 2>/dev/null"
  view_as alice "kill -0 $pid"
  view_as alice "kill $pid"
  await_status alices 143
  ! ended bobs || fail "alice has ended bob's process"
  state_is node1 "$bobs" S
  view_as bob "kill -HUP $bobs"
  await_status bobs 129
}

test_pidfds_of_programs() {
  start_target pidfd node2
  view "python3 -c 'import os, signal
fd = os.pidfd_open($pid)
signal.pidfd_send_signal(fd, signal.SIGTERM)'"
  await_status pidfd 143
}

test_psutil_terminates() {
  start_target ps node2
  wait_until 10 shown_on "$pid" node2
  view "python3 -c 'import psutil; psutil.Process($pid).terminate()'"
  await_status ps 143
}

test_a_job_that_moves_stays_reachable() {
  local node
  start_victim mover node1 memory
  for node in node2 leader node1; do
    move "$pid" "$node"
    wait_until 15 can_signal "$pid"
  done
  view "kill -STOP $pid"
  wait_until 10 state_is node1 "$pid" T
  view "kill -CONT $pid"
  wait_until 10 state_is node1 "$pid" S
  keeps_working mover
  view "kill $pid"
  await_status mover 0 30
  check_report mover
}

# With all of its processes, whose pids the ghosts hold there.
test_a_tree_moves_to_the_ghosts_node() {
  local node
  start_victim trees node1 tree
  for node in leader node1 leader node2; do
    wait_until 15 can_signal "$pid"
    move "$pid" "$node"
  done
  wait_until 15 can_signal "$pid"
  expect_same_as_native node2
  finish trees "$pid"
}

# Its ghost stays stopped, and must not keep the pid.
test_a_stopped_ghost_gives_way() {
  start_victim waiting node1 memory
  wait_until 15 can_signal "$pid"
  view "kill -STOP $pid"
  wait_until 10 state_is node1 "$pid" T
  gestalt kill -CONT "$pid"
  wait_until 10 state_is node1 "$pid" S
  move "$pid" leader
  keeps_working waiting
  move "$pid" node2
  wait_until 15 can_signal "$pid"
  view "kill $pid"
  await_status waiting 0 30
}

keeper_pid() { on leader pgrep -o -x gestalt-ghosts; }

another_keeper() {
  local now
  now=$(keeper_pid) && [[ $now != "$1" ]]
}

test_the_keeper_is_killed() {
  local before
  start_target kept node1
  before=$(keeper_pid)
  on leader kill -KILL "$before"
  wait_until 20 another_keeper "$before"
  wait_until 15 can_signal "$pid"
  view "kill $pid"
  await_status kept 143
}

test_the_views_program_is_killed() {
  start_target viewed node1
  on leader pkill -KILL -f '^/usr/lib/gestalt/gestalt-view --worker --uid 0( |$)'
  wait_until 15 shown_on "$pid" node1
  wait_until 15 can_signal "$pid"
  view "kill $pid"
  await_status viewed 143
}

# Signals that come at once, from many.
test_many_signals() {
  start many node1 python3 -c 'import os, signal, time
count = 0
def counted(*_):
    global count
    count += 1
signal.signal(signal.SIGUSR1, counted)
os.write(2, b"ready %d\n" % os.getpid())
while True:
    time.sleep(0.05)
    if os.path.exists("/var/tmp/view-enough"):
        print(count, flush=True)
        os._exit(3)'
  await_pid many
  wait_until 15 can_signal "$pid"
  view "for i in \$(seq 500); do kill -USR1 $pid; done"
  on leader touch /var/tmp/view-enough
  await_status many 3
  on leader rm /var/tmp/view-enough
  # Plain signals may be merged, as everywhere, but not multiplied.
  local count
  count=$(tail -n 1 "$scratch/many.out")
  ((count > 0 && count <= 500)) || fail "500 signals became $count"
}

test_ghosts_are_not_shown_themselves() {
  start_target hidden node1
  wait_until 10 shown_on "$pid" node1
  wait_until 10 shown_named "$pid" sleep
  no_pid_twice
  assert_eq "$(view "cat /proc/$pid/comm")" sleep
  assert_eq "$(node_of "$pid")" node1
}

test_after_a_restart_of_gestaltd() {
  start_target restarted node1
  sandbox daemon leader restart
  wait_until 20 healthy node1
  wait_until 15 can_signal "$pid"
  view "kill $pid"
  await_status restarted 143
}

test_a_lost_nodes_ghosts_go() {
  start_target lost node2
  sandbox kill node2
  wait_until 30 cannot_signal "$pid"
  wait_until 10 not_shown "$pid"
}

cluster_up 3
run_tests "$@"
