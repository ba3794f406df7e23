// The agent's side of the cluster init: starts it, keeps the connection, asks it for
// stand-ins. gestalt-init outlives gestaltd; whoever comes next finds it again.
#pragma once

#include "daemon/connection.h"
#include "daemon/sources/task_source.h"

namespace gestalt {

class InitClient {
 public:
  struct Paths {
    std::string socket;
    std::string program;
  };
  // `lost`: the namespace with everything in it is gone; a new one is on its way.
  InitClient(asio::io_context& context, Paths paths, std::function<void()> lost);

  // Keeps an init running from now on.
  void start();
  void stop();
  // Remembered, and told to every init that comes.
  void set_slice(std::uint32_t first, std::uint32_t last);
  [[nodiscard]] bool ready() const { return connection_ != nullptr && connection_->open(); }
  [[nodiscard]] Awaitable<bool> wait_ready(Clock::duration timeout);
  // A procfs of the cluster pid namespace; empty while there is none.
  [[nodiscard]] std::string proc() const;
  [[nodiscard]] ClusterPids where() const;
  // The pid of the new stand-in in the cluster pid namespace.
  [[nodiscard]] Awaitable<Result<std::uint32_t>> spawn_stand_in(wire::SpawnStandIn request);
  [[nodiscard]] Awaitable<Result<std::uint32_t>> spawn_view(wire::SpawnView request);

 private:
  [[nodiscard]] Awaitable<Result<std::uint32_t>> spawn(wire::Message message, const char* what);
  static Awaitable<> keep(InitClient* self);
  [[nodiscard]] Awaitable<Result<std::shared_ptr<Connection>>> connect_or_start();
  [[nodiscard]] Result<std::shared_ptr<Connection>> connect();
  void send_slice();

  asio::io_context& context_;
  Paths paths_;
  std::function<void()> lost_;
  std::shared_ptr<Connection> connection_;
  pid_t init_pid_ = 0;  // in the node's pid namespace
  std::uint32_t slice_first_ = 0;
  std::uint32_t slice_last_ = 0;
  bool stopped_ = false;
};

}  // namespace gestalt
