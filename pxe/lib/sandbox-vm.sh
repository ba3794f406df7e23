# shellcheck shell=bash
# sandbox-vm.sh: nodes that are virtual machines with a kernel of Debian's own, instead of
# namespaces: the same bridge, the same shared root (by NFS), and all commands go in by ssh.
#
#   holder ── br0 ── v-leader, v-node1 … (tap)
#     │  tools: the toolbox's root, in which QEMU, ssh and the NFS server run
#     └── the shared root, bound to tools/cluster, exported to the machines
#
# QEMU emulates (TCG): it needs no KVM, and is some twenty times slower than the host.

. "$lib/emulation.sh"
readonly vm_boot_seconds=240
readonly vm_memory_mb=${GESTALT_VM_MEMORY:-1024} vm_cpus=${GESTALT_VM_CPUS:-2}

# vm_kernel: the suite whose kernel the machines have; nothing: the nodes are namespaces.
vm_kernel() { [[ ! -s $state/kernel ]] || cat "$state/kernel"; }

is_vm() { [[ -s $state/kernel ]]; }

# An emulated machine that starts a hundred processes is silent for seconds.
vm_config() {
  printf '\n[membership]\nsuspect_seconds = 10\nfailed_seconds = 20\n'
}

# In the holder's namespaces, with the tools' root.
in_tools() {
  nsenter --mount="/proc/$holder/ns/mnt" --net="/proc/$holder/ns/net" -- chroot "$state/mnt/tools" "$@"
}

# --- the holder's part, from the inside ----------------------------------------

vm_prepare() {
  local tools=$state/mnt/tools root=$state/mnt/root
  mkdir "$state"/mnt/{tools,tools-upper,tools-work}
  mount -t overlay overlay \
    -o "lowerdir=$(layer_paths dev),upperdir=$state/mnt/tools-upper,workdir=$state/mnt/tools-work" "$tools"
  make_dev "$tools/dev"
  mkdir -p "$tools"/{cluster,kernels,logs,proc,run}
  mount -t proc proc "$tools/proc"
  mount -t tmpfs tmpfs "$tools/run"
  mount --bind "$state/logs" "$tools/logs"
  mount --bind "$root" "$tools/cluster"
  mount --bind "$cache/kernels" "$tools/kernels"
  install -m 755 "$repo/pxe/lib/vm-node-init" "$root/usr/lib/vm-node-init"
  vm_prepare_ssh "$tools" "$root"
  local module file
  module=${GESTALT_BUILD:-$repo/build}/kmod/$("$repo/pxe/kernels" release "$(vm_kernel)")
  for file in "$module"/{gestalt.ko,forker}; do
    [[ ! -e $file ]] || install -m 755 -t "$root/usr/lib/gestalt" "$file"
  done
  mkdir -p "$tools/lib-gestalt"
  cp "$repo"/pxe/lib/initramfs.sh "$repo"/pxe/lib/initramfs-init "$tools/lib-gestalt/"
  # shellcheck disable=SC2016
  chroot "$tools" bash -ec '. /lib-gestalt/initramfs.sh; make_initramfs "$1" /run/initramfs' sh "$(vm_kernel)"
  chroot "$tools" mkfs.ext4 -q -F /run/leader-disk 256M
}

# The bridge has an address of its own, for ssh and NFS.
readonly vm_host_address=10.77.0.126

vm_serve() {
  local tools=$state/mnt/tools
  ip address add "$vm_host_address/24" dev br0
  mkdir -p "$tools/run/ganesha" "$tools/run/recovery"
  cat >"$tools/run/ganesha.conf" <<END
NFS_CORE_PARAM { Protocols = 4; Bind_addr = $vm_host_address; NFS_Port = 2049;
  Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true;
  allow_set_io_flusher_fail = true; }
NFSV4 { Graceless = true; Minor_Versions = 1; Only_Numeric_Owners = true;
  RecoveryRoot = /run/recovery; Delegations = false; }
MDCACHE { Entries_HWMark = 200000; }
EXPORT { Export_Id = 1; Path = /cluster; Pseudo = /cluster; Access_Type = RW;
  Squash = No_root_squash; SecType = sys; Transports = TCP; FSAL { Name = VFS; } }
END
  chroot "$tools" ganesha.nfsd -f /run/ganesha.conf -L /logs/nfs.log -p /run/ganesha/pid -N EVENT
}

vm_prepare_ssh() { # TOOLS ROOT
  mkdir -p -m 700 "$1/root/.ssh"
  chroot "$1" ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
  chroot "$1" ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/host_key
  install -m 600 "$1/root/.ssh/host_key" "$2/etc/ssh/vm_host_key"
  install -m 600 "$1/root/.ssh/id_ed25519.pub" "$2/etc/ssh/vm_authorized_keys"
  cat >"$2/etc/ssh/vm_sshd_config" <<'END'
HostKey /etc/ssh/vm_host_key
AuthorizedKeysFile /etc/ssh/vm_authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
MaxSessions 1000
MaxStartups 100
PrintMotd no
END
  cat >"$1/run/ssh_config" <<'END'
Host *
  User root
  IdentityFile /root/.ssh/id_ed25519
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ControlPath /run/ssh-%h
  ConnectTimeout 5
  ServerAliveInterval 30
END
}

