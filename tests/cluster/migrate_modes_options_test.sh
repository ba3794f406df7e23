#!/bin/bash
# What `gestalt migrate` says about each mode, whether it is true, and what its options
# do. Numbers of pages and bytes decide, not times.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

readonly keys='["migration_id", "pid", "source", "destination", "mode", "freeze_seconds",
  "total_seconds", "source_free_seconds", "rounds", "rounds_end_reason", "wire_bytes",
  "pages_sent", "pages_zero", "pages_duplicate", "faults_demand", "faults_avoided",
  "faults_local", "faults_zero", "fault_latency_seconds", "source_cpu_seconds",
  "destination_cpu_seconds", "resident_bytes", "state_bytes", "state_dump", "tracker",
  "dump_seconds", "restore_seconds", "commit_seconds", "streams", "processes", "threads",
  "command", "started_unix_seconds", "state", "rounds_detail"]'

# says EXPRESSION: true of the last report, or the case fails.
says() {
  on leader jq -e ".[0] | $1" <"$scratch/migration.json" >/dev/null ||
    fail "not true: $1, in $(cat "$scratch/migration.json")"
}

# --- what is reported --------------------------------------------------------

# true_of MODE: of a report of a migration that is over.
true_of() {
  says "(($keys) - keys) == []"
  says '.state == "done" and .processes == 1 and .threads == 1 and .state_bytes > 0'
  says '.freeze_seconds > 0 and .total_seconds >= .freeze_seconds'
  says '.source_free_seconds > 0 and .source_cpu_seconds > 0'
  says '.dump_seconds > 0 and .restore_seconds > 0 and .streams >= 1'
  says '.fault_latency_seconds | .p50 <= .p99 and .p99 <= .p999'
  # Everything was sent once at least; what was sent is what was on the wire.
  says '(.pages_sent + .pages_zero) * 4096 >= .resident_bytes'
  says '.wire_bytes >= .pages_sent * 4096'
  says '.wire_bytes <= (.pages_sent + .pages_zero) * 4096 * 1.05 + .state_bytes + 65536'
  pages_follow "$1" || says '.faults_demand == 0 and .faults_avoided == 0'
  if has_rounds "$1"; then
    says '.rounds >= 1 and (.rounds_detail | length) == .rounds and .tracker != ""'
    says '.rounds_end_reason | IN("downtime-goal", "no-convergence", "round-limit", "timeout")'
  else
    says '.rounds == 0 and .rounds_end_reason == "" and .tracker == ""'
    # Nothing was written meanwhile: nothing was sent twice.
    says '(.pages_sent + .pages_zero - .pages_duplicate) * 4096 <= .resident_bytes'
  fi
}

test_reports() {
  local mode node
  begin victim node1 memory --mib 16 --rate 500 --tick-ms 100
  for mode in "${modes[@]}"; do
    [[ $mode != lazy ]] || continue
    for node in node2 node1; do
      echo "--- $mode to $node"
      move_by "$mode" "$pid" "$node" --wait
      true_of "$mode"
      works_on victim
      assert_eq "$(listed "$pid" "[.mode, .state, .destination] | join(\" \")")" "$mode done $node"
    done
  done
  finish victim "$pid"
}

# The command ends when the job runs there; pages come when they are needed, or when it
# is to move on.
test_report_of_lazy() {
  begin victim node1 memory --mib 16 --rate 100 --tick-ms 100
  move_by lazy "$pid" node2
  says "(($keys) - keys) == []"
  says '.state == "paging" and .wire_bytes * 4 < .resident_bytes and .rounds == 0'
  works_on victim
  assert_eq "$(listed "$pid" .state)" paging
  move_by eager "$pid" leader
  gestalt migrations --json | on leader jq '[.[] | select(.mode == "lazy")]' >"$scratch/migration.json"
  true_of lazy
  works_on victim
  finish victim "$pid"
}

# Right after a lazy move it has fetched neither its arguments nor its environment.
test_ps_shows_the_command_of_a_lazy_job() {
  begin python node1 python_victim.py
  move_by lazy "$pid" node2
  assert_contains "$(gestalt ps --json | on leader jq -r --argjson pid "$pid" \
    '.[] | select(.pid == $pid) | .command')" python_victim.py "its command in gestalt ps"
  finish python "$pid"
}

# After a lazy move of a reader: it reads all once, and what it did not need is fetched
# when it moves on. The report is of the lazy move.
read_all() {
  keeps_working victim
  move_by eager "$pid" leader
  gestalt migrations --json | on leader jq --argjson pid "$pid" \
    '[.[] | select(.mode == "lazy" and .pid == $pid)]' >"$scratch/migration.json"
}

