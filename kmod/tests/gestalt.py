# SPDX-License-Identifier: GPL-2.0
"""The netlink family of gestalt.ko, by raw sockets: see uapi/gestalt.h."""

import errno
import os
import socket
import struct

NETLINK_GENERIC = 16
SOL_NETLINK = 270
ADD_MEMBERSHIP, NO_ENOBUFS, EXT_ACK, GET_STRICT = 1, 5, 11, 12
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
ACK_TLVS = 0x200
NESTED = 0x8000
GENL_ID_CTRL, CTRL_GETFAMILY = 16, 3

STATUS, LOAD, PIDNS, TASKS, SLICE_SET, SLICE_GET, SLICE_CLEAR, EVENTS = range(1, 9)
(A_PID, A_TASK_PID, A_THREADS, A_SLICE_FIRST, A_SLICE_LAST, A_STATUS, A_LOAD, A_LOAD_PIDNS,
 A_CPU, A_PIDNS, A_TASK, A_SLICE, A_EVENT) = range(1, 14)
(FORK, EXEC, EXIT, REWOUND, EXHAUSTED, OUTSIDE, RESYNC) = range(1, 8)
F_THREAD, F_LAST = 1, 2
SLICE_EXACT, CGROUP_ID, PID_MAX, SELFTEST = 1, 2, 4, 8

class Layout:
    """How a structure is laid out: struct's letters, and the fields' names."""

    def __init__(self, form, names):
        self.struct = struct.Struct("=" + form)
        self.names = names.split()


STRUCTS = {
    A_STATUS: Layout("IIQQII32s", "api features sequence dropped slices listening version"),
    A_LOAD: Layout("QQQIIIIIIQQQQQQQ",
                   "load1 load5 load15 load_scale cpus processes threads runnable uninterruptible "
                   "total free available shared buffers cached swap_free"),
    A_LOAD_PIDNS: Layout("IIIIII", "inum processes threads runnable uninterruptible reserved"),
    A_CPU: Layout("IIQQQQQQQQ", "cpu reserved user nice system idle iowait irq softirq steal"),
    A_PIDNS: Layout("IIIIIIII", "inum parent_inum level init_pid processes pids last_pid pid_max"),
    A_SLICE: Layout("IIIIQQQII", "first last next inum rewound exhausted outside exact reserved"),
}
TASK = Layout("15Q5Ii8I8IiiiB3s16s",
              "start utime stime cutime cstime minflt majflt cminflt cmajflt vsize rss_anon "
              "rss_file rss_shmem cgroup_id generation pid tgid ppid pgid sid tpgid uid euid suid "
              "fsuid gid egid sgid fsgid flags tty_nr threads processor policy rt_priority inum "
              "level nice priority exit_signal state reserved comm")
EVENT = Layout("6Q2Ii3I16s",
               "sequence time start utime stime value type flags exit_code inum first last comm")


class Record:
    def __init__(self, layout, data):
        values = layout.struct.unpack(data[:layout.struct.size].ljust(layout.struct.size, b"\0"))
        for name, value in zip(layout.names, values):
            if isinstance(value, bytes):
                value = value.split(b"\0")[0].decode("latin-1")
            setattr(self, name, value)


class NetlinkError(OSError):
    pass


def attribute(kind, data=b""):
    if isinstance(data, int):
        data = struct.pack("=I", data)
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + b"\0" * (-length % 4)


def attributes(data):
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            raise ValueError("attribute of %d bytes" % length)
        yield kind & ~NESTED, data[at + 4:at + length]
        at += (length + 3) & ~3


