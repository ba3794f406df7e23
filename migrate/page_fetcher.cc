#include "migrate/page_fetcher.h"

#include <algorithm>
#include <utility>

namespace gestalt {
namespace {

// A gap of so many zero pages is read along with what is around it: another read costs more.
constexpr std::uint32_t kBridgedPages = 4;
constexpr auto kSendTimeout = std::chrono::seconds(10);

Result<void> send_request(PageConnection& connection, const PageRun& run, Deadline deadline) {
  auto payload = encode_request(run);
  return connection.send(FrameType::kRequest, run.address, std::span<const std::byte>(payload),
                         deadline);
}

class RequestFetcher final : public PageFetcher {
 public:
  explicit RequestFetcher(PageConnection& connection) : connection_(connection) {}

  Result<void> submit(const PageRun& run, Deadline deadline) override {
    return send_request(connection_, run, deadline);
  }

  Result<FetchedPages> next() override {
    GESTALT_ASSIGN(auto header, connection_.receive_header(Deadline::max()));
    if (header.type != FrameType::kChunk)
      return fail(ErrorCode::kProtocol, "unexpected frame among the pages");
    FetchedPages out;
    GESTALT_ASSIGN(out.run, reader_.receive(connection_, header, out.runs, Deadline::max()));
    return out;
  }

 private:
  PageConnection& connection_;
  ChunkReader reader_;
};

// As runs, for a zero page that was read should be one.
std::vector<ChunkRun> runs_of(const PageRun& run, std::span<const std::byte> pages) {
  std::vector<ChunkRun> out;
  for (std::uint32_t page = 0; page < run.count; ++page) {
    auto bytes = pages.subspan(page * kPageBytes, kPageBytes);
    RunKind kind = is_zero_page(bytes) ? RunKind::kZero : RunKind::kData;
    if (out.empty() || out.back().kind != kind)
      out.push_back({run.address + page * kPageBytes, 0, kind, {}});
    auto& last = out.back();
    ++last.count;
    if (kind == RunKind::kData)
      last.bytes = pages.subspan((last.address - run.address), last.count * kPageBytes);
  }
  return out;
}

// The pages of the runs of data, in as few pieces as is sensible: {first page, pages}.
std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces_of(const PageRun& run,
                                                               std::span<const ChunkRun> runs) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
  for (const auto& each : runs) {
    if (each.kind != RunKind::kData) continue;
    std::uint64_t first = (each.address - run.address) / kPageBytes;
    bool near = !out.empty() && first - (out.back().first + out.back().second) <= kBridgedPages;
    if (near || out.size() == kMaxReadsPerRequest)
      out.back().second = first + each.count - out.back().first;
    else
      out.emplace_back(first, each.count);
  }
  return out;
}

}  // namespace

std::unique_ptr<PageFetcher> make_request_fetcher(PageConnection& connection) {
  return std::make_unique<RequestFetcher>(connection);
}

Result<void> OneSidedFetcher::prepare(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  GESTALT_ASSIGN(landing_, one_sided_.landing(bytes));
  return {};
}

Result<void> OneSidedFetcher::open(const Staging& staging, const RemoteRangeTable& ranges) {
  std::lock_guard lock(mutex_);
  if (staging.bytes() > landing_.size())
    return fail(ErrorCode::kNoSpace, "more staging memory at the source than there is here");
  staging_ = staging;
  ranges_ = &ranges;
  slots_.resize(staging.slots);
  return {};
}

std::span<std::byte> OneSidedFetcher::memory_of(std::uint32_t slot) const {
  return landing_.subspan(std::size_t{slot} * staging_.slot_bytes, staging_.slot_bytes);
}

Result<void> OneSidedFetcher::submit(const PageRun& run, Deadline deadline) {
  std::lock_guard lock(mutex_);
  if (run.count * kPageBytes > staging_.slot_bytes)  // or not open
    return send_request(connection_, run, deadline);
  auto free = std::ranges::find(slots_, SlotState::kFree, &Slot::state);
  if (free == slots_.end()) {
    waiting_.push_back(run);
    return {};
  }
  return begin(run, static_cast<std::uint32_t>(free - slots_.begin()), deadline);
}

Result<void> OneSidedFetcher::begin(const PageRun& run, std::uint32_t number, Deadline deadline) {
  Slot& slot = slots_[number];
  slot.pages = {.run = run, .slot = number, .checksum = std::nullopt};
  slot.runs.clear();
  const RemoteRange* range = ranges_->find(run);
  slot.direct = range != nullptr;
  slot.state = slot.direct ? SlotState::kReading : SlotState::kAsked;
  if (!slot.direct) {
    auto payload = encode_staged_request({run, number});
    return connection_.send(FrameType::kStagedRequest, run.address,
                            std::span<const std::byte>(payload), deadline);
  }
  RemoteRead one{range->remote_address + (run.address - range->start), range->rkey,
                 memory_of(number).first(run.count * kPageBytes)};
  return read(std::span(&one, 1), number);
}

