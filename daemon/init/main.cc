// gestalt-init: pid 1 of the node's cluster pid namespace, in which all processes of
// the single system image live. It reaps orphans, keeps the pid slice, and starts the
// jobs' stand-ins for gestaltd, which may restart at any time without it.

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/child.h"
#include "common/log.h"
#include "common/paths.h"
#include "daemon/init/cluster_init.h"
#include "migrate/criu_client.h"
#include "migrate/rdma_device.h"
#include "migrate/state_dump.h"
#include "migrate/zero_copy_probe.h"

namespace gestalt {
namespace {

constexpr auto kRdmaTimeout = std::chrono::seconds(3);
constexpr auto kCheckTimeout =
    std::chrono::minutes(2);  // a tenth of a second, but for slow machines

Result<void> enter_namespaces() {
  if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0)
    return fail_errno(errno, "make the cluster pid namespace", "run gestalt-init as root");
  // What the node mounts later (NFS, for instance) is to appear here too.
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return fail_errno(errno, "make the mounts slaves of the node's");
  return {};
}

Result<void> mount_proc() {
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return fail_errno(errno, "mount the cluster's /proc");
  // Kernels before 6.14 have one pid_max for all namespaces; then this is the host's.
  if (auto done = write_control_file("/proc/sys/kernel/pid_max", "4194304"); !done)
    log::warning("pid_max stays as it is", log::field("error", done.error().text()));
  return {};
}

// While any perf event exists, CRIU's removal of its parasite need not toggle a static
// key in the kernel: 12 ms less freeze time.
void hold_perf_event() {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_DUMMY;
  attributes.disabled = 1;
  long fd = ::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) log::info("no perf event to hold", log::field("errno", errno));
}

int run_as_init(const std::string& socket_path) {
  log::initialise("gestalt-init");
  if (auto mounted = mount_proc(); !mounted) {
    log::error("cannot start", log::field("error", mounted.error().text()));
    return 1;
  }
  hold_perf_event();
  ClusterInit init;
  if (auto started = init.start(socket_path); !started) {
    log::error("cannot start", log::field("error", started.error().text()));
    return 1;
  }
  init.run();
  return 0;
}

// In the background, in a session of its own, so that it outlives gestaltd.
int detach_and_run(const std::string& socket_path) {
  if (::fork() != 0) return 0;
  (void)::setsid();
  if (auto entered = enter_namespaces(); !entered) {
    log::error("cannot start", log::field("error", entered.error().text()));
    return 1;
  }
  if (::fork() != 0) ::_exit(0);
  return run_as_init(socket_path);
}

// When there are other RDMA devices than before, in a process of its own.
int probe_devices() {
  for (const auto& [device, why_not] : probe_zero_copy())
    log::info("RDMA device", log::field("name", device),
              log::field("zero_copy", why_not.empty() ? "works" : why_not));
  return 0;
}

// What CRIU finds out and leaves for later runs, then what only a dump shows.
void probe_dumps() {
  auto check = spawn(criu_check());
  Result<int> checked;
  if (check) checked = wait_child(*check, deadline_in(kCheckTimeout));
  if (check && checked) {
    log::info("dumps", log::field("kind", name_of(probe_state_dump())));
    return;
  }
  log::warning("cannot run CRIU: nothing will migrate",
               log::field("error", (check ? checked.error() : check.error()).text()));
}

// Once a boot, in a process of its own.
int probe() {
  probe_dumps();
  return probe_devices();
}

// For gestaltd (daemon/rdma_question.h). Opens the device and nothing more.
int tell_rdma(std::string_view way, const std::string& address) {
  auto domain = way == "--rdma-at" ? RdmaDomain::at(address)
                                   : RdmaDomain::towards(address, deadline_in(kRdmaTimeout));
  if (domain) return 0;
  std::printf("%s\n%s\n", domain.error().message.c_str(), domain.error().remedy.c_str());
  return 1;
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  std::string socket_path = gestalt::paths::kInitSocket;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--socket") == 0 && i + 1 < argc) {
      socket_path = argv[++i];
    } else if (std::strcmp(argv[i], "--probe") == 0) {
      gestalt::log::initialise("gestalt-init");
      return gestalt::probe();
    } else if (std::strcmp(argv[i], "--probe-devices") == 0) {
      gestalt::log::initialise("gestalt-init");
      return gestalt::probe_devices();
    } else if ((std::strcmp(argv[i], "--rdma-at") == 0 || std::strcmp(argv[i], "--rdma-to") == 0) &&
               i + 1 < argc) {
      return gestalt::tell_rdma(argv[i], argv[i + 1]);
    } else {
      std::fputs(
          "Usage: gestalt-init [--socket PATH | --probe | --probe-devices | --rdma-at ADDRESS |\n"
          "                     --rdma-to ADDRESS]\n"
          "Makes this node's cluster pid namespace and stays as its pid 1. Started by\n"
          "gestaltd; not meant to be run by hand.\n",
          stderr);
      return std::strcmp(argv[i], "--help") == 0 ? 0 : 2;
    }
  }
  gestalt::log::initialise("gestalt-init");
  return gestalt::detach_and_run(socket_path);
}
