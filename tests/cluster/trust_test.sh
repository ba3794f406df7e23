#!/bin/bash
# Who may speak to whom: tokens, certificates, configuration files, and bytes that make
# no sense on every port and socket. The daemons keep serving, and say what they refused.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

readonly port=7480

log_of() { sandbox daemon "$1" log; }

serves() {
  gestalt node list --json | on leader jq -e '[.[] | select(.state == "online")] | length == 3' >/dev/null ||
    fail "not all nodes are online: $(gestalt node list)"
  assert_eq "$(gestalt run --node node1 uname -n)" node1
}

# The daemons' pids: none of them may have been started anew.
daemons() { for node in leader node1 node2; do on "$node" cat /run/gestaltd.pid; done | tr '\n' ' '; }

# --- tokens ------------------------------------------------------------------

with_token() { # TEXT: boots node2, which has no certificate of its own after that
  on leader cp -p /etc/gestalt/join-token /etc/gestalt/join-token.good
  printf '%s\n' "$1" | on leader tee /etc/gestalt/join-token >/dev/null
  sandbox kill node2
  sandbox boot node2
}

refused_on_node2() { log_of node2 | tail -n "+$((lines + 1))" | grep -qiE "$1"; }

good_token_again() {
  on leader mv /etc/gestalt/join-token.good /etc/gestalt/join-token
  sandbox daemon node2 stop 2>/dev/null || true
  sandbox daemon node2 start
  wait_until 20 node_is node2 online
}

test_wrong_secret_is_refused() {
  local good lines
  good=$(on leader cat /etc/gestalt/join-token)
  lines=$(log_of node2 | wc -l)
  with_token "${good%.*}.$(printf '%064d' 7)"
  wait_until 15 refused_on_node2 token
  wait_until 15 node_is node2 failed
  assert_not_contains "$(log_of leader; log_of node2)" "$(printf '%064d' 7)" "the logs"
  assert_not_contains "$(log_of leader; log_of node2)" "${good##*.}" "the logs"
  good_token_again
}

test_wrong_cluster_is_refused() {
  local good lines
  good=$(on leader cat /etc/gestalt/join-token)
  lines=$(log_of node2 | wc -l)
  with_token "gestalt1.$(printf '%064d' 7).${good##*.}"
  wait_until 15 refused_on_node2 'fingerprint|certificate|token'
  good_token_again
}

test_damaged_token_is_named() {
  local lines
  lines=$(log_of node2 | wc -l)
  with_token nonsense
  wait_until 15 refused_on_node2 'join-token|token'
  good_token_again
}

test_secrets_are_private() {
  local file
  for file in /etc/gestalt/join-token /var/lib/gestalt/leader/ca.key; do
    assert_eq "$(on leader stat -c '%a %U' "$file")" "600 root" "$file"
  done
  expect_exit 1 on_as alice leader cat /etc/gestalt/join-token
  on node1 sh -c 'find /run/gestalt /var/lib/gestalt -name "*.key" -perm /077 | grep . && exit 1 || true'
  expect_exit 1 on_as alice node1 sh -c 'find /run/gestalt -name "*.key" -exec cat {} + 2>/dev/null | grep KEY'
}

# --- certificates ------------------------------------------------------------

# Message{agent_hello{protocol: 1, node: "node9"}}, framed.
hello() { printf '\x00\x00\x00\x0c\xf2\x03\x09\x08\x01\x12\x05node9'; }

test_a_peer_without_a_certificate_is_refused() {
  local before
  before=$(daemons)
  on node1 sh -c 'cat >/tmp/hello; (cat /tmp/hello; sleep 2) |
    timeout 10 openssl s_client -quiet -connect leader:'$port' >/tmp/answer 2>&1 || true' < <(hello)
  assert_eq "$(gestalt node list --json | on leader jq '[.[] | select(.name == "node9")] | length')" 0
  log_of leader | grep -iE 'certificate|refus' | grep -q 10.77.0.2 || fail "the leader logged no refusal"
  serves
  assert_eq "$(daemons)" "$before" "the daemons"
}

test_a_peer_of_another_ca_is_refused() {
  on node1 sh -ec 'cd /tmp
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=node2 \
      -keyout other.key -out other.pem 2>/dev/null
    (cat /tmp/hello; sleep 2) | timeout 10 openssl s_client -quiet -cert other.pem -key other.key \
      -connect leader:'$port' >/tmp/answer 2>&1 || true'
  log_of leader | grep -iE 'certificate|refus|verify' | grep -q 10.77.0.2 || fail "the leader logged no refusal"
  serves
}

test_only_tls_1_3() {
  expect_exit 1 on node1 sh -c "timeout 10 openssl s_client -tls1_2 -connect leader:$port </dev/null 2>/dev/null | grep -q 'Cipher is [^(]'"
}

# --- bytes that make no sense ------------------------------------------------

# noise PORT HOST: random bytes, a huge frame, a lot of data, half-open connections.
noise_to() {
  local host=$1 number=$2
  # shellcheck disable=SC2016
  on node1 timeout 60 bash -c 'host=$1 port=$2
    to() { timeout 3 bash -c "cat >/dev/tcp/$host/$port" 2>/dev/null || true; }
    for i in 1 2 3 4 5; do head -c 2000 /dev/urandom | to; done
    printf "\xff\xff\xff\xff" | to
    printf "GET / HTTP/1.1\r\nHost: x\r\n\r\n" | to
    head -c 20000000 /dev/zero | to
    for i in $(seq 30); do (exec 3<>"/dev/tcp/$host/$port" && sleep 3) 2>/dev/null & done
    wait' sh "$host" "$number"
}

