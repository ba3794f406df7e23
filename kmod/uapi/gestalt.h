/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * What gestalt.ko and userland say to each other: a generic netlink family,
 * GESTALT_GENL_NAME, version GESTALT_GENL_VERSION.
 *
 * Attributes marked [multi] come any number of times. A struct is one
 * attribute. Structs only ever grow, at their end: take as many bytes as both
 * sides know (the attribute's length says how many there are) and read the rest
 * as zero. Netlink aligns to 4 bytes only, so copy a struct before you read it.
 *
 * GESTALT_CMD_STATUS
 *     asks for nothing. The answer:
 *     GESTALT_A_STATUS: struct gestalt_status
 *
 * GESTALT_CMD_LOAD
 *     may have
 *     GESTALT_A_PID: NLA_U32, a process in the caller's pid namespace; the pid
 *                    namespace that this process is in is counted, too
 *     The answer:
 *     GESTALT_A_LOAD: struct gestalt_load, the whole node
 *     GESTALT_A_LOAD_PIDNS: struct gestalt_counts, if GESTALT_A_PID was given
 *     GESTALT_A_CPU: struct gestalt_cpu [multi], each CPU that is online
 *
 * GESTALT_CMD_PIDNS, a dump
 *     asks for nothing. Each message of the answer:
 *     GESTALT_A_PIDNS: struct gestalt_pidns [multi]; the caller's own pid
 *                      namespace and those below it, by the pid of their init
 *
 * GESTALT_CMD_TASKS, a dump
 *     may have
 *     GESTALT_A_PID: NLA_U32, as above: dump that pid namespace, not the
 *                    caller's own
 *     GESTALT_A_TASK_PID: NLA_U32, this process only (with GESTALT_A_THREADS:
 *                    this thread), a pid in the dumped namespace
 *     GESTALT_A_THREADS: NLA_FLAG, each thread, not each process
 *     Each message of the answer, of tasks that started before the dump did:
 *     GESTALT_A_TASK: NLA_NESTED [multi], ascending by pid
 *         GESTALT_TASK_A_INFO: struct gestalt_task
 *         GESTALT_TASK_A_PIDS: NLA_BINARY, __u32 each: its pids, first that in
 *                              the caller's namespace, last that in its own
 *
 * GESTALT_CMD_SLICE_SET
 *     needs CAP_SYS_ADMIN over the user namespace of the caller's pid
 *     namespace, and
 *     GESTALT_A_SLICE_FIRST: NLA_U32, at least 300
 *     GESTALT_A_SLICE_LAST: NLA_U32
 *     From now on the pids of that namespace are from first to last. The slice
 *     ends with the socket by which it was set, or with the namespace's init.
 *
 * GESTALT_CMD_SLICE_GET
 *     asks for nothing. The answer, of the caller's pid namespace:
 *     GESTALT_A_SLICE: struct gestalt_slice
 *
 * GESTALT_CMD_SLICE_CLEAR
 *     asks for nothing, and needs what GESTALT_CMD_SLICE_SET needs.
 *
 * GESTALT_CMD_EVENTS, sent to the multicast group GESTALT_GENL_EVENTS
 *     GESTALT_A_EVENT: NLA_NESTED [multi], in the order of events
 *         GESTALT_EVENT_A_INFO: struct gestalt_event
 *         GESTALT_EVENT_A_PIDS: NLA_BINARY, __u32 each: the task's pids, first
 *                               that in the initial namespace, last in its own
 *         GESTALT_EVENT_A_TGIDS: the same of its process
 *         GESTALT_EVENT_A_PPIDS: the same of its parent, 0 where the parent is
 *                               not in the namespace
 *     A message is at most GESTALT_EVENTS_SIZE bytes long. Sequence numbers have
 *     no gap unless something was lost; then GESTALT_EVENT_RESYNC says so, or
 *     the socket gave ENOBUFS. Either way, dump again.
 *
 * Errors: EPERM, ESRCH (no such process in the caller's pid namespace), ENOENT
 * (no slice), EBUSY (another socket's slice), ERANGE (no slice can be there),
 * ENOSPC (too many slices), EINVAL; the extended acknowledgement says what is
 * wrong.
 */
#ifndef _UAPI_GESTALT_H
#define _UAPI_GESTALT_H

#include <linux/types.h>

#define GESTALT_GENL_NAME "gestalt"
#define GESTALT_GENL_VERSION 1
#define GESTALT_GENL_EVENTS "events"

/* Read with a buffer of this size or a larger one. */
#define GESTALT_EVENTS_SIZE 16384

enum gestalt_cmd {
	GESTALT_CMD_UNSPEC,
	GESTALT_CMD_STATUS,
	GESTALT_CMD_LOAD,
	GESTALT_CMD_PIDNS,
	GESTALT_CMD_TASKS,
	GESTALT_CMD_SLICE_SET,
	GESTALT_CMD_SLICE_GET,
	GESTALT_CMD_SLICE_CLEAR,
	GESTALT_CMD_EVENTS,
	__GESTALT_CMD_LAST
};

#define GESTALT_CMD_MAX (__GESTALT_CMD_LAST - 1)

enum gestalt_attribute {
	GESTALT_A_UNSPEC,
	GESTALT_A_PID,
	GESTALT_A_TASK_PID,
	GESTALT_A_THREADS,
	GESTALT_A_SLICE_FIRST,
	GESTALT_A_SLICE_LAST,
	GESTALT_A_STATUS,
	GESTALT_A_LOAD,
	GESTALT_A_LOAD_PIDNS,
	GESTALT_A_CPU,
	GESTALT_A_PIDNS,
	GESTALT_A_TASK,
	GESTALT_A_SLICE,
	GESTALT_A_EVENT,
	__GESTALT_A_LAST
};

#define GESTALT_A_MAX (__GESTALT_A_LAST - 1)

enum gestalt_task_attribute {
	GESTALT_TASK_A_UNSPEC,
	GESTALT_TASK_A_INFO,
	GESTALT_TASK_A_PIDS,
	__GESTALT_TASK_A_LAST
};

#define GESTALT_TASK_A_MAX (__GESTALT_TASK_A_LAST - 1)

enum gestalt_event_attribute {
	GESTALT_EVENT_A_UNSPEC,
	GESTALT_EVENT_A_INFO,
	GESTALT_EVENT_A_PIDS,
	GESTALT_EVENT_A_TGIDS,
	GESTALT_EVENT_A_PPIDS,
	__GESTALT_EVENT_A_LAST
};

#define GESTALT_EVENT_A_MAX (__GESTALT_EVENT_A_LAST - 1)

/* The attributes that a request may have end here. */
#define GESTALT_A_REQUEST_MAX GESTALT_A_SLICE_LAST

/* What this module can do on the running kernel. */
#define GESTALT_FEATURE_SLICE_EXACT (1U << 0) /* no pid leaves a slice that has room */
#define GESTALT_FEATURE_CGROUP_ID (1U << 1)   /* gestalt_task.cgroup_id */
#define GESTALT_FEATURE_PID_MAX (1U << 2)     /* gestalt_pidns.pid_max */
#define GESTALT_FEATURE_SELFTEST (1U << 3)    /* built with DEBUG, and tested at load */

struct gestalt_status {
	__u32 api;	       /* GESTALT_GENL_VERSION */
	__u32 features;	       /* GESTALT_FEATURE_* */
	__u64 sequence;	       /* of the last event that was sent */
	__u64 dropped;	       /* events that were lost before they were sent */
	__u32 slices;	       /* how many are set */
	__u32 listening;       /* 1: somebody listens to events */
	__u8 version[32];      /* the module's, NUL-terminated */
};

struct gestalt_load {
	__u64 load_1[3];       /* load averages of 1, 5, 15 minutes, times load_scale */
	__u32 load_scale;
	__u32 cpus_online;
	__u32 processes;       /* as in gestalt_counts, of the whole node */
	__u32 threads;
	__u32 runnable;
	__u32 uninterruptible;
	__u64 memory_total_bytes;
	__u64 memory_free_bytes;
	__u64 memory_available_bytes;
	__u64 memory_shared_bytes;
	__u64 buffers_bytes;
	__u64 cached_bytes;    /* without buffers, as in /proc/meminfo */
	__u64 swap_free_bytes; /* what there is altogether is in /proc/meminfo only */
};

struct gestalt_counts {
	__u32 inum;
	__u32 processes;
	__u32 threads;
	__u32 runnable;
	__u32 uninterruptible;
	__u32 reserved;
};

struct gestalt_cpu {
	__u32 cpu;
	__u32 reserved;
	__u64 user_ns;
	__u64 nice_ns;
	__u64 system_ns;
	__u64 idle_ns;
	__u64 iowait_ns;
	__u64 irq_ns;
	__u64 softirq_ns;
	__u64 steal_ns;
};

struct gestalt_pidns {
	__u32 inum;	   /* as in /proc/PID/ns/pid */
	__u32 parent_inum; /* 0: none, or not the caller's to know */
	__u32 level;	   /* below the caller's own, which is 0 */
	__u32 init_pid;	   /* in the caller's namespace */
	__u32 processes;   /* zombies included, those in namespaces below, too */
	__u32 pids;	   /* pids in use: threads, zombies, groups and sessions */
	__u32 last_pid;	   /* as in ns_last_pid */
	__u32 pid_max;	   /* 0: the kernel has one for all, in /proc */
};

/* With GESTALT_A_THREADS times and faults are the thread's, else the process's. */
struct gestalt_task {
	__u64 start_boottime_ns;
	__u64 utime_ns;
	__u64 stime_ns;
	__u64 cutime_ns; /* of children that were waited for */
	__u64 cstime_ns;
	__u64 minflt;
	__u64 majflt;
	__u64 cminflt;
	__u64 cmajflt;
	__u64 vsize_bytes;
	__u64 rss_anon_bytes;
	__u64 rss_file_bytes;
	__u64 rss_shmem_bytes;
	__u64 cgroup_id;  /* inode number in the cgroup v2 hierarchy */
	__u64 generation; /* another number after each exec */
	__u32 pid;	  /* these six in the dumped namespace, 0: not in it */
	__u32 tgid;
	__u32 ppid;
	__u32 pgid;
	__u32 sid;
	__s32 tpgid;	  /* foreground group of the terminal, -1: no terminal */
	__u32 uid;	  /* as the caller's user namespace has them */
	__u32 euid;
	__u32 suid;
	__u32 fsuid;
	__u32 gid;
	__u32 egid;
	__u32 sgid;
	__u32 fsgid;
	__u32 flags;	  /* PF_*, as in /proc/PID/stat */
	__u32 tty_nr;
	__u32 threads;
	__u32 processor;
	__u32 policy;
	__u32 rt_priority;
	__u32 pidns_inum; /* the one that the task is in */
	__u32 level;	  /* of that, below the dumped one */
	__s32 nice;
	__s32 priority;	  /* as in /proc/PID/stat */
	__s32 exit_signal;
	__u8 state;	  /* R S D T t X Z P I */
	__u8 reserved[3];
	__u8 comm[16];
};

enum gestalt_event_type {
	GESTALT_EVENT_UNSPEC,
	GESTALT_EVENT_FORK,	       /* of a process or a thread; it has not run yet */
	GESTALT_EVENT_EXEC,
	GESTALT_EVENT_EXIT,
	GESTALT_EVENT_SLICE_REWOUND,   /* value: the pid that is given out next */
	GESTALT_EVENT_SLICE_EXHAUSTED, /* no pid of the slice is free */
	GESTALT_EVENT_SLICE_OUTSIDE,   /* value: the pid that was given out instead */
	GESTALT_EVENT_RESYNC,	       /* value: how many events were lost */
};

#define GESTALT_EVENT_F_THREAD (1U << 0) /* not the only thread there is or was */
/*
 * exit: the process has no thread left. Of threads that end at the same moment each may say
 * so, and the last of these events has the highest sums.
 */
#define GESTALT_EVENT_F_LAST (1U << 1)

struct gestalt_event {
	__u64 sequence;
	__u64 boottime_ns;
	__u64 start_boottime_ns; /* of the task */
	__u64 utime_ns;		 /* exit: of the task; with F_LAST, of the process */
	__u64 stime_ns;
	__u64 value;		 /* exec: the new generation; else see above */
	__u32 type;
	__u32 flags;
	__s32 exit_code;	 /* as wait(2) has it */
	__u32 pidns_inum;	 /* the one that the task, or the slice, is in */
	__u32 slice_first;
	__u32 slice_last;
	__u8 comm[16];
};

struct gestalt_slice {
	__u32 first;
	__u32 last;
	__u32 next;	   /* where the search for the next pid begins */
	__u32 pidns_inum;
	__u64 rewound;	   /* how often */
	__u64 exhausted;   /* how often it became full */
	__u64 outside;	   /* pids given out elsewhere, as it was full */
	__u32 exact;	   /* 1: GESTALT_FEATURE_SLICE_EXACT */
	__u32 reserved;
};

#endif /* _UAPI_GESTALT_H */
