#!/bin/bash
# Pids are the cluster's: each node allocates from its own slice, whatever is forked, and
# keeps its slice through restarts.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

# slice NODE: its first and last pid.
slice() {
  on leader gestalt node list --json | json ".[] | select(.name == \"$1\") | \"\(.pid_first) \(.pid_last)\""
}

# Forks 40,000 times, more than twice through the slice; prints the lowest and highest pid.
readonly storm='my ($low, $high) = (1 << 30, 0);
for (1 .. 40000) {
  my $pid = fork; exit unless $pid; waitpid $pid, 0;
  $low = $pid if $pid < $low; $high = $pid if $pid > $high;
}
print "$low $high\n"'

test_a_fork_storm_stays_inside_the_slice() {
  local first last low high
  read -r first last <<<"$(slice node1)"
  read -r low high <<<"$(on leader timeout 120 gestalt run --node node1 -- perl -e "$storm")"
  echo "slice $first to $last, pids $low to $high"
  ((low >= first && high <= last)) || fail "pids $low to $high left the slice $first to $last"
}

test_slices_are_disjoint() {
  on leader gestalt node list --json |
    json '[.[] | [.pid_first, .pid_last]] | sort | . as $s | [range(1; length)] |
      all(. as $i | $s[$i][0] > $s[$i - 1][1])'
}

test_jobs_of_all_nodes_have_different_pids_of_their_slices() {
  local node first last pid
  for node in leader node1 node2; do
    read -r first last <<<"$(slice "$node")"
    pid=$(on leader timeout 20 gestalt run --node "$node" -- sh -c 'echo $$')
    ((pid >= first && pid <= last)) || fail "pid $pid on $node, slice $first to $last"
  done
}

test_a_slice_is_kept_through_a_reboot() {
  local before
  before=$(slice node2)
  sandbox kill node2
  wait_until 20 node_has_state node2 failed
  sandbox boot node2
  wait_until 20 node_has_state node2 online
  assert_eq "$(slice node2)" "$before" "slice of node2"
}

node_has_state() {
  [[ $(on leader gestalt node list --json | json ".[] | select(.name == \"$1\") | .state") == "$2" ]]
}

cluster_up 3
run_tests "$@"
