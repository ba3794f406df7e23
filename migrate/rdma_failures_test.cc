// What happens to RDMA connections when something ends: the other end, the device, the network.
// Always an error in time, never a wait for ever.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <thread>

#include "common/format.h"
#include "migrate/page_wire.h"
#include "migrate/rdma_rig.h"

namespace gestalt {
namespace {

using namespace std::chrono_literals;
using testing_rig::find_rdma_address;

constexpr char kPeerVariable[] = "GESTALT_RDMA_TEST_PEER";
constexpr double kInTimeSeconds = 30;  // the limit is 5 s, but for machines that are emulated

Deadline soon() { return deadline_in(60s); }
std::string secret() { return std::string(32, 's'); }

std::unique_ptr<Transport> transport_at(const std::string& address) {
  auto domain = RdmaDomain::at(address);
  return domain ? make_rdma_transport(*domain) : nullptr;
}

struct Shared {
  std::uint64_t address = 0;
  std::uint32_t rkey = 0;
};

// Exit status of a process whose device did not go in time.
constexpr int kTrafficGoesOn = 20;

struct Ends {
  std::unique_ptr<Stream> near;
  std::unique_ptr<Stream> far;
};

Ends connect_ends(const std::string& address, Transport& here, Transport& there) {
  auto listener = there.listen(address, 0);
  EXPECT_TRUE(listener);
  auto accepted = std::async(std::launch::async, [&] { return (*listener)->accept(soon()); });
  auto near = here.connect(address, (*listener)->port(), soon());
  EXPECT_TRUE(near) << near.error().text();
  auto far = accepted.get();
  EXPECT_TRUE(far) << far.error().text();
  return {std::move(*near), std::move(*far)};
}

Result<void> read_one(OneSided& one_sided, std::uint64_t address, std::uint32_t rkey,
                      std::span<std::byte> into) {
  RemoteRead one{address, rkey, into};
  GESTALT_TRY(one_sided.read(std::span(&one, 1), 1));
  GESTALT_TRY(one_sided.wait_any(soon()));
  if (one_sided.take_finished() != 1U) return fail(ErrorCode::kInternal, "something else");
  return {};
}

// Both ends, both ways, and reads. 0: each of them failed as it should.
int play_traffic(const std::string& address) {
  auto here = transport_at(address);
  auto there = transport_at(address);
  if (!here || !there) return 10;
  auto ends = connect_ends(address, *here, *there);
  auto memory = ends.far->one_sided()->share(1U << 20);
  auto landing = ends.near->one_sided()->landing(1U << 20);
  if (!memory || !landing) return 11;
  auto end = deadline_in(12s);
  auto until_it_fails = [end](const std::function<Result<void>()>& operation) {
    Result<void> done;
    while (done && Clock::now() < end) done = operation();
    if (done) return kTrafficGoesOn;
    return done.error().code == ErrorCode::kUnavailable ? 0 : 12;
  };
  std::vector<std::byte> out(100'000), in(100'000);
  auto sent = std::async(std::launch::async, until_it_fails,
                         [&] { return ends.near->send(out, deadline_in(20s)); });
  auto received = std::async(std::launch::async, until_it_fails,
                             [&] { return ends.far->receive(in, deadline_in(20s)); });
  int read = until_it_fails(
      [&] { return read_one(*ends.near->one_sided(), memory->address, memory->rkey, *landing); });
  ends.near->shut_down();
  ends.far->shut_down();
  (void)sent.get();
  (void)received.get();
  return read;
}

// ------------------------------------------------------------- the other end

// A process of its own, so that its end is one: this test again, with its part in the environment.
void play_peer(const std::string& part, const std::string& address, std::uint16_t port) {
  if (part == "traffic") ::_exit(play_traffic(address));
  auto transport = transport_at(address);
  if (part == "deaf") {
    auto id = RdmaId::make();
    auto where = RdmaAddress::parse(address, port);
    if (::rdma_bind_addr(id->id.get(), where->get()) == 0) (void)::rdma_listen(id->id.get(), 1);
    while (true) ::pause();
  }
  auto stream = transport->connect(address, port, soon());
  if (!stream) ::_exit(3);
  if (part == "share") {
    auto memory = (*stream)->one_sided()->share(1U << 20);
    if (!memory) ::_exit(4);
    Shared shared{memory->address, memory->rkey};
    if (!(*stream)->send(std::as_bytes(std::span(&shared, 1)), soon())) ::_exit(5);
  }
  if (part == "push") {
    std::vector<std::byte> bytes(100'000);
    while ((*stream)->send(bytes, soon())) {
    }
  }
  PageConnection connection(std::move(*stream));
  std::uint64_t link = kDemandLink;
  if (part == "authenticate" &&
      !authenticate(connection, PageRole::kSource, secret(), link, soon()))
    ::_exit(6);
  while (true) ::pause();
}

TEST(RdmaPeer, PlaysItsPart) {
  const char* variable = ::getenv(kPeerVariable);
  if (variable == nullptr) GTEST_SKIP() << "it is started by the tests below";
  std::string text = variable;
  auto first = text.find(' '), last = text.rfind(' ');
  play_peer(text.substr(0, first), text.substr(first + 1, last - first - 1),
            static_cast<std::uint16_t>(std::stoi(text.substr(last + 1))));
}

class Peer {
 public:
  Peer(const std::string& part, const std::string& address, std::uint16_t port) {
    std::string variable = formatted("{}={} {} {}", kPeerVariable, part, address, port);
    std::string filter = "--gtest_filter=RdmaPeer.PlaysItsPart";
    char name[] = "peer";
    char* arguments[] = {name, filter.data(), nullptr};
    char* environment[] = {variable.data(), nullptr};
    if (::posix_spawn(&pid_, "/proc/self/exe", nullptr, nullptr, arguments, environment) != 0)
      std::abort();
  }
  ~Peer() { kill(); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  std::optional<int> await_exit(Clock::duration time) {
    for (auto end = deadline_in(time); Clock::now() < end; std::this_thread::sleep_for(20ms)) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) != pid_) continue;
      pid_ = -1;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
    }
    return std::nullopt;
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    (void)::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

class RdmaPeerDies : public testing::Test {
 protected:
  void SetUp() override {
    GESTALT_NEED_RDMA(found);
    address_ = found.address;
    transport_ = transport_at(address_);
    ASSERT_TRUE(transport_);
    auto listener = transport_->listen(address_, 0);
    ASSERT_TRUE(listener) << listener.error().text();
    listener_ = std::move(*listener);
  }
  void start(const std::string& part) {
    peer_.emplace(part, address_, listener_->port());
    auto stream = listener_->accept(soon());
    ASSERT_TRUE(stream) << stream.error().text();
    stream_ = std::move(*stream);
  }
  // Everything that `operation` does has to end in an error soon after the peer's end.
  void expect_failure_after_kill(const std::function<Result<void>()>& operation) {
    std::jthread killer([this] {
      std::this_thread::sleep_for(300ms);
      killed_at_ = Clock::now();
      peer_->kill();
    });
    Result<void> done;
    auto end = soon();
    while (done && Clock::now() < end) done = operation();
    killer.join();
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, ErrorCode::kUnavailable) << done.error().text();
    EXPECT_LT(seconds_between(killed_at_, Clock::now()), kInTimeSeconds);
  }

  std::string address_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Listener> listener_;
  std::optional<Peer> peer_;
  std::unique_ptr<Stream> stream_;
  Clock::time_point killed_at_;
};

TEST_F(RdmaPeerDies, WhileItDoesNotAnswerAConnection) {
  constexpr std::uint16_t kPort = 20'047;
  peer_.emplace("deaf", address_, kPort);
  std::this_thread::sleep_for(500ms);
  auto began = Clock::now();
  auto stream = transport_->connect(address_, kPort, deadline_in(1s));
  ASSERT_FALSE(stream);
  EXPECT_LT(seconds_between(began, Clock::now()), kInTimeSeconds);
  expect_failure_after_kill([&]() -> Result<void> {
    auto again = transport_->connect(address_, kPort, soon());
    return again ? Result<void>() : std::unexpected(std::move(again).error());
  });
}

TEST_F(RdmaPeerDies, AfterItConnected) {
  start("hold");
  expect_failure_after_kill([&] {
    std::byte byte;
    return stream_->receive({&byte, 1}, soon());
  });
}

TEST_F(RdmaPeerDies, AfterItAuthenticated) {
  start("authenticate");
  PageConnection connection(std::move(stream_));
  std::uint64_t link = 0;
  ASSERT_TRUE(authenticate(connection, PageRole::kDestination, secret(), link, soon()));
  expect_failure_after_kill([&]() -> Result<void> {
    auto header = connection.receive_header(soon());
    return header ? Result<void>() : std::unexpected(std::move(header).error());
  });
}

TEST_F(RdmaPeerDies, WhileItSends) {
  start("push");
  std::vector<std::byte> bytes(50'000);
  expect_failure_after_kill([&] { return stream_->receive(bytes, soon()); });
}

TEST_F(RdmaPeerDies, WhileItIsSentTo) {
  start("hold");
  std::vector<std::byte> bytes(4U << 20);
  expect_failure_after_kill([&] { return stream_->send(bytes, soon()); });
}

TEST_F(RdmaPeerDies, WhileItsMemoryIsRead) {
  start("share");
  Shared shared;
  ASSERT_TRUE(stream_->receive(std::as_writable_bytes(std::span(&shared, 1)), soon()));
  OneSided& one_sided = *stream_->one_sided();
  auto landing = one_sided.landing(1U << 20);
  ASSERT_TRUE(landing) << landing.error().text();
  RemoteRead all{shared.address, shared.rkey, *landing};
  expect_failure_after_kill([&]() -> Result<void> {
    for (std::uint64_t token = 0; token < 4; ++token)
      GESTALT_TRY(one_sided.read(std::span(&all, 1), token));
    for (int i = 0; i < 4; ++i) {
      GESTALT_TRY(one_sided.wait_any(soon()));
      if (!one_sided.take_finished()) return fail(ErrorCode::kInternal, "nothing was read");
    }
    return {};
  });
}

// ------------------------------------------------------------- keys and memory

TEST(RdmaKeys, ReadWhatIsSharedAndNothingElse) {
  GESTALT_NEED_RDMA(found);
  auto here = transport_at(found.address);
  auto other_domain = RdmaDomain::at(found.address);
  ASSERT_TRUE(other_domain);
  auto foreign = RdmaRegion::make(*other_domain, 4096, IBV_ACCESS_REMOTE_READ);
  ASSERT_TRUE(foreign);
  for (std::string what : {"good", "beyond", "wrong", "foreign"}) {
    auto there = transport_at(found.address);
    auto ends = connect_ends(found.address, *here, *there);
    auto memory = ends.far->one_sided()->share(8192);
    ASSERT_TRUE(memory);
    std::ranges::fill(memory->bytes, std::byte{0x5a});
    auto landing = ends.near->one_sided()->landing(8192);
    ASSERT_TRUE(landing);
    std::uint64_t address = memory->address + (what == "beyond" ? 4096 : 0);
    std::uint32_t key = what == "wrong" ? memory->rkey ^ 0x55 : memory->rkey;
    auto into = *landing;
    if (what == "foreign") {
      address = foreign->address();
      key = foreign->remote_key();
      into = into.first(4096);
    }
    auto began = Clock::now();
    auto done = read_one(*ends.near->one_sided(), address, key, into);
    EXPECT_LT(seconds_between(began, Clock::now()), kInTimeSeconds) << what;
    EXPECT_EQ(done.has_value(), what == "good") << what;
    if (what == "good") {
      EXPECT_EQ(into.back(), std::byte{0x5a});
      continue;
    }
    EXPECT_EQ(done.error().code, ErrorCode::kUnavailable) << done.error().text();
    // The connection is gone for both ends.
    std::byte byte{1};
    EXPECT_FALSE(ends.near->send({&byte, 1}, soon()));
    EXPECT_EQ(ends.far->receive({&byte, 1}, soon()).error().code, ErrorCode::kUnavailable);
  }
}

// Without the capability that lifts the limit, for this thread.
class NoLockedMemory {
 public:
  explicit NoLockedMemory(std::size_t limit_bytes) {
    (void)::getrlimit(RLIMIT_MEMLOCK, &before_);
    rlimit less{limit_bytes, before_.rlim_max};
    done_ = ::setrlimit(RLIMIT_MEMLOCK, &less) == 0 && set_capability(false);
  }
  ~NoLockedMemory() {
    (void)set_capability(true);
    (void)::setrlimit(RLIMIT_MEMLOCK, &before_);
  }
  NoLockedMemory(const NoLockedMemory&) = delete;
  NoLockedMemory& operator=(const NoLockedMemory&) = delete;
  [[nodiscard]] bool done() const { return done_; }

 private:
  static bool set_capability(bool on) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    if (::syscall(SYS_capget, &header, data) != 0) return false;
    constexpr std::uint32_t kBit = 1U << CAP_IPC_LOCK;
    data[0].effective = on ? data[0].effective | kBit : data[0].effective & ~kBit;
    return ::syscall(SYS_capset, &header, data) == 0;
  }
  rlimit before_{};
  bool done_ = false;
};

TEST(RdmaMemory, TooLittleThatMayBeLockedIsAnErrorWithARemedy) {
  GESTALT_NEED_RDMA(found);
  // The kernel takes a connection's calls only of who opened it, so nothing may be older.
  for (std::size_t limit : {std::size_t{0}, std::size_t{64} << 10})
    std::jthread([&, limit] {
      NoLockedMemory less(limit);
      ASSERT_TRUE(less.done());
      auto domain = RdmaDomain::at(found.address);
      ASSERT_TRUE(domain);
      auto region = RdmaRegion::make(*domain, 1U << 20, IBV_ACCESS_REMOTE_READ);
      ASSERT_FALSE(region) << limit;
      EXPECT_EQ(region.error().code, ErrorCode::kNoSpace) << region.error().text();
      EXPECT_NE(region.error().message.find(formatted("{} KiB may be locked", limit >> 10)),
                std::string::npos)
          << region.error().text();
      EXPECT_NE(region.error().remedy.find("LimitMEMLOCK"), std::string::npos);
      auto transport = make_rdma_transport(*domain);
      auto stream = transport->connect(found.address, 1, deadline_in(2s));
      ASSERT_FALSE(stream);
      EXPECT_EQ(stream.error().code, ErrorCode::kNoSpace) << stream.error().text();
    });
  auto domain = RdmaDomain::at(found.address);
  ASSERT_TRUE(domain);
  EXPECT_TRUE(RdmaRegion::make(*domain, 1U << 20, IBV_ACCESS_REMOTE_READ));
}

// ------------------------------------------------------------- the device and the network

// A device that a test may take away.
class OwnDevice {
 public:
  OwnDevice() {
    made_ = run("ip link add gstr0 type veth peer name gstr1") &&
            run("ip address add 10.79.0.1/24 dev gstr0") && run("ip link set gstr0 up") &&
            run("ip link set gstr1 up") && run("rdma link add gstrxe type rxe netdev gstr0");
  }
  ~OwnDevice() {
    (void)run("rdma link delete gstrxe");
    (void)run("ip link delete gstr0");
  }
  OwnDevice(const OwnDevice&) = delete;
  OwnDevice& operator=(const OwnDevice&) = delete;
  static constexpr char kAddress[] = "10.79.0.1";
  [[nodiscard]] bool made() const { return made_; }
  static bool run(const std::string& command) {
    return std::system(("timeout 10 " + command + " 2>/dev/null").c_str()) == 0;
  }

