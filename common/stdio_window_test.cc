#include "common/stdio_window.h"

#include <gtest/gtest.h>

#include <random>

namespace gestalt {
namespace {

std::string take_all(StdioSender& sender, bool* eof = nullptr) {
  std::string out;
  while (auto chunk = sender.next()) {
    EXPECT_LE(chunk->data.size(), kStdioChunkBytes);
    out += chunk->data;
    if (eof != nullptr && chunk->eof) *eof = true;
  }
  return out;
}

TEST(StdioSender, ChunksWithOffsets) {
  StdioSender sender;
  EXPECT_FALSE(sender.next());
  sender.push(std::string(kStdioChunkBytes + 5, 'x'));
  auto first = sender.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->offset, 0U);
  EXPECT_EQ(first->data.size(), kStdioChunkBytes);
  EXPECT_FALSE(first->eof);
  auto second = sender.next();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->offset, kStdioChunkBytes);
  EXPECT_EQ(second->data.size(), 5U);
  EXPECT_FALSE(sender.next());
}

TEST(StdioSender, RoomShrinksAndReturns) {
  StdioSender sender;
  EXPECT_EQ(sender.room(), kStdioWindowBytes);
  sender.push(std::string(kStdioWindowBytes - 1, 'x'));
  EXPECT_EQ(sender.room(), 1U);
  sender.push("yz");  // rescued beyond the window
  EXPECT_EQ(sender.room(), 0U);
  take_all(sender);
  ASSERT_TRUE(sender.acknowledge(kStdioWindowBytes));
  EXPECT_EQ(sender.room(), kStdioWindowBytes - 1);
  EXPECT_EQ(sender.pending(), "z");
}

TEST(StdioSender, AcknowledgementsAreChecked) {
  StdioSender sender;
  EXPECT_FALSE(sender.acknowledge(1));
  sender.push("abcdef");
  EXPECT_FALSE(sender.acknowledge(1)) << "nothing was sent yet";
  take_all(sender);
  EXPECT_TRUE(sender.acknowledge(4));
  EXPECT_TRUE(sender.acknowledge(2)) << "an old one";
  EXPECT_EQ(sender.base_offset(), 4U);
  EXPECT_FALSE(sender.acknowledge(7));
  EXPECT_FALSE(sender.acknowledge(~0ULL));
  EXPECT_TRUE(sender.acknowledge(6));
}

TEST(StdioSender, Eof) {
  StdioSender sender;
  sender.push("ab");
  sender.push_eof();
  auto chunk = sender.next();
  ASSERT_TRUE(chunk);
  EXPECT_TRUE(chunk->eof);
  EXPECT_FALSE(sender.next());
  EXPECT_FALSE(sender.finished());
  ASSERT_TRUE(sender.acknowledge(2));
  EXPECT_TRUE(sender.finished());

  StdioSender empty;
  empty.push_eof();
  EXPECT_FALSE(empty.finished());
  auto end = empty.next();
  ASSERT_TRUE(end);
  EXPECT_TRUE(end->eof && end->data.empty());
  EXPECT_FALSE(empty.next());
  EXPECT_TRUE(empty.finished());
}

TEST(StdioSender, EofOnlyWithTheLastChunk) {
  StdioSender sender;
  sender.push(std::string(kStdioChunkBytes, 'x') + "y");
  sender.push_eof();
  EXPECT_FALSE(sender.next()->eof);
  EXPECT_TRUE(sender.next()->eof);
}

// After a resync both ends send their newest acknowledgements, which may be of what was
// sent before it and not again since.
TEST(StdioSender, AcknowledgementOfWhatWasSentBeforeARewind) {
  StdioSender sender;
  sender.push("abcdef");
  take_all(sender);
  sender.rewind();
  ASSERT_TRUE(sender.acknowledge(4));
  EXPECT_EQ(take_all(sender), "ef");
  sender.rewind();
  EXPECT_EQ(sender.next()->offset, 4U);
  EXPECT_FALSE(sender.acknowledge(7));

  StdioSender moved;  // the old node may have sent any of it
  moved.restore(100, "abcdef", false);
  ASSERT_TRUE(moved.acknowledge(103));
  EXPECT_EQ(moved.next()->offset, 103U);
  EXPECT_FALSE(moved.acknowledge(107));
}

TEST(StdioSender, RewindRepeatsTheEof) {
  StdioSender sender;
  sender.push("ab");
  sender.push_eof();
  take_all(sender);
  ASSERT_TRUE(sender.acknowledge(2));
  sender.rewind();
  EXPECT_FALSE(sender.finished());
  auto chunk = sender.next();
  ASSERT_TRUE(chunk);
  EXPECT_EQ(chunk->offset, 2U);
  EXPECT_TRUE(chunk->eof && chunk->data.empty());
}

TEST(StdioReceiver, InOrder) {
  StdioReceiver receiver;
  ASSERT_TRUE(receiver.accept(0, "abc", false));
  ASSERT_TRUE(receiver.accept(3, "def", false));
  EXPECT_EQ(receiver.pending(), "abcdef");
  receiver.consume(4);
  EXPECT_EQ(receiver.consumed_offset(), 4U);
  receiver.consume(100);
  EXPECT_EQ(receiver.consumed_offset(), 6U);
  EXPECT_FALSE(receiver.eof());
}

