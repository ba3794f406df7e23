#include "migrate/page_server.h"

#include "common/fault.h"
#include "common/log.h"
#include "migrate/page_fetcher.h"

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

std::map<std::uint64_t, Staging> PageServer::staging() {
  std::map<std::uint64_t, Staging> out;
  std::lock_guard lock(mutex_);
  for (auto& [number, link] : links_) {
    OneSided* one_sided = link.connection->stream().one_sided();
    auto memory = one_sided != nullptr ? one_sided->shared() : SharedMemory();
    if (memory.bytes.empty()) continue;
    Staging staging = staging_shape(number);
    staging.address = memory.address;
    staging.rkey = memory.rkey;
    out.emplace(number, staging);
  }
  return out;
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
    GESTALT_ASSIGN(auto header, connection.receive_header(Deadline::max()));
    GESTALT_TRY(connection.receive_payload(header, payload, Deadline::max()));
    if (header.type == FrameType::kReadInPlace) {
      GESTALT_TRY(count_in_place(connection, header));
      continue;
    }
    auto counts = answer(number, connection, header, payload, writer);
    if (!counts && counts.error().code == ErrorCode::kGone) pages_lost_ = true;
    if (!counts) return std::unexpected(std::move(counts).error());
    pages_sent_ += counts->sent;
    pages_zero_ += counts->zero;
  }
}

Result<PageCounts> PageServer::answer(std::uint64_t number, PageConnection& connection,
                                      const FrameHeader& header, std::span<const std::byte> payload,
                                      ChunkWriter& writer) {
  Deadline deadline = deadline_in(kAnswerTimeout);
  if (header.type == FrameType::kRequest) {
    GESTALT_ASSIGN(auto run, decode_request(header, payload));
    GESTALT_TRY(check_request(number, run));
    return writer.send(connection, run, deadline);
  }
  OneSided* one_sided = connection.stream().one_sided();
  if (header.type != FrameType::kStagedRequest || one_sided == nullptr)
    return fail(ErrorCode::kProtocol, "unexpected frame among the requests");
  GESTALT_ASSIGN(auto request, decode_staged_request(header, payload));
  GESTALT_TRY(check_request(number, request.run));
  auto shape = staging_shape(number);
  auto memory = one_sided->shared().bytes;
  if (memory.size() != shape.bytes() || request.slot >= shape.slots)
    return fail(ErrorCode::kProtocol, "request for pages in a slot that there is not");
  auto slot = memory.subspan(std::size_t{request.slot} * shape.slot_bytes, shape.slot_bytes);
  return writer.stage(connection, request, slot, deadline);
}

Result<void> PageServer::count_in_place(PageConnection& connection, const FrameHeader& header) {
  bool sensible = header.argument > 0 && header.argument <= kToldPages + kMaxPagesPerChunk;
  if (!sensible || connection.stream().one_sided() == nullptr)
    return fail(ErrorCode::kProtocol, "an impossible number of pages read in place");
  pages_in_place_ += header.argument;
  return {};
}

Result<void> PageServer::check_request(std::uint64_t number, const PageRun& run) {
  auto known = pages_.find(run.pid);
  if (known == pages_.end() || !known->second.contains(run.address, run.end()))
    return fail(ErrorCode::kProtocol, "request for pages that were not announced");
  GESTALT_TRY(fault_point(Fault::kSourceSendPages));
  if (number != kDemandLink) limiter_.take(run.count * kPageBytes);
  return {};
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
