# shellcheck shell=bash
# sandbox-state.sh: where a sandbox keeps its state, its locks and its cgroups.
#
# /run/gestalt-sandbox/NAME/
#   holder, nodes/NODE/{pid,address,cut}   the host's pids of the processes
#   cpus, layers                           what `up` was asked for
#   complete                               `up` came to its end
#   logs/NODE.log                          the daemons' logs
#   mnt/                                   mount point, used in the holder only

readonly states=/run/gestalt-sandbox
name='' state=''      # of the sandbox in use; see set_name
cgroup2='' cpu_v1=''  # mount points of the cgroup hierarchies

# find_cgroups: the cgroup2 hierarchy wherever it is mounted, and v1's cpu if it is in use.
find_cgroups() {
  local point type options _
  while read -r _ point type options _; do
    case $type in
      cgroup2) [[ -n $cgroup2 ]] || cgroup2=$point ;;
      cgroup) [[ ,$options, != *,cpu,* ]] || cpu_v1=$point ;;
    esac
  done </proc/self/mounts
  [[ -n $cgroup2 ]] && return
  cgroup2=$states/.cgroup2
  mkdir -p "$cgroup2"
  mount -t cgroup2 cgroup2 "$cgroup2" ||
    die "no cgroup2 hierarchy can be mounted; the kernel needs CONFIG_CGROUPS"
}

cgroup_of() { printf '%s/gestalt-sandbox/%s%s' "$cgroup2" "$name" "${1:+/$1}"; }

# lock_dir DIR FD: make DIR and hold a lock on it. The holder before us may have
# removed it, so look whether the locked one is still the one in place.
lock_dir() {
  local dir=$1 fd=$2 said=
  while :; do
    mkdir -p "$dir"
    eval "exec $fd<\"\$dir\"" 2>/dev/null || continue
    if ! flock -n "$fd"; then
      [[ -n $said ]] || say "waiting: another command works on ${dir##*/}"
      said=1
      flock "$fd"
    fi
    [[ /proc/self/fd/$fd -ef $dir ]] && return
  done
}

lock_sandbox() { lock_dir "$state" 9; }

# Long-lived processes must not hold the caller's pipes and locks open.
close_inherited() {
  local fd
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    ((fd <= 2 || fd == 255)) || eval "exec $fd>&-" 2>/dev/null || true
  done
}

# wait_for TENTHS CMD…: poll every 20 ms, bounded.
wait_for() {
  local left=$(($1 * 5))
  shift
  until "$@"; do
    ((left-- > 0)) || return 1
    sleep 0.02
  done
}

cgroup_is() { # CGROUP KEY VALUE, of cgroup.events
  [[ -d $1 ]] || return
  local key value
  while read -r key value; do
    [[ $key == "$2" ]] && break
  done <"$1/cgroup.events"
  [[ $value == "$3" ]]
}

cgroup_empty() { [[ ! -d $1 ]] || cgroup_is "$1" populated 0; }

remove_cgroups() { # of the sandbox, in each hierarchy
  local base
  for base in "$cgroup2" ${cpu_v1:+"$cpu_v1"}; do
    [[ -d $base/gestalt-sandbox/$name ]] || continue
    find "$base/gestalt-sandbox/$name" -depth -type d -exec rmdir {} + 2>/dev/null || true
    rmdir "$base/gestalt-sandbox" 2>/dev/null || true
    [[ ! -d $base/gestalt-sandbox/$name ]] || return
  done
}

# make_cgroup NODE: with the CPU quota `up` was asked for.
make_cgroup() {
  local group cpus quota
  group=$(cgroup_of "$1")
  mkdir -p "$group"
  [[ -s $state/cpus && $1 != holder ]] || return 0
  read -r cpus <"$state/cpus"
  quota=$(awk -v cpus="$cpus" 'BEGIN { printf "%d", cpus * 100000 }')
  if [[ -n $cpu_v1 ]]; then
    mkdir -p "$cpu_v1/gestalt-sandbox/$name/$1"
    echo 100000 >"$cpu_v1/gestalt-sandbox/$name/$1/cpu.cfs_period_us"
    echo "$quota" >"$cpu_v1/gestalt-sandbox/$name/$1/cpu.cfs_quota_us"
    return
  fi
  local parent
  for parent in "$cgroup2" "$cgroup2/gestalt-sandbox" "$cgroup2/gestalt-sandbox/$name"; do
    echo +cpu >"$parent/cgroup.subtree_control" ||
      die "cannot limit CPUs: the cpu controller is not available in $parent"
  done
  echo "$quota 100000" >"$group/cpu.max"
}

# enter_cgroup NODE: the calling (sub)shell, and all it starts.
enter_cgroup() {
  local node=$1
  if [[ -n $cpu_v1 && -d $cpu_v1/gestalt-sandbox/$name/$node ]]; then
    echo "$BASHPID" >"$cpu_v1/gestalt-sandbox/$name/$node/cgroup.procs"
  fi
  echo "$BASHPID" >"$cgroup2/gestalt-sandbox/$name/$node/cgroup.procs"
}

# pid_in FILE NODE: sets pid when FILE names a live process of that cgroup.
# A reused pid is not mistaken for ours: it would have to be in our cgroup.
pid_in() {
  pid=
  local line
  { read -r pid <"$1"; } 2>/dev/null || return
  while read -r line; do
    [[ $line != *"/gestalt-sandbox/$name/$2" ]] || return 0
  done 2>/dev/null <"/proc/$pid/cgroup"
  pid=
  return 1
}

# --- pid_max -----------------------------------------------------------------
# Cluster pids span 2^22, and every task needs a pid in the host's namespace too.

raise_pid_max() {
  local old
  read -r old </proc/sys/kernel/pid_max
  ((old >= 4194304)) && return
  [[ -s $states/.pid_max ]] || echo "$old" >"$states/.pid_max"
  echo 4194304 >/proc/sys/kernel/pid_max || die "cannot raise kernel.pid_max to 4194304; run on the host or in a privileged container"
  say "raised kernel.pid_max from $old to 4194304 until the last sandbox goes down"
}

restore_pid_max() {
  local old
  [[ -s $states/.pid_max ]] || return 0
  read -r old <"$states/.pid_max"
  echo "$old" >/proc/sys/kernel/pid_max
  rm -f "$states/.pid_max"
}
