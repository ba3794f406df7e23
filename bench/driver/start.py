"""How long it takes to run a program on another node that does nothing: ours, and ssh's."""

import os
import statistics
import subprocess
import time

import nodes
from nodes import SOURCE, Failed

PORT = 7722
DIRECTORY = "/var/tmp/bench-ssh"  # on the root that all nodes share
TIMES = 20

SERVER = """set -e
mkdir -p "$1" /run/sshd; chmod 700 "$1"
[ -e "$1/host" ] || ssh-keygen -q -t ed25519 -N '' -f "$1/host"
[ -e "$1/user" ] || ssh-keygen -q -t ed25519 -N '' -f "$1/user"
cp "$1/user.pub" "$1/authorized"
cat >"$1/config" <<END
Port $2
ListenAddress 0.0.0.0
HostKey $1/host
AuthorizedKeysFile $1/authorized
StrictModes no
PermitRootLogin prohibit-password
UsePAM no
PidFile $1/pid
END
exec /usr/sbin/sshd -f "$1/config" """


def median_seconds(argv):
    taken = []
    for _ in range(TIMES):
        began = time.monotonic()
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        taken.append(time.monotonic() - began)
        if ended.returncode != 0:
            raise Failed(f"{argv[0]}: exit {ended.returncode}: {ended.stderr.strip()}")
    return statistics.median(taken)


def gestalt_run(_sizes):
    return {"seconds": median_seconds(["gestalt", "run", "--node", SOURCE, "--", "true"])}


def ssh(_sizes):
    nodes.shell(SOURCE, SERVER, DIRECTORY, PORT)
    nodes.await_listener(SOURCE, PORT)
    known = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={DIRECTORY}/known"]
    command = ["ssh", "-p", PORT, "-i", f"{DIRECTORY}/user", "-o", "BatchMode=yes", *known, f"root@{SOURCE}", "true"]
    try:
        subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, check=False, timeout=60)
        return {"seconds": median_seconds(list(map(str, command)))}
    finally:
        nodes.shell(SOURCE, 'kill "$(cat "$1/pid")"', DIRECTORY)
        os.unlink(f"{DIRECTORY}/known")