read_lazily() { # [OPTION…]
  begin victim node1 reader --mib 16 --tick-ms 1
  move_by lazy "$pid" node2 "$@"
  read_all
  true_of lazy
  says '.pages_sent >= 4096'
  finish victim "$pid"
}

# Each page comes once, and most of them before they are asked for.
test_faults_of_a_sequential_reader() {
  read_lazily
  says '.faults_demand > 0 and .faults_demand * 20 <= .pages_sent'
  says '.pages_duplicate * 100 <= .pages_sent'
}

# Every page that is touched is asked for, and no other comes with it.
test_no_prefetch() {
  read_lazily --prefetch 0
  # The first few may be taken before it counts as running.
  says '.faults_demand >= 4050'
}

test_half_of_it_zero() {
  local mode
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    begin victim node1 reader --mib 16 --kind zero --tick-ms 1
    move_by "$mode" "$pid" node2
    [[ $mode != lazy ]] || read_all
    says '.wire_bytes <= .resident_bytes * 0.55'
    says '.pages_zero * 4096 >= .resident_bytes * 0.45'
    finish victim "$pid"
  done
}

# --- options -----------------------------------------------------------------

# with_each_mode OPTION…: there, with the option; true_of the report holds after it.
with_each_mode() {
  local mode
  begin victim node1 memory --mib 16 --tick-ms 100
  for mode in "${modes[@]}"; do
    [[ $mode != lazy ]] || continue
    echo "--- $mode $*"
    move_by "$mode" "$pid" node2 --wait "$@"
    true_of "$mode"
    [[ $1 != --streams ]] || says ".streams == $2"
    works_on victim
    move_by eager "$pid" node1
  done
  finish victim "$pid"
}

test_one_stream() { with_each_mode --streams 1; }
test_four_streams() { with_each_mode --streams 4; }
test_checksum() { with_each_mode --checksum; }

# Python's memory is not random.
test_compress() {
  local mode plain
  begin python node1 python_victim.py
  for mode in "${modes[@]}"; do
    [[ $mode != lazy ]] || continue
    echo "--- $mode"
    move_by "$mode" "$pid" node2 --wait
    plain=$(reported .wire_bytes)
    move_by "$mode" "$pid" node1 --wait --compress --checksum
    says ".wire_bytes < $plain * 0.8"
    says '.wire_bytes < .pages_sent * 4096'
  done
  finish python "$pid"
}

# 8 MiB at 4 MiB a second take two seconds, but for what may be sent at once.
test_bandwidth() {
  local mode
  for mode in "${modes[@]}"; do
    [[ $mode != lazy ]] || continue
    echo "--- $mode"
    begin victim node1 reader --mib 8 --rate 10
    move_by "$mode" "$pid" node2 --wait --bandwidth 4M --timeout 40
    says '.total_seconds >= 1.5'
    true_of "$mode"
    finish victim "$pid"
  done
}

test_max_rounds() {
  local mode
  begin victim node1 memory --mib 16 --rate 4000 --tick-ms 100
  for mode in "${modes[@]}"; do
    if has_rounds "$mode"; then
      move_by "$mode" "$pid" node2 --max-rounds 1 --downtime-goal 1ms
      says '.rounds == 1'
      move_by "$mode" "$pid" node1 --max-rounds 4 --downtime-goal 10s
      says '.rounds <= 4 and .rounds_end_reason == "downtime-goal"'
    else
      expect_exit 2 migrate "$pid" node2 --mode "$mode" --max-rounds 1
      assert_contains "$(cat "$scratch/migration.err")" "$mode"
    fi
  done
  finish victim "$pid"
}

# --- the file cache ----------------------------------------------------------

test_cached_files_are_told() {
  local mode node=node2
  on leader sh -c 'head -c 8M /dev/urandom >/var/tmp/cached'
  start cached node1 python3 -c 'import os, time
f = open("/var/tmp/cached", "rb"); sum = sum(f.read())
os.write(2, b"ready %d\n" % os.getpid())
while not os.path.exists("/var/tmp/cached-end"): time.sleep(0.05)
f.seek(0); print(sum == __builtins__.sum(f.read()))'
  await_pid cached
  for mode in "${modes[@]}"; do
    [[ $mode != lazy ]] || continue # its pages would be in the way of the next move
    migrate "$pid" "$node" --mode "$mode"
    says '.file_cache_bytes >= 8388608'
    if [[ $node == node2 ]]; then node=node1; else node=node2; fi
  done
  migrate "$pid" "$node" --no-file-cache
  says '.file_cache_bytes == 0'
  on leader touch /var/tmp/cached-end
  await_status cached 0
  assert_eq "$(cat "$scratch/cached.out")" True
  on leader rm /var/tmp/cached /var/tmp/cached-end
}

