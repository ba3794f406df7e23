// A node's connection to the leader: gets the node its certificate, says hello, sends
// heartbeats, and does all of it again, for ever, when the connection breaks.
#pragma once

#include "daemon/config.h"
#include "daemon/connection.h"
#include "daemon/tls.h"

namespace gestalt {

class LeaderLink {
 public:
  struct Hooks {
    std::function<void(wire::AgentHello&)> fill_hello;
    std::function<void(const wire::AgentWelcome&)> on_welcome;
    std::function<void(wire::Message)> on_message;
    std::function<wire::Heartbeat()> heartbeat;
  };
  LeaderLink(asio::io_context& context, const Config& config, Hooks hooks);

  void start();
  // Says goodbye; the link is closed within a second.
  void stop(const std::string& reason);
  // False if there is no leader now.
  bool send(const wire::Message& message);
  void reply(std::uint64_t request_id, Result<wire::Message> message);
  // kUnavailable if there is no leader.
  [[nodiscard]] Awaitable<Result<wire::Message>> request(wire::Message message,
                                                         Clock::duration timeout);
  // Our address on the way to the leader; empty before the first connection.
  [[nodiscard]] const std::string& own_address() const { return own_address_; }

 private:
  static Awaitable<> run(LeaderLink* self);
  [[nodiscard]] Awaitable<Result<void>> one_session();
  [[nodiscard]] Awaitable<Result<void>> serve(std::shared_ptr<Connection> connection,
                                              std::shared_ptr<Promise<Error>> closed);
  static Awaitable<> send_heartbeats(LeaderLink* self, std::shared_ptr<Connection> connection,
                                     Clock::duration period);
  [[nodiscard]] Awaitable<Result<TlsIdentity>> identity();
  [[nodiscard]] Awaitable<Result<TlsIdentity>> join();
  [[nodiscard]] Awaitable<Result<std::shared_ptr<Connection>>> connect(asio::ssl::context& tls);
  void throw_identity_away(const std::string& why);

  asio::io_context& context_;
  const Config& config_;
  Hooks hooks_;
  std::shared_ptr<Connection> connection_;  // after the welcome
  std::string own_address_;
  std::string last_error_;
  bool stopped_ = false;
};

// The file names of a node's own certificate, on its own /run.
struct IdentityPaths {
  std::string key;
  std::string certificate;
  std::string ca;
};
[[nodiscard]] IdentityPaths identity_paths();

}  // namespace gestalt
