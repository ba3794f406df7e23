// A migration's paging path for tests, both ends real: a paused process as the source, a
// PageServer, a PageSink, and a process whose memory is restored by a stand-in for CRIU.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/format.h"
#include "common/unix_socket.h"
#include "migrate/fake_transport.h"
#include "migrate/page_server.h"
#include "migrate/page_sink.h"
#include "migrate/rdma_rig.h"

namespace gestalt::testing_rig {

inline Deadline soon() { return deadline_in(std::chrono::seconds(60)); }

// What each page holds at the source.
enum class Content { kData, kZero, kHole };
inline Content content_of(std::size_t page) {
  if (page % 16 == 5) return Content::kZero;
  return page % 64 >= 60 ? Content::kHole : Content::kData;
}
inline std::uint64_t word_of(std::size_t page, std::size_t word) {
  return (page + 1) * 0x9e3779b97f4a7c15 ^ word * 0xbf58476d1ce4e5b9;
}
inline void fill_page(std::byte* at, std::size_t page) {
  for (std::size_t i = 0; i < kPageBytes / 8; ++i) {
    std::uint64_t word = word_of(page, i);
    std::memcpy(at + i * 8, &word, 8);
  }
}
inline bool is_zero(const std::byte* at) { return is_zero_page({at, kPageBytes}); }
// That the page at `at` is the source's page number `page`.
inline bool is_page(const std::byte* at, std::size_t page) {
  if (content_of(page) != Content::kData) return is_zero(at);
  for (std::size_t i = 0; i < kPageBytes / 8; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, at + i * 8, 8);
    if (word != word_of(page, i)) return false;
  }
  return true;
}

// Holds back what one end sends while it is closed.
class Gate {
 public:
  void close() { set(true); }
  void open() { set(false); }
  void pass() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [this] { return !closed_; });
  }

 private:
  void set(bool closed) {
    std::lock_guard lock(mutex_);
    closed_ = closed;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
};

// The server's end of a link: can be cut from outside, and passes the gate.
class RigStream final : public Stream {
 public:
  RigStream(std::shared_ptr<Stream> stream, Gate& gate) : stream_(std::move(stream)), gate_(gate) {}
  ~RigStream() override { stream_->shut_down(); }
  Result<void> send(std::span<const std::byte> bytes, Deadline deadline) override {
    gate_.pass();
    return stream_->send(bytes, deadline);
  }
  Result<void> receive(std::span<std::byte> into, Deadline deadline) override {
    return stream_->receive(into, deadline);
  }
  Result<void> wait_readable(Deadline deadline) override {
    return stream_->wait_readable(deadline);
  }
  void shut_down() override { stream_->shut_down(); }
  [[nodiscard]] std::uint64_t bytes_sent() const override { return stream_->bytes_sent(); }
  [[nodiscard]] std::uint64_t bytes_received() const override { return stream_->bytes_received(); }
  OneSided* one_sided() override { return stream_->one_sided(); }

 private:
  std::shared_ptr<Stream> stream_;
  Gate& gate_;
};

// Counts how often each page is read at the source.
class CountingKernel final : public Kernel {
 public:
  CountingKernel(std::uint64_t base, std::size_t pages) : base_(base), reads_(pages) {}
  Result<std::size_t> read_memory(pid_t pid, std::uint64_t address,
                                  std::span<std::byte> into) override {
    for (std::uint64_t at = address; at < address + into.size(); at += kPageBytes)
      if (at >= base_ && at < base_ + reads_.size() * kPageBytes)
        ++reads_[(at - base_) / kPageBytes];
    return linux_kernel().read_memory(pid, address, into);
  }
  Result<PlaceOutcome> place_pages(int, std::uint64_t, std::span<const std::byte>,
                                   std::uint64_t&) override {
    return fail(ErrorCode::kInternal, "not at the source");
  }
  Result<PlaceOutcome> place_zero(int, std::uint64_t, std::uint64_t, std::uint64_t&) override {
    return fail(ErrorCode::kInternal, "not at the source");
  }
  void wake(int, std::uint64_t, std::uint64_t) override {}
  Result<UserfaultEvent> read_event(int) override {
    return fail(ErrorCode::kInternal, "not at the source");
  }
  [[nodiscard]] std::uint64_t most_reads() const {
    std::uint64_t most = 0;
    for (const auto& each : reads_) most = std::max<std::uint64_t>(most, each);
    return most;
  }
  [[nodiscard]] std::uint64_t reads() const {
    std::uint64_t sum = 0;
    for (const auto& each : reads_) sum += each;
    return sum;
  }

