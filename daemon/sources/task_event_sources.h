// Which source of events is in use, while somebody listens: the module's while it is loaded, else
// the kernel's proc connector, else none.
#pragma once

#include "daemon/asio.h"
#include "daemon/sources/task_events.h"

namespace gestalt {

// Not thread-safe.
class TaskEventSources {
 public:
  using OnNews = std::function<void(const TaskNews&)>;
  explicit TaskEventSources(asio::io_context& context) : context_(context) {}

  // Anew, as the module has come (`by_module`) or gone. `reason` says why. Whoever listens gets
  // news that something was lost: what happened at the change nobody knows.
  void choose(bool by_module, const std::string& reason);
  // An empty function: nobody listens any more, and the kernel has nothing to tell.
  void listen(OnNews on_news);
  void stop();

  // "kmod", "connector" or "none": which is in use, or would be if somebody listened.
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& reason() const { return reason_; }

 private:
  struct Listening {
    std::unique_ptr<TaskEvents> events;
    asio::posix::stream_descriptor readable;
  };
  [[nodiscard]] std::unique_ptr<TaskEvents> open();
  void use(std::unique_ptr<TaskEvents> events);
  void give_up(const std::string& why);
  void leave();
  static Awaitable<> follow(TaskEventSources* self, std::shared_ptr<Listening> mine);

  asio::io_context& context_;
  bool by_module_ = false;
  std::string why_chosen_;
  std::string name_ = "none";
  std::string reason_;
  OnNews on_news_;
  std::shared_ptr<Listening> listening_;
};

}  // namespace gestalt
