# shellcheck shell=bash
# sandbox-node.sh: one node: its start from the inside and the outside, entering
# it, its power, its cable, its daemon.

readonly node_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
pid=   # set by pid_in
enter=() # set by enter_node
clean_environment=() # set by set_environment

need_node() {
  [[ -e $state/complete ]] || no_such_sandbox
  [[ -d $state/nodes/$1 ]] || die "sandbox '$name' has no node '$1'; it has: $(node_names | tr '\n' ' ')"
}

no_such_sandbox() {
  rmdir "$state" "$states" 2>/dev/null || true
  die "no sandbox '$name' is up; pxe/sandbox --name $name up makes one"
}

need_running() {
  need_node "$1"
  pid_in "$state/nodes/$1/pid" "$1" || die "node '$1' is dead; pxe/sandbox --name $name boot $1 starts it"
}

node_names() { # leader first, then by number
  local node
  for node in "$state"/nodes/*/; do
    node=${node%/}
    printf '%s\n' "${node##*/}"
  done | sort -V
}

# --- start: inside the node's new namespaces ---------------------------------

mount_node_local() {
  local node=$1
  mount -t proc proc proc
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  make_dev "$PWD/dev"
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
  mkdir -m 1777 run/lock
  : >run/gestaltd.log
  mount --bind "$state/logs/$node.log" run/gestaltd.log
  [[ $node != leader ]] || mount --bind "$state/mnt/leader" var/lib/gestalt/leader
}

# Tells its pid on the host and then "ready" on stdout, and becomes the node's init.
node_inside() {
  local node=$1 self
  read -r self _ </proc/self/stat
  echo "$self"
  echo "$node" >/proc/sys/kernel/hostname
  ip link set lo up
  cd "$state/mnt/root"
  mount_node_local "$node"
  echo 4194304 2>/dev/null >proc/sys/kernel/pid_max || true
  pivot_root . mnt
  cd /
  umount -l /mnt
  echo ready
  exec /usr/bin/env -i "PATH=$node_path" HOME=/root LANG=C.UTF-8 \
    /usr/bin/catatonit -P </dev/null >/dev/null 2>&1
}

# --- start: outside ----------------------------------------------------------

in_switch() { nsenter --net="/proc/$holder/ns/net" -- "$@"; }

