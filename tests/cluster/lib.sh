# shellcheck shell=bash
# lib.sh: for tests/cluster/*_test.sh, which test a whole cluster in a sandbox.
#
#   . "$(dirname "$0")/lib.sh"
#   test_something() { … }          a case; runs in a subshell under set -e
#   after_each() { … }              optional: run after each case, whatever came of it
#   cluster_up 3                    before the cases, shared by them
#   run_tests "$@"                  the last line; arguments name single cases
#
# Prints `ok NAME`, `not ok NAME` or `skip NAME # reason` for each case. All
# sandboxes whose names begin with $cluster are taken down at the end.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cluster=${GESTALT_TEST_SANDBOX:-t$$}
scratch=$(mktemp -d)
readonly repo cluster scratch

# With GESTALT_TEST_COUNTS=DIR: what programs built with counters left on the shared root, into DIR
# (tests/vm/coverage). They do so when they end.
keep_counts() {
  local node root
  for node in $(sandbox status | awk 'NR > 1 && $2 == "running" { print $1 }'); do
    sandbox daemon "$node" stop || true
  done
  root=$(sandbox root) && [[ -d $root/build ]] || return 0
  mkdir -p "$GESTALT_TEST_COUNTS/build"
  cp -r "$root/build/." "$GESTALT_TEST_COUNTS/build"
}

clean_up() {
  local name
  [[ -z ${GESTALT_TEST_COUNTS:-} ]] || keep_counts
  for name in $("$repo/pxe/sandbox" list); do
    case $name in "$cluster" | "$cluster"-*) "$repo/pxe/sandbox" --name "$name" down || true ;; esac
  done
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

sandbox() { "$repo/pxe/sandbox" --name "$cluster" "$@"; }

# cluster_up N [OPTION…]: options are those of `pxe/sandbox up`. With GESTALT_TEST_VM=SUITE the
# nodes are virtual machines with that suite's kernel; with GESTALT_TEST_CRIU=SUITE they have that
# suite's CRIU.
cluster_up() {
  local nodes=$1
  shift
  sandbox up --nodes "$nodes" ${GESTALT_TEST_VM:+--vm "$GESTALT_TEST_VM" --timeout 360} \
    ${GESTALT_TEST_CRIU:+--criu "$GESTALT_TEST_CRIU"} "$@"
  sandbox status | awk 'NR > 1 { print $1 }' >"$scratch/nodes"
}

# on NODE CMD…: as root; on_as USER NODE CMD… as a user.
on() {
  local node=$1
  shift
  sandbox exec "$node" -- "$@"
}

on_as() {
  local user=$1 node=$2
  shift 2
  sandbox exec "$node" --user "$user" -- "$@"
}

# json EXPR: what jq makes of stdin; fails on null and false.
json() {
  if [[ -d /run/gestalt-sandbox/$cluster ]]; then
    on leader jq -er "$1"
  else
    "$repo/pxe/toolbox" run -- jq -er "$1"
  fi
}

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

skip() {
  printf '%s' "$*" >"$scratch/reason"
  exit 77
}

# A whole script that cannot run: before any case.
skip_all() {
  printf '%s\n' "$*"
  exit 77
}

assert_eq() { # ACTUAL EXPECTED [WHAT]
  [[ $1 == "$2" ]] || fail "${3:-value}: got '$1', want '$2'"
}

assert_contains() { # TEXT PART [WHAT]
  [[ $1 == *"$2"* ]] || fail "${3:-text} does not contain '$2': '$1'"
}

assert_not_contains() { # TEXT PART [WHAT]
  [[ $1 != *"$2"* ]] || fail "${3:-text} contains '$2': '$1'"
}

# scaled NUMBER: of seconds, or of what takes so long; emulated machines are four times as slow.
scaled() {
  local vm=${GESTALT_TEST_VM:-}
  echo $(($1 * (${#vm} ? 4 : 1)))
}

# bound SECONDS: for what would otherwise hang. Nobody waits so long when all is well, and a busy
# host's machines are slower still.
bound() {
  local vm=${GESTALT_TEST_VM:-}
  echo $(($1 * (${#vm} ? 12 : 1)))
}

# wait_until SECONDS CMD…: polls every 50 ms until CMD succeeds.
wait_until() {
  local seconds
  seconds=$(bound "$1")
  local deadline=$((${EPOCHREALTIME/./} + seconds * 1000000))
  shift
  until "$@" >/dev/null 2>&1; do
    ((${EPOCHREALTIME/./} < deadline)) || fail "not true within $seconds s: $*"
    sleep 0.05
  done
}

expect_exit() { # CODE CMD…
  local want=$1 got=0
  shift
  "$@" || got=$?
  assert_eq "$got" "$want" "exit status of '$*'"
}

# run_case NAME: sets case_failed. Neither this function nor the subshell may be
# part of a condition (if, ||, !): set -e would not hold inside.
run_case() {
  local name=$1 status began=$SECONDS
  rm -f "$scratch/reason"
  set +e
  (
    set -eE
    trap 'printf "%s:%s: failed: %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR
    trap - EXIT
    "$name"
  ) >"$scratch/out" 2>&1
  status=$?
  set -e
  case_failed=0
  case $status in
    0) printf 'ok %s (%d s)\n' "$name" $((SECONDS - began)) ;;
    77) printf 'skip %s # %s\n' "$name" "$(cat "$scratch/reason" 2>/dev/null)" ;;
    *)
      sed 's/^/    /' "$scratch/out"
      printf 'not ok %s (exit %d, %d s)\n' "$name" "$status" $((SECONDS - began))
      case_failed=1
      ;;
  esac
}

# run_tests [CASE…]: all test_* functions of the script in their order.
run_tests() {
  local case failed=0 case_failed=0
  local -a cases=("$@")
  ((${#cases[@]})) || mapfile -t cases < <(sed -n 's/^\(test_[a-zA-Z0-9_]*\) *().*/\1/p' "$0")
  ((${#cases[@]})) || fail "$0 has no test_* function"
  for case in "${cases[@]}"; do
    declare -F "$case" >/dev/null || fail "no case is called '$case'"
    run_case "$case"
    if declare -F after_each >/dev/null; then after_each; fi
    failed=$((failed | case_failed))
  done
  exit "$failed"
}
