// A job's connection to the daemon. When it breaks (the daemon is restarted) it is made
// again and attached to the job.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/message_channel.h"

namespace gestalt::cli {

class DaemonLink {
 public:
  struct Handlers {
    std::function<void(const wire::Message&)> on_message;
    std::function<void(const wire::JobInfo&)> on_attached;  // again: resynchronise now
    std::function<void(const Error&)> on_lost;              // for good; runs once
  };
  // How long a lost daemon is waited for.
  static constexpr Clock::duration kPatience = std::chrono::seconds(15);

  DaemonLink(EventLoop& loop, std::string path, Fd socket, Handlers handlers);
  ~DaemonLink();
  DaemonLink(const DaemonLink&) = delete;
  DaemonLink& operator=(const DaemonLink&) = delete;

  // Only from now on is there something to attach to; before, a loss is final.
  void set_job(std::uint64_t job_id) { job_id_ = job_id; }
  // The same, and to attach to it now.
  void attach(std::uint64_t job_id);
  // Lost while the link is down: what matters is sent again after on_attached.
  void send(const wire::Message& message);
  void request(wire::Message message, Clock::duration timeout, MessageChannel::OnReply on_reply);
  [[nodiscard]] bool is_up() const { return up_ && channel_->open(); }

 private:
  void open_channel(Fd socket);
  void on_closed(const Error& error);
  void try_again();
  void request_attach();
  void retry_later(const Error& error);
  void give_up(const Error& error);

  EventLoop& loop_;
  std::string path_;
  Handlers handlers_;
  std::uint64_t job_id_ = 0;
  bool up_ = true;
  Deadline deadline_;
  EventLoop::TimerId timer_ = 0;
  std::unique_ptr<MessageChannel> channel_;
};

}  // namespace gestalt::cli
