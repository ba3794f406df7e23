# shellcheck shell=bash
# fetch.sh: packages of another suite of Debian's, unpacked and not installed.

# Runs in the toolbox: what apt-get knows is SUITE's from then on, as if nothing were installed.
# `depends PACKAGE` prints names.
# shellcheck disable=SC2016,SC2034
readonly use_suite='set -eu
suite=$1
cp /build/resolv.conf /etc/resolv.conf
sed -n "s/^deb \(.*\) trixie \(.*\)/deb [check-valid-until=no] \1 $suite \2/p" /etc/apt/sources.list >/tmp/list
mv /tmp/list /etc/apt/sources.list
rm -f /etc/apt/sources.list.d/* /etc/apt/preferences.d/*
: >/var/lib/dpkg/status
apt-get -q -o Acquire::Languages=none -o Acquire::Retries=3 update
depends() { apt-cache show --no-all-versions "$1" | sed -n "s/^Depends: //p" | tr -d " " | sed "s/([^)]*)//g" | tr "," "\n"; }
'

# Behind that: the packages in $wanted, into /build/tree.
# shellcheck disable=SC2016,SC2034
readonly unpack_wanted='mkdir -p /build/debs
cd /build/debs
apt-get -q -o APT::Sandbox::User=root download $wanted
for deb in *.deb; do dpkg-deb -x "$deb" /build/tree; done
'

# fetch_logged LOG WHAT CMD…: dies, with what the log says last, if that fails.
fetch_logged() {
  local log=$1 what=$2 status=0
  shift 2
  # Not in a condition: there -e would not hold in what is called.
  set +e
  (set -e; "$@") >"$log" 2>&1
  status=$?
  set -e
  ((status == 0)) || die "there is no $what: $(tail -n 2 "$log") (all of it: $log)"
}

in_toolbox() { # PARTIAL CMD…: with a network, and the directory at /build
  local partial=$1
  shift
  rm -rf "$partial"
  mkdir -p "$partial"
  cp -L /etc/resolv.conf "$partial/resolv.conf"
  GESTALT_BUILD=$partial "$repo/pxe/toolbox" run --host-net \
    ${http_proxy:+--env http_proxy="$http_proxy"} ${https_proxy:+--env https_proxy="$https_proxy"} \
    --workdir / -- "$@"
}
