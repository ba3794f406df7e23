#include "daemon/server.h"

#include <unistd.h>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr auto kHandshakeTimeout = std::chrono::seconds(5);
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);  // out of descriptors

std::string text_of(const asio::ip::tcp::endpoint& endpoint) {
  boost::system::error_code ignored;
  return formatted("{}:{}", endpoint.address().to_string(), endpoint.port());
}

Result<void> open_acceptor(asio::ip::tcp::acceptor& acceptor, const std::string& address,
                           std::uint16_t port) {
  boost::system::error_code error;
  auto parsed = asio::ip::make_address(address, error);
  if (error)
    return fail(ErrorCode::kInvalidArgument, formatted("'{}' is no IP address", address),
                "correct node.listen in the configuration");
  asio::ip::tcp::endpoint endpoint(parsed, port);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error)
    return fail(code_from_errno(error.value()),
                formatted("listen on {}: {}", text_of(endpoint), error.message()),
                "is another leader running here? change cluster.port or node.listen");
  return {};
}

}  // namespace

Result<std::unique_ptr<TlsServer>> TlsServer::listen(asio::io_context& context,
                                                     const std::string& address, std::uint16_t port,
                                                     const TlsIdentity& identity, OnPeer on_peer) {
  GESTALT_ASSIGN(auto tls, server_context(identity));
  auto state = std::make_shared<State>(context, std::move(tls), std::move(on_peer));
  GESTALT_TRY(open_acceptor(state->acceptor, address, port));
  asio::co_spawn(context, accept_loop(state), asio::detached);
  return std::unique_ptr<TlsServer>(new TlsServer(state));
}

void TlsServer::close() {
  boost::system::error_code ignored;
  state_->acceptor.close(ignored);
  state_->on_peer = nullptr;
}

Awaitable<> TlsServer::accept_loop(std::shared_ptr<State> state) {
  while (state->acceptor.is_open()) {
    auto [error, socket] = co_await state->acceptor.async_accept(kAsResult);
    if (error) {
      if (!state->acceptor.is_open()) break;
      log::warning("connection not accepted", log::field("error", error.message()));
      co_await sleep_for(kAcceptRetry);
      continue;
    }
    boost::system::error_code gone;
    auto endpoint = socket.remote_endpoint(gone);
    if (gone) continue;
    std::string address = text_of(endpoint);
    if (*state->unauthenticated >= kMaxUnauthenticated) {
      log::warning("connection refused", log::field("address", address),
                   log::field("reason", "too many peers that have not shown who they are"));
      continue;
    }
    auto slot = std::make_shared<UnauthenticatedSlot>(state->unauthenticated);
    asio::co_spawn(state->acceptor.get_executor(),
                   handshake(state, std::move(socket), std::move(address), std::move(slot)),
                   asio::detached);
  }
}

Awaitable<> TlsServer::handshake(std::shared_ptr<State> state, asio::ip::tcp::socket socket,
                                 std::string address, std::shared_ptr<UnauthenticatedSlot> slot) {
  tune(socket);
  TlsStream stream(std::move(socket), state->tls);
  boost::system::error_code error;
  {
    Watchdog watchdog(stream.get_executor(), kHandshakeTimeout, [&stream] {
      boost::system::error_code ignored;
      stream.next_layer().close(ignored);
    });
    std::tie(error) = co_await stream.async_handshake(asio::ssl::stream_base::server, kAsResult);
  }
  if (error || !state->on_peer) {
    log::warning("connection refused", log::field("address", address),
                 log::field("reason", "TLS handshake: " + error.message()));
    co_return;
  }
  TlsPeer peer{.address = address};
  peer.node = peer_node_name(stream.native_handle()).value_or("");
  peer.fingerprint = peer_fingerprint(stream.native_handle()).value_or("");
  auto connection = make_connection(std::move(stream), address);
  if (!peer.node.empty()) slot.reset();
  state->on_peer(std::move(connection), std::move(peer), std::move(slot));
}

LocalServer::LocalServer(asio::io_context& context, Fd listening, std::string path, OnPeer on_peer)
    : path_(std::move(path)) {
  state_ = std::make_shared<State>(
      State{asio::local::stream_protocol::acceptor(context), std::move(on_peer)});
  boost::system::error_code error;
  state_->acceptor.assign(asio::local::stream_protocol(), listening.release(), error);
  asio::co_spawn(context, accept_loop(state_), asio::detached);
}

void LocalServer::close() {
  if (!state_->acceptor.is_open()) return;
  ::unlink(path_.c_str());
  boost::system::error_code ignored;
  state_->acceptor.close(ignored);
  state_->on_peer = nullptr;
}

Awaitable<> LocalServer::accept_loop(std::shared_ptr<State> state) {
  while (state->acceptor.is_open()) {
    auto [error, socket] = co_await state->acceptor.async_accept(kAsResult);
    if (error) {
      if (!state->acceptor.is_open()) break;
      log::warning("local connection not accepted", log::field("error", error.message()));
      co_await sleep_for(kAcceptRetry);
      continue;
    }
    if (state->on_peer) state->on_peer(make_connection(std::move(socket), "a local process"));
  }
}

}  // namespace gestalt
