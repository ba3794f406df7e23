#!/bin/bash
# The benchmarks measure, report, and leave nothing behind. No figure is judged here.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

readonly results=$scratch/results.json
readonly pipe_limit=/proc/sys/fs/pipe-max-size

bench() { GESTALT_BENCH_SANDBOX=$cluster-bench "$repo/bench/run" --json "$results" "$@"; }

expect_nothing_left() {
  local limit=$1
  assert_not_contains "$("$repo/pxe/sandbox" list)" "$cluster-bench" "the list of sandboxes"
  assert_eq "$(<$pipe_limit)" "$limit" "fs.pipe-max-size"
}

test_measures_and_reports() {
  local before
  before=$(<$pipe_limit)
  bench --quick --runs 1 --only '^(eager|criu.idle)' >"$scratch/table"
  assert_contains "$(<"$scratch/table")" "eager: memory ÷ total time"
  json '.quick and .runs == 1 and .machine.cpus > 0 and .machine.criu != "unknown" and
    (.measures | length == 3) and all(.measures[]; .verdict | test("^(met|missed|not measured: .+)$"))' <"$results"
  json '.measures[] | select(.key == "eager.rate") | .figure > 0 and .spread.min <= .figure and
    .spread.max >= .figure and .detail.iperf3_bytes_per_second > 0' <"$results"
  json '.samples | [.["page-server-idle", "lazy-pages-idle"][0]] | length == 2 and all(.gap_seconds > 0)' <"$results"
  expect_nothing_left "$before"
}

test_an_unknown_measure_is_a_usage_error() {
  expect_exit 2 bench --only nothing-of-the-kind 2>"$scratch/err"
  assert_contains "$(<"$scratch/err")" "eager.rate"
  expect_exit 2 bench --runs none 2>/dev/null
}

says_run() { grep -q "run 1 of" "$scratch/err"; }

test_interrupted_it_leaves_nothing() {
  local before job
  before=$(<$pipe_limit)
  GESTALT_BENCH_SANDBOX=$cluster-bench "$repo/bench/run" --only eager >/dev/null 2>"$scratch/err" &
  job=$!
  wait_until 60 says_run
  kill -TERM "$job"
  expect_exit 143 wait "$job"
  expect_nothing_left "$before"
}

run_tests "$@"
