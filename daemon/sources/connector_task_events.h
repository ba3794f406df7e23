// Events of processes by the kernel's proc connector: netlink messages, one for each event.
#pragma once

#include <memory>
#include <unordered_map>

#include "common/fd.h"
#include "daemon/sources/kernel_messages.h"
#include "daemon/sources/task_events.h"

namespace gestalt {

// Makes news of the connector's messages. Each CPU counts its own: a gap is a loss. Not
// thread-safe.
class ConnectorDecoder {
 public:
  // Our question has this number, by which the answer is known: all who listen get it.
  explicit ConnectorDecoder(std::uint32_t question) : question_(question) {}
  void decode(Bytes datagram, TaskNews& news);
  // The kernel's answer, as errno has it; nothing until then.
  [[nodiscard]] std::optional<int> answer() const { return answer_; }

 private:
  void decode_event(Bytes message, TaskNews& news);
  void count(std::uint32_t cpu, std::uint32_t sequence, TaskNews& news);
  std::uint32_t question_;
  std::optional<int> answer_;
  std::unordered_map<std::uint32_t, std::uint32_t> next_;  // by CPU
};

class ConnectorTaskEvents final : public TaskEvents {
 public:
  // kUnavailable: the kernel has none, or does not tell this process. It tells only root's in the
  // initial pid, user and network namespaces; some others get no answer, which takes kTrial.
  static constexpr std::chrono::milliseconds kTrial{250};
  [[nodiscard]] static Result<std::unique_ptr<TaskEvents>> open();
  ~ConnectorTaskEvents() override;

  [[nodiscard]] const char* name() const override { return "connector"; }
  [[nodiscard]] int descriptor() const override { return socket_.get(); }
  [[nodiscard]] Result<TaskNews> take() override;

 private:
  ConnectorTaskEvents(Fd socket, std::uint32_t question)
      : socket_(std::move(socket)), question_(question), decoder_(question) {}
  [[nodiscard]] Result<void> ask(std::uint32_t operation) const;
  [[nodiscard]] Result<void> await_answer();

  Fd socket_;
  std::uint32_t question_;
  ConnectorDecoder decoder_;
  bool counted_ = false;  // among those who listen
};

}  // namespace gestalt
