#!/usr/bin/env python3
"""Says who it is whenever SIGUSR1 comes: all that must stay the same wherever it runs."""

import os
import resource
import signal
import sys


def tell():
    status = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="utf-8"))
    kept = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Seccomp", "CapEff")
    print("I am", os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), os.nice(0), os.getcwd(),
          resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE),
          *[status.get(key, "").split() for key in kept],
          open("/proc/self/comm", encoding="utf-8").read().strip(), flush=True)


# Blocked: a handler that prints could interrupt a print. SIGURG is one that it catches.
signal.signal(signal.SIGURG, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
print("re" "ady", os.getpid(), flush=True)
while signal.sigwait({signal.SIGUSR1, signal.SIGUSR2}) == signal.SIGUSR1:
    tell()
sys.exit(23)
