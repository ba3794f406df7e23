# shellcheck shell=bash
# recipe.sh: how the two layers of the toolbox are made.
#
# base: debootstrap minbase, then runtime.list. dev: an overlay upper over base
# with build.list. Everything here enters the key (comments do not), so a
# changed recipe makes a new toolbox. Runs as pid 1 of private mount and pid
# namespaces: however it ends, no mount and no process is left.

readonly suite=trixie
readonly chroot_env=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
  DEBIAN_FRONTEND=noninteractive ${http_proxy:+http_proxy="$http_proxy"}
  ${https_proxy:+https_proxy="$https_proxy"})

# packages FILE [sid]: the packages of a list, either the plain or the sid ones.
packages() { awk -v want="${2:-}" '!/^#/ && NF && $2 == want { print $1 }' "$1"; }

in_root() { "${chroot_env[@]}" chroot "$@"; }

apt() {
  local root=$1
  shift
  in_root "$root" apt-get -q -y -o Dpkg::Use-Pty=0 -o APT::Install-Recommends=0 \
    -o Acquire::Retries=3 -o Acquire::Languages=none "$@"
}

# Mounts for package scripts, and the shared store of downloaded packages.
mount_for_build() {
  local root=$1
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  make_dev "$root/dev"
  mkdir -p "$cache/archives/partial"
  mount --bind "$cache/archives" "$root/var/cache/apt/archives"
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
}

unmount_after_build() {
  local root=$1
  umount "$root/var/cache/apt/archives" "$root/dev/pts" "$root/dev/shm" "$root/dev" \
    "$root/sys" "$root/proc"
}

