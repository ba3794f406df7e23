#!/bin/bash
# `gestalt run` behaves like the program itself: its streams, its exit status, its
# signals, and all that it inherits from its caller. On another node and on the leader.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# on_node1 CMD…: as `gestalt run` does it, from the leader.
on_node1() { gestalt run --node node1 -- "$@"; }

# In a shell on the leader, which shows its script what a user's shell would see.
leader_shell() { on leader timeout --kill-after=5 60 bash -c "$@"; }

# --- streams -----------------------------------------------------------------

test_it_runs_where_it_is_told() {
  assert_eq "$(on_node1 uname -n)" node1
  assert_eq "$(gestalt run --node node2 uname -n)" node2
  assert_eq "$(gestalt run uname -n)" leader
  assert_eq "$(gestalt run --node leader -- uname -n)" leader
}

test_binary_data_both_ways() {
  head -c 8388608 /dev/urandom >"$scratch/blob"
  on_node1 cat <"$scratch/blob" >"$scratch/back"
  cmp "$scratch/blob" "$scratch/back"
  assert_eq "$(on_node1 sha256sum <"$scratch/blob")" "$(sha256sum <"$scratch/blob")"
  assert_eq "$(on_node1 "$victims/flood" --mib 8 2>/dev/null | sha256sum)" \
    "$(on leader "$victims/flood" --mib 8 2>/dev/null | sha256sum)"
}

test_stderr_is_separate() {
  on_node1 sh -c 'echo to-out; echo to-err >&2' >"$scratch/out" 2>"$scratch/err"
  assert_eq "$(cat "$scratch/out")" to-out
  assert_eq "$(cat "$scratch/err")" to-err
}

test_order_is_kept_in_one_file() {
  # shellcheck disable=SC2016
  leader_shell 'gestalt run --node node1 -- sh -c '\''for i in $(seq 300); do echo out$i; echo err$i >&2; done'\'' 2>&1' \
    >"$scratch/both"
  cmp "$scratch/both" <(for i in $(seq 300); do printf 'out%d\nerr%d\n' "$i" "$i"; done)
}

test_closed_and_empty_input() {
  assert_eq "$(on_node1 cat </dev/null)" ""
  # A program that gets no input must neither hang nor take somebody else's.
  # shellcheck disable=SC2016
  assert_eq "$(leader_shell 'gestalt run --node node1 -- sh -c "cat 2>/dev/null; echo done" <&-')" "done"
  assert_eq "$(leader_shell 'gestalt run --node node1 -- echo lost >&-; echo $?' | tail -n 1)" 0
}

test_a_reader_that_goes_away() {
  # shellcheck disable=SC2016
  assert_eq "$(leader_shell 'gestalt run --node node1 -- yes | head -n 1; echo "${PIPESTATUS[0]}"')" $'y\n141'
  wait_until 10 on node1 sh -c '! pgrep -x yes'
}

test_a_program_that_reads_not_all() {
  head -c 4000000 /dev/zero >"$scratch/zeroes"
  assert_eq "$(on_node1 head -c 3 <"$scratch/zeroes" | wc -c)" 3
}

test_output_after_the_end_of_input() {
  assert_eq "$(printf 'one\ntwo' | on_node1 sh -c 'cat; sleep 0.3; echo; echo three')" $'one\ntwo\nthree'
}

test_what_a_daemon_leaves_open_does_not_hang() {
  leader_shell 'timeout 20 gestalt run --node node1 -- sh -c "sleep 300 & echo here"' >"$scratch/out"
  assert_eq "$(cat "$scratch/out")" here
  on node1 pkill -f 'sleep 30[0]' || true
}

# --- exit status and signals -------------------------------------------------

test_exit_statuses() {
  expect_exit 0 on_node1 true
  expect_exit 3 on_node1 sh -c 'exit 3'
  expect_exit 255 on_node1 sh -c 'exit 255'
  expect_exit 126 on_node1 /etc/passwd
  expect_exit 126 on_node1 /etc
  expect_exit 127 on_node1 /no/such/program
  expect_exit 127 on_node1 no-such-program
  expect_exit 125 gestalt run
  expect_exit 125 gestalt run --no-such-option -- true
}

