# shellcheck shell=bash
# sandbox-cluster.sh: the whole cluster: up, down, status.

holder=      # host pid of the holder
state_word=  # set by node_state

install_layer() { printf '%s' "${GESTALT_INSTALL:-$repo/build/install}"; }

address_of() { # NUMBER, the leader being 0
  printf '10.77.0.%d' "$(($1 + 1))"
}

node_name() { if (($1)); then printf 'node%d' "$1"; else printf leader; fi; }

# --- the holder, from the inside ---------------------------------------------

mount_shared_root() {
  local mnt=$state/mnt layers options=''
  read -r layers <"$state/layers"
  if is_vm; then
    layers=$("$repo/pxe/kernels" path "$(vm_kernel)"):$layers
    options=,index=on,nfs_export=on,xino=on
  fi
  mount -t tmpfs -o mode=755 tmpfs "$mnt"
  mkdir "$mnt"/{install,upper,work,root}
  mkdir -m 700 "$mnt/leader"
  # A copy: a build under a running sandbox must not change its lower layer.
  [[ ! -d $(install_layer) ]] || cp -r --preserve=mode,links "$(install_layer)/." "$mnt/install"
  chmod 755 "$mnt/install"
  mount -t overlay overlay -o "lowerdir=$mnt/install:$layers,upperdir=$mnt/upper,workdir=$mnt/work$options" "$mnt/root"
}

write_shared_files() {
  local root=$state/mnt/root node address
  mkdir -p "$root/etc/gestalt" "$root/var/lib/gestalt/load" "$root/tmp" "$root/mnt"
  mkdir -p -m 700 "$root/var/lib/gestalt/leader"
  chmod 1777 "$root/tmp"
  {
    echo "127.0.0.1 localhost"
    for node in $(node_names); do
      read -r address <"$state/nodes/$node/address"
      echo "$address $node"
    done
  } >"$root/etc/hosts"
  : >"$root/etc/resolv.conf"
  rm -f "$root/etc/hostname"
  [[ -e $root/etc/gestalt/gestalt.toml ]] || cat >"$root/etc/gestalt/gestalt.toml" <<END
[cluster]
name = "$name"
leader = "leader"
leader_address = "$(address_of 0)"

[jobs]
network = "10.77.0.128/25"
END
  ! is_vm || vm_config >>"$root/etc/gestalt/gestalt.toml"
  [[ ! -e $state/config ]] || cat "$state/config" >>"$root/etc/gestalt/gestalt.toml"
}

holder_inside() {
  echo "$BASHPID"
  mount_shared_root
  write_shared_files
  ! is_vm || vm_prepare
  ip -batch - <<END
link set lo up
link add name br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set br0 addrgenmode none up
END
  ! is_vm || vm_serve
  echo ready
  exec sleep infinity </dev/null >/dev/null 2>&1
}

spawn_holder() {
  close_inherited
  enter_cgroup holder
  exec setsid unshare -m -n --propagation private -- \
    bash "$repo/pxe/sandbox" --name "$name" holder-inside </dev/null 2>"$state/logs/holder.setup"
}

start_holder() {
  local ready='' out
  make_cgroup holder
  exec {out}< <(spawn_holder)
  if read -r -t 20 -u "$out" holder && read -r -t 60 -u "$out" ready && [[ $ready == ready ]]; then
    echo "$holder" >"$state/holder"
    exec {out}<&-
    return
  fi
  tail -n 5 "$state/logs/holder.setup" >&2
  die "the sandbox's root or network could not be set up (see above)"
}

# --- up ----------------------------------------------------------------------

layer_paths() { # base|dev
  local base dev
  base=$("$repo/pxe/toolbox" path base) || die "the sandbox needs the toolbox; run pxe/toolbox build"
  [[ $1 == dev ]] || { printf '%s\n' "$base"; return; }
  dev=$("$repo/pxe/toolbox" path dev) || exit 1
  printf '%s:%s\n' "$dev" "$base"
}