 private:
  std::uint64_t base_;
  std::vector<std::atomic<std::uint32_t>> reads_;
};

// What runs in the restored process. Ends by returning; 0 is success.
struct Task {
  std::byte* base;
  std::size_t pages;
  int control;
  pid_t source;

  [[nodiscard]] std::byte* page(std::size_t index) const { return base + index * kPageBytes; }
  // Meets the test's Rig::meet().
  void meet() const {
    char byte = 'm';
    if (::write(control, &byte, 1) != 1 || ::read(control, &byte, 1) != 1) ::_exit(99);
  }
  [[nodiscard]] int verify(std::size_t first, std::size_t last) const {
    for (std::size_t i = first; i < last; ++i) {
      if (is_page(page(i), i)) continue;
      std::fprintf(stderr, "page %zu is wrong%s\n", i, is_zero(page(i)) ? ": zero" : "");
      return 1;
    }
    return 0;
  }
};
using TaskCode = std::function<int(const Task&)>;

inline Result<Fd> make_uffd() {
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd) return fail_errno(errno, "userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                 UFFD_FEATURE_EVENT_UNMAP;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return fail_errno(errno, "UFFDIO_API");
  return fd;
}

enum class RigLinks { kFake, kTcp, kFakeOneSided, kRdma };

struct RigDefaults {
  RigLinks links = RigLinks::kFake;
  unsigned remote_sixteenths = 0;
};
inline RigDefaults& rig_defaults() {
  static RigDefaults defaults;
  return defaults;
}

struct RigOptions {
  std::size_t pages = 4096;
  std::uint32_t prefetch = FaultAround::kDefaultMaxPages;
  std::uint64_t bulk_links = 2;
  std::uint64_t told_pages = kToldPages;
  ChunkOptions chunks;
  RigLinks links = rig_defaults().links;
  // Share of the pages, of 16, that the sink may read at the source by itself, if the links are
  // one-sided. They lie in ranges of 24 pages.
  unsigned remote_sixteenths = rig_defaults().remote_sixteenths;
  bool wrong_key = false;  // for those
  // Of what the server sends on its first demand link.
  std::uint64_t corrupt_demand_byte_at = ~0ULL;
  // Where the memory is; 0: anywhere.
  std::uint64_t address = 0;
};