test_noise_on_the_control_port() {
  local before
  before=$(daemons)
  start_victim memory node2 memory
  noise_to leader "$port"
  serves
  keeps_working memory
  finish memory "$pid"
  assert_eq "$(daemons)" "$before" "the daemons"
}

# Every port that a daemon opens, whatever it is for.
test_noise_on_all_ports() {
  local node number before
  before=$(daemons)
  for node in leader node2; do
    for number in $(on "$node" ss -Hltn | awk '{ sub(".*:", "", $4); print $4 }' | sort -u); do
      [[ $number == "$port" ]] || noise_to "$node" "$number"
    done
  done
  serves
  assert_eq "$(daemons)" "$before" "the daemons"
}

# A half-open connection costs the daemon a descriptor only for so long.
test_half_open_connections_are_closed() {
  # shellcheck disable=SC2016
  on node1 timeout 100 bash -c 'for i in $(seq 50); do exec {fd}<>/dev/tcp/leader/'$port'; done
    for i in $(seq 600); do
      [ "$(ss -Htn state established dport = :'$port' | wc -l)" -gt 10 ] || exit 0
      sleep 0.1
    done
    echo "the leader keeps half-open connections"; exit 1'
  serves
}

test_noise_on_the_local_sockets() {
  local before socket
  before=$(daemons)
  start_victim memory leader memory
  for socket in gestaltd agent init; do
    # shellcheck disable=SC2016
    on leader timeout 60 bash -c 'socket=/run/gestalt/$1.sock
      [ -S "$socket" ] || { echo "no $socket"; exit 1; }
      to() { timeout 3 socat -u - "UNIX-CONNECT:$socket" 2>/dev/null || true; }
      for i in 1 2 3 4 5; do head -c 3000 /dev/urandom | to; done
      printf "\xff\xff\xff\xff" | to
      printf "\x00\x00\x00\x05hello" | to
      printf "\x00\x00\x00\x00" | to
      head -c 20000000 /dev/zero | to
      for i in $(seq 30); do timeout 3 socat -u "UNIX-CONNECT:$socket" - >/dev/null 2>&1 & done
      printf "\x00\x00\x10\x00abc" | timeout 3 socat -u - "UNIX-CONNECT:$socket,shut-none" || true
      wait' sh "$socket"
    serves
  done
  keeps_working memory
  finish memory "$pid"
  assert_eq "$(daemons)" "$before" "the daemons"
}

test_only_root_reaches_the_inner_sockets() {
  local socket
  for socket in agent init; do
    expect_exit 1 on_as alice leader socat -u OPEN:/dev/null "UNIX-CONNECT:/run/gestalt/$socket.sock"
  done
  gestalt_as alice ps >/dev/null
}

# Strangers find the port of a migration before the source does, whose stand-in is held.
test_noise_on_the_page_port() {
  local before number='' mover i
  before=$(on node2 ss -Hltn | awk '{ print $4 }' | sort)
  start_victim memory node1 memory
  on node1 pkill -STOP -f gestalt-stand-in
  migrate "$pid" node2 &
  mover=$!
  for ((i = 0; i < 100; i++)); do
    number=$(on node2 ss -Hltn | awk '{ print $4 }' | sort | comm -13 <(echo "$before") - | sed 's/.*://' | head -n 1)
    [[ -z $number ]] || break
    sleep 0.05
  done
  # shellcheck disable=SC2016
  [[ -z $number ]] || on leader timeout 8 bash -c '
    to() { timeout 0.3 bash -c "cat >/dev/tcp/node2/$1" 2>/dev/null || true; }
    head -c 3000 /dev/urandom | to "$1"
    (exec 3<>"/dev/tcp/node2/$1" && sleep 4) 2>/dev/null & # longer than it may stay silent
    head -c 100000 /dev/zero | to "$1"
    sleep 1' sh "$number" || true
  on node1 pkill -CONT -f gestalt-stand-in
  [[ -n $number ]] || fail "no port was opened on node2"
  wait "$mover" || fail "the migration failed: $(cat "$scratch/migration.err")"
  expect_only_on node2 memory 1
  keeps_working memory
  finish memory "$pid"
}

# --- configuration -----------------------------------------------------------

bad_config() { # TEXT PART…: refused, and the message has the parts
  local message part
  printf '%b' "$1" | on node1 tee /tmp/bad.toml >/dev/null
  message=$(on node1 timeout 10 gestaltd --config /tmp/bad.toml --check-config 2>&1) && fail "accepted: $1"
  shift
  for part in "$@"; do assert_contains "$message" "$part"; done
}

test_configuration_errors() {
  bad_config '[cluster]\nnmae = "x"\n' /tmp/bad.toml:2 nmae name
  bad_config '[membership]\nheartbeat_seconds = "often"\n' /tmp/bad.toml:2 heartbeat_seconds
  bad_config '[cluster]\nport = 99999999\n' /tmp/bad.toml:2 port
  bad_config '[nosuch]\n' /tmp/bad.toml:1 nosuch
  bad_config '[cluster\n' /tmp/bad.toml:1
  bad_config '[node]\nname = "no good!"\n' /tmp/bad.toml:2 name
}

test_a_daemon_with_an_unknown_key_does_not_start() {
  printf '[log]\nlevle = "debug"\n' | on node1 tee /tmp/bad.toml >/dev/null
  expect_exit 1 on node1 timeout 10 gestaltd --config /tmp/bad.toml 2>"$scratch/err"
  assert_contains "$(cat "$scratch/err")" /tmp/bad.toml:2
  serves
}

cluster_up 3
run_tests "$@"