# --- one machine -----------------------------------------------------------------

# In the node's cgroup. Tells its pid on stdout, and becomes QEMU.
vm_spawn() {
  local node=$1 address number kernel=$2
  read -r address <"$state/nodes/$node/address"
  number=${address##*.}
  close_inherited
  enter_cgroup "$node"
  local -a disk=()
  [[ $node != leader ]] || disk=(-drive "file=/run/leader-disk,format=raw,if=virtio,cache=unsafe")
  # shellcheck disable=SC2016
  exec setsid nsenter --mount="/proc/$holder/ns/mnt" --net="/proc/$holder/ns/net" -- \
    bash -c 'echo $$; exec chroot "$@" </dev/null >/dev/null' sh "$state/mnt/tools" \
    qemu-system-x86_64 -accel tcg,thread=multi -cpu "$emulated_cpu" -M pc -smp "$vm_cpus" -m "$vm_memory_mb" \
    -nodefaults -display none -no-reboot -name "$node" \
    -kernel "/kernels/$kernel/boot/vmlinuz" -initrd /run/initramfs \
    -append "console=ttyS0 panic=-1 $emulated_kernel_words net.ifnames=0 quiet loglevel=5 gestalt.root=nfs:$vm_host_address:/cluster gestalt.layer=none gestalt.init=/usr/lib/vm-node-init gestalt.host=$node gestalt.address=$address/24" \
    -chardev "file,id=console,path=/logs/$node.console" -serial chardev:console \
    -netdev "tap,id=net,ifname=v-$node,script=no,downscript=no" \
    -device "virtio-net-pci,netdev=net,romfile=,mac=$(printf '02:67:73:74:00:%02x' "$number")" \
    -device virtio-serial-pci -chardev "file,id=log,path=/logs/$node.log,append=on" \
    -device virtserialport,chardev=log,name=log -device virtio-rng-pci \
    ${disk[@]+"${disk[@]}"} 2>"$state/logs/$node.setup"
}

# vm_start NODE: returns when commands can be run in it.
vm_start() {
  local node=$1 out vm_pid=''
  in_switch ip -batch - <<END
tuntap add dev v-$node mode tap
link set v-$node master br0 up
END
  exec {out}< <(vm_spawn "$node" "$(vm_kernel)")
  read -r -t 20 -u "$out" vm_pid && [[ -n $vm_pid ]] || die "QEMU for '$node' did not start: $(tail -n 3 "$state/logs/$node.setup")"
  exec {out}<&-
  echo "$vm_pid" >"$state/nodes/$node/pid"
  local deadline=$((SECONDS + vm_boot_seconds))
  until vm_connect "$node"; do
    if ! pid_in "$state/nodes/$node/pid" "$node" || ((SECONDS > deadline)); then
      tail -n 40 "$state/logs/$node.console" "$state/logs/$node.setup" >&2 || true
      die "machine '$node' did not boot in $vm_boot_seconds s (its console is above)"
    fi
    sleep 0.3
  done
}

# One connection for all commands: in the node's cgroup, so that it ends with the machine.
vm_connect() {
  local address
  read -r address <"$state/nodes/$1/address"
  (
    close_inherited
    enter_cgroup "$1"
    in_tools rm -f "/run/ssh-$address"
    in_tools ssh -F /run/ssh_config -M -N -f "$address" </dev/null >/dev/null 2>&1
  )
}

# vm_enter NODE TTY USER CMD…: replaces this process.
vm_enter() {
  local node=$1 tty=$2 user=$3 address line
  local -a options=(-T) prefix=()
  shift 3
  need_running "$node"
  set_environment "$user"
  [[ $user == root ]] || prefix=(setpriv "--reuid=$user" "--regid=$user" --init-groups)
  ((tty == 0)) || options=(-tt)
  printf -v line '%q ' ${prefix[@]+"${prefix[@]}"} env "${clean_environment[@]}" "$@"
  # By a shell that stays, but says nothing: of a command that a signal ended ssh would make 255.
  line="{ $line 2>&3 3>&-; } 3>&2 2>/dev/null; exit \$?"
  read -r address <"$state/nodes/$node/address"
  pid_in "$state/holder" holder || die "sandbox '$name' lost its holder; take it down and up again"
  exec 9<&- nsenter --mount="/proc/$pid/ns/mnt" --net="/proc/$pid/ns/net" -- \
    chroot "$state/mnt/tools" ssh -F /run/ssh_config "${options[@]}" "$address" "$line"
}