def numbers(data):
    return list(struct.unpack("=%dI" % (len(data) // 4), data))


class Socket:
    """One netlink socket; counts its system calls."""

    def __init__(self, timeout=60, size=65536):
        # The kernel fills as much as it was once offered, so this comes first.
        self.size = size
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.socket.bind((0, 0))
        self.socket.setsockopt(SOL_NETLINK, EXT_ACK, 1)
        if timeout:
            self.socket.settimeout(timeout)
        self.sequence = 0
        self.calls = 0
        self.family, self.group = self._family()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def send_raw(self, family, flags, payload):
        self.sequence += 1
        self.calls += 1
        self.socket.send(struct.pack("=IHHII", 16 + len(payload), family, flags, self.sequence, 0)
                         + payload)

    def receive(self):
        """Messages of one system call: (type, payload)."""
        self.calls += 1
        data = self.socket.recv(self.size)
        at = 0
        found = []
        while at + 16 <= len(data):
            length, kind, flags, _, _ = struct.unpack_from("=IHHII", data, at)
            payload = data[at + 16:at + length]
            if kind == ERROR:
                self._error(payload, flags)
                found.append((kind, payload))
            elif kind == DONE:
                self._error(payload, flags, done=True)
                found.append((kind, payload))
            else:
                found.append((kind, payload))
            at += (length + 3) & ~3
        return found

    @staticmethod
    def _error(payload, flags, done=False):
        code = struct.unpack_from("=i", payload)[0]
        if code >= 0:
            return
        text = ""
        if flags & ACK_TLVS:
            at = 4
            if not done:
                at = 20
                if not flags & 0x100:
                    at = 4 + ((struct.unpack_from("=I", payload, 4)[0] + 3) & ~3)
            for kind, data in attributes(payload[at:]):
                if kind == 1:
                    text = data.rstrip(b"\0").decode()
        error = NetlinkError(-code, text or os.strerror(-code))
        raise error

    def _family(self):
        self.send_raw(GENL_ID_CTRL, REQUEST,
                      struct.pack("=BBH", CTRL_GETFAMILY, 1, 0) + attribute(2, b"gestalt\0"))
        family = group = 0
        for kind, data in attributes(self.receive()[0][1][4:]):
            if kind == 1:
                family = struct.unpack("=H", data)[0]
            elif kind == 7:
                for _, entry in attributes(data):
                    found = dict(attributes(entry))
                    if found[1] == b"events\0":
                        group = struct.unpack("=I", found[2])[0]
        self.calls = 0
        return family, group

    def send(self, command, payload=b"", flags=0, reserved=0, version=1):
        self.send_raw(self.family, REQUEST | flags,
                      struct.pack("=BBH", command, version, reserved) + payload)

    def ask(self, command, payload=b""):
        """The attributes of the one answer."""
        self.send(command, payload)
        return list(attributes(self.receive()[0][1][4:]))

    def order(self, command, payload=b""):
        self.send(command, payload, ACK)
        self.receive()

    def dump(self, command, payload=b"", pause=None):
        self.send(command, payload, DUMP)
        while True:
            for kind, data in self.receive():
                if kind == DONE:
                    return
                yield from attributes(data[4:])
            if pause:
                pause()

    # --- the commands ---------------------------------------------------------

    def status(self):
        return Record(STRUCTS[A_STATUS], dict(self.ask(STATUS))[A_STATUS])

    def load(self, pid=None):
        answer = self.ask(LOAD, attribute(A_PID, pid) if pid is not None else b"")
        found = {kind: Record(STRUCTS[kind], data) for kind, data in answer if kind != A_CPU}
        cpus = [Record(STRUCTS[A_CPU], data) for kind, data in answer if kind == A_CPU]
        return found[A_LOAD], found.get(A_LOAD_PIDNS), cpus

    def pidns(self):
        return [Record(STRUCTS[A_PIDNS], data) for kind, data in self.dump(PIDNS)]

    def tasks(self, pid=None, only=None, threads=False, pause=None):
        payload = b""
        if pid is not None:
            payload += attribute(A_PID, pid)
        if only is not None:
            payload += attribute(A_TASK_PID, only)
        if threads:
            payload += attribute(A_THREADS)
        found = []
        for _, data in self.dump(TASKS, payload, pause):
            nest = dict(attributes(data))
            task = Record(TASK, nest[1])
            task.pids = numbers(nest[2])
            found.append(task)
        return found

    def slice_set(self, first, last):
        self.order(SLICE_SET, attribute(A_SLICE_FIRST, first) + attribute(A_SLICE_LAST, last))

    def slice_get(self):
        return Record(STRUCTS[A_SLICE], dict(self.ask(SLICE_GET))[A_SLICE])

    def slice_clear(self):
        self.order(SLICE_CLEAR)

    def listen(self, buffer=None):
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, 33, buffer)  # SO_RCVBUFFORCE
        self.socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, self.group)

    def events(self):
        """Events of one message."""
        found = []
        for _, payload in self.receive():
            for _, data in attributes(payload[4:]):
                nest = dict(attributes(data))
                event = Record(EVENT, nest[1])
                event.pids = numbers(nest.get(2, b""))
                event.tgids = numbers(nest.get(3, b""))
                event.ppids = numbers(nest.get(4, b""))
                found.append(event)
        return found


def refused(action, *codes):
    """The error number with which it was refused, which must be among CODES."""
    try:
        action()
    except OSError as error:
        assert error.errno in codes, "refused with %s" % error
        return error
    raise AssertionError("not refused")


def errno_name(error):
    return errno.errorcode.get(error.errno, str(error.errno))