test_killing_signals() {
  local number
  for number in 1 2 6 9 13 15 34; do
    # shellcheck disable=SC2016
    assert_eq "$(leader_shell 'gestalt run --node node1 -- sh -c "kill -'"$number"' \$\$"; echo $?' 2>/dev/null)" \
      $((128 + number)) "status after signal $number"
  done
  # It is the signal itself that ends the command, not just its number.
  assert_eq "$(leader_shell 'python3 -c "import subprocess
print(subprocess.run([\"gestalt\", \"run\", \"--node\", \"node1\", \"--\", \"sh\", \"-c\", \"kill -TERM \$\$\"]).returncode)"')" -15
}

test_signals_to_the_command_reach_the_program() {
  local name
  for name in TERM INT HUP USR1 USR2 QUIT; do
    # shellcheck disable=SC2016
    leader_shell 'rm -f /tmp/out; env --default-signal=INT,QUIT gestalt run --node node1 -- bash -c "trap \"echo got '"$name"'; exit 9\" '"$name"'
        echo ready; while :; do sleep 0.05; done" >/tmp/out &
      until grep -qs ready /tmp/out; do sleep 0.05; done
      kill -'"$name"' $!; wait $!; echo $? >>/tmp/out' </dev/null
    assert_eq "$(on leader cat /tmp/out)" "ready"$'\n'"got $name"$'\n'9 "after SIG$name"
  done
}

test_the_command_killed_ends_the_program() {
  start orphan node1 sh -c 'echo "ready $$" >&2; exec sleep 1000'
  await_pid orphan
  on leader pkill -KILL -x gestalt
  await_status orphan 137
  wait_until 25 on node1 sh -c '! pgrep -f "sleep 100[0]"'
}

test_stop_and_continue() {
  local process="sleep 77.25"
  start stopped node1 sh -c "echo \"ready \$\$\" >&2; exec $process"
  await_pid stopped
  gestalt kill -STOP "$pid"
  wait_until 5 on node1 sh -c 'ps -o stat= -p "$(pgrep -xf "$1")" | grep -q T' sh "$process"
  gestalt kill -CONT "$pid"
  wait_until 5 on node1 sh -c 'ps -o stat= -p "$(pgrep -xf "$1")" | grep -q S' sh "$process"
  gestalt kill "$pid"
  await_status stopped 143
}

# --- what is inherited -------------------------------------------------------

# The same in a program run by the shell and in one run by Gestalt.
compare() { # SETUP CMD: both are shell text
  local plain run
  plain=$(leader_shell "$1; $2")
  run=$(leader_shell "$1; gestalt run --node node1 -- $2")
  assert_eq "$run" "$plain" "$2"
}

test_working_directory() {
  compare 'cd /usr/lib' pwd
  compare "mkdir -p '/var/tmp/a b'\$'\n''ä'; cd '/var/tmp/a b'\$'\n''ä'" /bin/pwd
  compare "mkdir -p /var/tmp/\$'\xff\xfe'; cd /var/tmp/\$'\xff\xfe'" /bin/pwd
  assert_eq "$(gestalt run --node node1 --cwd /etc -- pwd)" /etc
  local message
  message=$(gestalt run --node node1 --cwd /no/such/directory -- pwd 2>&1) && fail "it ran"
  assert_contains "$message" /no/such/directory
}

test_environment() {
  compare 'export PLAIN=1 EMPTY= "SPACES=a b" LINES_IN_IT=$'\''x\ny'\'' BYTES=$'\''\xff'\'' _=x' \
    'env -0 -u _ -u PWD -u SHLVL | sort -z | sha256sum'
  compare 'unset LANG' 'env | grep -E "^(LANG|PATH|HOME|SHELL)="'
  assert_eq "$(gestalt run --node node1 --env A=1 --env 'B=x y=z' -- sh -c 'echo "$A|$B"')" "1|x y=z"
}

test_arguments() {
  compare : "printf '%s|' '' 'a b' '*' '--node' '-h' \$'\\n' \$'\\xff' '\"' \"'\""
  assert_eq "$(on_node1 sh -c 'echo $#' sh $(seq 5000))" 5000
}

test_umask_and_limits() {
  compare 'umask 027' 'bash -c umask'
  compare 'ulimit -S -n 77; ulimit -c 0; ulimit -S -s 4096; ulimit -S -t 1000' 'bash -c "ulimit -aS; ulimit -aH"'
}

# Without the two that the C library keeps for itself: a job gets them reset, whatever
# started these tests.
test_signal_dispositions() {
  compare : "sed -n -E '/^Sig(Ign|Blk|Cgt)/{s/(Ign:.{8})[0-9a-f]{2}(.{7})/\\1--\\2/;p}' /proc/self/status"
}

test_no_stray_descriptors() {
  assert_eq "$(on_node1 bash -c 'echo /proc/self/fd/*' </dev/null)" \
    "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3" # 3 reads the directory
}

test_ordinary_user() {
  assert_eq "$(gestalt_as alice run --node node1 -- id)" "$(on_as alice node1 id)"
  assert_eq "$(gestalt_as alice run --node node1 -- pwd)" /home/alice
  on leader groupadd -f -g 4242 extra
  on leader usermod -aG extra alice
  assert_contains "$(gestalt_as alice run --node node1 -- id -G)" 4242
  gestalt_as alice run --node node1 -- sh -c 'echo mine >/home/alice/file'
  assert_eq "$(on leader stat -c %U /home/alice/file)" alice
  expect_exit 1 gestalt_as alice run --node node1 -- sh -c 'cat /etc/shadow 2>/dev/null'
  assert_eq "$(gestalt_as alice run --node node1 -- grep -E 'Cap(Eff|Prm)|NoNewPrivs' /proc/self/status)" \
    "$(on_as alice node1 grep -E 'Cap(Eff|Prm)|NoNewPrivs' /proc/self/status)"
}

test_a_user_controls_only_his_own() {
  start roots node1 sh -c 'echo "ready $$" >&2; exec sleep 1001'
  await_pid roots
  expect_exit 4 gestalt_as alice kill "$pid"
  expect_exit 4 gestalt_as alice kill -KILL "$pid"
  expect_exit 4 gestalt_as alice migrate "$pid" node2
  expect_exit 4 gestalt_as alice node drain node1
  assert_eq "$(node_of "$pid")" node1
  gestalt kill "$pid"
  await_status roots 143
  user=bob start bobs node1 sh -c 'echo "ready $$" >&2; exec sleep 1002'
  await_pid bobs
  expect_exit 4 gestalt_as alice kill "$pid"
  gestalt_as bob kill "$pid"
  await_status bobs 143
}

# --- placement and errors ----------------------------------------------------

test_best_spreads_the_load() {
  local i
  for i in 1 2 3; do
    start "burner$i" --best sh -c 'echo "ready $$" >&2; uname -n; while :; do :; done'
    await_pid "burner$i"
    sleep 1.2 # one heartbeat: the load is known
  done
  assert_eq "$(cat "$scratch"/burner?.out | sort -u | wc -l)" 3 "different nodes of three jobs"
}

test_unknown_node() {
  local message
  expect_exit 125 gestalt run --node nosuch -- true
  message=$(gestalt run --node nosuch -- true 2>&1) && fail "it ran"
  assert_contains "$message" nosuch
  assert_contains "$message" 'node[1-2]' # the remedy: those that there are
}

test_unknown_pid() {
  expect_exit 3 gestalt kill 4000000
  expect_exit 3 gestalt migrate 4000000 node1
  expect_exit 2 gestalt migrate 0 node1
  expect_exit 2 gestalt migrate nonsense node1
  expect_exit 2 gestalt kill -NOSUCH 1
}

test_ps_lists_what_runs() {
  local object
  user=alice start listed node2 sh -c 'echo "ready $$" >&2; exec sleep 1003'
  await_pid listed
  object=$(gestalt ps --json | on leader jq -c --argjson pid "$pid" '.[] | select(.pid == $pid) | [.node, .user, .command, .migratable, .job_id > 0]')
  assert_eq "$object" '["node2","alice","sleep 1003",true,true]'
  assert_contains "$(gestalt ps)" "sleep 1003"
  gestalt kill "$pid"
  await_status listed 143
}

test_many_at_once() {
  local i
  for ((i = 0; i < 20; i++)); do start "many$i" "node$((1 + i % 2))" sh -c "cat >/dev/null; echo $i; exit $i"; done
  for ((i = 0; i < 20; i++)); do
    await_status "many$i" "$i" 60
    assert_eq "$(cat "$scratch/many$i.out")" "$i"
  done
}

test_without_a_daemon() {
  expect_exit 125 on leader env GESTALT_SOCKET=/run/nosuch gestalt run -- true
  expect_exit 125 on leader env GESTALT_SOCKET=/run/nosuch gestalt ps
}

test_help() {
  local command
  for command in "" run ps migrate kill init version node "node list" "node show" "node drain"; do
    # shellcheck disable=SC2086
    assert_contains "$(gestalt $command --help)" "sage"
  done
}

cluster_up 3
run_tests "$@"