Result<void> OneSidedFetcher::read(std::span<const RemoteRead> reads, std::uint32_t slot) {
  counts_.reads += reads.size();
  for (const auto& each : reads) counts_.bytes += each.into.size();
  return one_sided_.read(reads, slot);
}

// Those that found no slot, as far as there are some now.
Result<void> OneSidedFetcher::begin_waiting() {
  for (std::uint32_t number = 0; number < slots_.size() && !waiting_.empty(); ++number) {
    if (slots_[number].state != SlotState::kFree) continue;
    PageRun run = waiting_.front();
    waiting_.pop_front();
    GESTALT_TRY(begin(run, number, deadline_in(kSendTimeout)));
  }
  return {};
}

Result<FetchedPages> OneSidedFetcher::next() {
  {
    std::lock_guard lock(mutex_);
    for (auto& slot : slots_)
      if (slot.state == SlotState::kGiven) slot.state = SlotState::kFree;
    GESTALT_TRY(begin_waiting());
  }
  FetchedPages out;
  while (true) {
    if (auto token = one_sided_.take_finished()) {
      GESTALT_TRY(finish(*token, out));
      return out;
    }
    if (!connection_.has_begun()) {
      GESTALT_TRY(one_sided_.wait_any(Deadline::max()));
      if (auto token = one_sided_.take_finished()) {
        GESTALT_TRY(finish(*token, out));
        return out;
      }
    }
    GESTALT_ASSIGN(bool complete, take_frame(out));
    if (complete) return out;
  }
}

// True: it brought pages.
Result<bool> OneSidedFetcher::take_frame(FetchedPages& out) {
  GESTALT_ASSIGN(auto header, connection_.receive_header(Deadline::max()));
  if (header.type == FrameType::kStaged) return take_staged(header, out);
  if (header.type != FrameType::kChunk)
    return fail(ErrorCode::kProtocol, "unexpected frame among the pages");
  GESTALT_ASSIGN(out.run, reader_.receive(connection_, header, out.runs, Deadline::max()));
  return true;
}

Result<bool> OneSidedFetcher::take_staged(const FrameHeader& header, FetchedPages& out) {
  GESTALT_TRY(connection_.receive_payload(header, payload_, Deadline::max()));
  std::vector<ChunkRun> runs;
  GESTALT_ASSIGN(auto pages, ChunkReader::decode_staged(header, payload_, runs));
  std::lock_guard lock(mutex_);
  if (pages.slot >= slots_.size() || slots_[pages.slot].state != SlotState::kAsked)
    return fail(ErrorCode::kProtocol, "pages in a slot that nobody asked for");
  Slot& slot = slots_[pages.slot];
  const PageRun& asked = slot.pages.run;
  if (asked.pid != pages.run.pid || asked.address != pages.run.address ||
      asked.count != pages.run.count)
    return fail(ErrorCode::kProtocol, "other pages than those that were asked for");
  slot.pages = pages;
  slot.runs = std::move(runs);
  slot.state = SlotState::kReading;
  if (data_bytes_of(slot.runs) > 0) {
    GESTALT_TRY(read_staged(pages.slot, slot));
    return false;
  }
  out = give(pages.slot);
  return true;
}

Result<void> OneSidedFetcher::read_staged(std::uint32_t number, Slot& slot) {
  std::vector<RemoteRead> reads;
  for (auto [first, count] : pieces_of(slot.pages.run, slot.runs))
    reads.push_back({staging_.slot_address(number) + first * kPageBytes, staging_.rkey,
                     memory_of(number).subspan(first * kPageBytes, count * kPageBytes)});
  for (auto& run : slot.runs)
    if (run.kind == RunKind::kData)
      run.bytes =
          memory_of(number).subspan(run.address - slot.pages.run.address, run.count * kPageBytes);
  return read(reads, number);
}

Result<void> OneSidedFetcher::finish(std::uint64_t token, FetchedPages& out) {
  std::lock_guard lock(mutex_);
  auto number = static_cast<std::uint32_t>(token);
  if (number >= slots_.size() || slots_[number].state != SlotState::kReading)
    return fail(ErrorCode::kInternal, "a read that nobody asked for");
  Slot& slot = slots_[number];
  if (slot.direct) {
    slot.runs = runs_of(slot.pages.run, memory_of(number));
    GESTALT_TRY(count_in_place(slot.pages.run.count));
  } else {
    GESTALT_TRY(check_staged(slot.pages, slot.runs));
  }
  out = give(number);
  return {};
}

// The source does not notice the reads, and has a progress to report.
Result<void> OneSidedFetcher::count_in_place(std::uint64_t pages) {
  untold_ += pages;
  if (untold_ >= told_pages_) {
    GESTALT_TRY(connection_.send(FrameType::kReadInPlace, std::exchange(untold_, 0),
                                 std::string_view(), deadline_in(kSendTimeout)));
  }
  counts_.pages_in_place += pages;
  return {};
}

// The slot is free again when the next pages are asked for.
FetchedPages OneSidedFetcher::give(std::uint32_t number) {
  Slot& slot = slots_[number];
  slot.state = SlotState::kGiven;
  return {slot.pages.run, std::move(slot.runs)};
}

}  // namespace gestalt
