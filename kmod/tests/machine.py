# SPDX-License-Identifier: GPL-2.0
"""What the cases need of the machine: children in other namespaces, storms of forks, the module."""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback

NEWPID, NEWUSER, NEWNET, NEWNS = 0x20000000, 0x10000000, 0x40000000, 0x20000
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
NOBODY = 65534
# How many times as long things may take: a kernel that checks itself is slow.
PATIENCE = 8 if os.path.exists("/proc/lockdep_stats") else 1
libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    pass


# An eighth as often where it takes long, or as the caller says.
DIVISOR = int(os.environ.get("GESTALT_DIVISOR", PATIENCE))


def few(number, least=1):
    """How often it is done."""
    return max(number // DIVISOR, least)


def call(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def unshare(flags):
    call(libc.unshare(ctypes.c_int(flags)))


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def read(path):
    with open(path, encoding="latin-1") as file:
        return file.read()


def eventually(condition, seconds=120):
    """Waits until it is so; the bound is for what never will be."""
    end = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _report(pipe, action):
    try:
        result = (True, action())
    except BaseException as error:  # pylint: disable=broad-except
        text = traceback.format_exc()
        result = (False, text, isinstance(error, Skip))
    data = pickle.dumps(result)
    while data:
        data = data[os.write(pipe, data):]


def _child(action, flags, uid, pipe):
    if flags & NEWUSER:
        outer = os.geteuid()
        unshare(NEWUSER)
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", "0 %d 1" % outer)
        write("/proc/self/gid_map", "0 %d 1" % outer)
    if flags & ~NEWUSER:
        unshare(flags & ~NEWUSER)
    if flags & NEWPID:
        init = os.fork()
        if init:
            os.close(pipe)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 255)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # Else /proc/self would be root's.
        call(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
    _report(pipe, action)


def inside(action, flags=0, uid=None):
    """The result of ACTION in a child, which is init if there is a new pid namespace."""
    source, pipe = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(source)
            _child(action, flags, uid, pipe)
            status = 0
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(pipe)
    with os.fdopen(source, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    if not data:
        raise AssertionError("the child ended early")
    result = pickle.loads(data)
    if result[0]:
        return result[1]
    if result[2]:
        raise Skip(result[1].strip().splitlines()[-1])
    raise AssertionError(result[1])


class Background:
    """ACTION in a child that waits to be told to go on or to be killed."""

    def __init__(self, action, flags=0):
        self.to_child, self.to_parent = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            os.setpgid(0, 0)
            os.close(self.to_child[1])
            os.close(self.to_parent[0])
            try:
                _child(lambda: self._run(action), flags, None, os.open("/dev/null", os.O_WRONLY))
            finally:
                os._exit(0)
        os.close(self.to_child[0])
        os.close(self.to_parent[1])
        assert os.read(self.to_parent[0], 1) == b"r", "the child did not get ready"

    def _run(self, action):
        kept = action()
        os.write(self.to_parent[1], b"r")
        os.read(self.to_child[0], 1)
        return kept and None

    def end(self, kill=False):
        if kill:
            for pid in children(self.pid) + [self.pid]:
                os.kill(pid, signal.SIGKILL)
        else:
            # Written, not just closed: children that came later have the pipe's end, too.
            os.write(self.to_child[1], b"g")
        os.close(self.to_child[1])
        os.waitpid(self.pid, 0)
        os.close(self.to_parent[0])

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.end()


def end_children():
    """Whatever a case left behind, and what that left to us."""
    while found := children(os.getpid()):
        for pid in found:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def children(pid):
    return [int(word) for word in read("/proc/%d/task/%d/children" % (pid, pid)).split()]


def forker(*arguments, **options):
    """forker.c: beside the module, where `make tests` has put it."""
    return subprocess.Popen([Module.forker, *map(str, arguments)], stdout=subprocess.PIPE,
                            **options)


def storm(processes, count, first=0, last=1 << 22, limit=900, **options):
    """Forks from many processes at once; the pids outside, as they saw them."""
    running = [forker(count, first, last, **options) for _ in range(processes)]
    outside = []
    for process in running:
        text, _ = process.communicate(timeout=limit * PATIENCE)
        assert process.returncode == 0, "a process could not fork"
        outside += [int(word) for word in text.split()]
    return outside


def spinning(**options):
    """A process that forks until it is killed."""
    return forker(0, 0, 1 << 22, **options)


class Module:
    forker = None

    def __init__(self, path):
        self.path = path
        Module.forker = os.path.join(os.path.dirname(path), "forker")
        if not os.path.exists(Module.forker):
            sys.exit("%s does not exist: make -C kmod tests BUILD=..." % Module.forker)

    @staticmethod
    def loaded():
        return os.path.exists("/sys/module/gestalt")

    def load(self, *parameters):
        with open(self.path, "rb") as file:
            call(libc.syscall(ctypes.c_long(313), ctypes.c_int(file.fileno()),  # finit_module
                              " ".join(parameters).encode(), ctypes.c_int(0)))

    @staticmethod
    def unload():
        """Without waiting: raises OSError(EWOULDBLOCK) if it is in use."""
        call(libc.syscall(ctypes.c_long(176), b"gestalt", ctypes.c_int(os.O_NONBLOCK)))

    def reload(self, *parameters):
        if self.loaded():
            eventually(self.try_unload)
        self.load(*parameters)

    def try_unload(self):
        try:
            self.unload()
        except OSError as error:
            if error.errno in (11, 16):
                return False
            raise
        return True


def kernel_lines(first=None):
    """What the kernel printed; from the line FIRST on, what a complaint may have."""
    text = subprocess.run(["dmesg"], capture_output=True, check=True).stdout.decode("latin-1")
    lines = text.splitlines()
    if first in lines:
        begin = lines.index(first)
        return lines[begin:begin + 80]
    return lines


def kernel_complaints():
    words = ("WARNING:", "BUG:", "Oops", "general protection", "self-test ", "INFO: task",
             "rcu: INFO", "UBSAN", "KASAN", "possible recursive", "circular locking",
             "suspicious RCU", "kmemleak: ", "refcount_t", "use-after-free", "scheduling while",
             "inconsistent lock", "non-static key", "ODEBUG:", "ref_tracker:")
    return [line for line in kernel_lines() if any(word in line for word in words)]


KMEMLEAK = "/sys/kernel/debug/kmemleak"


def forget_leaks():
    """What was lost before the module came is not its."""
    if os.path.exists(KMEMLEAK):
        write(KMEMLEAK, "scan")
        write(KMEMLEAK, "clear")


def leaks():
    """Lines about memory that nothing points at."""
    if not os.path.exists(KMEMLEAK):
        raise Skip("this kernel does not look for memory that was lost")
    # It passes over what is younger than five seconds, or has changed since the last time.
    time.sleep(6)
    write(KMEMLEAK, "scan")
    write(KMEMLEAK, "scan")
    return read(KMEMLEAK).splitlines()