 private:
  bool made_ = false;
};

// Bytes flow and memory is read while it happens. In a process of its own: a soft device cannot be
// removed while a process has it open, and librdmacm keeps devices open.
class RdmaDeviceGoes : public testing::TestWithParam<const char*> {};

TEST_P(RdmaDeviceGoes, EverythingEndsInTime) {
  GESTALT_NEED_RDMA(found);
  OwnDevice device;
  if (!device.made()) GTEST_SKIP() << "cannot make a device of our own";
  Peer traffic("traffic", OwnDevice::kAddress, 0);
  std::this_thread::sleep_for(2s);
  auto command = std::async(std::launch::async, [] { return OwnDevice::run(GetParam()); });
  auto status = traffic.await_exit(20s);
  traffic.kill();
  (void)command.get();
  ASSERT_TRUE(status) << "it hangs";
  if (*status == kTrafficGoesOn) GTEST_SKIP() << "this device is not removed while it is used";
  EXPECT_EQ(*status, 0);
}

INSTANTIATE_TEST_SUITE_P(By, RdmaDeviceGoes,
                         testing::Values("ip link set gstr0 down", "rdma link delete gstrxe"),
                         [](const testing::TestParamInfo<const char*>& which) {
                           return which.index == 0 ? "LinkDown" : "Removal";
                         });

}  // namespace
}  // namespace gestalt