# connect NODE PID: a new cable from the node to the bridge.
connect() {
  local node=$1 node_pid=$2 address number
  read -r address <"$state/nodes/$node/address"
  number=${address##*.}
  in_switch ip -batch - <<END
link add name v-$node type veth peer name eth0 address $(printf '02:67:73:74:00:%02x' "$number") netns $node_pid
link set v-$node master br0 up
END
  nsenter -t "$node_pid" -n -- ip -batch - <<END
address add $address/24 dev eth0
link set eth0 up
END
}

spawn_node() {
  close_inherited
  enter_cgroup "$1"
  exec setsid nsenter --mount="/proc/$holder/ns/mnt" -- \
    unshare -m -u -i -n -p -C -f --propagation private -- \
    bash "$repo/pxe/sandbox" --name "$name" node-inside "$1" </dev/null 2>"$state/logs/$1.setup"
}

start_node() {
  local node=$1 node_pid='' ready='' out
  pid_in "$state/holder" holder || die "sandbox '$name' lost its holder; take it down and up again"
  holder=$pid
  make_cgroup "$node"
  : >>"$state/logs/$node.log"
  rm -f "$state/nodes/$node/cut"
  if is_vm; then
    vm_start "$node"
    return
  fi
  exec {out}< <(spawn_node "$node")
  if read -r -t 20 -u "$out" node_pid && connect "$node" "$node_pid" &&
    read -r -t 20 -u "$out" ready && [[ $ready == ready ]]; then
    echo "$node_pid" >"$state/nodes/$node/pid"
    exec {out}<&-
    return
  fi
  tail -n 5 "$state/logs/$node.setup" >&2
  die "node '$node' did not start (see above)"
}

# --- entering ----------------------------------------------------------------

# enter_node NODE USER TTY: sets `enter`, the command prefix to run there. The
# caller is put into the node's cgroup. A command dies with whoever entered.
enter_node() {
  local node=$1 user=$2
  need_running "$node"
  set_environment "$user"
  enter_cgroup "$node"
  enter=(nsenter -t "$pid" -m -u -i -n -p -C -- setpriv --pdeathsig HUP)
  if [[ $user != root ]]; then
    enter+=("--reuid=$user" "--regid=$user" --init-groups)
  fi
  # Whoever entered may have died before that took effect. He is outside the node's pid
  # namespace: we look by a descriptor of his own directory in /proc.
  exec 8</proc/self
  # shellcheck disable=SC2016
  enter+=(sh -c 'read -r caller </proc/self/fd/8/stat || exit 129
    case $caller in *") Z "* | *") X "*) exit 129 ;; esac
    exec 8<&-
    exec "$@"' sh)
  enter+=(env "${clean_environment[@]}")
}

# set_environment USER: sets clean_environment, the arguments of env(1).
set_environment() {
  local home=/root
  [[ $1 == root ]] || home=/home/$1
  clean_environment=(-i -C "$home" "PATH=$node_path" "HOME=$home" "USER=$1" "LOGNAME=$1"
    SHELL=/bin/bash "TERM=${TERM:-dumb}" LANG=C.UTF-8)
}

node_exec() {
  local node=$1 tty=$2 user=$3 line
  shift 3
  if is_vm; then vm_enter "$node" "$tty" "$user" "$@"; fi
  enter_node "$node" "$user"
  if ((tty)); then
    printf -v line '%q ' "$@"
    exec "${enter[@]}" script -qec "exec $line" /dev/null
  fi
  exec "${enter[@]}" "$@"
}

# run_on NODE CMD…: the same as a child, as root.
run_on() (
  node=$1
  shift
  if is_vm; then vm_enter "$node" 0 root "$@"; fi
  enter_node "$node" root
  exec 9<&- "${enter[@]}" "$@"
)

# --- power -------------------------------------------------------------------

# Power loss. The cable first: no FIN and no RST may leave a dying node.
node_kill() {
  local node=$1 group
  group=$(cgroup_of "$node")
  pid_in "$state/holder" holder && holder=$pid
  in_switch ip link set "v-$node" down 2>/dev/null || true
  if pid_in "$state/nodes/$node/pid" "$node"; then kill -KILL "$pid"; fi
  # Those who were entering, outside the node's pid namespace.
  echo 1 >"$group/cgroup.kill"
  wait_for 100 cgroup_empty "$group" || die "processes of '$node' survive SIGKILL (uninterruptible sleep?)"
  find "$group" -mindepth 1 -depth -type d -exec rmdir {} +
  echo 0 >"$group/cgroup.freeze"
  in_switch ip link delete "v-$node" 2>/dev/null || true
  rm -f "$state/nodes/$node/pid" "$state/nodes/$node/cut"
}

node_boot() {
  if pid_in "$state/nodes/$1/pid" "$1"; then die "node '$1' is running; kill it first"; fi
  start_node "$1"
  [[ ! -e $state/daemons ]] || daemon_start "$1"
}

node_pause() {
  need_running "$1"
  echo 1 >"$(cgroup_of "$1")/cgroup.freeze"
  wait_for 100 cgroup_is "$(cgroup_of "$1")" frozen 1 ||
    die "node '$1' does not freeze; a process in it is in uninterruptible sleep"
}

node_resume() {
  need_running "$1"
  echo 0 >"$(cgroup_of "$1")/cgroup.freeze"
  wait_for 100 cgroup_is "$(cgroup_of "$1")" frozen 0 || die "node '$1' does not thaw"
}

node_cut() { set_cable "$1" down; : >"$state/nodes/$1/cut"; }
node_join() { set_cable "$1" up; rm -f "$state/nodes/$1/cut"; }

set_cable() {
  need_running "$1"
  pid_in "$state/holder" holder && holder=$pid
  in_switch ip link set "v-$1" "$2"
}

node_state() { # sets state_word
  local group frozen=0
  group=$(cgroup_of "$1")
  state_word=dead
  pid_in "$state/nodes/$1/pid" "$1" || return 0
  { read -r frozen <"$group/cgroup.freeze"; } 2>/dev/null || true
  state_word=running
  [[ ! -e $state/nodes/$1/cut ]] || state_word=cut
  ((frozen == 0)) || state_word=paused
}

# --- the daemon --------------------------------------------------------------

# signal_daemon NODE SIGNAL: fails if no daemon runs there.
signal_daemon() {
  local daemon
  pid_in "$state/nodes/$1/pid" "$1" || return
  if is_vm; then
    run_on "$1" /bin/sh -c "kill -$2 \$(cat /run/gestaltd.pid)" 2>/dev/null
    return
  fi
  { read -r daemon <"/proc/$pid/root/run/gestaltd.pid"; } 2>/dev/null || return
  [[ $daemon =~ ^[0-9]+$ ]] || return
  nsenter -t "$pid" -p -- /bin/sh -c "kill -$2 $daemon" 2>/dev/null
}

daemon_gone() { ! signal_daemon "$1" 0; }

daemon_start() {
  local node=$1
  ! signal_daemon "$node" 0 || die "gestaltd runs on '$node' already"
  # shellcheck disable=SC2016
  run_on "$node" /bin/sh -c 'type gestaltd >/dev/null 2>&1 || exit 127
    setsid gestaltd </dev/null >>/run/gestaltd.log 2>&1 & echo $! >/run/gestaltd.pid' ||
    die "there is no gestaltd on '$node'; run make build, then take the sandbox down and up"
}

daemon_stop() {
  signal_daemon "$1" TERM || die "no gestaltd runs on '$1'"
  wait_for 100 daemon_gone "$1" ||
    die "gestaltd on '$1' ignores SIGTERM for 10 s; pxe/sandbox --name $name daemon $1 kill ends it"
}

daemon_kill() {
  signal_daemon "$1" KILL || die "no gestaltd runs on '$1'"
  wait_for 100 daemon_gone "$1" || die "gestaltd on '$1' survives SIGKILL (uninterruptible sleep?)"
}

node_daemon() {
  local node=$1
  case ${2:-} in
    log) cat "$state/logs/$node.log"; return ;;
    start | stop | kill) need_running "$node"; "daemon_$2" "$node" ;;
    restart) need_running "$node"; daemon_stop "$node"; daemon_start "$node" ;;
    *) usage_error "daemon NODE takes start, stop, restart, kill or log" ;;
  esac
}