# No services start, no documentation, no fsync for each file.
configure_dpkg() {
  local root=$1
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  cat >"$root/etc/dpkg/dpkg.cfg.d/gestalt" <<'END'
force-unsafe-io
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/locale/*
END
  # Downloads go to the shared store; keep them there.
  printf 'APT::Keep-Downloaded-Packages "true";\nAPT::Sandbox::User "root";\n' \
    >"$root/etc/apt/apt.conf.d/99gestalt"
  rm -f "$root/etc/apt/apt.conf.d/docker-clean"
}

trim() {
  local root=$1
  find "$root/var/lib/apt/lists" "$root/var/cache/debconf" -mindepth 1 -delete 2>/dev/null || true
  find "$root/usr/share/doc" -type f ! -name copyright -delete 2>/dev/null || true
  rm -rf "$root"/usr/share/{man,info,locale}/* "$root"/var/cache/apt/*.bin \
    "$root"/var/log/{apt,*.log} "$root"/tmp/* "$root/etc/resolv.conf"
}

# Only CRIU and the libraries it needs may come from sid.
enable_sid() {
  local root=$1
  cat >"$root/etc/apt/preferences.d/gestalt" <<'END'
Package: *
Pin: release n=sid
Pin-Priority: 100

Package: criu python3-pycriu libcriu* libcompel* libnet* libnl-*
Pin: release n=sid
Pin-Priority: 990
END
  # A mirror that lags, or a host whose clock is ahead, makes sid's lists look
  # expired after a week; they are still signed, and the pins admit only CRIU.
  sed -n "s/^deb \(.*\) $suite \(.*\)/deb [check-valid-until=no] \1 sid \2/p" "$root/etc/apt/sources.list" \
    >"$root/etc/apt/sources.list.d/sid.list"
}

disable_sid() { rm -f "$1/etc/apt/sources.list.d/sid.list"; }

# why_not_sid ROOT PKG...: prints why sid's packages may not be installed; nothing if they may.
why_not_sid() {
  local root=$1 plan foreign
  shift
  apt "$root" update >/dev/null 2>&1 || {
    echo "sid's package lists could not be fetched"
    return
  }
  plan=$(apt "$root" -s install "$@" 2>&1) || {
    echo "apt-get cannot install them: $(grep -m1 -E '^ |^E:' <<<"$plan" || true)"
    return
  }
  foreign=$(awk '$1 == "Inst" && /unstable/ && $2 !~ /^(criu|python3-pycriu|libcriu|libcompel|libnet|libnl-)/ { print $2 }' <<<"$plan")
  if [[ -n $foreign ]]; then
    echo "they pull in $(tr '\n' ' ' <<<"$foreign")from sid"
  elif grep -qE '^(Inst|Remv) (libc6|libc-bin|libgcc-s1|libstdc\+\+6)[ :]' <<<"$plan"; then
    echo "they would change libc"
  fi
}

write_release() {
  local root=$1 origin=$2 why=$3 version
  version=$(in_root "$root" dpkg-query -W -f '${Version}' criu)
  cat >"$root/etc/gestalt-toolbox-release" <<END
SUITE=$suite
CRIU_VERSION=$version
CRIU_SUITE=$origin
CRIU_WHY="$why"
END
}

# CRIU >= 4.2 from sid, or, where that would touch libc, trixie's.
install_criu() {
  local root=$1 why
  local -a wanted
  mapfile -t wanted < <(packages "$lists/runtime.list" sid)
  enable_sid "$root"
  why=$(why_not_sid "$root" "${wanted[@]}")
  if [[ -z $why ]] && apt "$root" install "${wanted[@]}"; then
    disable_sid "$root"
    write_release "$root" sid "sid's installs without touching libc"
    return
  fi
  disable_sid "$root"
  rm -f "$root/etc/apt/preferences.d/gestalt"
  apt "$root" update
  apt "$root" install "${wanted[@]}"
  write_release "$root" "$suite" "sid's was not taken: ${why:-apt-get failed}"
}

add_users() {
  local root=$1
  in_root "$root" useradd -m -u 1000 -s /bin/bash alice
  in_root "$root" useradd -m -u 1001 -s /bin/bash bob
}

build_base() {
  local root=$1
  local -a wanted
  mkdir -p "$root" "$cache/archives"
  phase "base: debootstrap $suite"
  debootstrap --variant=minbase --cache-dir="$cache/archives" "$suite" "$root" || return
  umount -R "$root/proc" "$root/sys" 2>/dev/null || true
  mount_for_build "$root"
  configure_dpkg "$root"
  phase "base: runtime packages"
  mapfile -t wanted < <(packages "$lists/runtime.list")
  apt "$root" update
  apt "$root" install "${wanted[@]}"
  phase "base: CRIU"
  install_criu "$root"
  add_users "$root"
  unmount_after_build "$root"
  trim "$root"
}

# Upstreams' archives of source packages, not unpacked.
fetch_sources() { # ROOT PKG...
  local root=$1 list=$1/etc/apt/sources.list.d/source.list
  shift
  (($#)) || return 0
  sed -n 's/^deb /deb-src /p' "$root/etc/apt/sources.list" >"$list"
  apt "$root" update
  in_root "$root" sh -c 'cd /usr/src && apt-get -q source --download-only "$@"' sh "$@"
  rm -f "$list"
}

# build_dev LOWER UPPER WORK: leaves the layer in UPPER.
build_dev() {
  local lower=$1 upper=$2 work=$3 root=$3/root
  local -a wanted sid sources
  mkdir -p "$upper" "$work/work" "$root"
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work/work" "$root"
  mount_for_build "$root"
  phase "dev: build packages"
  mapfile -t wanted < <(packages "$lists/build.list")
  mapfile -t sid < <(packages "$lists/build.list" sid)
  mapfile -t sources < <(packages "$lists/build.list" source)
  if grep -qx CRIU_SUITE=sid "$root/etc/gestalt-toolbox-release"; then
    enable_sid "$root"
  fi
  apt "$root" update
  apt "$root" install "${wanted[@]}" "${sid[@]}"
  disable_sid "$root"
  fetch_sources "$root" "${sources[@]}"
  apt "$root" autoclean
  unmount_after_build "$root"
  trim "$root"
  umount "$root"
}
