#!/bin/bash
# What a moved program reads and writes: its output arrives complete, in order and once,
# its input too, whatever is under way at the freeze. Real programs on real data.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# On all nodes, before the cases: something to chew on.
make_data() {
  on leader sh -c 'cat /usr/bin/python3.1? /usr/lib/x86_64-linux-gnu/libcrypto.so.3 \
    /usr/lib/x86_64-linux-gnu/libstdc++.so.6 | head -c 16000000 >/var/tmp/data'
}

expect_numbers() { # NAME COUNT
  seq 0 $(($2 - 1)) | cmp - "$scratch/$1.out" || fail "the numbers are not complete and in order"
}

test_output_of_a_fast_writer() {
  local count
  start counter node1 "$victims/counter" --rate 0 --seconds 3
  await_pid counter
  move "$pid" node2
  move "$pid" node1
  await_status counter 0 60
  count=$(sed -n 's/^ok .*lines=//p' "$scratch/counter.err")
  ((count > 1000000)) || fail "only $count lines"
  expect_numbers counter "$count"
}

test_output_of_a_steady_writer() {
  local node count
  start counter leader "$victims/counter" --rate 2000
  await_pid counter
  for node in node1 node2 leader node2; do move "$pid" "$node"; done
  gestalt kill "$pid"
  await_status counter 0
  count=$(sed -n 's/^ok .*lines=//p' "$scratch/counter.err")
  ((count > 0)) || fail "the counter told no count"
  expect_numbers counter "$count"
}

# The window is full and the program blocked in write(2) when it is moved.
test_output_to_a_slow_reader() {
  rm -f "$scratch/slow.status"
  on leader bash -c 'set -o pipefail; timeout 100 gestalt run --node node1 -- \
    "$1/counter" --rate 0 --count 400000 2>/tmp/slow.err | (sleep 4; cat) | sha256sum' sh "$victims" \
    >"$scratch/slow.out" &
  wait_until 10 on leader grep -q '^ready' /tmp/slow.err
  pid=$(on leader sed -n 's/^ready //p' /tmp/slow.err)
  move "$pid" node2
  move "$pid" leader
  wait
  assert_eq "$(cat "$scratch/slow.out")" "$(seq 0 399999 | sha256sum)"
}

test_a_flood_has_the_same_checksum() {
  local want
  want=$(on leader "$victims/flood" --mib 48 2>/dev/null | sha256sum)
  start flood node1 "$victims/flood" --mib 48 --rate 16000
  await_pid flood
  move "$pid" node2
  move "$pid" leader
  await_status flood 0 60
  assert_eq "$(sha256sum <"$scratch/flood.out")" "$want"
}

feed() { # numbers, a few at a time, for some seconds
  local i
  for ((i = 0; i < 60; i++)); do
    seq $((i * 2000)) $((i * 2000 + 1999))
    sleep 0.05
  done
}

test_input_under_way() {
  mkfifo "$scratch/fifo"
  feed >"$scratch/fifo" &
  input=$scratch/fifo start echo node1 "$victims/echo"
  await_pid echo
  move "$pid" node2
  move "$pid" leader
  move "$pid" node1
  await_status echo 0 30
  expect_numbers echo 120000
  assert_contains "$(cat "$scratch/echo.err")" "lines=120000"
}

# More than all pipes hold, unread by the program, and its end already sent.
test_input_that_waits() {
  head -c 300000 /dev/zero | tr '\0' x >"$scratch/big"
  input=$scratch/big start late node1 bash -c 'echo "ready $$" >&2
    until [ -e /tmp/read-now ]; do sleep 0.05; done; exec wc -c'
  await_pid late
  move "$pid" node2
  move "$pid" leader
  on leader touch /tmp/read-now
  await_status late 0
  assert_eq "$(cat "$scratch/late.out")" 300000
}

# What was read and not yet written when the writer ends.
test_status_and_last_words_arrive_from_the_new_node() {
  start words leader bash -c 'echo "ready $$" >&2; trap "echo last words; exit 23" USR1
    while :; do sleep 0.1; done'
  await_pid words
  move "$pid" node1
  gestalt kill -USR1 "$pid"
  await_status words 23
  assert_eq "$(cat "$scratch/words.out")" "last words"
}

test_death_by_signal_on_the_new_node() {
  start victim leader bash -c 'echo "ready $$" >&2; exec sleep 100'
  await_pid victim
  move "$pid" node2
  gestalt kill -KILL "$pid"
  await_status victim 137
}

