# shellcheck shell=bash
# shellcheck disable=SC2154 # scratch is of lib.sh
# jobs.sh: for cluster tests that run programs and move them. Sourced after lib.sh.
#
#   start_victim NAME NODE VICTIM [OPTION…]   `gestalt run` in the background; sets pid
#   move PID NODE                             migrate, and check what was reported
#   expect_only_on NODE NAME COUNT            where its processes are, seen from outside
#   keeps_working NAME                        it gets on, as it says itself
#   begin_held NODE FAULT                     a migration that stands still
#   finish NAME PID                           it says `ok`, exits 0, lost no output
#
# What a case leaves running is ended after it; dead, cut or paused nodes come back.

readonly victims=/usr/lib/gestalt/tests
pid=   # set by start_victim and await_pid
mover= # set by begin_held
starts=0

# gestalt ARG…: as root on the leader; gestalt_as USER ARG… as a user. Never hangs.
gestalt() { on leader timeout --kill-after=5 "$(bound 60)" gestalt "$@"; }

gestalt_as() {
  local user=$1
  shift
  on_as "$user" leader timeout --kill-after=5 "$(bound 60)" gestalt "$@"
}

# nodes: all names. node_state NAME: as the leader sees it.
nodes() { cat "$scratch/nodes"; }

node_state() { node_states | sed -n "s/^$1 //p"; }

# Each with its name.
node_states() {
  on leader sh -c 'timeout "$1" gestalt node list --json | jq -r ".[] | \"\(.name) \(.state)\""' sh "$(bound 20)"
}

node_is() { [[ $(node_state "$1") == "$2" ]]; }

# --- running -----------------------------------------------------------------

# start NAME NODE CMD…: output in $scratch/NAME.{out,err}, exit status in NAME.status.
# As $user (root), input from $input (/dev/null), with $net. NODE may be --best.
start() {
  local name=$1
  local -a where=(--node "$2")
  [[ $2 != --best ]] || where=(--best)
  [[ -z ${net:-} ]] || where+=(--net "$net")
  shift 2
  rm -f "$scratch/$name".{out,err,status}
  : >"$scratch/$name.out"
  starts=$((starts + 1))
  echo "$starts" >"$scratch/$name.start"
  {
    local status=0 mine=$starts
    on_as "${user:-root}" leader timeout --kill-after=5 "$(bound 200)" gestalt run "${where[@]}" -- "$@" \
      <"${input:-/dev/null}" >"$scratch/$name.out" 2>"$scratch/$name.err" || status=$?
    # An earlier one of the same name may end late: it is nobody's status any more.
    if [[ $(cat "$scratch/$name.start") == "$mine" ]]; then
      echo "$status" >"$scratch/$name.status.$mine"
      mv "$scratch/$name.status.$mine" "$scratch/$name.status"
    fi
  } &
}

said_ready() { grep -qs '^ready ' "$scratch/$1.err" || grep -qs '^ready ' "$scratch/$1.out"; }

ended() { [[ -e $scratch/$1.status ]]; }

ready_or_ended() { said_ready "$1" || ended "$1"; }

