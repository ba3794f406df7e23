#include "common/frame.h"

#include <gtest/gtest.h>

#include <random>

namespace gestalt {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

wire::Message goodbye(const std::string& reason, std::uint64_t id = 7) {
  wire::Message message;
  message.set_request_id(id);
  message.mutable_goodbye()->set_reason(reason);
  return message;
}

std::string length_prefix(std::uint32_t length) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>((length >> shift) & 0xFF);
  return out;
}

TEST(Frame, LengthIsInNetworkOrder) {
  auto frame = encode_frame(goodbye("x"));
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->substr(0, 4), length_prefix(static_cast<std::uint32_t>(frame->size() - 4)));
}

TEST(Frame, ByteByByte) {
  std::string stream;
  for (int i = 0; i < 5; ++i)
    stream += *encode_frame(goodbye(std::string(static_cast<std::size_t>(i) * 100, 'r')));
  FrameDecoder decoder;
  std::size_t seen = 0;
  for (char c : stream) {
    decoder.append(bytes(std::string_view(&c, 1)));
    auto message = decoder.next();
    ASSERT_TRUE(message);
    if (!*message) continue;
    EXPECT_EQ((*message)->goodbye().reason().size(), seen * 100);
    ++seen;
  }
  EXPECT_EQ(seen, 5U);
}

TEST(Frame, ManyInOnePiece) {
  std::string stream;
  for (std::uint64_t i = 0; i < 1000; ++i) stream += *encode_frame(goodbye("x", i));
  FrameDecoder decoder;
  decoder.append(bytes(stream));
  for (std::uint64_t i = 0; i < 1000; ++i) {
    auto message = decoder.next();
    ASSERT_TRUE(message && *message);
    EXPECT_EQ((*message)->request_id(), i);
  }
  EXPECT_FALSE(decoder.next()->has_value());
}

TEST(Frame, EmptyMessage) {
  auto frame = encode_frame(wire::Message{});
  ASSERT_TRUE(frame);
  EXPECT_EQ(*frame, length_prefix(0));
  FrameDecoder decoder;
  decoder.append(bytes(*frame));
  auto message = decoder.next();
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->body_case(), wire::Message::BODY_NOT_SET);
}

TEST(Frame, RefusesTooLongBeforeItsBytesCome) {
  for (std::uint32_t length : {1001U, 0x7FFF'FFFFU, 0x8000'0000U, 0xFFFF'FFFFU}) {
    FrameDecoder decoder(1000);
    decoder.append(bytes(length_prefix(length)));
    auto message = decoder.next();
    ASSERT_FALSE(message) << length;
    EXPECT_EQ(message.error().code, ErrorCode::kProtocol);
  }
  FrameDecoder decoder(1000);
  decoder.append(bytes(length_prefix(1000)));
  EXPECT_FALSE(decoder.next()->has_value());
  decoder.set_limit_bytes(999);
  EXPECT_FALSE(decoder.next());
}

TEST(Frame, AfterAnErrorThereIsNothingMore) {
  FrameDecoder decoder;
  decoder.append(bytes(length_prefix(3) + "\xff\xff\xff"));
  EXPECT_EQ(decoder.next().error().code, ErrorCode::kProtocol);
  decoder.append(bytes(*encode_frame(goodbye("x"))));
  EXPECT_FALSE(decoder.next());
}

TEST(Frame, OurOwnLimit) {
  EXPECT_TRUE(encode_frame(goodbye(std::string(kMaxFrameBytes - 100, 'x'))));
  auto too_big = encode_frame(goodbye(std::string(kMaxFrameBytes, 'x')));
  ASSERT_FALSE(too_big);
  EXPECT_EQ(too_big.error().code, ErrorCode::kInvalidArgument);
}

// proto3 strings must be UTF-8 on the wire: what our own errors quote may not be.
TEST(Frame, AnErrorThatQuotesBadUtf8ComesThrough) {
  Error error{ErrorCode::kNotFound, "no file \xff\xfe\x80", "rename \xc3("};
  auto frame = encode_frame(error_reply(1, error));
  ASSERT_TRUE(frame);
  FrameDecoder decoder;
  decoder.append(bytes(*frame));
  auto message = decoder.next();
  ASSERT_TRUE(message) << message.error().text();
  ASSERT_TRUE(*message);
  EXPECT_TRUE((*message)->error().message().starts_with("no file "));
}

TEST(Utf8, KeepsGoodTextAndReplacesTheRest) {
  const std::string mark = "\xEF\xBF\xBD";
  for (const char* good : {"", "plain", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x90\xA7",
                           "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"})
    EXPECT_EQ(valid_utf8(good), good);
  EXPECT_EQ(valid_utf8("a\xFFz"), "a" + mark + "z");
  EXPECT_EQ(valid_utf8("\xC0\xAF"), mark + mark) << "overlong";
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), mark + mark + mark) << "a surrogate";
  EXPECT_EQ(valid_utf8("\xF4\x90\x80\x80"), mark + mark + mark + mark);
  EXPECT_EQ(valid_utf8("a\xE2\x82"), "a" + mark + mark) << "cut short";
  EXPECT_EQ(valid_utf8("\xC3("), mark + "(");
  EXPECT_EQ(valid_utf8(std::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Frame, RandomBytesNeverCrash) {
  std::mt19937 random(1);
  auto good = *encode_frame(goodbye("hello"));
  for (int round = 0; round < 20'000; ++round) {
    FrameDecoder decoder(1000);
    std::string noise = good + good;
    for (int i = 0; i < 3; ++i) noise[random() % noise.size()] = static_cast<char>(random());
    decoder.append(bytes(noise));
    for (int i = 0; i < 3; ++i) {
      auto message = decoder.next();
      if (!message || !*message) break;
    }
  }
}

TEST(Frame, ErrorsKeepTheirParts) {
  Error error{ErrorCode::kExecDenied, "message", "remedy"};
  auto again = from_wire(to_wire(error));
  EXPECT_EQ(again.code, error.code);
  EXPECT_EQ(again.text(), error.text());
  wire::Error unknown;
  unknown.set_code(static_cast<wire::ErrorCode>(9999));
  EXPECT_EQ(from_wire(unknown).code, ErrorCode::kInternal);
  EXPECT_EQ(from_wire(wire::Error{}).code, ErrorCode::kInternal);
  auto reply = error_reply(42, error);
  EXPECT_TRUE(reply.is_reply());
  EXPECT_EQ(reply.request_id(), 42U);
}

}  // namespace
}  // namespace gestalt