write_state() {
  local nodes=$1 cpus=$2 daemon=$3 layers=$4 kernel=$5 config=$6 i
  mkdir -p "$state"/{nodes,logs,mnt}
  for ((i = 0; i < nodes; i++)); do
    mkdir "$state/nodes/$(node_name "$i")"
    address_of "$i" >"$state/nodes/$(node_name "$i")/address"
    echo >>"$state/nodes/$(node_name "$i")/address"
  done
  printf '%s\n' "$layers" >"$state/layers"
  [[ -z $cpus ]] || printf '%s\n' "$cpus" >"$state/cpus"
  [[ -z $kernel ]] || printf '%s\n' "$kernel" >"$state/kernel"
  ((daemon == 0)) || : >"$state/daemons"
  [[ -z $config ]] || { echo && cat "$config"; } >"$state/config"
}

# Nodes boot side by side; a failing one fails the whole.
start_nodes() {
  local node failed=0 job
  local -a jobs=()
  for node in $(node_names); do
    start_node "$node" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do
    wait "$job" || failed=1
  done
  ((failed == 0)) || die "not all nodes started"
}

job_ended() {
  local line
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
  [[ $line == *") Z "* ]]
}

up_failed() {
  set +e # whatever can be removed, is
  say "cleaning up after the failed up"
  local job
  # bash's wait, also one for a single job, may wait for the holder, too.
  for job in $(jobs -p); do
    kill "$job" 2>/dev/null || true
    wait_for 50 job_ended "$job"
  done
  destroy || true
  leave_states
}

cluster_up() {
  local nodes=$1 cpus=$2 daemon=$3 layers=$4 timeout=$5 kernel=$6 criu=$7 config=$8
  layers=$(layer_paths "$layers")
  [[ -z $criu ]] || layers=$("$repo/pxe/criu" path "$criu"):$layers
  ((daemon == 0)) || [[ -x $(install_layer)/usr/bin/gestalt ]] ||
    die "nothing is installed at $(install_layer); run make build first (or use --no-daemon)"
  lock_sandbox
  [[ ! -e $state/complete ]] || die "sandbox '$name' is up already; pxe/sandbox --name $name down ends it"
  trap up_failed EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  destroy || die "an earlier sandbox '$name' cannot be removed"
  lock_dir "$states" 8
  raise_pid_max
  exec 8<&-
  write_state "$nodes" "$cpus" "$daemon" "$layers" "$kernel" "$config"
  start_holder
  start_nodes
  : >"$state/complete"
  trap - EXIT INT TERM HUP
  say "sandbox '$name': $nodes nodes are up"
  ((daemon == 0)) || start_daemons "$nodes" "$timeout"
}

# --- the daemons -------------------------------------------------------------

start_daemons() {
  local nodes=$1 timeout=$2 node
  # shellcheck disable=SC2016
  run_on leader /bin/sh -c '
    dir=/var/lib/gestalt/leader
    [ -e "$dir/ca.key" ] || gestalt init || exit
    install -m 600 "$dir/join-token" /etc/gestalt/join-token' ||
    die "gestalt init failed on the leader (its message is above)"
  daemon_start leader
  for node in $(node_names); do
    [[ $node == leader ]] || daemon_start "$node"
  done
  wait_online "$nodes" "$timeout"
}

count_online() {
  run_on leader /bin/sh -c 'timeout 5 gestalt node list --json |
    jq -r "[.. | objects | select(.state? == \"online\")] | length"' 2>/dev/null || echo 0
}

