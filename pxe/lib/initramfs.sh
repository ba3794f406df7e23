# shellcheck shell=bash
# initramfs.sh: make_initramfs, for nodes and test machines. Sourced; runs in the toolbox,
# which has busybox, cpio and, with --kernels, the kernels.

# What reaching a root over 9p or NFS takes, besides what these depend on. A kernel that does not
# have one of them cannot have such a root; its machine says so.
readonly initramfs_modules=(virtio_pci virtio_net 9pnet_virtio 9p nfsv4 overlay virtio_console
  virtio_blk virtio_rng)

# make_initramfs SUITE FILE
make_initramfs() {
  local suite=$1 file=$2 tree release module path
  local -A seen=()
  tree=$(mktemp -d)
  release=$(cat "/kernels/$suite/release")
  mkdir -p "$tree"/{bin,modules,proc,sys,dev,ro,rw,mnt}
  cp /usr/bin/busybox "$tree/bin/busybox"
  cp "$(dirname "${BASH_SOURCE[0]}")/initramfs-init" "$tree/init"
  chmod 755 "$tree/init"
  : >"$tree/modules/order" # of a kernel that needs none
  for module in "${initramfs_modules[@]}"; do
    # Lines of "insmod PATH", dependencies first; "builtin NAME" for what needs none.
    while read -r kind path _; do
      [[ $kind == insmod && -z ${seen[$path]:-} ]] || continue
      seen[$path]=1
      unpack_module "$path" "$tree/modules"
    done < <(modprobe -q -d "/kernels/$suite" -S "$release" --show-depends "$module")
  done
  (cd "$tree" && find . -print0 | cpio --null -o -H newc --quiet | gzip -1) >"$file"
  rm -rf "$tree"
}

# Kernels can load compressed modules themselves; busybox's insmod hands them over plain.
unpack_module() { # PATH DIRECTORY: appends to DIRECTORY/order
  local name=${1##*/}
  name=${name%.xz}
  case $1 in
    *.xz) xz -dc "$1" >"$2/$name" ;;
    *) cp "$1" "$2/$name" ;;
  esac
  echo "$name" >>"$2/order"
}
