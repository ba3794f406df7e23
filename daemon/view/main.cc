// gestalt-view: one user's single view of the cluster. See view_supervisor.h and
// view_worker.h, the two programs in it.

#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "common/log.h"
#include "daemon/view/view_supervisor.h"
#include "daemon/view/view_worker.h"

namespace {

constexpr char kUsage[] =
    "Usage: gestalt-view --uid UID [--hidepid 0|1|2]\n"
    "Mounts and serves a user's view of the cluster's processes for his sessions. Started by\n"
    "gestalt-init on the leader; not meant to be run by hand.\n";
constexpr int kProcessDevice = 10;
constexpr int kMachineDevice = 11;
constexpr int kColdListings = 12;

bool parse_number(const char* text, std::uint32_t& out) {
  std::string_view view(text);
  auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), out);
  return error == std::errc() && end == view.data() + view.size();
}

int serve(gestalt::ViewWorkerOptions options) {
  gestalt::log::initialise("gestalt-view");
  options.process_device = gestalt::Fd(kProcessDevice);
  options.machine_device = gestalt::Fd(kMachineDevice);
  options.cold_listings = gestalt::Fd(kColdListings);
  auto done = gestalt::run_view_worker(std::move(options));
  if (!done) gestalt::log::error("view", gestalt::log::field("error", done.error().text()));
  // Callbacks of requests that are under way refer to what is gone.
  std::_Exit(done ? 0 : 1);
}

int supervise(gestalt::ViewSupervisorOptions options) {
  gestalt::log::initialise("gestalt-view");
  gestalt::ViewSupervisor supervisor(std::move(options));
  auto started = supervisor.start();
  if (!started) {
    gestalt::log::error("no view", gestalt::log::field("error", started.error().text()));
    return 1;
  }
  if (*started) supervisor.run();
  std::_Exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t uid = UINT32_MAX;
  std::uint32_t hidepid = 0;
  bool worker = false;
  for (int i = 1; i < argc; ++i) {
    std::string_view option = argv[i];
    bool has_value = i + 1 < argc;
    bool known = option == "--worker";
    worker = worker || known;
    if (option == "--uid" && has_value) known = parse_number(argv[++i], uid);
    if (option == "--hidepid" && has_value) known = parse_number(argv[++i], hidepid) && hidepid < 3;
    if (known) continue;
    std::fputs(kUsage, option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
  }
  if (uid == UINT32_MAX) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  int mode = static_cast<int>(hidepid);
  if (worker)
    return serve({.viewer = uid,
                  .hidepid = mode,
                  .process_device = {},
                  .machine_device = {},
                  .cold_listings = {}});
  return supervise({.viewer = uid, .hidepid = mode, .program = argv[0]});
}
