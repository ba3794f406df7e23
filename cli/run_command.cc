#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/job_spec.h"
#include "cli/report.h"
#include "cli/run_session.h"

namespace gestalt::cli {
namespace {

Result<Outcome> run_job(const RunOptions& options) {
  wire::RunRequest request;
  GESTALT_ASSIGN(*request.mutable_spec(), make_job_spec(options));
  request.set_node(options.node);
  request.set_best(options.best);
  auto path = daemon_socket_path();
  GESTALT_ASSIGN(auto socket, connect_daemon(path));
  EventLoop loop;
  RunSession session(loop, path, std::move(socket), std::move(request));
  return session.run();
}

}  // namespace

int run(const RunOptions& options) {
  auto outcome = run_job(options);
  if (!outcome) return report(outcome.error(), kExitGestalt);
  if (outcome->error) report(*outcome->error);
  if (outcome->signal != 0) die_as(outcome->signal);
  return outcome->exit_code;
}

}  // namespace gestalt::cli