test_shell_pipeline() {
  local want
  want=$(on leader sh -c 'sha256sum </var/tmp/data')
  start pipeline leader bash -c 'echo "ready $$" >&2
    cat /var/tmp/data | bzip2 -9 | bzip2 -dc | tee /dev/null | sha256sum; echo "${PIPESTATUS[@]}"'
  await_pid pipeline
  move "$pid" node1
  (($(reported .processes) >= 5)) || fail "only $(reported .processes) processes moved"
  move "$pid" node2
  await_status pipeline 0 60
  assert_eq "$(cat "$scratch/pipeline.out")" "$want"$'\n''0 0 0 0 0'
}

test_compressor_makes_the_same_file() {
  start bzip2 leader bash -c 'echo "ready $$" >&2; exec bzip2 -9 -c /var/tmp/data'
  await_pid bzip2
  move "$pid" node1
  move "$pid" node2
  on leader sh -c 'bzip2 -9 -c /var/tmp/data >/var/tmp/data.bz2'
  await_status bzip2 0 60
  on leader cat /var/tmp/data.bz2 | cmp - "$scratch/bzip2.out"
}

# xz takes Landlock's rules upon itself where it can, and CRIU cannot carry those.
test_what_cannot_move_says_why() {
  mkfifo "$scratch/wait"
  input=$scratch/wait start xz leader sh -c 'echo "ready $$" >&2; exec xz -c'
  exec 5>"$scratch/wait"
  await_pid xz
  echo hello >&5
  wait_until 10 on leader pgrep -x xz
  local status=0
  migrate "$pid" node1 || status=$?
  if ((status)); then
    assert_eq "$status" 5 "exit status ($(cat "$scratch/migration.err"))"
    assert_contains "$(cat "$scratch/migration.err")" Landlock
  fi
  exec 5>&-
  await_status xz 0
  assert_eq "$(on leader xz -dc <"$scratch/xz.out")" hello
}

# Children are born and end all the time; none of them may stand in the way.
test_a_shell_that_forks_all_the_time() {
  local i
  start forks leader bash -c 'echo "ready $$" >&2
    until [ -e /tmp/stop-forking ]; do /bin/true & /bin/true; wait; done; echo "done"'
  await_pid forks
  for ((i = 0; i < 40; i++)); do
    migrate "$pid" node1 --dry-run || fail "dry run $i: $(cat "$scratch/migration.err")"
  done
  move "$pid" node1
  move "$pid" leader
  on leader touch /tmp/stop-forking
  await_status forks 0
  assert_eq "$(cat "$scratch/forks.out")" "done"
}

# Whoever leaves the tree in the course of a migration is not lost: it stops the migration.
test_orphans_of_the_moment() {
  local to=node2 status
  start orphans node1 bash -c 'echo "ready $$" >&2
    for i in {1..300}; do ((sleep 0.004; echo "$i" >>/var/tmp/orphans) &); sleep 0.01; done
    sleep 0.3; sort -un /var/tmp/orphans | wc -l
    until [ -e /var/tmp/orphans-enough ]; do sleep 0.05; done'
  await_pid orphans
  while [[ ! -s $scratch/orphans.out ]]; do
    status=0
    migrate "$pid" "$to" || status=$?
    case $status in
      0) [[ $to == node1 ]] && to=node2 || to=node1 ;;
      6) sleep 0.05 ;; # what the last attempt left is still being removed
      5) assert_contains "$(cat "$scratch/migration.err")" "left the process tree" ;;
      *) fail "status $status: $(cat "$scratch/migration.err")" ;;
    esac
    ! ended orphans || fail "it ended: $(cat "$scratch/orphans.err")"
  done
  assert_eq "$(cat "$scratch/orphans.out")" 300
  moves_now() { migrate "$pid" "$to"; }
  wait_until 10 moves_now # now that there are none
  on leader touch /var/tmp/orphans-enough
  await_status orphans 0
}

test_python_job_on_files() {
  start python leader python3 -c 'import hashlib, os, sys, time
print("ready", os.getpid(), file=sys.stderr, flush=True)
digest = hashlib.sha256()
with open("/var/tmp/data", "rb") as data:
    while block := data.read(20000):
        digest.update(block)
        time.sleep(0.01)
print(digest.hexdigest())'
  await_pid python
  move "$pid" node1
  move "$pid" leader
  await_status python 0 30
  assert_eq "$(cat "$scratch/python.out")" "$(on leader sh -c 'sha256sum </var/tmp/data | cut -d" " -f1')"
}

test_stdout_and_stderr_stay_apart() {
  local i
  start both node1 bash -c 'echo "ready $$" >&2
    for i in $(seq 100); do echo out$i; echo err$i >&2; sleep 0.02; done'
  await_pid both
  move "$pid" node2
  move "$pid" leader
  await_status both 0 30
  for i in out err; do
    grep -v ready "$scratch/both.$i" | cmp - <(seq 100 | sed "s/^/$i/")
  done
}

cluster_up 3
make_data
run_tests "$@"
