#!/bin/bash
# The part of tests/vm/guest that runs in the toolbox: KERNEL MEMORY CPUS CMD…
# /guest is the host's scratch directory.
set -euo pipefail
. /src/pxe/lib/initramfs.sh
. /src/pxe/lib/emulation.sh

# What checks itself is slow, and emulated it is slower.
boot_seconds() { if [[ $1 == debug ]]; then echo 600; else echo 240; fi; }

write_command() {
  local word
  {
    printf '#!/bin/bash\ncd /src\nexec'
    for word in "$@"; do printf ' %q' "$word"; done
    printf '\n'
  } >/guest/command
}

start_machine() { # KERNEL MEMORY CPUS
  local -a shares=() clock=(-accel 'tcg,thread=multi')
  [[ -z $GUEST_COUNTED ]] || clock=(-accel 'tcg,thread=single' -icount 'shift=0,sleep=off')
  if [[ -d /share ]]; then
    shares=(-fsdev "local,id=share,path=/share,security_model=none"
      -device "virtio-9p-pci,fsdev=share,mount_tag=share")
  fi
  qemu-system-x86_64 "${clock[@]}" -cpu "$emulated_cpu" -M pc -smp "$3" -m "$2" -nodefaults \
    -display none -no-reboot -kernel "/kernels/$1/boot/vmlinuz" -initrd /tmp/initramfs \
    -append "console=ttyS0 panic=-1 $emulated_kernel_words net.ifnames=0 quiet loglevel=5 gestalt.root=9p:root gestalt.init=/src/tests/vm/guest-init gestalt.kernel=$1 ${GUEST_APPEND:-}" \
    -chardev file,id=console,path=/guest/console -serial chardev:console \
    -device virtio-serial-pci -chardev file,id=output,path=/dev/stdout,append=on \
    -device virtserialport,chardev=output,name=output \
    -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=root,mount_tag=root \
    -fsdev local,id=guest,path=/guest,security_model=none \
    -device virtio-9p-pci,fsdev=guest,mount_tag=guest \
    ${shares[@]+"${shares[@]}"} -device virtio-rng-pci </dev/null &
  machine=$!
}

# Ends the machine when it has not come up, or takes too long; the status file tells why.
watch_over() { # KERNEL
  local seconds=0 boot_seconds
  boot_seconds=$(boot_seconds "$1")
  while sleep 1 && kill -0 "$machine" 2>/dev/null; do
    seconds=$((seconds + 1))
    if ((seconds > boot_seconds)) && [[ ! -e /guest/booted ]]; then break; fi
    if ((seconds > GUEST_TIMEOUT)); then
      echo 124 >/guest/status
      break
    fi
  done
  kill -KILL "$machine" 2>/dev/null
}

main() {
  local machine status=125
  write_command "${@:4}"
  make_initramfs "$1" /tmp/initramfs
  start_machine "$1" "$2" "$3"
  watch_over "$1" &
  wait "$machine" || true
  [[ ! -s /guest/status ]] || status=$(</guest/status)
  if ((status == 124 || status == 125)); then
    echo "guest: kernel $1 $([[ $status == 124 ]] && echo "took more than $GUEST_TIMEOUT s" ||
      echo 'did not boot, or crashed'); its console:" >&2
    tail -n 60 /guest/console >&2 || true
  fi
  exit "$status"
}

# A pipe of our own: QEMU opens its output anew, and would write over the caller's file.
main "$@" | cat
