#include <csignal>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/report.h"
#include "cli/signal_names.h"
#include "common/format.h"
#include "common/frame.h"

namespace gestalt::cli {
namespace {

Error bad_signal(const std::string& text) {
  return {ErrorCode::kInvalidArgument, formatted("no signal {}", text), "gestalt kill -l"};
}

// Every failure is reported; the exit code is that of the first.
int report_results(const wire::KillReply& reply) {
  int code = kExitOk;
  for (const auto& result : reply.results()) {
    if (!result.has_error() || result.error().code() == wire::ERROR_NONE) continue;
    auto error = from_wire(result.error());
    int this_code = command_exit_code(error.code);
    report(std::move(error).in(formatted("kill {}", result.pid())));
    if (code == kExitOk) code = this_code;
  }
  return code;
}

}  // namespace

int kill(const KillOptions& options) {
  auto signal = parse_signal(options.signal);
  if (!signal) return report(bad_signal(options.signal), kExitUsage);
  Call call;
  auto& request = *call.request.mutable_kill_request();
  request.set_signal(static_cast<std::uint32_t>(*signal));
  for (unsigned pid : options.pids) request.add_pids(pid);
  return call_daemon(std::move(call), [](const wire::Message& message) {
    return report_results(message.kill_reply());
  });
}

int kill_list(const std::vector<std::string>& arguments) {
  std::string out;
  if (arguments.empty()) {
    for (int signal = 1; signal <= SIGRTMAX; ++signal) {
      auto name = signal_name(signal);
      // The two that the C library keeps to itself have none.
      if (name != formatted("{}", signal)) out += formatted("{:2} {}\n", signal, name);
    }
  }
  for (const auto& argument : arguments) {
    auto signal = parse_signal_or_status(argument);
    if (!signal) return report(bad_signal(argument), kExitUsage);
    bool is_number = argument[0] >= '0' && argument[0] <= '9';
    out += is_number ? signal_name(*signal) + "\n" : formatted("{}\n", *signal);
  }
  auto printed = print_out(out);
  return printed ? kExitOk : report(printed.error(), kExitFailed);
}

}  // namespace gestalt::cli
