#!/bin/bash
# debug-kernel.sh: the debug kernel of pxe/kernels, from the source of Debian 13's. Runs in the
# toolbox, with a directory at /build that gets boot/, usr/ and release; of the source, only what
# modules are built against stays.
set -euo pipefail

readonly config=/src/pxe/lib/debug-kernel.config
readonly source=/build/source
readonly apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o APT::Sandbox::User=root
  -o APT::Install-Recommends=0 -o Acquire::Languages=none -o Acquire::Retries=3)
# Alike each time, so that ccache has it; and what it does not have is not preprocessed twice.
export CCACHE_DEPEND=1
readonly kernel_make=(nice -n 19 make -C "$source" -j2 "CC=ccache gcc" KBUILD_BUILD_USER=gestalt
  KBUILD_BUILD_HOST=toolbox KBUILD_BUILD_TIMESTAMP=@0)

# The toolbox lacks a few of the tools that a kernel is built by; they go when it ends.
fetch() {
  local package
  cp /build/resolv.conf /etc/resolv.conf
  "${apt[@]}" update
  "${apt[@]}" install bc bison flex libelf-dev
  package=$(apt-cache depends linux-source | sed -n 's/.*Depends: \(linux-source-.*\)/\1/p')
  cd /build
  "${apt[@]}" download "$package"
  mkdir "$source"
  dpkg-deb --fsys-tarfile "$package"_*.deb | tar -xO "./usr/src/$package.tar.xz" |
    tar -xJ -C "$source" --strip-components=1
  rm "$package"_*.deb
}

# A name that this kernel does not have, or whose conditions are not met, is dropped in silence.
configure() {
  local line missing=0
  "${kernel_make[@]}" KCONFIG_ALLCONFIG="$config" allnoconfig
  while read -r line; do
    [[ $line == CONFIG_* ]] || continue
    grep -qxF "$line" "$source/.config" && continue
    echo "debug-kernel: not taken: $line"
    missing=1
  done <"$config"
  return "$missing"
}

install_kernel() {
  local release headers
  release=$("${kernel_make[@]}" -s kernelrelease)
  headers=/build/usr/src/linux-headers-$release
  mkdir -p /build/boot "$headers"
  ln -s usr/lib /build/lib
  cp "$source/arch/x86/boot/bzImage" /build/boot/vmlinuz
  "${kernel_make[@]}" INSTALL_MOD_PATH=/build/usr modules_install
  rm -f "/build/usr/lib/modules/$release"/{build,source}
  # What packages of headers are made by.
  "${kernel_make[@]}" run-command \
    "KBUILD_RUN_COMMAND=\$(srctree)/scripts/package/install-extmod-build $headers"
  echo "$release" >/build/release
  rm -rf "$source"
}

main() {
  fetch
  configure
  "${kernel_make[@]}" bzImage modules
  install_kernel
}

main "$@"
