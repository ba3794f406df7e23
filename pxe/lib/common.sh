# shellcheck shell=bash
# common.sh: what toolbox and sandbox share: messages, places, device nodes.
# Sourced; the caller has set -euo pipefail.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${GESTALT_CACHE:-/var/cache/gestalt}
program=${0##*/}
readonly repo cache program

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

die() {
  printf '%s: %s\n' "$program" "$*" >&2
  exit 1
}

usage_error() {
  printf '%s: %s (see %s --help)\n' "$program" "$*" "$program" >&2
  exit 2
}

# Progress, with the seconds since the script began.
say() { printf '[%3d s] %s\n' "$SECONDS" "$*" >&2; }

need_root() {
  ((EUID == 0)) || die "needs root (mounts and namespaces); run it as root, e.g. by sudo"
}

# take_lock FILE WHAT: hold fd 9 on FILE until this process ends.
take_lock() {
  mkdir -p "${1%/*}"
  exec 9>>"$1"
  flock -n 9 && return
  say "waiting: another process holds $2"
  flock 9
}

# make_dev DIR: a private /dev with what programs expect and nothing of the host's disks.
make_dev() {
  local dir=$1 entry name type major minor
  mount -t tmpfs -o mode=755,size=64m tmpfs "$dir"
  local -a devices=("null c 1 3" "zero c 1 5" "full c 1 7" "random c 1 8" "urandom c 1 9" "tty c 5 0")
  local extra
  for extra in fuse userfaultfd; do
    [[ -c /dev/$extra ]] || continue
    devices+=("$extra c $(stat -c '0x%t 0x%T' "/dev/$extra")")
  done
  for entry in "${devices[@]}"; do
    read -r name type major minor <<<"$entry"
    mknod -m 666 "$dir/$name" "$type" "$((major))" "$((minor))"
  done
  mkdir "$dir/net" "$dir/pts" "$dir/shm"
  [[ ! -c /dev/net/tun ]] || mknod -m 666 "$dir/net/tun" c 10 200
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dir/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$dir/shm"
  ln -s pts/ptmx "$dir/ptmx"
  ln -s /proc/self/fd "$dir/fd"
  ln -s fd/0 "$dir/stdin"
  ln -s fd/1 "$dir/stdout"
  ln -s fd/2 "$dir/stderr"
}
