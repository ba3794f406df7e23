// The socket that the command line talks to. Who a client is, the kernel says.
#pragma once

#include "common/unix_socket.h"
#include "daemon/config.h"
#include "daemon/leader.h"
#include "daemon/server.h"

namespace gestalt {

class ClientApi {
 public:
  // `leader` is null on a compute node, where only the version is told. Configuration and
  // leader must outlive it.
  ClientApi(asio::io_context& context, const Config& config, Leader* leader,
            std::string criu_version);
  [[nodiscard]] Result<void> start();
  void stop();

 private:
  // One connection. The coroutines of its requests share it.
  struct Session {
    std::weak_ptr<Connection> connection;
    PeerCredentials peer;
    ClientId id = 0;
    std::size_t open_requests = 0;
  };
  using SessionPtr = std::shared_ptr<Session>;

  void on_connection(std::shared_ptr<Connection> connection);
  void on_message(const SessionPtr& session, wire::Message message);
  static Awaitable<> serve(ClientApi* self, SessionPtr session, wire::Message message);
  [[nodiscard]] Awaitable<Result<wire::Message>> answer(const SessionPtr& session,
                                                        const wire::Message& message);
  [[nodiscard]] Result<wire::Message> run(const SessionPtr& session, wire::RunRequest request);
  [[nodiscard]] wire::Message version() const;

  asio::io_context& context_;
  const Config& config_;
  Leader* leader_;
  std::string criu_version_;
  std::unique_ptr<LocalServer> server_;
  std::size_t connections_ = 0;
};

}  // namespace gestalt
