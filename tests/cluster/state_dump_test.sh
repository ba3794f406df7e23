#!/bin/bash
# Dumps without anonymous memory by the node's own CRIU, and the dirty tracker's case
# that needs control groups. The cases are in migrate/state_dump_criu_test.cc and
# migrate/injector_test.cc.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

readonly programs=/usr/lib/gestalt/tests

run_unit_test() { # PROGRAM FILTER
  local out
  out=$(on leader "$programs/$1" --gtest_filter="$2" 2>&1) || fail "$out"
  assert_contains "$out" "[  PASSED  ]"
  assert_not_contains "$out" SKIPPED
}

test_the_probe_finds_state_only_dumps() {
  wait_until 20 on leader test -s /run/gestalt/state-dump
  assert_eq "$(on leader cat /run/gestalt/state-dump)" state-only
  assert_eq "$(on leader sh -c 'ls -d /run/gestalt/state-dump-* 2>/dev/null || true')" ""
}

test_state_only_dumps() { run_unit_test state_dump_criu_test '*'; }

test_a_process_becomes_its_deputy() { run_unit_test deputize_test '*'; }

test_a_frozen_process_is_not_tracked() { run_unit_test injector_test '*Frozen*'; }

cluster_up 1
run_tests "$@"
