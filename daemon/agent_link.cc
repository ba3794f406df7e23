#include "daemon/agent_link.h"

#include <sys/utsname.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/format.h"
#include "daemon/certificates.h"
#include "daemon/cluster_state_dir.h"
#include "daemon/join_token.h"

namespace gestalt {
namespace {

constexpr auto kConnectTimeout = std::chrono::seconds(5);
constexpr auto kRequestTimeout = std::chrono::seconds(5);
constexpr auto kFirstBackoff = std::chrono::milliseconds(200);
constexpr auto kLongestBackoff = std::chrono::seconds(2);
constexpr auto kRefusedBackoff = std::chrono::seconds(5);

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

// Refusals will not go away by themselves; the rest may at any moment.
bool is_refusal(ErrorCode code) {
  return code == ErrorCode::kPermission || code == ErrorCode::kNotFound ||
         code == ErrorCode::kInvalidArgument;
}

std::string kernel_release() {
  utsname name{};
  return ::uname(&name) == 0 ? name.release : "";
}

// The kernel's own boot id is shared by all containers of a machine; /run is emptied by a
// boot of the node, whatever the node is.
std::string boot_id() {
  std::string path = formatted("{}/boot-id", paths::kRunDirectory);
  if (auto known = read_file(path, 256); known && !known->empty()) return *known;
  auto fresh = random_bytes(16);
  if (!fresh) return "unknown";
  std::string text = to_hex(*fresh);
  if (auto written = replace_file(path, text, 0600); !written)
    log::warning("boot id not kept", log::field("error", written.error().text()));
  return text;
}

}  // namespace

IdentityPaths identity_paths() {
  std::string directory = paths::kRunDirectory;
  return {directory + "/node.key", directory + "/node.crt", directory + "/ca.crt"};
}

LeaderLink::LeaderLink(asio::io_context& context, const Config& config, Hooks hooks)
    : context_(context), config_(config), hooks_(std::move(hooks)) {}

void LeaderLink::start() { asio::co_spawn(context_, run(this), asio::detached); }

void LeaderLink::stop(const std::string& reason) {
  stopped_ = true;
  if (!connection_) return;
  wire::Message goodbye;
  goodbye.mutable_goodbye()->set_reason(reason);
  connection_->send(goodbye);
  connection_->finish(Error{ErrorCode::kUnavailable, reason, {}});
}

bool LeaderLink::send(const wire::Message& message) {
  return connection_ && connection_->send(message).has_value();
}

Awaitable<Result<wire::Message>> LeaderLink::request(wire::Message message,
                                                     Clock::duration timeout) {
  auto connection = connection_;
  if (!connection) co_return fail(ErrorCode::kUnavailable, "there is no leader now");
  co_return co_await connection->request(std::move(message), timeout);
}

void LeaderLink::reply(std::uint64_t request_id, Result<wire::Message> message) {
  if (connection_) connection_->reply(request_id, std::move(message));
}

Awaitable<> LeaderLink::run(LeaderLink* self) {
  Clock::duration backoff = kFirstBackoff;
  while (!self->stopped_) {
    auto began = Clock::now();
    auto session = co_await self->one_session();
    if (self->stopped_) break;
    if (!session) {
      std::string text = session.error().text();
      if (text != std::exchange(self->last_error_, text))
        log::warning("no connection to the leader",
                     log::field("leader", self->config_.cluster.leader), log::field("error", text));
      if (is_refusal(session.error().code)) backoff = kRefusedBackoff;
    }
    if (Clock::now() - began > std::chrono::seconds(10)) backoff = kFirstBackoff;
    co_await sleep_for(backoff);
    backoff = std::min<Clock::duration>(backoff * 2, kLongestBackoff);
  }
}

Awaitable<Result<void>> LeaderLink::one_session() {
  GESTALT_CO_ASSIGN(auto own, co_await identity());
  GESTALT_CO_ASSIGN(auto tls, client_context(own, config_.cluster.leader));
  auto connection = co_await connect(tls);
  if (!connection) {
    if (connection.error().code == ErrorCode::kPermission)
      throw_identity_away(connection.error().message);
    co_return std::unexpected(std::move(connection).error());
  }
  auto closed = std::make_shared<Promise<Error>>(context_.get_executor());
  (*connection)
      ->start([this](wire::Message message) { hooks_.on_message(std::move(message)); },
              [closed](const Error& reason) { closed->set(reason); });
  auto served = co_await serve(*connection, closed);
  connection_.reset();
  (*connection)->close(Error{ErrorCode::kUnavailable, "the session is over", {}});
  co_return served;
}

Awaitable<Result<void>> LeaderLink::serve(std::shared_ptr<Connection> connection,
                                          std::shared_ptr<Promise<Error>> closed) {
  wire::Message message;
  wire::AgentHello& hello = *message.mutable_agent_hello();
  hello.set_protocol(kProtocolVersion);
  hello.set_node(config_.node.name);
  hello.set_address(own_address_);
  hello.set_version(GESTALT_VERSION);
  hello.set_kernel(kernel_release());
  hello.set_role(config_.run_as_leader() ? "leader" : "compute");
  hello.set_boot_id(boot_id());
  hooks_.fill_hello(hello);
  auto reply = co_await connection->request(std::move(message), kRequestTimeout);
  if (!reply) {
    // TLS 1.3 refuses a certificate only now; the close reason says so.
    auto reason = co_await closed->wait(std::chrono::milliseconds(100));
    if (reason && reason->code == ErrorCode::kPermission) {
      throw_identity_away(reason->message);
      co_return std::unexpected(*reason);
    }
    co_return std::unexpected(std::move(reply).error());
  }
  if (!reply->has_agent_welcome())
    co_return fail(ErrorCode::kProtocol, "the leader gave a strange answer to the hello");
  last_error_.clear();
  connection_ = connection;
  connection->set_idle_timeout(seconds(config_.membership.failed_seconds));
  log::info("connected to the leader", log::field("leader", config_.cluster.leader),
            log::field("pid_first", reply->agent_welcome().pid_first()),
            log::field("pid_last", reply->agent_welcome().pid_last()));
  hooks_.on_welcome(reply->agent_welcome());
  double period = std::clamp(reply->agent_welcome().heartbeat_seconds(), 0.1, 60.0);
  asio::co_spawn(context_, send_heartbeats(this, connection, seconds(period)), asio::detached);
  std::optional<Error> reason;
  while (!reason) reason = co_await closed->wait(std::chrono::hours(1));
  co_return std::unexpected(std::move(*reason).in("the connection to the leader broke"));
}

Awaitable<> LeaderLink::send_heartbeats(LeaderLink* self, std::shared_ptr<Connection> connection,
                                        Clock::duration period) {
  while (connection->open() && !self->stopped_) {
    wire::Message message;
    *message.mutable_heartbeat() = self->hooks_.heartbeat();
    connection->send(message);
    co_await sleep_for(period);
  }
}

Awaitable<Result<TlsIdentity>> LeaderLink::identity() {
  if (config_.run_as_leader()) {
    GESTALT_CO_ASSIGN(auto state, load_cluster_state(config_.paths.state_directory));
    co_return state.leader;
  }
  IdentityPaths files = identity_paths();
  if (::access(files.certificate.c_str(), F_OK) == 0) {
    auto loaded = load_tls_identity(files.key, files.certificate, files.ca);
    if (loaded) co_return loaded;
    throw_identity_away(loaded.error().text());
  }
  co_return co_await join();
}

void LeaderLink::throw_identity_away(const std::string& why) {
  if (config_.run_as_leader()) return;
  log::warning("the node's certificate is of no use; joining again", log::field("reason", why));
  IdentityPaths files = identity_paths();
  for (const auto& path : {files.certificate, files.key, files.ca}) ::unlink(path.c_str());
}

Awaitable<Result<TlsIdentity>> LeaderLink::join() {
  GESTALT_CO_ASSIGN(auto token, load_join_token(config_.paths.join_token));
  GESTALT_CO_ASSIGN(auto made, make_request(config_.node.name));
  GESTALT_CO_ASSIGN(auto tls, joining_context(token.ca_sha256, config_.cluster.leader));
  GESTALT_CO_ASSIGN(auto connection, co_await connect(tls));
  connection->start([](const wire::Message&) {}, [](const Error&) {});
  wire::Message message;
  message.mutable_join_request()->set_node(config_.node.name);
  message.mutable_join_request()->set_token_secret(token.secret_hex);
  message.mutable_join_request()->set_csr_pem(made.csr_pem);
  auto reply = co_await connection->request(std::move(message), kRequestTimeout);
  connection->close(Error{ErrorCode::kUnavailable, "joined", {}});
  if (!reply) co_return std::unexpected(std::move(reply).error().in("join the cluster"));
  if (!reply->has_join_reply())
    co_return fail(ErrorCode::kProtocol, "the leader gave a strange answer to the join request");
  TlsIdentity own{made.key_pem, reply->join_reply().certificate_pem(),
                  reply->join_reply().ca_pem()};
  IdentityPaths files = identity_paths();
  GESTALT_CO_TRY(replace_file(files.key, own.key_pem, 0600));
  GESTALT_CO_TRY(replace_file(files.ca, own.ca_pem, 0644));
  GESTALT_CO_TRY(replace_file(files.certificate, own.certificate_pem, 0644));
  log::info("joined the cluster", log::field("node", config_.node.name));
  co_return own;
}

Awaitable<Result<std::shared_ptr<Connection>>> LeaderLink::connect(asio::ssl::context& tls) {
  using asio::ip::tcp;
  // The leader's own agent takes the way that is surely there.
  std::string host = config_.run_as_leader() ? "127.0.0.1" : config_.cluster.leader_address;
  auto what = formatted("connect to the leader at {}:{}", host, config_.cluster.port);
  TlsStream stream(context_, tls);
  Watchdog watchdog(context_.get_executor(), kConnectTimeout, [&stream] {
    boost::system::error_code ignored;
    stream.next_layer().close(ignored);
  });
  tcp::resolver resolver(context_);
  auto [unresolved, endpoints] =
      co_await resolver.async_resolve(host, std::to_string(config_.cluster.port), kAsResult);
  if (unresolved) co_return fail(ErrorCode::kUnavailable, what + ": " + unresolved.message());
  auto [refused, endpoint] =
      co_await asio::async_connect(stream.next_layer(), endpoints, kAsResult);
  if (refused)
    co_return fail(ErrorCode::kUnavailable, what + ": " + refused.message(),
                   "is gestaltd running on the leader?");
  tune(stream.next_layer());
  boost::system::error_code error;
  auto local = stream.next_layer().local_endpoint(error);
  own_address_ = !config_.node.address.empty() ? config_.node.address
                 : config_.run_as_leader()     ? config_.cluster.leader_address
                                               : local.address().to_string();
  std::tie(error) = co_await stream.async_handshake(asio::ssl::stream_base::client, kAsResult);
  if (error) {
    bool judged = error.category() == asio::error::get_ssl_category();
    co_return fail(judged ? ErrorCode::kPermission : ErrorCode::kUnavailable,
                   formatted("{}: TLS handshake: {}", what, error.message()),
                   judged ? "the leader is not the one that this node's join token names; copy the "
                            "leader's current join-token into the node image"
                          : "");
  }
  co_return make_connection(std::move(stream), "leader");
}

}  // namespace gestalt
