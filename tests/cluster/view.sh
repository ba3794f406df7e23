# shellcheck shell=bash
# shellcheck disable=SC2154 # scratch is of lib.sh
# view.sh: for cluster tests of the single view. Sourced after jobs.sh.
#
#   view CMD, view_as USER CMD       a session on the leader that runs CMD
#   open_session, in_session CMD     one that stays open; its commands must not hang
#   native NODE CMD                  CMD where the node's own cluster procfs is
#   wait_until 15 same_as_native N   the session's ps tells what the node tells

[[ -n ${GESTALT_TEST_VM:-} || -e /dev/fuse ]] || skip_all "no FUSE in this kernel"

# view CMD, view_as USER CMD: with a limit that no test may reach.
view() { view_as root "$1"; }

view_as() { on_as "$1" leader timeout --kill-after=5 20 gestalt shell -c "$2"; }

# --- a session that stays ----------------------------------------------------

to=   # descriptors of it, set by open_session
from=

open_session() {
  coproc SESSION { on leader timeout --kill-after=5 200 gestalt shell 2>&1; }
  # These are open in subshells, too.
  exec {to}>&"${SESSION[1]}" {from}<&"${SESSION[0]}"
  rm -f "$scratch/hung"
}

# What CMD, which must end its last line, says; its exit status. Waits no more than 10 s
# for programs that begin with `timeout 10`.
in_session() {
  local line mark="end of $BASHPID.$RANDOM"
  printf '%s\necho "%s $?"\n' "$1" "$mark" >&"$to"
  while IFS= read -r -t 20 -u "$from" line; do
    if [[ $line == "$mark "* ]]; then
      [[ $line != *" 124" ]] || echo "$1" >>"$scratch/hung"
      return "${line##* }"
    fi
    printf '%s\n' "$line"
  done
  echo "no answer: $1" >>"$scratch/hung"
  return 1
}

expect_not_hung() { [[ ! -e $scratch/hung ]] || fail "it hung: $(cat "$scratch/hung")"; }

session_sees() {
  local pids
  pids=$(in_session "timeout 10 ps -eo pid=") && grep -qw "$1" <<<"$pids"
}

session_misses() {
  local pids
  pids=$(in_session "timeout 10 ps -eo pid=") && ! grep -qw "$1" <<<"$pids"
}

session_counts_cpus() { [[ $(in_session "timeout 10 lscpu -p=cpu | grep -vc '#'") == "$1" ]]; }

# --- what the nodes say ------------------------------------------------------

# The procfs of the node's cluster pid namespace is the working directory of CMD.
native() {
  on "$1" sh -c 'cd "/proc/$(pgrep -o -x gestalt-init)/root/proc" && eval "$1"' sh "$2"
}

# Lines "PID PPID EUID SUM-OF-THE-COMMAND-LINE", here and there.
# shellcheck disable=SC2016
readonly describe='for p in [0-9]*; do
  [ "$p" -ge 4096 ] || continue
  ids=$(sed -n "s/^PPid:\t//p; s/^Uid:\t[0-9]*\t\([0-9]*\).*/\1/p" "$p/status" 2>/dev/null | tr "\n" " ")
  sum=$(cksum <"$p/cmdline" 2>/dev/null) && [ -n "$ids" ] && echo "$p $ids$sum"
done | sort -n'

native_processes() { native "$1" "$describe"; }

# Of all nodes: cpus_of_nodes NODE…, memory_of_nodes NODE… (in KiB).
cpus_of_nodes() {
  local node sum=0
  for node; do sum=$((sum + $(on "$node" nproc --all))); done
  echo "$sum"
}

memory_of_nodes() {
  local node sum=0
  for node; do sum=$((sum + $(on "$node" awk '/^MemTotal:/ { print $2 }' /proc/meminfo))); done
  echo "$sum"
}

# --- both --------------------------------------------------------------------

# The pid is in the view once, on that node ("-": the leader).
shown_on() { # PID NODE
  local shown
  shown=$(view 'ps -eo pid=,lxc=' | awk -v pid="$1" '$1 == pid { print $2 }')
  [[ $shown == "$2" ]]
}

# PID NAME: as it is after its exec, which may have come later than the view's last look.
shown_named() { [[ $(view "cat /proc/$1/comm") == "$2" ]]; }

not_shown() {
  local pids
  pids=$(view 'ps -eo pid=') && ! grep -qw "$1" <<<"$pids"
}

# By ps: pid, parent, user of every process of the node. By the view's files: the same, and
# the command line. The last comparison is in $scratch/difference.
same_as_native() {
  local node=$1
  native_processes "$node" >"$scratch/native"
  : >"$scratch/difference"
  view 'ps -eo pid=,ppid=,euid=,lxc=' >"$scratch/ps"
  diff <(awk '{ print $1, $2, $3 }' "$scratch/native") \
    <(awk -v node="$node" '$4 == node && $1 >= 4096 { print $1, $2, $3 }' "$scratch/ps" | sort -n) \
    >"$scratch/difference" || return 1
  view "cd /proc; $describe" >"$scratch/viewed"
  diff "$scratch/native" <(awk 'NR == FNR { theirs[$1]; next } $1 in theirs' "$scratch/native" "$scratch/viewed") \
    >"$scratch/difference"
}

expect_same_as_native() {
  local node
  for node; do
    (wait_until 15 same_as_native "$node") || fail "the view of $node differs: $(cat "$scratch/difference")"
  done
}

no_pid_twice() { assert_eq "$(view 'ps -eo pid=' | sort | uniq -d)" "" "pids that are shown twice"; }

# A process with children that sleeps: start_tree NAME NODE.
start_tree() {
  start "$1" "$2" sh -c 'sleep 1000 & (sleep 1001; :) & (sleep 1002 & exec sleep 1003) &
    echo "ready $$" >&2; wait'
  await_pid "$1"
}
