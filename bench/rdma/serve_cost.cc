// serve_cost ADDRESS [MIB]: what it costs the source's process to serve 64 MiB of another process's
// memory: over TCP, over RDMA by staging memory, and over RDMA where it is read at once. ADDRESS is
// an RDMA device's. Prints `name value` lines; times are milliseconds of processor or clock.
//
// What is read at once is a copy in this process, registered beforehand: what registration itself
// costs is not counted.
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <print>

#include "common/fd.h"
#include "migrate/page_fetcher.h"
#include "migrate/page_server.h"
#include "migrate/rdma_transport.h"

namespace gestalt {
namespace {

enum class By : std::uint32_t { kTcp, kStaged, kRemote };
constexpr By kAll[] = {By::kTcp, By::kStaged, By::kRemote};
constexpr std::uint32_t kRunPages = 64;
constexpr std::size_t kWindow = 4;

const char* name_of(By by) {
  return by == By::kTcp ? "tcp" : by == By::kStaged ? "rdma_staged" : "rdma_remote";
}

Deadline soon() { return deadline_in(std::chrono::seconds(300)); }

template <class T>
T must(Result<T> result) {
  if (!result) {
    std::println(stderr, "serve_cost: {}", result.error().text());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// What the source tells the destination, past the measured connection.
struct Told {
  Staging staging;
  RemoteRange range;
  std::uint64_t pages = 0;
};

template <class T>
void tell(int socket, const T& value) {
  must(write_all(socket, std::as_bytes(std::span(&value, 1)), soon()));
}
template <class T>
T hear(int socket) {
  T value{};
  must(read_exact(socket, std::as_writable_bytes(std::span(&value, 1)), soon()));
  return value;
}

std::unique_ptr<Transport> rdma_at(const std::string& address,
                                   std::shared_ptr<RdmaDomain>& domain) {
  domain = must(RdmaDomain::at(address));
  return make_rdma_transport(domain);
}

// ------------------------------------------------------------- the destination

void fetch_all(PageFetcher& fetcher, const Told& told) {
  std::uint64_t asked = 0, came = 0;
  while (came < told.pages) {
    while (asked < told.pages && asked - came < kWindow * kRunPages) {
      must(fetcher.submit({told.range.pid, told.range.start + asked * kPageBytes, kRunPages},
                          soon()));
      asked += kRunPages;
    }
    came += must(fetcher.next()).run.count;
  }
}

void run_destination(int socket, const std::string& address) {
  for (By by : kAll) {
    std::shared_ptr<RdmaDomain> domain;
    std::unique_ptr<Transport> rdma;
    if (by != By::kTcp) rdma = rdma_at(address, domain);
    auto listener = must((rdma ? *rdma : tcp_transport()).listen(address, 0));
    tell(socket, listener->port());
    PageConnection demand(must(listener->accept(soon())));
    PageConnection bulk(must(listener->accept(soon())));
    auto told = hear<Told>(socket);
    ReadCounts counts;
    std::unique_ptr<PageFetcher> fetcher = make_request_fetcher(bulk);
    RemoteRangeTable table;
    if (by == By::kRemote) table = must(RemoteRangeTable::make({told.range}));
    if (by != By::kTcp) {
      auto one_sided = std::make_unique<OneSidedFetcher>(bulk, counts);
      must(one_sided->prepare(told.staging.bytes()));
      must(one_sided->open(told.staging, table));
      fetcher = std::move(one_sided);
    }
    fetch_all(*fetcher, told);
    tell(socket, counts.reads.load());
    (void)hear<char>(socket);
  }
}

// ------------------------------------------------------------- the source

double cpu_milliseconds() {
  rusage usage{};
  (void)::getrusage(RUSAGE_SELF, &usage);
  auto of = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

void serve(By by, int socket, const std::string& address, pid_t victim,
           std::span<std::byte> memory) {
  std::shared_ptr<RdmaDomain> domain;
  std::unique_ptr<Transport> rdma;
  if (by != By::kTcp) rdma = rdma_at(address, domain);
  auto port = hear<std::uint16_t>(socket);
  auto connect = [&](std::uint64_t link,
                     Deadline deadline) -> Result<std::unique_ptr<PageConnection>> {
    GESTALT_ASSIGN(auto stream, (rdma ? *rdma : tcp_transport()).connect(address, port, deadline));
    if (rdma) GESTALT_TRY(stream->one_sided()->share(staging_shape(link).bytes()));
    return std::make_unique<PageConnection>(std::move(stream));
  };
  auto start = reinterpret_cast<std::uint64_t>(memory.data());
  RdmaRegion copy;
  RemoteRange range{static_cast<std::uint32_t>(victim), start, start + memory.size(), 0, 0};
  if (by == By::kRemote) {
    copy = must(RdmaRegion::make(domain, memory.size(), IBV_ACCESS_REMOTE_READ));
    std::memcpy(copy.bytes().data(), memory.data(), memory.size());
    range.remote_address = copy.address();
    range.rkey = copy.remote_key();
  }
  PageServer server(linux_kernel(), {}, 0, connect);
  must(server.connect(1, soon()));
  PageSet present;
  present.add(range.start, range.end);
  server.serve({{range.pid, present}});
  auto staging = server.staging();
  double cpu = cpu_milliseconds();
  auto began = Clock::now();
  tell(socket, Told{staging[kFirstBulkLink], range, memory.size() / kPageBytes});
  auto reads = hear<std::uint64_t>(socket);
  std::println("source_cpu_ms_{} {:.2f}", name_of(by), cpu_milliseconds() - cpu);
  std::println("elapsed_ms_{} {:.1f}", name_of(by), seconds_between(began, Clock::now()) * 1e3);
  std::println("reads_{} {}", name_of(by), reads);
  server.stop();
  tell(socket, 'x');
}

pid_t fork_paused() {
  pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (true) ::pause();
}

int run(const std::string& address, std::size_t bytes) {
  auto* memory = static_cast<std::byte*>(
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) return 1;
  (void)::madvise(memory, bytes, MADV_NOHUGEPAGE);
  for (std::size_t i = 0; i < bytes; ++i) memory[i] = static_cast<std::byte>(i * 7 + i / 4096 + 1);
  pid_t victim = fork_paused();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 1;
  pid_t destination = ::fork();
  if (destination == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    run_destination(ends[1], address);
    ::_exit(0);
  }
  ::close(ends[1]);
  for (By by : kAll) serve(by, ends[0], address, victim, {memory, bytes});
  ::kill(victim, SIGKILL);
  for (pid_t pid : {victim, destination}) (void)::waitpid(pid, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::println(stderr, "usage: serve_cost ADDRESS [MIB]");
    return 2;
  }
  std::size_t mib = argc == 3 ? std::strtoul(argv[2], nullptr, 10) : 64;
  return gestalt::run(argv[1], (mib != 0 ? mib : 64) << 20);
}
