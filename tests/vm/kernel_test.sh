#!/bin/bash
# What a kernel has, as docs/kernels.md says, and what takes the place of what it lacks: migrations
# by the modes that ask most of it. $GESTALT_TEST_MODES names others.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/../cluster/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

expect_features() { # TRACKER STATE-DUMP
  wait_until 20 on leader test -s /run/gestalt/state-dump
  start_victim mover node1 memory
  assert_eq "$(gestalt migrate "$pid" leader --mode pre-copy --dry-run --json |
    on leader jq -r '.[0] | "\(.can_move) \(.tracker) \(.state_dump)"')" "true $1 $2" "a dry run"
}

test_what_it_has() {
  case $GESTALT_TEST_VM in
    bookworm) expect_features soft-dirty lazy ;;
    *) expect_features uffd-wp state-only ;;
  esac
}

# The program checks its memory and counts without a gap.
test_there_and_back() {
  local mode
  begin mover node1 memory --mib 32 --tick-ms 100
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    move_by "$mode" "$pid" leader --no-wait
    expect_there leader "$job" 1
    works_on mover
    move_by "$mode" "$pid" node1
    expect_there node1 "$job" 1
    works_on mover
  done
  finish mover "$pid"
}

test_nothing_is_left() { expect_nothing_left; }

[[ -n ${GESTALT_TEST_VM:-} ]] || skip_all "needs virtual machines: GESTALT_TEST_VM=bookworm $0"
cluster_up 2
run_tests "$@"
