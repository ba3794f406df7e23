// The windows of a job's stdio, against a peer that says anything, and against a
// connection that is cut and made anew at any moment.
#include <algorithm>
#include <cstdint>

#include "common/stdio_window.h"
#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

class Input {
 public:
  explicit Input(std::string_view bytes) : bytes_(bytes) {}
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    auto value = static_cast<std::uint8_t>(bytes_.front());
    bytes_.remove_prefix(1);
    return value;
  }
  std::uint64_t number() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return value;
  }
  std::string_view piece() {
    std::size_t wanted = byte();
    std::size_t count = std::min(wanted, bytes_.size());
    std::string_view out = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return out;
  }

 private:
  std::string_view bytes_;
};

// A peer that acknowledges and sends what it likes.
void run_hostile(std::string_view bytes) {
  Input input(bytes);
  StdioSender sender;
  StdioReceiver receiver;
  while (!input.empty()) {
    switch (input.byte() % 6) {
      case 0:
        if (!sender.eof() && sender.room() > 255) sender.push(input.piece());
        break;
      case 1:
        if (auto chunk = sender.next())
          promise(chunk->data.size() <= kStdioChunkBytes, "a chunk keeps to its limit");
        break;
      case 2:
        if (!sender.acknowledge(input.number() >> (input.byte() % 64))) return;
        break;
      case 3:
        sender.rewind();
        break;
      case 4:
        if (!receiver.accept(input.number() >> (input.byte() % 64), input.piece(),
                             input.byte() % 16 == 0))
          return;
        promise(receiver.pending().size() <= kStdioWindowBytes, "the window bounds what is kept");
        break;
      case 5:
        receiver.consume(std::min<std::size_t>(input.byte(), receiver.pending().size()));
        break;
    }
  }
}

// Sender and receiver with a connection between them that loses what is under way.
// Every byte arrives once and in order.
void run_reconnect(std::string_view bytes) {
  Input input(bytes);
  StdioSender sender;
  StdioReceiver receiver;
  std::string sent;
  std::string received;
  auto move = [&](bool lose) {
    auto chunk = sender.next();
    if (!chunk || lose) return chunk.has_value();
    promise(receiver.accept(chunk->offset, chunk->data, chunk->eof).has_value(),
            "an honest sender is never refused");
    return true;
  };
  auto consume = [&](std::size_t most) {
    std::size_t count = std::min(most, receiver.pending().size());
    received += receiver.pending().substr(0, count);
    receiver.consume(count);
  };
  auto acknowledge = [&] {
    promise(sender.acknowledge(receiver.consumed_offset()).has_value(),
            "an honest receiver is never refused");
  };
  while (!input.empty()) {
    switch (input.byte() % 7) {
      case 0: {
        std::string_view piece = input.piece();
        if (sender.room() < piece.size()) break;
        sender.push(piece);
        sent += piece;
        break;
      }
      case 1:
        move(false);
        break;
      case 2:
        consume(input.byte());
        break;
      case 3:
        acknowledge();
        break;
      case 4:  // the connection is cut: this one is lost, and what follows comes again
        move(true);
        sender.rewind();
        break;
      case 5: {  // the sender moves to another node
        StdioSender moved;
        moved.restore(sender.base_offset(), sender.pending(), sender.eof());
        sender = std::move(moved);
        break;
      }
      case 6: {  // the receiver does
        StdioReceiver moved;
        moved.restore(receiver.consumed_offset(), receiver.pending(), receiver.eof());
        receiver = std::move(moved);
        sender.rewind();
        break;
      }
    }
  }
  sender.push_eof();
  sender.rewind();
  for (int i = 0; i < 10'000 && !sender.finished(); ++i) {
    move(false);
    consume(received.max_size());
    acknowledge();
  }
  promise(sender.finished(), "the stream comes to its end");
  promise(receiver.at_eof(), "and the receiver knows");
  promise(received == sent, "every byte arrives once and in order");
}

std::vector<std::string> seeds() {
  std::string mixed;
  for (int i = 0; i < 200; ++i) {
    mixed.push_back(static_cast<char>(i % 7));
    mixed.push_back(static_cast<char>(20 + i % 5));
  }
  return {mixed, std::string("\0\5hello\1\2\5\3", 11), std::string(64, '\4')};
}

}  // namespace

std::span<const Entry> stdio_entries() {
  static constexpr Entry kEntries[] = {{"stdio_hostile", run_hostile, seeds},
                                       {"stdio_reconnect", run_reconnect, seeds}};
  return kEntries;
}

}  // namespace gestalt::fuzz
