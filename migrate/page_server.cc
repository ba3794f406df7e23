#include "migrate/page_server.h"

#include "common/fault.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr auto kReconnectPause = std::chrono::milliseconds(200);
constexpr auto kConnectTimeout = std::chrono::seconds(3);
constexpr auto kAnswerTimeout = std::chrono::seconds(30);

std::uint64_t bytes_of(PageConnection& connection) {
  return connection.stream().bytes_sent() + connection.stream().bytes_received();
}

}  // namespace

PageServer::PageServer(Kernel& kernel, ChunkOptions options,
                       std::uint64_t bandwidth_bytes_per_second, Connect connect)
    : kernel_(kernel),
      options_(options),
      limiter_(bandwidth_bytes_per_second),
      connect_(std::move(connect)) {}

PageServer::~PageServer() { stop(); }

Result<void> PageServer::connect(std::uint64_t bulk_links, Deadline deadline) {
  for (std::uint64_t link = kDemandLink; link < kFirstBulkLink + bulk_links; ++link) {
    GESTALT_ASSIGN(auto connection, connect_(link, deadline));
    std::lock_guard lock(mutex_);
    if (stopping_) return fail(ErrorCode::kUnavailable, "cancelled");
    links_[link].connection = std::move(connection);
  }
  return {};
}

PageConnection& PageServer::bulk_link(std::uint64_t index) {
  return *links_.at(kFirstBulkLink + index).connection;
}

void PageServer::serve(std::map<std::uint32_t, PageSet> pages) {
  pages_ = std::move(pages);
  for (auto& [number, link] : links_)
    link.thread = std::jthread([this, number, &link] { work(number, link); });
}

void PageServer::keep_alive() {
  std::lock_guard lock(mutex_);
  keep_alive_ = true;
  changed_.notify_all();
}

void PageServer::cancel() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  for (auto& [number, link] : links_)
    if (link.connection) link.connection->stream().shut_down();
  changed_.notify_all();
}

void PageServer::stop() {
  cancel();
  for (auto& [number, link] : links_)
    if (link.thread.joinable()) link.thread.join();
}

void PageServer::work(std::uint64_t number, Link& link) {
  do {
    auto done = answer_requests(number, *link.connection);
    std::lock_guard lock(mutex_);
    if (!done && !stopping_)
      log::info("page connection lost", log::field("link", number),
                log::field("error", done.error().text()));
    link.connection->stream().shut_down();
  } while (connect_again(number, link));
}

Result<void> PageServer::answer_requests(std::uint64_t number, PageConnection& connection) {
  ChunkWriter writer(kernel_, options_, &keepers_);
  std::vector<std::byte> payload;
  while (true) {
    GESTALT_ASSIGN([[maybe_unused]] auto header,
                   connection.expect(FrameType::kRequest, payload, Deadline::max()));
    GESTALT_ASSIGN(auto run, decode_request(header, payload));
    auto known = pages_.find(run.pid);
    if (known == pages_.end() || !known->second.contains(run.address, run.end()))
      return fail(ErrorCode::kProtocol, "request for pages that were not announced");
    GESTALT_TRY(fault_point(Fault::kSourceSendPages));
    if (number != kDemandLink) limiter_.take(run.count * kPageBytes);
    auto counts = writer.send(connection, run, deadline_in(kAnswerTimeout));
    if (!counts && counts.error().code == ErrorCode::kGone) pages_lost_ = true;
    if (!counts) return std::unexpected(std::move(counts).error());
    pages_sent_ += counts->sent;
    pages_zero_ += counts->zero;
  }
}

bool PageServer::connect_again(std::uint64_t number, Link& link) {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || keep_alive_; });
      (void)changed_.wait_for(lock, kReconnectPause, [this] { return stopping_; });
      if (stopping_) return false;
    }
    auto connection = connect_(number, deadline_in(kConnectTimeout));
    if (!connection) continue;
    std::lock_guard lock(mutex_);
    old_wire_bytes_ += bytes_of(*link.connection);
    link.connection = std::move(*connection);
    if (stopping_) link.connection->stream().shut_down();
    return !stopping_;
  }
}

std::uint64_t PageServer::wire_bytes() {
  std::lock_guard lock(mutex_);
  std::uint64_t sum = old_wire_bytes_;
  for (auto& [number, link] : links_)
    if (link.connection) sum += bytes_of(*link.connection);
  return sum;
}

}  // namespace gestalt
