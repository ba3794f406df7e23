// Asks CRIU for a state-only dump of a child of ours, and believes what the images show.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "common/format.h"
#include "common/log.h"
#include "common/paths.h"
#include "common/proc.h"
#include "migrate/criu_client.h"
#include "migrate/pagemap_image.h"
#include "migrate/probe_child.h"
#include "migrate/state_dump.h"

namespace gestalt {
namespace {

constexpr std::size_t kProbeBytes = 4U << 20;
constexpr char kContent = 0x5a;

// A directory of its own, gone with it.
class ScratchDirectory {
 public:
  ScratchDirectory() : path_(formatted("{}/state-dump-{}", paths::kRunDirectory, ::getpid())) {
    std::error_code ignored;
    std::filesystem::create_directories(path_, ignored);
    (void)::chmod(path_.c_str(), 0700);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// In the child: nothing that CRIU could mind.
void become_dumpable(const std::string& stdio, char* memory) {
  std::memset(memory, kContent, kProbeBytes);
  (void)::chdir("/");
  int file = ::open(stdio.c_str(), O_RDWR | O_CREAT, 0600);
  for (int fd = 0; fd < 3; ++fd) (void)::dup2(file, fd);
  sigset_t none;
  sigemptyset(&none);
  (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
  (void)::setsid();
}

bool is_unharmed(const ProbeChild& child) {
  std::string content(kProbeBytes, '\0');
  iovec local{content.data(), content.size()};
  iovec remote{reinterpret_cast<void*>(child.start()), kProbeBytes};
  if (::process_vm_readv(child.pid(), &local, 1, &remote, 1, 0) != ssize_t{kProbeBytes})
    return false;
  auto stat = read_stat("/proc", child.pid());
  return stat && (stat->state == 'S' || stat->state == 'R') &&
         std::ranges::all_of(content, [](char byte) { return byte == kContent; });
}

Result<void> dump_state_only(pid_t pid, const std::string& directory) {
  GESTALT_ASSIGN(auto images, open_file(directory, O_RDONLY | O_DIRECTORY));
  CriuStart start;
  start.state_only = true;
  GESTALT_ASSIGN(auto criu, CriuClient::start(start));
  criu_req request;
  request.set_type(DUMP);
  auto& options = *request.mutable_opts();
  options.set_images_dir_fd(images.get());
  options.set_pid(pid);
  options.set_log_level(2);
  options.set_log_file("dump.log");
  options.set_leave_running(true);
  options.set_manage_cgroups_mode(IGNORE);
  options.set_manage_cgroups(true);
  GESTALT_ASSIGN([[maybe_unused]] auto response,
                 criu.request(request, nullptr, directory + "/dump.log",
                              deadline_in(std::chrono::seconds(10))));
  return {};
}

Result<void> try_state_dump() {
  if (::access(kStateDumpLibrary, R_OK) != 0)
    return fail_errno(errno, formatted("find {}", kStateDumpLibrary));
  ScratchDirectory scratch;
  auto stdio = scratch.path() + "/stdio";
  ProbeChild child(kProbeBytes, [&](char* memory) { become_dumpable(stdio, memory); });
  if (child.pid() < 0) return fail(ErrorCode::kSystem, "cannot start a child");
  GESTALT_TRY(dump_state_only(child.pid(), scratch.path()));
  auto image = formatted("{}/pagemap-{}.img", scratch.path(), child.pid());
  GESTALT_ASSIGN(auto content, read_file(image));
  GESTALT_ASSIGN(auto dumped, parse_dumped_pages(content));
  if (dumped.pages_in(child.start(), child.end()) != 0)
    return fail(ErrorCode::kSystem, "CRIU dumped anonymous memory all the same");
  GESTALT_ASSIGN(auto missing, read_missing_pages(scratch.path()));
  if (!missing[static_cast<std::uint32_t>(child.pid())].contains(child.start(), child.end()))
    return fail(ErrorCode::kSystem, "the images do not show what is missing in them");
  if (!is_unharmed(child)) return fail(ErrorCode::kSystem, "the dump harmed the process");
  return {};
}

}  // namespace

StateDump probe_state_dump() {
  if (::access(kStateDumpFile, F_OK) == 0) return known_state_dump();
  auto tried = try_state_dump();
  if (!tried)
    log::warning("no state-only dumps: migrations will take longer",
                 log::field("reason", tried.error().text()));
  auto kind = tried ? StateDump::kStateOnly : StateDump::kLazy;
  auto kept = replace_file(kStateDumpFile, std::string(name_of(kind)) + "\n", 0644);
  if (!kept) log::warning("cannot keep an answer", log::field("error", kept.error().text()));
  return kind;
}

}  // namespace gestalt
