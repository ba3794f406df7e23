#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <format>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/migration_report.h"
#include "cli/report.h"
#include "cli/table.h"

namespace gestalt::cli {
namespace {

// The daemon keeps all deadlines, and pages may follow for hours. A daemon that dies is
// noticed at once.
constexpr auto kPatience = std::chrono::hours(24 * 30);

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
    print("\r\033[K" + progress_text(progress, columns()));
    shown_ = true;
  }
  void clear() {
    if (shown_) print("\r\033[K");
    shown_ = false;
  }

 private:
  static void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }
  // One less than there are: a full line would wrap.
  static std::size_t columns() {
    winsize size{};
    bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return known ? size.ws_col - 1U : 79U;
  }

  bool terminal_;
  bool shown_ = false;
};

wire::MigrateRequest request_of(const MigrateOptions& options) {
  wire::MigrateRequest request;
  request.set_pid(options.pid);
  request.set_node(options.node);
  request.set_dry_run(options.dry_run);
  request.set_answer_when_resumed(options.no_wait || (options.mode == "lazy" && !options.wait));
  auto& wanted = *request.mutable_options();
  wanted.set_mode(options.mode);
  wanted.set_timeout_seconds(options.timeout_seconds);
  wanted.set_max_rounds(options.max_rounds);
  wanted.set_downtime_goal_seconds(options.downtime_goal_seconds);
  wanted.set_bandwidth_bytes_per_second(options.bandwidth_bytes_per_second);
  wanted.set_transport(options.transport);
  wanted.set_streams(options.streams);
  if (options.prefetch_pages) wanted.set_prefetch_pages(*options.prefetch_pages);
  wanted.set_compress(options.compress);
  wanted.set_checksum(options.checksum);
  wanted.set_any_cpu(options.any_cpu);
  wanted.set_no_file_cache(options.no_file_cache);
  return request;
}

int print_result(const std::string& text, int exit_code) {
  auto printed = print_out(text);
  return printed ? exit_code : report(printed.error(), kExitFailed);
}

int print_preflight(const wire::PreflightReport& report, const MigrateOptions& options) {
  return print_result(options.json ? render_json({preflight_object(report, options.pid)})
                                   : preflight_text(report, options.pid),
                      report.blockers().empty() ? kExitOk : kExitBlocked);
}

}  // namespace

int migrate(const MigrateOptions& options) {
  Call call;
  *call.request.mutable_migrate_request() = request_of(options);
  call.timeout = kPatience;
  ProgressLine progress;
  call.on_notice = [&progress](const wire::Message& message) {
    if (message.has_migration_progress()) progress.show(message.migration_progress());
  };
  return call_daemon(std::move(call), [&](const wire::Message& message) {
    progress.clear();
    const auto& reply = message.migrate_reply();
    if (options.dry_run) return print_preflight(reply.preflight(), options);
    return print_result(options.json ? render_json({migration_object(reply.stats())})
                                     : migration_summary(reply.stats()),
                        kExitOk);
  });
}

int migrations(const MigrationsOptions& options) {
  Call call;
  call.request.mutable_migration_list_request()->set_migration_id(options.migration_id);
  return call_daemon(std::move(call), [&options](const wire::Message& message) {
    const auto& reply = message.migration_list_reply();
    if (options.json) {
      JsonList list;
      for (const auto& each : reply.migrations()) list.push_back(migration_object(each));
      return print_result(render_json(list), kExitOk);
    }
    if (options.migration_id != 0 && reply.migrations_size() == 1)
      return print_result(migration_sheet(reply.migrations(0)), kExitOk);
    return print_result(migrations_table(reply, output_width()), kExitOk);
  });
}

}  // namespace gestalt::cli
