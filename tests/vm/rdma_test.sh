#!/bin/bash
# Migrations whose pages go by RDMA, between machines with a software device each.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/../cluster/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$(dirname "$0")/../cluster/jobs.sh"

at_least() { # VALUE LEAST WHAT
  (($1 >= $2)) || fail "$3: $1, want at least $2"
}

end_of_case=$(declare -f after_each)
eval "heal_and_${end_of_case}"

after_each() {
  local node
  heal_and_after_each
  for node in leader node1; do
    on "$node" sh -c 'rdma link show rxe0/1 >/dev/null 2>&1 || rdma link add rxe0 type rxe netdev eth0'
    wait_until 60 reads_in_place "$node"
  done
}

# Until gestalt-init has tried the device, pages are staged.
reads_in_place() { on "$1" grep -qx 'rxe0 ' /run/gestalt/zero-copy; }
has_no_device() { on "$1" sh -c '! grep -q rxe0 /run/gestalt/zero-copy'; }

# 16 MiB, of which some are read where they are.
moves_by_rdma() { # MODE
  start_victim mover node1 memory --mib 16
  migrate "$pid" leader --mode "$1" --transport rdma
  wait_until 30 is_on "$pid" leader
  assert_eq "$(reported .transport)" rdma "transport of $1"
  keeps_working mover
}

test_eager() {
  moves_by_rdma eager
  at_least "$(reported .rdma_reads)" 1 "reads"
  at_least "$(reported .zero_copy_pages)" 1000 "pages that were read in place"
  # Without rounds each page goes once, those that are read in place included.
  at_least "$(reported '(.pages_sent + .pages_zero) * 4096 - .resident_bytes')" 0 "bytes too many"
  at_least "$(reported '.resident_bytes - (.pages_sent + .pages_zero - .pages_duplicate) * 4096')" 0 \
    "bytes too few"
}

test_lazy() { moves_by_rdma lazy; }
test_pre_copy() { moves_by_rdma pre-copy; }

test_post_copy() {
  moves_by_rdma post-copy
  at_least "$(reported .zero_copy_pages)" 1000 "pages that were read in place"
}

test_hybrid() { moves_by_rdma hybrid; }

test_auto_takes_rdma() {
  start_victim mover node1 memory
  migrate "$pid" leader
  assert_eq "$(reported .transport)" rdma "transport"
  migrate "$pid" node1 --transport tcp
  assert_eq "$(reported .transport)" tcp "transport"
  keeps_working mover
}

test_auto_takes_tcp_where_a_device_lacks() {
  on node1 rdma link delete rxe0
  start_victim mover node1 memory
  migrate "$pid" leader
  assert_eq "$(reported .transport)" tcp "transport"
  [[ -n $(reported .transport_reason) ]] || fail "no reason why it is not RDMA"
  keeps_working mover
}

# The connection for demanded pages is by RDMA, those for all others are not.
test_auto_takes_tcp_for_a_connection_that_fails() {
  start_victim mover node1 memory --mib 16
  fault node1 16
  migrate "$pid" leader --mode post-copy
  assert_eq "$(reported .transport)" tcp "transport"
  assert_contains "$(reported .transport_reason)" "injected fault 16"
  keeps_working mover
  no_faults
  migrate "$pid" node1
  assert_eq "$(reported .transport)" rdma "transport"
  fault node1 16
  expect_exit 1 migrate "$pid" leader --transport rdma
  no_faults
  keeps_working mover
  expect_only_on node1 mover 1
}

test_rdma_that_cannot_be_is_refused() {
  local status=0 said
  on leader rdma link delete rxe0
  start_victim mover node1 memory
  said=$(gestalt migrate "$pid" leader --transport rdma 2>&1) || status=$?
  ((status != 0)) || fail "the migration was not refused"
  assert_contains "$said" "no RDMA" "the error"
  keeps_working mover
  expect_only_on node1 mover 1
}

dry_run() { gestalt migrate "$pid" leader --dry-run --json "$@"; }

test_a_dry_run_says_rdma() {
  local how
  start_victim mover node1 memory
  for how in auto rdma; do
    assert_eq "$(dry_run --transport "$how" | jq -c '.[0] | [.can_move, .transport, .transport_reason]')" \
      '[true,"rdma",""]' "transport $how"
  done
  assert_contains "$(gestalt migrate "$pid" leader --dry-run)" "transport: rdma"
  assert_eq "$(dry_run --transport tcp | jq -r '.[0].transport')" tcp "transport"
  keeps_working mover
  expect_only_on node1 mover 1
}

# Whichever end lacks a device; the migration then says the same.
test_a_dry_run_says_why_it_is_not_rdma() {
  local node why status
  start_victim mover node1 memory
  for node in leader node1; do
    on "$node" rdma link delete rxe0
    why=$(dry_run | jq -er '.[0] | select(.can_move and .transport == "tcp").transport_reason')
    status=0
    dry_run --transport rdma >"$scratch/report" || status=$?
    assert_eq "$status" 5 "exit status of a dry run"
    assert_contains "$(jq -r '.[0].blockers[].what' "$scratch/report")" "no RDMA"
    [[ $node == node1 || $why == "the destination: "* ]] || fail "not the destination's reason: $why"
    [[ $node == leader || $why != "the destination: "* ]] || fail "not the source's reason: $why"
    migrate "$pid" leader
    assert_eq "$(reported .transport_reason)" "$why" "the migration's reason"
    migrate "$pid" node1 --transport tcp
    on "$node" rdma link add rxe0 type rxe netdev eth0
  done
  keeps_working mover
}

test_a_device_that_comes_later_is_read_in_place() {
  on node1 rdma link delete rxe0
  wait_until 60 has_no_device node1
  on node1 rdma link add rxe0 type rxe netdev eth0
  wait_until 60 reads_in_place node1
  moves_by_rdma eager
  at_least "$(reported .zero_copy_pages)" 1000 "pages that were read in place"
}

[[ -n ${GESTALT_TEST_VM:-} ]] || skip_all "needs virtual machines: GESTALT_TEST_VM=trixie $0"
cluster_up 2
for node in leader node1; do wait_until 60 reads_in_place "$node"; done
run_tests "$@"
