// What every transport must do, over each of them.
#include "migrate/transport.h"

#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <thread>
#include <vector>

#include "migrate/fake_transport.h"
#include "migrate/page_wire.h"
#include "migrate/rdma_rig.h"

namespace gestalt {
namespace {

using namespace std::chrono_literals;

Deadline soon() { return deadline_in(60s); }

enum class Kind { kTcp, kFake, kRdma };

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::kTcp ? "tcp" : info.param == Kind::kFake ? "fake" : "rdma";
}

std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> out(bytes);
  for (std::size_t i = 0; i < bytes; ++i)
    out[i] = static_cast<std::byte>((i * 2654435761U + seed) >> 11);
  return out;
}

class TransportTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kFake) {
      std::tie(near_, far_) = make_fake_streams();
      return;
    }
    std::string address = "127.0.0.1";
    if (GetParam() == Kind::kRdma) {
      GESTALT_NEED_RDMA(found);
      address = found.address;
      auto domain = RdmaDomain::at(address);
      ASSERT_TRUE(domain) << domain.error().text();
      rdma_ = make_rdma_transport(*domain);
    }
    connect(rdma_ ? *rdma_ : tcp_transport(), address);
  }

  void connect(Transport& transport, const std::string& address) {
    auto listener = transport.listen(address, 0);
    ASSERT_TRUE(listener) << listener.error().text();
    auto accepted = std::async(std::launch::async, [&] { return (*listener)->accept(soon()); });
    auto near = transport.connect(address, (*listener)->port(), soon());
    ASSERT_TRUE(near) << near.error().text();
    auto far = accepted.get();
    ASSERT_TRUE(far) << far.error().text();
    near_ = std::move(*near);
    far_ = std::move(*far);
  }

  std::unique_ptr<Transport> rdma_;
  std::unique_ptr<Stream> near_;
  std::unique_ptr<Stream> far_;
};

TEST_P(TransportTest, BytesArriveInOrderBothWaysAtOnce) {
  constexpr std::size_t kBytes = 3'000'001;
  auto there = pattern(kBytes, 1);
  auto back = pattern(kBytes, 2);
  auto send = [](Stream& stream, const std::vector<std::byte>& bytes) {
    for (std::size_t at = 0, piece = 1; at < bytes.size(); piece = piece * 3 % 100'003 + 1) {
      auto part = std::span(bytes).subspan(at, std::min(piece, bytes.size() - at));
      ASSERT_TRUE(stream.send(part, soon()));
      at += part.size();
    }
  };
  auto receive = [](Stream& stream, const std::vector<std::byte>& wanted) {
    std::vector<std::byte> got(wanted.size());
    for (std::size_t at = 0, piece = 1; at < got.size(); piece = piece * 5 % 70'001 + 1) {
      auto part = std::span(got).subspan(at, std::min(piece, got.size() - at));
      ASSERT_TRUE(stream.receive(part, soon()));
      at += part.size();
    }
    EXPECT_TRUE(got == wanted);
  };
  std::jthread a([&] { send(*near_, there); });
  std::jthread b([&] { send(*far_, back); });
  std::jthread c([&] { receive(*far_, there); });
  receive(*near_, back);
  a.join();
  b.join();
  c.join();
  EXPECT_GE(near_->bytes_sent(), kBytes);
  EXPECT_GE(near_->bytes_received(), kBytes);
  EXPECT_LE(near_->bytes_sent(), kBytes * 2);
}

TEST_P(TransportTest, ASenderWaitsForWhoDoesNotRead) {
  auto bytes = pattern(64U << 20, 3);
  auto sent = near_->send(bytes, deadline_in(300ms));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kTimeout);
  std::vector<std::byte> got(100'000);
  ASSERT_TRUE(far_->receive(got, soon()));
  EXPECT_EQ(std::memcmp(got.data(), bytes.data(), got.size()), 0);
}

TEST_P(TransportTest, ManySmallMessagesOneWay) {
  std::jthread sender([&] {
    for (std::uint32_t i = 0; i < 2000; ++i)
      ASSERT_TRUE(near_->send(std::as_bytes(std::span(&i, 1)), soon()));
  });
  for (std::uint32_t i = 0; i < 2000; ++i) {
    std::uint32_t got = 0;
    ASSERT_TRUE(far_->receive(std::as_writable_bytes(std::span(&got, 1)), soon()));
    ASSERT_EQ(got, i);
  }
}