# The pid that the program NAME printed after `ready`.
await_pid() {
  wait_until 20 ready_or_ended "$1"
  said_ready "$1" || fail "$1 never became ready (status $(cat "$scratch/$1.status")): $(tail -n 3 "$scratch/$1.out" "$scratch/$1.err")"
  # Stderr first: stdout may be huge.
  pid=$(grep -m1 -h '^ready ' "$scratch/$1.err" || grep -m1 '^ready ' "$scratch/$1.out")
  pid=${pid#ready }
  [[ $pid =~ ^[0-9]+$ ]] || fail "$1 told no pid"
}

# The option --until NAME's file is what tells the victim's processes apart.
start_victim() {
  local name=$1 node=$2 program=$victims/$3
  shift 3
  # It ends by itself when it has been forgotten: a machine's later.
  start "$name" "$node" "$program" --until "/run/end-$name" ${GESTALT_TEST_VM:+--seconds "$(bound 300)"} "$@"
  await_pid "$name"
}

# await_status NAME CODE [SECONDS]
await_status() {
  wait_until "${3:-20}" ended "$1"
  assert_eq "$(cat "$scratch/$1.status")" "$2" \
    "exit status of $1 ($(tail -n 2 "$scratch/$1.out"), $(tail -n 2 "$scratch/$1.err"))"
}

# --- watching ----------------------------------------------------------------

# listing FILTER VALUE: of what `gestalt ps` shows; VALUE is $value. An emulated machine does not
# always answer within the two seconds that a node has: `gestalt ps` says so, and is asked again.
listing() {
  on leader sh -c '
    said=$(mktemp)
    for try in $3; do
      found=$(timeout "$4" gestalt ps --json 2>"$said" | jq -r --arg value "$2" "$1")
      grep -q "did not answer in time" "$said" || break
    done
    cat "$said" >&2
    rm "$said"
    [ -z "$found" ] || printf "%s\n" "$found"' \
    sh "$1" "$2" "1 ${GESTALT_TEST_VM:+2 3 4 5}" "$(bound 20)"
}

# Nodes where `gestalt ps` shows the pid: more than one line would be a mistake.
node_of() { listing '.[] | select(.pid == ($value | tonumber)) | .node' "$1"; }

is_on() { [[ $(node_of "$1") == "$2" ]]; }

# pid_of PATTERN: of the processes in the cluster whose command matches.
pid_of() { listing '.[] | select(.command | test($value)) | .pid' "$1"; }

# Processes of the victim NAME on a node, by the node's own /proc.
count_on() {
  on "$1" sh -c 'pgrep -fc -- "$1" || true' sh \
    "^([a-z/]*python3 )?$victims/[a-z_.]+ --until /run/end-$2( |\$)"
}

only_on() { # NODE NAME COUNT
  local node count
  for node in $(sandbox status | awk 'NR > 1 && $2 == "running" { print $1 }'); do
    count=$(count_on "$node" "$2")
    if [[ $node == "$1" ]]; then
      [[ $count == "$3" ]] || return 1
    else
      [[ $count == 0 ]] || return 1
    fi
  done
}

expect_only_on() {
  local node
  only_on "$@" && return
  for node in $(nodes); do echo "$node: $(count_on "$node" "$2") processes of $2"; done
  fail "$2 has not all its $3 processes on $1 and nowhere else"
}

ticks() { grep -c '^tick ' "$scratch/$1.out" || true; }

ticked_beyond() { (($(ticks "$1") > $2)) || ended "$1"; }

# A process that still has output under way may tick once after it froze.
keeps_working() {
  local before
  before=$(ticks "$1")
  wait_until 15 ticked_beyond "$1" $((before + 2))
  ! ended "$1" || fail "$1 ended: $(tail -n 2 "$scratch/$1.out" "$scratch/$1.err")"
}

# --- moving ------------------------------------------------------------------

# migrate PID NODE [OPTION…]: its report is in $scratch/migration.json.
migrate() {
  local pid=$1 node=$2
  shift 2
  [[ " $* " == *" --timeout "* ]] || set -- --timeout "$(bound 30)" "$@"
  [[ " $* " == *" --mode "* ]] || set -- --mode eager "$@"
  gestalt migrate "$pid" "$node" --json "$@" \
    >"$scratch/migration.json" 2>"$scratch/migration.err"
}

reported() { on leader jq -er ".[0] | $1" <"$scratch/migration.json"; }

move() {
  migrate "$1" "$2" || fail "migration of $1 to $2 failed ($?): $(cat "$scratch/migration.err")"
  reported 'select(.mode == "eager" and .pid == '"$1"' and .destination == "'"$2"'" and
    .freeze_seconds > 0 and .total_seconds >= .freeze_seconds and .wire_bytes > 0)' >/dev/null ||
    fail "odd report: $(cat "$scratch/migration.json")"
  assert_eq "$(node_of "$1")" "$2" "where ps shows $1"
}