TEST(StdioReceiver, DuplicatesAndOverlapsAreDropped) {
  StdioReceiver receiver;
  ASSERT_TRUE(receiver.accept(0, "abc", false));
  receiver.consume(2);
  ASSERT_TRUE(receiver.accept(0, "abc", false));
  ASSERT_TRUE(receiver.accept(0, "ab", false));
  ASSERT_TRUE(receiver.accept(1, "bcde", false));
  ASSERT_TRUE(receiver.accept(5, "", false));
  EXPECT_EQ(receiver.pending(), "cde");
}

TEST(StdioReceiver, GapsAreRefused) {
  StdioReceiver receiver;
  ASSERT_TRUE(receiver.accept(0, "abc", false));
  for (std::uint64_t offset : {4ULL, 1ULL << 40, ~0ULL}) {
    auto gap = receiver.accept(offset, "x", false);
    ASSERT_FALSE(gap);
    EXPECT_EQ(gap.error().code, ErrorCode::kUnavailable);
  }
  EXPECT_FALSE(receiver.accept(4, "", true));
  EXPECT_EQ(receiver.pending(), "abc") << "a refused piece leaves no trace";
  ASSERT_TRUE(receiver.accept(3, "d", false));
  EXPECT_EQ(receiver.pending(), "abcd");
}

TEST(StdioReceiver, Eof) {
  StdioReceiver receiver;
  ASSERT_TRUE(receiver.accept(0, "abc", true));
  EXPECT_TRUE(receiver.eof());
  EXPECT_FALSE(receiver.at_eof());
  ASSERT_TRUE(receiver.accept(0, "abc", true));
  ASSERT_TRUE(receiver.accept(3, "", true));
  ASSERT_TRUE(receiver.accept(1, "b", false)) << "a late copy";
  EXPECT_FALSE(receiver.accept(3, "d", false));
  EXPECT_FALSE(receiver.accept(0, "abcd", true));
  receiver.consume(3);
  EXPECT_TRUE(receiver.at_eof());
}

TEST(StdioReceiver, FloodIsRefused) {
  StdioReceiver receiver;
  std::string chunk(kStdioChunkBytes, 'x');
  std::uint64_t offset = 0;
  Result<void> accepted;
  while (accepted && offset < 64 * kStdioWindowBytes) {
    accepted = receiver.accept(offset, chunk, false);
    offset += chunk.size();
  }
  EXPECT_FALSE(accepted);
  EXPECT_LE(receiver.pending().size(), 4 * kStdioWindowBytes);
  EXPECT_FALSE(StdioReceiver().accept(0, std::string(8 * kStdioWindowBytes, 'x'), false));
}

TEST(StdioReceiver, HandOver) {
  StdioReceiver receiver;
  receiver.restore(1000, "pending", true);
  EXPECT_EQ(receiver.consumed_offset(), 1000U);
  ASSERT_TRUE(receiver.accept(900, std::string(107, 'x'), true));
  EXPECT_EQ(receiver.pending(), "pending");
  receiver.consume(7);
  EXPECT_TRUE(receiver.at_eof());
}

// Losses of the connection and moves of both ends at random: every byte arrives once.
TEST(StdioWindow, SurvivesReconnectsAndMoves) {
  std::mt19937 random(42);
  std::string sent;
  std::string received;
  StdioSender sender;
  StdioReceiver receiver;
  bool closed = false;
  for (int step = 0; step < 200'000 && !receiver.at_eof(); ++step) {
    switch (random() % 12) {
      case 0:
      case 1: {
        if (closed) break;
        std::string data(std::min<std::size_t>(sender.room(), random() % 50'000), '\0');
        for (char& c : data) c = static_cast<char>(random());
        sender.push(data);
        sent += data;
        if (sent.size() > 4'000'000) sender.push_eof(), closed = true;
        break;
      }
      case 2:
        if (random() % 20 == 0) sender.rewind();
        break;
      case 3:
        if (random() % 20 == 0)
          sender.restore(sender.base_offset(), sender.pending(), sender.eof());
        break;
      case 4:
        if (random() % 20 == 0)
          receiver.restore(receiver.consumed_offset(), receiver.pending(), receiver.eof());
        break;
      case 5: {
        auto count = std::min<std::size_t>(receiver.pending().size(), random() % 60'000);
        received += receiver.pending().substr(0, count);
        receiver.consume(count);
        break;
      }
      case 6:
        ASSERT_TRUE(sender.acknowledge(receiver.consumed_offset()));
        break;
      default: {
        auto chunk = sender.next();
        // Some are lost; then the connection is made anew.
        if (chunk && random() % 50 == 0) {
          sender.rewind();
        } else if (chunk) {
          ASSERT_TRUE(receiver.accept(chunk->offset, chunk->data, chunk->eof));
        }
      }
    }
  }
  EXPECT_TRUE(receiver.at_eof());
  EXPECT_EQ(received.size(), sent.size());
  EXPECT_TRUE(received == sent);
}

}  // namespace
}  // namespace gestalt