# --- dry run -----------------------------------------------------------------

# shellcheck disable=SC2016
readonly listener='import os, socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print("ready", os.getpid(), flush=True)
while not os.path.exists("/run/end-listener"): time.sleep(0.1)'

test_dry_run() {
  local mode before
  begin victim node1 memory --mib 16 --tick-ms 100
  before=$(gestalt migrations --json)
  for mode in "${modes[@]}"; do
    migrate "$pid" node2 --mode "$mode" --dry-run || fail "$(cat "$scratch/migration.err")"
    says '.can_move and .blockers == [] and .mode == "'"$mode"'" and .processes == 1'
    says '.source == "node1" and .destination == "node2"'
    says '.resident_bytes >= 14000000 and .expected_bytes > 0'
  done
  expect_there node1 "$job" 1
  assert_eq "$(node_of "$pid")" node1
  assert_eq "$(gestalt migrations --json)" "$before" "list of migrations"
  assert_eq "$(on node1 sh -c 'find /run/gestalt/images -mindepth 1 2>/dev/null')" ''
  assert_eq "$(on node2 sh -c 'pgrep -x gestalt-stand-i')" '' "stand-ins on node2"
  works_on victim
  finish victim "$pid"
}

test_dry_run_of_what_cannot_move() {
  start listener node1 python3 -c "$listener"
  await_pid listener
  expect_exit 5 migrate "$pid" node2 --mode lazy --dry-run
  says '(.can_move | not) and (.blockers | length) == 1 and .blockers[0].remedy != ""'
  expect_exit 5 migrate "$pid" node2 --mode lazy
  assert_eq "$(node_of "$pid")" node1
  on node1 touch /run/end-listener
  await_status listener 0
}

# --- progress ----------------------------------------------------------------

test_progress_on_a_terminal_only() {
  local mode node=node2 text
  begin victim node1 memory --mib 16 --tick-ms 100
  for mode in "${modes[@]}"; do
    [[ $mode != lazy ]] || continue
    echo "--- $mode"
    text=$(sandbox exec leader --tty -- timeout 30 gestalt migrate "$pid" "$node" --mode "$mode" --bandwidth 12M)
    assert_contains "$text" "moved pid $pid"
    assert_contains "$text" "[K" "what a terminal shows"
    assert_contains "$text" "[##" "what a terminal shows"
    if [[ $node == node2 ]]; then node=node1; else node=node2; fi
    gestalt migrate "$pid" "$node" --mode "$mode" --bandwidth 12M >"$scratch/stdout" 2>"$scratch/stderr"
    assert_eq "$(cat "$scratch/stderr")" '' "standard error"
    assert_not_contains "$(cat "$scratch/stdout")" $'\r'
    assert_not_contains "$(cat "$scratch/stdout")" $'\e'
    if [[ $node == node2 ]]; then node=node1; else node=node2; fi
  done
  finish victim "$pid"
}

# --- the limit ---------------------------------------------------------------

under_way() {
  gestalt migrations --json | on leader jq -r '[.[] | select(.state == "migrating")] | length'
}

# Those whose pages follow do not count, those that are still to freeze or frozen do.
test_the_limit() {
  local -a pids movers
  local i
  for i in 0 1 2 3; do
    begin "victim$i" node1 memory --mib 16 --rate 50
    pids[i]=$pid
  done
  for i in 0 1; do move_by lazy "${pids[i]}" node2; done
  for i in 2 3; do # 16 s, if they had them
    gestalt migrate "${pids[i]}" leader --mode eager --bandwidth 1M --timeout 5 >"$scratch/mover$i" 2>&1 &
    movers+=($!)
  done
  wait_until 4 eval '(($(under_way) == 2))'
  expect_exit 6 migrate "${pids[0]}" leader --mode eager
  assert_contains "$(cat "$scratch/migration.err")" "2 migrations are under way"
  assert_contains "$(cat "$scratch/migration.err")" max_concurrent
  # They come to their end, and there is room again.
  for i in 0 1; do wait "${movers[i]}" && fail "16 MiB at 1 MiB/s in 5 s"; done
  for i in 0 1; do move_by post-copy "${pids[i]}" leader; done
  for i in 2 3; do move_by eager "${pids[i]}" node2; done
  for i in 0 1 2 3; do finish "victim$i" "${pids[i]}"; done
}

test_nothing_is_left() { expect_nothing_left; }

cluster_up 3
set_limit 2
run_tests "$@"