# begin_held NODE FAULT: a victim on node1 on its way to node2, held where the fault
# hangs. Sets mover, the migrate command to be waited for.
begin_held() {
  start_victim victim node1 memory
  fault "$1" "$2:hang"
  migrate "$pid" node2 --timeout 40 &
  # shellcheck disable=SC2034 # the tests wait for it
  mover=$!
  wait_until 15 held_at "$1" "$2"
}

held_at() { sandbox daemon "$1" log | tail -n 50 | grep -q "injected fault.*number=$2"; }

# --- verdicts ----------------------------------------------------------------

# ready, tick 0, tick 1, …, ok: complete and in order, nothing BAD.
check_report() {
  awk '/^BAD/ { print; bad = 1 }
    NR == 1 && $1 != "ready" { print "begins with " $0; bad = 1 }
    NR > 1 && $1 != "tick" && $1 != "ok" { print "strange line " NR ": " $0; bad = 1 }
    $1 == "tick" && $2 != n++ { print "tick " $2 " instead of " n - 1; bad = 1; n = $2 + 1 }
    END { if ($1 != "ok" || $2 != "ticks=" n + 0) { print "ends with " $0 " after " n + 0 " ticks"; bad = 1 }
      exit bad }' "$scratch/$1.out" || fail "$1 is not content"
}

finish() {
  gestalt kill "$2"
  await_status "$1" 0 30
  check_report "$1"
}

# --- faults, and what is left ------------------------------------------------

# fault NODE N[:ACTION]; no_faults.
fault() { on "$1" sh -c 'echo "$1" >/run/gestalt/fault' sh "$2"; }

no_faults() {
  local node
  for node in $(sandbox status | awk 'NR > 1 && $2 == "running" { print $1 }'); do
    on "$node" rm -f /run/gestalt/fault
  done
}

not_merged() { [[ $1 == leader || $(node_state "$1") == @(failed|offline) ]]; }

# healthy NODE…: all of them are online.
healthy() {
  local node states
  states=$(node_states) || return 1
  for node in "$@"; do
    case $(sed -n "s/^$node //p" <<<"$states") in
      online) ;;
      draining) gestalt node resume "$node" && return 1 ;;
      *) return 1 ;;
    esac
  done
}

# Nodes as they were in the beginning, all online.
heal() {
  local node state daemon
  while read -r node state daemon; do
    case $state in
      paused) sandbox resume "$node" ;;
      cut) sandbox join "$node" ;;
      dead)
        # Before that the leader takes the old one for alive.
        wait_until 15 not_merged "$node"
        sandbox boot "$node"
        ;;
      running) [[ $daemon != stopped ]] || sandbox daemon "$node" start ;;
    esac
  done < <(sandbox status | awk 'NR > 1 { print $1, $2, $NF }')
  for node in $(nodes); do on "$node" rm -f /run/gestalt/fault; done
  # shellcheck disable=SC2046 # one word each
  wait_until 20 healthy $(nodes)
}

end_jobs() {
  on leader sh -c 'pids=$(timeout "$1" gestalt ps --json | jq -r ".[] | select(.job_id != 0) | .pid")
    [ -z "$pids" ] || timeout "$1" gestalt kill -KILL $pids 2>/dev/null || true' sh "$(bound 20)"
  on leader pkill -KILL -x gestalt || true
}

# What the daemons and stand-ins complained of since the last case.
print_complaints() {
  local node
  for node in $(nodes); do
    sandbox daemon "$node" log | tail -n "+$((${logged[$node]:-0} + 1))" | grep -E ' [WE] ' |
      sed "s/^/    $node: /" | tail -n 8 || true
  done
}

declare -A logged=()

after_each() {
  local node
  ((case_failed == 0)) || print_complaints
  for node in $(nodes); do logged[$node]=$(sandbox daemon "$node" log | wc -l); done
  (
    heal
    end_jobs
  ) >"$scratch/after" 2>&1 || sed 's/^/    after the case: /' "$scratch/after"
}
