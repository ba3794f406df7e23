// Asks CRIU for a state-only dump of a child of ours, and believes what the images show.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "common/log.h"
#include "common/paths.h"
#include "common/proc.h"
#include "migrate/criu_client.h"
#include "migrate/pagemap_image.h"
#include "migrate/state_dump.h"

namespace gestalt {
namespace {

constexpr std::size_t kProbeBytes = 4U << 20;
constexpr char kContent = 0x5a;

// A directory of its own, gone with it.
class ScratchDirectory {
 public:
  ScratchDirectory() : path_(std::format("{}/state-dump-{}", paths::kRunDirectory, ::getpid())) {
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

// A sleeping child with some memory, and with nothing that CRIU could mind.
class DumpableChild {
 public:
  explicit DumpableChild(const std::string& stdio) {
    void* memory =
        ::mmap(nullptr, kProbeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    start_ = reinterpret_cast<std::uint64_t>(memory);
    std::memset(memory, kContent, kProbeBytes);
    pid_ = ::fork();
    if (pid_ == 0) sleep_forever(stdio);
  }
  DumpableChild(const DumpableChild&) = delete;
  DumpableChild& operator=(const DumpableChild&) = delete;
  ~DumpableChild() {
    if (pid_ > 0) {
      (void)::kill(pid_, SIGKILL);
      (void)::waitpid(pid_, nullptr, 0);
    }
    if (start_ != 0) (void)::munmap(reinterpret_cast<void*>(start_), kProbeBytes);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::uint64_t start() const { return start_; }
  [[nodiscard]] std::uint64_t end() const { return start_ + kProbeBytes; }

  [[nodiscard]] bool is_ready() const { return ::getsid(pid_) == pid_; }
  [[nodiscard]] bool is_unharmed() const {
    std::string content(kProbeBytes, '\0');
    iovec local{content.data(), content.size()};
    iovec remote{reinterpret_cast<void*>(start_), kProbeBytes};
    if (::process_vm_readv(pid_, &local, 1, &remote, 1, 0) != ssize_t{kProbeBytes}) return false;
    auto stat = read_stat("/proc", pid_);
    return stat && (stat->state == 'S' || stat->state == 'R') &&
           std::ranges::all_of(content, [](char byte) { return byte == kContent; });
  }

 private:
  [[noreturn]] static void sleep_forever(const std::string& stdio) {
    (void)::chdir("/");
    int file = ::open(stdio.c_str(), O_RDWR | O_CREAT, 0600);
    for (int fd = 0; fd < 3; ++fd) (void)::dup2(file, fd);
    (void)::close_range(3, ~0U, 0);
    sigset_t none;
    sigemptyset(&none);
    (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
    (void)::setsid();  // last: by it the parent knows
    while (true) (void)::pause();
  }

  pid_t pid_ = -1;
  std::uint64_t start_ = 0;
};

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
    return fail_errno(errno, std::format("find {}", kStateDumpLibrary));
  ScratchDirectory scratch;
  DumpableChild child(scratch.path() + "/stdio");
  if (child.pid() < 0) return fail(ErrorCode::kSystem, "cannot start a child");
  for (int i = 0; i < 1000 && !child.is_ready(); ++i) (void)::usleep(1000);
  GESTALT_TRY(dump_state_only(child.pid(), scratch.path()));
  auto image = std::format("{}/pagemap-{}.img", scratch.path(), child.pid());
  GESTALT_ASSIGN(auto content, read_file(image));
  GESTALT_ASSIGN(auto dumped, parse_dumped_pages(content));
  if (dumped.pages_in(child.start(), child.end()) != 0)
    return fail(ErrorCode::kSystem, "CRIU dumped anonymous memory all the same");
  GESTALT_ASSIGN(auto missing, read_missing_pages(scratch.path()));
  if (!missing[static_cast<std::uint32_t>(child.pid())].contains(child.start(), child.end()))
    return fail(ErrorCode::kSystem, "the images do not show what is missing in them");
  if (!child.is_unharmed()) return fail(ErrorCode::kSystem, "the dump harmed the process");
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
