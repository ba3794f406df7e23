#!/bin/bash
# Jobs with a network of their own (`gestalt run --net own`): they have an address, which moves
# with them, and their established TCP connections go on.
# shellcheck disable=SC2154 # scratch, pid are of lib.sh and jobs.sh
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

# start_server NAME NODE: sets pid, address.
address=
start_server() {
  net=own start "$1" "$2" "$victims/network.py" serve 7000
  await_pid "$1"
  address_of_job "$pid"
}

address_of_job() {
  address=$(on leader sh -c 'timeout 20 gestalt ps --json |
    jq -er --argjson pid "$1" ".[] | select(.pid == \$pid) | .address"' sh "$1")
}

# start_peer NAME NODE ping|stream: outside of any job, in the node's own network. It ends with
# end_peers.
start_peer() {
  local name=$1 node=$2
  on "$node" rm -f "/run/end-$name"
  : >"$scratch/$name.out"
  {
    local status=0
    on "$node" timeout --kill-after=5 200 "$victims/network.py" "$3" "$address" 7000 "/run/end-$name" \
      >"$scratch/$name.out" 2>"$scratch/$name.err" || status=$?
    echo "$status" >"$scratch/$name.status"
  } &
  rm -f "$scratch/$name.status"
  wait_until 20 ready_or_ended "$name"
  said_ready "$name" || fail "$name: $(cat "$scratch/$name.out" "$scratch/$name.err")"
}

goes_on() {
  local name
  for name; do keeps_working "$name"; done
}

end_peers() { # NAME:NODE…
  local each
  for each; do on "${each#*:}" touch "/run/end-${each%:*}"; done
  for each; do
    await_status "${each%:*}" 0 60
    assert_contains "$(tail -n 1 "$scratch/${each%:*}.out")" "ok "
    echo "    ${each%:*}: $(tail -n 1 "$scratch/${each%:*}.out")"
  done
}

test_an_address_of_its_own() {
  local first other
  start_server one node1
  first=$address
  start_server two leader
  other=$address
  [[ $first == 10.77.0.* && $other == 10.77.0.* && $first != "$other" ]] || fail "addresses: $first, $other"
  assert_contains "$(gestalt ps)" "ADDRESS"
  assert_contains "$(gestalt run --net own --node node2 -- sh -c 'echo "$GESTALT_ADDRESS"; ip -4 -o addr show dev eth0')" "10.77.0."
  # As a user; the port is nobody else's; and nothing of the node's network is in reach.
  on_as alice leader timeout 20 gestalt run --net own --node node1 -- \
    sh -c 'id -un; python3 -c "import socket; socket.create_server((\"\", 7480))" && ip -o link | wc -l' >"$scratch/out"
  assert_eq "$(xargs <"$scratch/out")" "alice 2" "a user's job in its own network"
  # From each node, and from jobs with and without a network of their own.
  local node
  for node in leader node1 node2; do
    for address in "$first" "$other"; do
      on "$node" timeout 10 python3 -c 'import socket, sys
s = socket.create_connection((sys.argv[1], 7000), 5); s.sendall(b"x"); assert s.recv(1) == b"x"' "$address" ||
        fail "$node does not reach $address"
      gestalt run --net own --node "$node" -- python3 -c 'import socket, sys
s = socket.create_connection((sys.argv[1], 7000), 5); s.sendall(b"x"); assert s.recv(1) == b"x"' "$address" ||
        fail "a job on $node does not reach $address"
    done
  done
}

test_no_addresses_without_configuration() {
  local status=0
  on leader sed -i 's|^network = .*|network = ""|' /etc/gestalt/gestalt.toml
  sandbox daemon leader restart
  wait_until 20 healthy node1
  gestalt run --net own --node node1 -- true 2>"$scratch/err" || status=$?
  on leader sed -i 's|^network = .*|network = "10.77.0.128/25"|' /etc/gestalt/gestalt.toml
  sandbox daemon leader restart
  wait_until 20 healthy node1
  assert_eq "$status" 125 "exit status"
  assert_contains "$(cat "$scratch/err")" "jobs.network"
}

test_a_servers_connections() {
  local mode
  start_server server node1
  start_peer pinger leader ping
  start_peer streamer node2 stream
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    move_by "$mode" "$pid" node2
    goes_on pinger streamer
    move_by "$mode" "$pid" leader --no-wait
    goes_on pinger streamer
    move_by "$mode" "$pid" node1
    goes_on pinger streamer
  done
  end_peers pinger:leader streamer:node2
  gestalt kill "$pid"
  await_status server 0
  assert_eq "$(tail -n 1 "$scratch/server.out")" "ok served=2 broken=0"
}

# Both ends move, and what they say to each other does not come by the leader.
test_two_jobs_talk_directly() {
  local mode server client before after
  start_server server node1
  server=$pid
  net=own start client node2 "$victims/network.py" stream "$address" 7000 /var/tmp/end-client
  await_pid client
  client=$pid
  goes_on client
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    move_by "$mode" "$server" node2
    goes_on client
    move_by "$mode" "$client" node1
    goes_on client
    move_by "$mode" "$server" node1
    goes_on client
    move_by "$mode" "$client" node2
    goes_on client
  done
  leader_bytes() { on leader cat /sys/class/net/eth0/statistics/rx_bytes; }
  before=$(leader_bytes)
  wait_until 30 ticked_beyond client $(($(ticks client) + 64))
  after=$(leader_bytes)
  # 64 MiB went each way; the ticks themselves come by the leader.
  ((after - before < 8 << 20)) || fail "$((after - before)) bytes came by the leader"
  on leader touch /var/tmp/end-client
  await_status client 0 60
  on leader rm /var/tmp/end-client
  assert_contains "$(tail -n 1 "$scratch/client.out")" "ok bytes="
  gestalt kill "$server"
  await_status server 0
}

# At each step before the grant, at both ends: the server goes on where it was.
test_failed_moves() {
  local node number mode=${modes[0]}
  start_server server node1
  start_peer pinger leader ping
  start_peer streamer node2 stream
  for number in 3 4 5 7 8 9 22 23 26 27 28; do
    node=node1
    ((number < 20)) || node=node2
    echo "--- fault $number on $node"
    fault "$node" "$number"
    ! migrate "$pid" node2 --mode "$mode" --timeout 10 || fail "it moved"
    no_faults
    goes_on pinger streamer
  done
  # The destination's stand-in crashes.
  fault node2 "27:exit"
  ! migrate "$pid" node2 --mode "$mode" --timeout 10 || fail "it moved"
  no_faults
  goes_on pinger streamer
  assert_eq "$(node_of "$pid")" node1
  # Not to node2: its kernel may still hold what the crash has left.
  move_by "$mode" "$pid" leader
  goes_on pinger streamer
  end_peers pinger:leader streamer:node2
  gestalt kill "$pid"
  await_status server 0
  assert_eq "$(tail -n 1 "$scratch/server.out")" "ok served=2 broken=0"
}

# A node that cannot have the address refuses before anything is stopped, and may have it later.
test_a_node_that_cannot_have_it() {
  local status=0
  start_server server node1
  start_peer pinger leader ping
  on node2 ip address add "$address/32" dev eth0
  migrate "$pid" node2 --mode "${modes[0]}" || status=$?
  on node2 ip address delete "$address/32" dev eth0
  ((status != 0)) || fail "it moved"
  assert_contains "$(cat "$scratch/migration.err")" "this node's own address"
  goes_on pinger
  move_by "${modes[0]}" "$pid" node2
  goes_on pinger
  end_peers pinger:leader
}

# The same sockets that would hold up another job.
test_preflight() {
  start_server server node1
  assert_contains "$(gestalt migrate --dry-run "$pid" node2)" "can move"
  start held node1 "$victims/network.py" serve 7001
  await_pid held
  local status=0
  gestalt migrate "$pid" node2 >"$scratch/out" 2>"$scratch/err" || status=$?
  assert_eq "$status" 5 "exit status"
  assert_contains "$(cat "$scratch/err")" "--net own"
}

# Unix sockets within the unit, also abstract ones, and UDP.
test_other_sockets() {
  net=own start mixed node1 python3 -c 'import os, socket, sys, time
pair = socket.socketpair()
listener = socket.socket(socket.AF_UNIX); listener.bind("\0gestalt-test"); listener.listen()
client = socket.socket(socket.AF_UNIX); client.connect("\0gestalt-test"); server, _ = listener.accept()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("", 7002))
local = socket.create_server(("127.0.0.1", 7003)); inner = socket.create_connection(("127.0.0.1", 7003)); outer, _ = local.accept()
os.write(2, b"ready %d\n" % os.getpid())
n = 0
while not os.path.exists("/var/tmp/end-mixed"):
    for a, b in (pair, (client, server), (server, client), (inner, outer), (outer, inner)):
        a.sendall(b"%d" % n)
        assert b.recv(64) == b"%d" % n
    udp.sendto(b"%d" % n, (os.environ["GESTALT_ADDRESS"], 7002))
    assert udp.recv(64) == b"%d" % n
    n += 1
    print("tick", n, flush=True); time.sleep(0.01)'
  await_pid mixed
  local mode
  for mode in "${modes[@]}"; do
    move_by "$mode" "$pid" node2
    goes_on mixed
    move_by "$mode" "$pid" node1
    goes_on mixed
  done
  on leader touch /var/tmp/end-mixed
  await_status mixed 0
  on leader rm /var/tmp/end-mixed
}

# Nothing of it is left, and the address is free again.
test_nothing_is_left() {
  local node
  end_jobs
  nothing_left() {
    [[ $(on "$1" sh -c 'ip route show dev gestalt-jobs 2>/dev/null | wc -l') == 0 ]]
  }
  for node in leader node1 node2; do wait_until 20 nothing_left "$node"; done
}

cluster_up 3
run_tests "$@"