TEST_P(TransportTest, PingPong) {
  std::jthread other([&] {
    std::uint32_t word = 0;
    for (int i = 0; i < 500; ++i) {
      ASSERT_TRUE(far_->receive(std::as_writable_bytes(std::span(&word, 1)), soon()));
      ASSERT_TRUE(far_->send(std::as_bytes(std::span(&word, 1)), soon()));
    }
  });
  for (std::uint32_t i = 0; i < 500; ++i) {
    std::uint32_t got = 0;
    ASSERT_TRUE(near_->send(std::as_bytes(std::span(&i, 1)), soon()));
    ASSERT_TRUE(near_->receive(std::as_writable_bytes(std::span(&got, 1)), soon()));
    ASSERT_EQ(got, i);
  }
}

TEST_P(TransportTest, WaitingEndsByTheDeadline) {
  auto began = Clock::now();
  std::byte byte;
  EXPECT_EQ(near_->wait_readable(deadline_in(50ms)).error().code, ErrorCode::kTimeout);
  EXPECT_EQ(near_->receive({&byte, 1}, deadline_in(50ms)).error().code, ErrorCode::kTimeout);
  EXPECT_LT(seconds_between(began, Clock::now()), 20);
}

TEST_P(TransportTest, WhatWasSentBeforeTheEndArrives) {
  auto bytes = pattern(10'000, 4);
  ASSERT_TRUE(near_->send(bytes, soon()));
  near_->shut_down();
  near_.reset();
  std::vector<std::byte> got(bytes.size());
  auto received = far_->receive(got, soon());
  ASSERT_TRUE(received) << received.error().text();
  EXPECT_TRUE(got == bytes);
  EXPECT_EQ(far_->receive({got.data(), 1}, soon()).error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(far_->wait_readable(soon()));
}

TEST_P(TransportTest, ShuttingDownWakesBothEnds) {
  auto waiting = [](Stream& stream) {
    std::byte byte;
    return stream.receive({&byte, 1}, soon());
  };
  auto a = std::async(std::launch::async, [&] { return waiting(*near_); });
  auto b = std::async(std::launch::async, [&] { return waiting(*far_); });
  std::this_thread::sleep_for(20ms);
  auto began = Clock::now();
  near_->shut_down();
  EXPECT_EQ(a.get().error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(b.get().error().code, ErrorCode::kUnavailable);
  EXPECT_LT(seconds_between(began, Clock::now()), 20);
  auto bytes = pattern(1000, 5);
  EXPECT_FALSE(near_->send(bytes, soon()));
}

TEST_P(TransportTest, ShuttingDownWakesASender) {
  auto bytes = pattern(64U << 20, 6);
  auto sent = std::async(std::launch::async, [&] { return near_->send(bytes, soon()); });
  std::this_thread::sleep_for(50ms);
  far_->shut_down();
  EXPECT_FALSE(sent.get());
}

TEST_P(TransportTest, BothEndsAuthenticate) {
  PageConnection near(std::move(near_));
  PageConnection far(std::move(far_));
  std::string secret(32, 's');
  auto other = std::async(std::launch::async, [&] {
    std::uint64_t link = 0;
    auto done = authenticate(far, PageRole::kDestination, secret, link, soon());
    return done && link == kDemandLink;
  });
  std::uint64_t link = kDemandLink;
  EXPECT_TRUE(authenticate(near, PageRole::kSource, secret, link, soon()));
  EXPECT_TRUE(other.get());
}

TEST_P(TransportTest, AnIdleConnectionLasts) {
  std::byte byte{7};
  EXPECT_EQ(near_->receive({&byte, 1}, deadline_in(2500ms)).error().code, ErrorCode::kTimeout);
  ASSERT_TRUE(far_->send({&byte, 1}, soon()));
  ASSERT_TRUE(near_->receive({&byte, 1}, soon()));
}

INSTANTIATE_TEST_SUITE_P(All, TransportTest, testing::Values(Kind::kTcp, Kind::kFake, Kind::kRdma),
                         name_of);

}  // namespace
}  // namespace gestalt
