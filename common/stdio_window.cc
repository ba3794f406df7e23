#include "common/stdio_window.h"

#include <algorithm>

#include "common/format.h"

namespace gestalt {

std::size_t StdioSender::room() const {
  return buffer_.size() >= kStdioWindowBytes ? 0 : kStdioWindowBytes - buffer_.size();
}

void StdioSender::push(std::string_view data) { buffer_ += data; }

void StdioSender::push_eof() { eof_ = true; }

std::optional<StdioChunk> StdioSender::next() {
  std::size_t left = buffer_.size() - sent_;
  if (left == 0 && (!eof_ || eof_sent_)) return std::nullopt;
  StdioChunk chunk;
  chunk.offset = base_ + sent_;
  chunk.data = std::string_view(buffer_).substr(sent_, std::min(left, kStdioChunkBytes));
  sent_ += chunk.data.size();
  ever_sent_ = std::max(ever_sent_, sent_);
  chunk.eof = eof_ && sent_ == buffer_.size();
  eof_sent_ = chunk.eof;
  return chunk;
}

Result<void> StdioSender::acknowledge(std::uint64_t offset) {
  if (offset > base_ + ever_sent_)
    return fail(ErrorCode::kProtocol, formatted("acknowledgement of byte {}, only {} were sent",
                                                offset, base_ + ever_sent_));
  if (offset <= base_) return {};
  std::size_t count = offset - base_;
  buffer_.erase(0, count);
  // After a rewind it may be of bytes that were not sent again yet.
  sent_ -= std::min(sent_, count);
  ever_sent_ -= count;
  base_ = offset;
  return {};
}

void StdioSender::rewind() {
  sent_ = 0;
  eof_sent_ = false;
}

void StdioSender::restore(std::uint64_t base_offset, std::string pending, bool eof) {
  base_ = base_offset;
  buffer_ = std::move(pending);
  eof_ = eof;
  rewind();
  // The node before us may have sent any of it.
  ever_sent_ = buffer_.size();
}

Result<void> StdioReceiver::accept(std::uint64_t offset, std::string_view data, bool eof) {
  std::uint64_t expected = consumed_ + pending_.size();
  if (offset > expected)
    return fail(ErrorCode::kUnavailable,
                formatted("stdio data from byte {}, expected {}", offset, expected));
  std::uint64_t end = offset + data.size();
  if (end > expected) {
    if (eof_) return fail(ErrorCode::kProtocol, "stdio data after its end");
    data.remove_prefix(static_cast<std::size_t>(expected - offset));
    // A migration may rescue up to a pipe's content beyond the window.
    if (pending_.size() + data.size() > 4 * kStdioWindowBytes)
      return fail(ErrorCode::kProtocol, "peer exceeds the stdio window");
    pending_ += data;
  }
  // An end that lies before what we have already is a late copy of an older message.
  if (eof && end >= expected) eof_ = true;
  return {};
}

void StdioReceiver::consume(std::size_t count) {
  count = std::min(count, pending_.size());
  pending_.erase(0, count);
  consumed_ += count;
}

void StdioReceiver::restore(std::uint64_t consumed_offset, std::string pending, bool eof) {
  consumed_ = consumed_offset;
  pending_ = std::move(pending);
  eof_ = eof;
}

}  // namespace gestalt
