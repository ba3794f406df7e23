#include "daemon/sources/task_event_sources.h"

#include <unistd.h>

#include "common/log.h"
#include "daemon/sources/connector_task_events.h"
#include "daemon/sources/module_task_events.h"

namespace gestalt {
namespace {

// What comes in the meantime is taken together: a storm costs no more than a steady trickle.
constexpr auto kPause = std::chrono::milliseconds(20);

}  // namespace

void TaskEventSources::choose(bool by_module, const std::string& reason) {
  // A module that is there may be another one than before; that it is not there is no news.
  bool same = !by_module && !by_module_ && !why_chosen_.empty();
  by_module_ = by_module;
  why_chosen_ = reason;
  if (same) return;
  auto before = name_;
  leave();
  auto events = open();
  if (name_ != before || name_ == "none")
    log::info("events of processes", log::field("by", name_), log::field("reason", reason_));
  if (on_news_) use(std::move(events));
}

// Why the better one is not used is the reason for the other.
std::unique_ptr<TaskEvents> TaskEventSources::open() {
  reason_ = why_chosen_;
  if (by_module_) {
    auto opened = ModuleTaskEvents::open();
    name_ = "kmod";
    if (opened) return std::move(*opened);
    reason_ = opened.error().text();
  }
  auto opened = ConnectorTaskEvents::open();
  name_ = opened ? "connector" : "none";
  if (opened) return std::move(*opened);
  reason_ = opened.error().text();
  return nullptr;
}

void TaskEventSources::use(std::unique_ptr<TaskEvents> events) {
  if (events) {
    // Asio closes what it has.
    boost::system::error_code error;
    asio::posix::stream_descriptor readable(context_);
    readable.assign(::dup(events->descriptor()), error);
    if (error) return give_up(error.message());
    listening_ = std::make_shared<Listening>(std::move(events), std::move(readable));
    asio::co_spawn(context_, follow(this, listening_), asio::detached);
  }
  on_news_({.events = {}, .lost = true});
}

void TaskEventSources::listen(OnNews on_news) {
  on_news_ = std::move(on_news);
  if (!on_news_) return leave();
  if (listening_ || name_ == "none") return;
  use(open());
}

void TaskEventSources::give_up(const std::string& why) {
  leave();
  name_ = "none";
  reason_ = why;
  log::warning("no events of processes", log::field("error", why));
}

void TaskEventSources::leave() {
  if (!listening_) return;
  boost::system::error_code ignored;
  listening_->readable.close(ignored);
  listening_.reset();
}

void TaskEventSources::stop() {
  on_news_ = nullptr;
  leave();
}

Awaitable<> TaskEventSources::follow(TaskEventSources* self, std::shared_ptr<Listening> mine) {
  while (true) {
    auto [error] =
        co_await mine->readable.async_wait(asio::posix::stream_descriptor::wait_read, kAsResult);
    if (error || self->listening_ != mine) co_return;
    auto news = mine->events->take();
    if (!news) co_return self->give_up(news.error().text());
    self->on_news_(*news);
    co_await sleep_for(kPause);
    if (self->listening_ != mine) co_return;
  }
}

}  // namespace gestalt