wait_online() {
  local nodes=$1 deadline=$((SECONDS + $2)) online=0 before=-1
  while :; do
    online=$(count_online)
    [[ $online =~ ^[0-9]+$ ]] || online=0
    ((online == before)) || say "$online of $nodes nodes are online"
    before=$online
    ((online < nodes)) || return 0
    ((SECONDS < deadline)) || break
    sleep 0.1
  done
  local node
  for node in $(node_names); do
    printf -- '--- %s: last lines of gestaltd.log\n' "$node" >&2
    tail -n 15 "$state/logs/$node.log" >&2
  done
  die "only $online of $nodes nodes came online in $2 s; the sandbox is left up for a look, pxe/sandbox --name $name down ends it"
}

# --- down --------------------------------------------------------------------

# Everything of this sandbox but its state directory itself. Needs no state:
# all that an `up` or `down` cut short may have left is found by the cgroup.
destroy() {
  local group
  group=$(cgroup_of '')
  if [[ -d $group ]]; then
    echo 1 >"$group/cgroup.kill"
    wait_for 150 cgroup_empty "$group" ||
      { say "processes of '$name' survive SIGKILL (uninterruptible sleep?): $(find "$group" -name cgroup.procs -exec cat {} + | tr '\n' ' ')"; return 1; }
  fi
  wait_for 20 remove_cgroups || { say "cgroups of '$name' cannot be removed"; return 1; }
  [[ ! -d $state ]] || find "$state" -mindepth 1 -depth -xdev -delete
}

# After the last sandbox, the host is as it was.
leave_states() {
  lock_dir "$states" 8
  rmdir "$state" 2>/dev/null || true
  if [[ -z $(find "$states" -mindepth 1 -maxdepth 1 -type d ! -name '.*') ]]; then
    restore_pid_max
    umount "$states/.cgroup2" 2>/dev/null || true
    rmdir "$states/.cgroup2" "$states" 2>/dev/null || true
  fi
  exec 8<&-
}

down_one() {
  lock_sandbox
  destroy || die "sandbox '$name' is not wholly down; see above"
  leave_states
}

cluster_down() {
  local all=0 each
  while (($#)); do
    case $1 in
      --all) all=1; shift ;;
      --name) set_name "${2:-}"; shift 2 || usage_error "--name needs a name" ;;
      *) usage_error "down does not know '$1'" ;;
    esac
  done
  if ((all)); then
    for each in $(cluster_list); do
      (set_name "$each" && down_one)
    done
  else
    down_one
  fi
}

# --- looking -----------------------------------------------------------------

# Also those of which only the cgroup is left.
cluster_list() {
  local entry
  for entry in "$states"/*/ "$cgroup2"/gestalt-sandbox/*/; do
    [[ -d $entry ]] || continue
    entry=${entry%/}
    printf '%s\n' "${entry##*/}"
  done | sort -u
}

cluster_root() {
  [[ -e $state/complete ]] || no_such_sandbox
  pid_in "$state/holder" holder || die "sandbox '$name' lost its holder; take it down and up again"
  printf '/proc/%s/root%s/mnt/root\n' "$pid" "$state"
}

cluster_status() {
  local json=0 node address daemon pid_word first=1
  [[ ${1:-} != --json ]] || json=1
  [[ -e $state/complete ]] || no_such_sandbox
  if ((json)); then
    printf '{"name":"%s","nodes":[' "$name"
  else
    printf '%-10s %-8s %-9s %-13s %s\n' NODE STATE PID ADDRESS DAEMON
  fi
  for node in $(node_names); do
    node_state "$node"
    pid_word=$pid
    read -r address <"$state/nodes/$node/address"
    daemon=stopped
    if signal_daemon "$node" 0; then daemon=running; fi
    if ((json)); then
      ((first)) || printf ','
      first=0
      printf '{"node":"%s","state":"%s","pid":%s,"address":"%s","daemon":"%s"}' \
        "$node" "$state_word" "${pid_word:-null}" "$address" "$daemon"
    else
      printf '%-10s %-8s %-9s %-13s %s\n' "$node" "$state_word" "${pid_word:--}" "$address" "$daemon"
    fi
  done
  ((json == 0)) || printf ']}\n'
}
