#include <unistd.h>

#include <cstdio>
#include <format>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/report.h"
#include "cli/text.h"

namespace gestalt::cli {
namespace {

// One line on a terminal that is written over and in the end wiped out. Nothing at all
// elsewhere: progress in a log file is noise.
class ProgressLine {
 public:
  ProgressLine() : terminal_(::isatty(STDERR_FILENO) != 0) {}
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { clear(); }

  void show(const wire::MigrationProgress& progress) {
    if (!terminal_) return;
    std::string text = visible(progress.phase());
    if (progress.bytes_total() > 0)
      text += std::format(" {} of {}", human_bytes(progress.bytes_done()),
                          human_bytes(progress.bytes_total()));
    print("\r\033[K" + text);
    shown_ = true;
  }
  void clear() {
    if (shown_) print("\r\033[K");
    shown_ = false;
  }

 private:
  static void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

  bool terminal_;
  bool shown_ = false;
};

std::string summary(const wire::MigrationStats& stats) {
  std::string command = stats.command().empty() ? "" : std::format(" ({})", stats.command());
  return std::format("moved pid {}{} from {} to {}: froze {:.1f} ms, total {:.1f} ms, {} bytes",
                     stats.pid(), command, stats.source(), stats.destination(),
                     stats.freeze_seconds() * 1e3, stats.total_seconds() * 1e3, stats.wire_bytes());
}

}  // namespace

int migrate(const MigrateOptions& options) {
  Call call;
  auto& request = *call.request.mutable_migrate_request();
  request.set_pid(options.pid);
  request.set_node(options.node);
  request.mutable_options()->set_mode(options.mode);
  request.mutable_options()->set_timeout_seconds(options.timeout_seconds);
  // The daemon keeps the user's deadline; ours is only for a daemon that hangs.
  double patience = options.timeout_seconds > 0 ? options.timeout_seconds + 60 : 900;
  call.timeout =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(patience));
  ProgressLine progress;
  call.on_notice = [&progress](const wire::Message& message) {
    if (message.has_migration_progress()) progress.show(message.migration_progress());
  };
  return call_daemon(std::move(call), [&](const wire::Message& message) {
    progress.clear();
    const auto& stats = message.migrate_reply().stats();
    auto printed = print_out(options.json ? render_json({migration_object(stats)})
                                          : visible(summary(stats)) + "\n");
    return printed ? kExitOk : report(printed.error(), kExitFailed);
  });
}

}  // namespace gestalt::cli
