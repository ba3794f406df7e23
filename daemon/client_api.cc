#include "daemon/client_api.h"

#include <sys/socket.h>

#include "common/format.h"
#include "daemon/client_session.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxOpenRequestsOfClient = 32;

bool is_request(const wire::Message& message) {
  switch (message.body_case()) {
    case wire::Message::kVersionRequest:
    case wire::Message::kNodeListRequest:
    case wire::Message::kNodeDrainRequest:
    case wire::Message::kRunRequest:
    case wire::Message::kAttachRequest:
    case wire::Message::kTaskListRequest:
    case wire::Message::kKillRequest:
    case wire::Message::kMigrateRequest:
    case wire::Message::kMigrationListRequest:
      return true;
    default:
      return false;
  }
}

// A pidfd of the very process that connected; none on kernels before 6.5.
Fd process_of(int socket) {
#ifndef SO_PEERPIDFD
  constexpr int SO_PEERPIDFD = 77;
#endif
  int fd = -1;
  socklen_t length = sizeof fd;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &length) == 0 ? Fd(fd) : Fd();
}

}  // namespace

ClientApi::ClientApi(asio::io_context& context, const Config& config, Leader* leader,
                     std::string criu_version)
    : context_(context), config_(config), leader_(leader), criu_version_(std::move(criu_version)) {}

Result<void> ClientApi::start() {
  GESTALT_ASSIGN(auto fd, listen_unix(paths::kClientSocket, 0666));
  server_ = std::make_unique<LocalServer>(
      context_, std::move(fd), paths::kClientSocket,
      [this](std::shared_ptr<Connection> connection) { on_connection(std::move(connection)); });
  return {};
}

void ClientApi::stop() {
  if (server_) server_->close();
}

void ClientApi::on_connection(std::shared_ptr<Connection> connection) {
  auto peer = peer_credentials(connection->native_handle());
  if (!peer || connections_ >= kMaxLocalConnections) {
    log::warning("client refused",
                 log::field("reason", peer ? "too many connections" : peer.error().text()));
    return;
  }
  auto session = std::make_shared<Session>();
  session->connection = connection;
  session->peer = std::move(*peer);
  if (leader_ != nullptr)
    session->id = leader_->add_client(connection, process_of(connection->native_handle()));
  ++connections_;
  connection->set_name(formatted("client of uid {}", session->peer.uid));
  connection->start(
      [this, session](wire::Message message) { on_message(session, std::move(message)); },
      [this, session](const Error&) {
        --connections_;
        if (leader_ != nullptr) leader_->remove_client(session->id);
      });
}

void ClientApi::on_message(const SessionPtr& session, wire::Message message) {
  if (!is_request(message)) {
    if (leader_ != nullptr) leader_->client_message(session->id, message);
    return;
  }
  if (session->open_requests >= kMaxOpenRequestsOfClient) {
    if (auto connection = session->connection.lock())
      connection->reply(message.request_id(),
                        fail(ErrorCode::kBusy, "too many requests at once on one connection"));
    return;
  }
  ++session->open_requests;
  asio::co_spawn(context_, serve(this, session, std::move(message)), asio::detached);
}

Awaitable<> ClientApi::serve(ClientApi* self, SessionPtr session, wire::Message message) {
  auto reply = co_await self->answer(session, message);
  --session->open_requests;
  auto connection = session->connection.lock();
  if (!connection) co_return;
  bool good = reply.has_value();
  connection->reply(message.request_id(), std::move(reply));
  if (good && message.has_attach_request() && self->leader_ != nullptr)
    self->leader_->attached(message.attach_request().job_id());
}

Awaitable<Result<wire::Message>> ClientApi::answer(const SessionPtr& session,
                                                   const wire::Message& message) {
  wire::Message reply;
  if (message.has_version_request()) co_return version();
  if (leader_ == nullptr)
    co_return fail(ErrorCode::kUnavailable, "this is a compute node",
                   formatted("run it on the leader {}", config_.cluster.leader));
  uid_t uid = session->peer.uid;
  switch (message.body_case()) {
    case wire::Message::kNodeListRequest: {
      GESTALT_CO_ASSIGN(*reply.mutable_node_list_reply(),
                        leader_->list_nodes(message.node_list_request().name()));
      break;
    }
    case wire::Message::kNodeDrainRequest: {
      if (uid != 0)
        co_return fail(ErrorCode::kPermission, "only root may drain nodes", "run it as root");
      const auto& request = message.node_drain_request();
      GESTALT_CO_TRY(leader_->drain(request.name(), request.drain()));
      reply = empty_message();
      break;
    }
    case wire::Message::kRunRequest:
      co_return run(session, message.run_request());
    case wire::Message::kAttachRequest: {
      GESTALT_CO_ASSIGN(*reply.mutable_attach_reply(),
                        leader_->attach(session->id, uid, message.attach_request().job_id()));
      break;
    }
    case wire::Message::kTaskListRequest: {
      GESTALT_CO_ASSIGN(*reply.mutable_task_list_reply(),
                        co_await leader_->list_tasks(uid, message.task_list_request().preflight()));
      break;
    }
    case wire::Message::kKillRequest: {
      GESTALT_CO_TRY(check_kill(message.kill_request()));
      *reply.mutable_kill_reply() = co_await leader_->kill(uid, message.kill_request());
      break;
    }
    case wire::Message::kMigrateRequest: {
      GESTALT_CO_ASSIGN(*reply.mutable_migrate_reply(),
                        co_await leader_->migrate(session->id, uid, message.migrate_request()));
      break;
    }
    case wire::Message::kMigrationListRequest: {
      GESTALT_CO_ASSIGN(
          *reply.mutable_migration_list_reply(),
          leader_->list_migrations(uid, message.migration_list_request().migration_id()));
      break;
    }
    default:
      co_return fail(ErrorCode::kInvalidArgument, "not a request");
  }
  co_return reply;
}

Result<wire::Message> ClientApi::run(const SessionPtr& session, wire::RunRequest request) {
  wire::JobSpec& spec = *request.mutable_spec();
  GESTALT_TRY(check_spec(spec));
  set_identity(session->peer, spec);
  GESTALT_ASSIGN(auto own, limits_of(session->peer));
  auto limits =
      bounded_limits({spec.limits().begin(), spec.limits().end()}, own, session->peer.uid == 0);
  spec.mutable_limits()->Assign(limits.begin(), limits.end());
  wire::Message reply;
  GESTALT_ASSIGN(*reply.mutable_run_reply(), leader_->run(session->id, std::move(request)));
  return reply;
}

wire::Message ClientApi::version() const {
  wire::Message message;
  wire::VersionReply& reply = *message.mutable_version_reply();
  reply.set_version(GESTALT_VERSION);
  reply.set_node(config_.node.name);
  reply.set_role(leader_ != nullptr ? "leader" : "compute");
  reply.set_criu(criu_version_);
  return message;
}

}  // namespace gestalt