class Rig {
 public:
  // Forks both processes, so while no thread runs yet.
  Rig(RigOptions options, TaskCode task) : options_(options), task_(std::move(task)) {
    void* wanted = reinterpret_cast<void*>(options_.address);
    int fixed = options_.address != 0 ? MAP_FIXED_NOREPLACE : 0;
    base_ = static_cast<std::byte*>(::mmap(wanted, bytes(), PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
    (void)::madvise(base_, bytes(), MADV_NOHUGEPAGE);
    for (std::size_t i = 0; i < options_.pages; ++i) {
      if (content_of(i) == Content::kData) fill_page(page(i), i);
      if (content_of(i) == Content::kZero) *const_cast<volatile std::byte*>(page(i)) = std::byte{0};
      if (content_of(i) == Content::kHole) continue;
      present_.add(address() + i * kPageBytes, address() + (i + 1) * kPageBytes);
    }
    start_source();
    start_target();
    ::munmap(base_, bytes());
    directory_ = std::filesystem::temp_directory_path() / formatted("paging-{}", ::getpid());
    std::filesystem::create_directories(directory_);
    kernel_ = std::make_unique<CountingKernel>(address(), options_.pages);
    sink_ = std::make_unique<PageSink>(linux_kernel(),
                                       PageSinkOptions{.max_prefetch_pages = options_.prefetch,
                                                       .told_pages = options_.told_pages});
    server_ = std::make_unique<PageServer>(
        *kernel_, options_.chunks, 0,
        [this](std::uint64_t link, Deadline deadline) { return open_link(link, deadline); });
  }
  ~Rig() {
    gate_.open();
    demand_gate_.open();
    server_->stop();
    sink_->stop();
    for (pid_t pid : {source_, target_}) {
      if (pid <= 0) continue;
      ::kill(pid, SIGKILL);
      (void)::waitpid(pid, nullptr, 0);
    }
    std::filesystem::remove_all(directory_);
  }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  // Links without rounds, the sets, and the sink listens.
  void start() {
    ASSERT_TRUE(server_->connect(options_.bulk_links, soon()));
    for (std::uint64_t i = 0; i < options_.bulk_links; ++i)
      ASSERT_TRUE(server_->bulk_link(i).send(FrameType::kPushEnd, 0, "", soon()));
    announce({});
  }
  void announce(const std::map<std::uint32_t, PageSet>& fresh) {
    auto table = RemoteRangeTable::make(remote_ranges());
    ASSERT_TRUE(table) << table.error().text();
    sink_->set_remote({server_->staging(), std::move(*table)});
    auto done = sink_->set_pages({{wire_pid(), present_}}, fresh);
    ASSERT_TRUE(done) << done.error().text();
    server_->serve({{wire_pid(), present_}});
    ASSERT_TRUE(sink_->start(directory_));
  }
  // CRIU's steps.
  void hand_over() { command('h'); }
  void register_memory() { command('r'); }
  void finish_restore() {
    command('f');
    auto done = sink_->await_restored(soon());
    ASSERT_TRUE(done) << done.error().text();
  }
  void restore() {
    hand_over();
    register_memory();
    finish_restore();
  }
  void resume(bool push) {
    server_->keep_alive();
    sink_->resumed(push, [this] {
      std::lock_guard lock(mutex_);
      complete_ = true;
      changed_.notify_all();
    });
    ASSERT_TRUE(write_all(control_.get(), std::as_bytes(std::span("g", 1)), soon()));
  }
  // All of it, for tests that care for the rest.
  void run(bool push) {
    start();
    restore();
    resume(push);
  }

  // Waits for the task to come to its meet().
  void await_task() {
    char byte = 0;
    ASSERT_TRUE(read_exact(control_.get(), std::as_writable_bytes(std::span(&byte, 1)), soon()))
        << "the task does not come to its meeting";
  }
  void release_task() {
    ASSERT_TRUE(write_all(control_.get(), std::as_bytes(std::span("m", 1)), soon()));
  }
  // The task's exit code; -1 if it does not end in time.
  int await_exit(std::chrono::milliseconds time = std::chrono::seconds(20)) {
    Deadline deadline = deadline_in(time);
    while (Clock::now() < deadline) {
      int status = 0;
      if (::waitpid(target_, &status, WNOHANG) == target_) {
        target_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
      }
      std::this_thread::sleep_for(milliseconds(2));
    }
    return -1;
  }
  bool await_complete(std::chrono::milliseconds time = std::chrono::seconds(20)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [this] { return complete_; });
  }
  wire::MigrationStats stats() {
    wire::MigrationStats stats;
    sink_->report(stats);
    return stats;
  }
  void cut(std::uint64_t link) {
    std::shared_ptr<Stream> stream;
    {
      std::lock_guard lock(mutex_);
      stream = streams_[link];
    }
    if (stream) stream->shut_down();
  }
  // How often a link was attached.
  std::uint64_t connections(std::uint64_t link) {
    std::lock_guard lock(mutex_);
    return connections_[link];
  }
  // Links cannot be connected again meanwhile.
  void refuse_links(bool refuse) { refuse_links_ = refuse; }
  void kill_target() { ::kill(target_, SIGKILL); }

  PageSink& sink() { return *sink_; }
  PageServer& server() { return *server_; }
  CountingKernel& kernel() { return *kernel_; }
  Gate& gate() { return gate_; }  // of the bulk links
  Gate& demand_gate() { return demand_gate_; }
  // Until the server has read so many pages more, which a closed gate then holds.
  void await_reads(std::uint64_t pages) {
    Deadline deadline = soon();
    while (kernel_->reads() < pages && Clock::now() < deadline)
      std::this_thread::sleep_for(milliseconds(1));
    ASSERT_GE(kernel_->reads(), pages);
  }
  [[nodiscard]] const PageSet& present() const { return present_; }
  [[nodiscard]] PageSet& present() { return present_; }
  [[nodiscard]] pid_t source() const { return source_; }
  [[nodiscard]] std::uint32_t wire_pid() const { return static_cast<std::uint32_t>(source_); }
  [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(base_); }
  [[nodiscard]] std::uint64_t address(std::size_t page) const {
    return address() + page * kPageBytes;
  }
  [[nodiscard]] std::size_t bytes() const { return options_.pages * kPageBytes; }

 private:
  std::byte* page(std::size_t index) { return base_ + index * kPageBytes; }

  void start_source() {
    source_ = ::fork();
    if (source_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
  }

  void start_target() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    target_ = ::fork();
    if (target_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(ends[0]);
      ::_exit(play_target(ends[1]));
    }
    ::close(ends[1]);
    control_ = Fd(ends[0]);
  }

  // CRIU's part in the restored process, and then the task itself.
  int play_target(int control) {
    ::munmap(base_, bytes());
    void* fresh = ::mmap(base_, bytes(), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (fresh != base_) return 90;
    (void)::madvise(base_, bytes(), MADV_NOHUGEPAGE);
    auto uffd = make_uffd();
    if (!uffd) return 91;
    Fd criu;
    std::string path = std::filesystem::temp_directory_path() /
                       formatted("paging-{}/lazy-pages.socket", ::getppid());
    for (char what = 0; ::read(control, &what, 1) == 1;) {
      bool done = true;
      if (what == 'g') {
        criu.reset();
        uffd->reset();
        return task_({base_, options_.pages, control, source_});
      }
      if (what == 'h') done = hand_over_uffd(path, criu, uffd->get());
      if (what == 'r') {
        uffdio_register request{};
        request.range = {address(), bytes()};
        request.mode = UFFDIO_REGISTER_MODE_MISSING;
        done = ::ioctl(uffd->get(), UFFDIO_REGISTER, &request) == 0;
      }
      if (what == 'f') {
        std::uint32_t finished = 0x52535446;
        done = ::write(criu.get(), &finished, 4) == 4;
      }
      if (!done || ::write(control, "k", 1) != 1) return 92;
    }
    return 93;
  }

  bool hand_over_uffd(const std::string& path, Fd& criu, int uffd) {
    auto socket = connect_unix(path);
    if (!socket) return false;
    criu = std::move(*socket);
    std::int32_t pid = source_;
    return ::write(criu.get(), &pid, 4) == 4 && send_fds(criu.get(), std::span(&uffd, 1));
  }

  bool one_sided() const {
    return options_.links == RigLinks::kFakeOneSided || options_.links == RigLinks::kRdma;
  }

  // By RDMA they are read of a copy in this process: to register another's memory is another
  // thing's business.
  std::vector<RemoteRange> remote_ranges() {
    constexpr std::uint64_t kRangePages = 24;
    std::vector<RemoteRange> out;
    if (!one_sided() || options_.remote_sixteenths == 0) return out;
    std::uint64_t offset = 0;
    std::uint32_t key = fake_process_key(wire_pid());
    if (options_.links == RigLinks::kRdma) {
      copy_for_rdma();
      offset = copy_.address() - address();
      key = copy_.remote_key();
    }
    for (std::uint64_t page = 0; page < options_.pages; page += kRangePages) {
      if (page / kRangePages % 16 >= options_.remote_sixteenths) continue;
      std::uint64_t last = std::min<std::uint64_t>(page + kRangePages, options_.pages);
      out.push_back({wire_pid(), address(page), address(last), address(page) + offset,
                     options_.wrong_key ? key ^ 0x5500 : key});
    }
    return out;
  }

  void copy_for_rdma() {
    auto copy = RdmaRegion::make(domain_, bytes(), IBV_ACCESS_REMOTE_READ);
    ASSERT_TRUE(copy) << copy.error().text();
    copy_ = std::move(*copy);
    auto read = linux_kernel().read_memory(source_, address(), copy_.bytes());
    ASSERT_TRUE(read && *read == bytes());
  }

  // RDMA cannot be set up before the processes are forked.
  Result<Transport*> rdma() {
    if (!rdma_) {
      address_ = find_rdma_address().address;
      GESTALT_ASSIGN(domain_, RdmaDomain::at(address_));
      rdma_ = make_rdma_transport(domain_);
    }
    return rdma_.get();
  }

  Result<void> open_streams(Transport& transport, const std::string& address,
                            std::unique_ptr<Stream>& near, std::unique_ptr<Stream>& far,
                            Deadline deadline) {
    GESTALT_ASSIGN(auto listener, transport.listen(address, 0));
    auto accepted = std::async(std::launch::async, [&] { return listener->accept(deadline); });
    GESTALT_ASSIGN(near, transport.connect(address, listener->port(), deadline));
    GESTALT_ASSIGN(far, accepted.get());
    return {};
  }

  void command(char what) {
    ASSERT_TRUE(write_all(control_.get(), std::as_bytes(std::span(&what, 1)), soon()));
    char answer = 0;
    ASSERT_TRUE(read_exact(control_.get(), std::as_writable_bytes(std::span(&answer, 1)), soon()))
        << "the target failed at '" << what << "': " << await_exit();
  }

  Result<std::unique_ptr<PageConnection>> open_link(std::uint64_t link, Deadline deadline) {
    if (refuse_links_) return fail(ErrorCode::kUnavailable, "refused");
    std::unique_ptr<Stream> near;
    std::unique_ptr<Stream> far;
    if (options_.links == RigLinks::kTcp) {
      GESTALT_TRY(open_streams(tcp_transport(), "127.0.0.1", near, far, deadline));
    } else if (options_.links == RigLinks::kRdma && connections(link) == 0) {
      GESTALT_ASSIGN(auto transport, rdma());
      GESTALT_TRY(open_streams(*transport, address_, near, far, deadline));
    } else {
      FakeFaults faults;
      if (link == kDemandLink && connections(link) == 0)
        faults.corrupt_byte_at = options_.corrupt_demand_byte_at;
      faults.one_sided = one_sided();
      std::tie(near, far) = make_fake_streams(faults);
    }
    if (near->one_sided() != nullptr && connections(link) == 0)
      GESTALT_TRY(near->one_sided()->share(staging_shape(link).bytes()));
    std::shared_ptr<Stream> shared = std::move(near);
    {
      std::lock_guard lock(mutex_);
      streams_[link] = shared;
    }
    {
      std::lock_guard accepting(accept_mutex_);
      sink_->attach(link, std::make_unique<PageConnection>(std::move(far)));
    }
    {
      std::lock_guard lock(mutex_);
      ++connections_[link];
    }
    Gate& gate = link == kDemandLink ? demand_gate_ : gate_;
    return std::make_unique<PageConnection>(std::make_unique<RigStream>(std::move(shared), gate));
  }

  RigOptions options_;
  TaskCode task_;
  std::byte* base_ = nullptr;
  PageSet present_;
  pid_t source_ = -1;
  pid_t target_ = -1;
  Fd control_;
  std::string directory_;
  Gate gate_;
  Gate demand_gate_;
  std::string address_;
  std::shared_ptr<RdmaDomain> domain_;
  std::unique_ptr<Transport> rdma_;
  RdmaRegion copy_;
  std::unique_ptr<CountingKernel> kernel_;
  std::unique_ptr<PageSink> sink_;
  std::unique_ptr<PageServer> server_;
  std::mutex accept_mutex_;  // a destination takes one link after the other
  std::mutex mutex_;
  std::condition_variable changed_;
  bool complete_ = false;
  std::atomic<bool> refuse_links_ = false;
  std::map<std::uint64_t, std::shared_ptr<Stream>> streams_;
  std::map<std::uint64_t, std::uint64_t> connections_;
};

}  // namespace gestalt::testing_rig
