// Listening sockets: they hand on connections whose peer is known.
#pragma once

#include "common/fd.h"
#include "daemon/connection.h"
#include "daemon/tls.h"

namespace gestalt {

inline constexpr std::size_t kMaxUnauthenticated = 64;
inline constexpr std::size_t kMaxLocalConnections = 4096;

// A peer that came over TLS.
struct TlsPeer {
  std::string address;
  std::string node;  // from its certificate; empty: it has none and may only join
  std::string fingerprint;
};

// Counts those who have not shown who they are; whoever holds one occupies a place.
class UnauthenticatedSlot {
 public:
  explicit UnauthenticatedSlot(std::shared_ptr<std::size_t> count) : count_(std::move(count)) {
    ++*count_;
  }
  ~UnauthenticatedSlot() { --*count_; }
  UnauthenticatedSlot(const UnauthenticatedSlot&) = delete;
  UnauthenticatedSlot& operator=(const UnauthenticatedSlot&) = delete;

 private:
  std::shared_ptr<std::size_t> count_;
};

class TlsServer {
 public:
  // `slot` is null for peers with a certificate.
  using OnPeer = std::function<void(std::shared_ptr<Connection>, TlsPeer,
                                    std::shared_ptr<UnauthenticatedSlot> slot)>;

  [[nodiscard]] static Result<std::unique_ptr<TlsServer>> listen(asio::io_context& context,
                                                                 const std::string& address,
                                                                 std::uint16_t port,
                                                                 const TlsIdentity& identity,
                                                                 OnPeer on_peer);
  // Stops to listen; connections go on.
  void close();

 private:
  struct State {
    State(asio::io_context& context, asio::ssl::context tls_context, OnPeer callback)
        : acceptor(context), tls(std::move(tls_context)), on_peer(std::move(callback)) {}
    asio::ip::tcp::acceptor acceptor;
    asio::ssl::context tls;
    OnPeer on_peer;
    std::shared_ptr<std::size_t> unauthenticated = std::make_shared<std::size_t>(0);
  };
  explicit TlsServer(std::shared_ptr<State> state) : state_(std::move(state)) {}
  static Awaitable<> accept_loop(std::shared_ptr<State> state);
  static Awaitable<> handshake(std::shared_ptr<State> state, asio::ip::tcp::socket socket,
                               std::string address, std::shared_ptr<UnauthenticatedSlot> slot);

  std::shared_ptr<State> state_;
};

// A listening local socket, made by listen_unix().
class LocalServer {
 public:
  using OnPeer = std::function<void(std::shared_ptr<Connection>)>;

  LocalServer(asio::io_context& context, Fd listening, std::string path, OnPeer on_peer);
  ~LocalServer() { close(); }
  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;
  // Stops to listen and removes the socket file; connections go on.
  void close();

 private:
  struct State {
    asio::local::stream_protocol::acceptor acceptor;
    OnPeer on_peer;
  };
  static Awaitable<> accept_loop(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
  std::string path_;
};

}  // namespace gestalt
