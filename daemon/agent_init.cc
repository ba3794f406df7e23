#include "daemon/agent_init.h"

#include <cstdlib>

#include "common/child.h"
#include "common/format.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr auto kStartTimeout = std::chrono::seconds(5);
constexpr auto kRetry = std::chrono::seconds(2);
constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr auto kRequestTimeout = std::chrono::seconds(5);

// It forks into the background at once; its log goes where ours goes.
Result<void> start_program(const InitClient::Paths& paths) {
  SpawnOptions options;
  options.argv = {paths.program, "--socket", paths.socket};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  for (const char* name : {"GESTALT_LOG", "GESTALT_FAULT", "JOURNAL_STREAM"})
    if (const char* value = std::getenv(name))
      options.environment.push_back(formatted("{}={}", name, value));
  options.descriptors = {{2, 2}};
  GESTALT_ASSIGN(pid_t pid, spawn(options));
  GESTALT_ASSIGN(int status, wait_child(pid, deadline_in(kStartTimeout)));
  if (status != 0)
    return fail(ErrorCode::kSystem,
                formatted("{} ended with wait status {}", paths.program, status),
                "see its message in the log");
  return {};
}

}  // namespace

InitClient::InitClient(asio::io_context& context, Paths paths, std::function<void()> lost)
    : context_(context), paths_(std::move(paths)), lost_(std::move(lost)) {}

void InitClient::start() { asio::co_spawn(context_, keep(this), asio::detached); }

void InitClient::stop() {
  stopped_ = true;
  if (connection_) connection_->close(Error{ErrorCode::kUnavailable, "gestaltd stops", {}});
}

Awaitable<> InitClient::keep(InitClient* self) {
  while (!self->stopped_) {
    auto connected = co_await self->connect_or_start();
    if (!connected) {
      log::error("no cluster init", log::field("error", connected.error().text()));
      co_await sleep_for(kRetry);
      continue;
    }
    auto closed = std::make_shared<Promise<Error>>(self->context_.get_executor());
    self->connection_ = *connected;
    self->connection_->start([](const wire::Message&) {},
                             [closed](const Error& reason) { closed->set(reason); });
    log::info("cluster init connected", log::field("pid", self->init_pid_));
    self->send_slice();
    std::optional<Error> reason;
    while (!reason) reason = co_await closed->wait(std::chrono::hours(1));
    self->connection_.reset();
    self->init_pid_ = 0;
    if (self->stopped_) break;
    log::error("the cluster pid namespace is gone", log::field("reason", reason->message));
    self->lost_();
    co_await sleep_for(std::chrono::milliseconds(200));
  }
}

Result<std::shared_ptr<Connection>> InitClient::connect() {
  GESTALT_ASSIGN(auto fd, connect_unix(paths_.socket));
  GESTALT_ASSIGN(auto peer, peer_credentials(fd.get()));
  if (peer.uid != 0 || peer.pid <= 1)
    return fail(ErrorCode::kPermission,
                formatted("{} is not served by root's init", paths_.socket));
  LocalSocket socket(context_);
  boost::system::error_code error;
  socket.assign(asio::local::stream_protocol(), fd.release(), error);
  init_pid_ = peer.pid;
  return make_connection(std::move(socket), "cluster init");
}

Awaitable<Result<std::shared_ptr<Connection>>> InitClient::connect_or_start() {
  if (auto connection = connect()) co_return std::move(*connection);
  log::info("starting the cluster init", log::field("program", paths_.program));
  GESTALT_CO_TRY(start_program(paths_));
  Deadline deadline = deadline_in(kStartTimeout);
  while (true) {
    auto connection = connect();
    if (connection || Clock::now() >= deadline) co_return std::move(connection);
    co_await sleep_for(kPoll);
  }
}

Awaitable<bool> InitClient::wait_ready(Clock::duration timeout) {
  Deadline deadline = deadline_in(timeout);
  while (!ready() && Clock::now() < deadline) co_await sleep_for(kPoll);
  co_return ready();
}

void InitClient::set_slice(std::uint32_t first, std::uint32_t last) {
  slice_first_ = first;
  slice_last_ = last;
  send_slice();
}

void InitClient::send_slice() {
  if (!ready() || slice_first_ == 0) return;
  wire::Message message;
  message.mutable_set_pid_slice()->set_first(slice_first_);
  message.mutable_set_pid_slice()->set_last(slice_last_);
  connection_->request(std::move(message), kRequestTimeout, [](Result<wire::Message> reply) {
    if (!reply) log::error("pid slice not set", log::field("error", reply.error().text()));
  });
}

std::string InitClient::proc() const {
  return ready() ? formatted("/proc/{}/root/proc", init_pid_) : std::string();
}

ClusterPids InitClient::where() const { return {.proc = proc(), .init_pid = init_pid_}; }

Awaitable<Result<std::uint32_t>> InitClient::spawn(wire::Message message, const char* what) {
  if (!ready())
    co_return fail(ErrorCode::kUnavailable, "the node has no cluster init at the moment",
                   "try again in a few seconds; else see the node's log");
  auto connection = connection_;
  auto reply = co_await connection->request(std::move(message), kRequestTimeout);
  if (!reply) co_return std::unexpected(std::move(reply).error().in(what));
  if (!reply->has_spawn_reply())
    co_return fail(ErrorCode::kProtocol, "the cluster init gave a strange answer");
  co_return reply->spawn_reply().pid();
}

Awaitable<Result<std::uint32_t>> InitClient::spawn_stand_in(wire::SpawnStandIn request) {
  wire::Message message;
  *message.mutable_spawn_stand_in() = std::move(request);
  co_return co_await spawn(std::move(message), "start a stand-in");
}

Awaitable<Result<std::uint32_t>> InitClient::spawn_view(wire::SpawnView request) {
  wire::Message message;
  *message.mutable_spawn_view() = std::move(request);
  co_return co_await spawn(std::move(message), "start the single view");
}

}  // namespace gestalt
