// serve_cost ADDRESS|tcp [MIB]: what it costs the source's CPUs to serve 64 MiB of another
// process's memory by the engine's own transports: over TCP, over RDMA by staging memory, and over
// RDMA read where it is (zero-copy). ADDRESS is an RDMA device's; without one, TCP alone by
// loopback. Prints `name value` lines; times are milliseconds of CPU or clock.
//
// All that the source does between the freeze and the last page is counted: its threads, its
// keeper, planning, pinning, and ending the regions. Connections and staging memory are made
// before, as in a migration. What a software device does on its own kernel threads, a real one does
// itself.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <print>
#include <vector>

#include "bench/rdma/program.h"
#include "migrate/page_fetcher.h"
#include "migrate/page_server.h"
#include "migrate/rdma_transport.h"
#include "migrate/zero_copy_unit.h"

namespace gestalt {
namespace {

enum class By : std::uint32_t { kTcp, kStaged, kZeroCopy };
constexpr By kAll[] = {By::kTcp, By::kStaged, By::kZeroCopy};
using Ways = std::span<const By>;
constexpr std::uint32_t kRunPages = 64;
constexpr std::size_t kWindow = 4;
constexpr std::size_t kPageSizes = 2;  // small, huge

const char* name_of(By by) {
  return by == By::kTcp ? "tcp" : by == By::kStaged ? "rdma_staged" : "zero_copy";
}

Deadline soon() { return deadline_in(kPatience); }

// What the source tells the destination, past the measured connection.
struct Told {
  Staging staging;
  std::uint32_t pid = 0;
  std::uint64_t start = 0;
  std::uint64_t pages = 0;
  std::uint64_t ranges = 0;  // which follow
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
      must(fetcher.submit({told.pid, told.start + asked * kPageBytes, kRunPages}, soon()));
      asked += kRunPages;
    }
    came += must(fetcher.next()).run.count;
  }
}

void run_destination(int socket, const std::string& address, Ways ways) {
  for (By by : ways) {
    std::shared_ptr<RdmaDomain> domain;
    std::unique_ptr<Transport> rdma;
    if (by != By::kTcp) rdma = rdma_at(address, domain);
    auto listener = must((rdma ? *rdma : tcp_transport()).listen(address, 0));
    tell(socket, listener->port());
    PageConnection demand(must(listener->accept(soon())));
    PageConnection bulk(must(listener->accept(soon())));
    auto told = hear<Told>(socket);
    std::vector<RemoteRange> ranges(told.ranges);
    for (auto& range : ranges) range = hear<RemoteRange>(socket);
    ReadCounts counts;
    std::unique_ptr<PageFetcher> fetcher = make_request_fetcher(bulk);
    auto table = must(RemoteRangeTable::make(std::move(ranges)));
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

std::map<std::uint32_t, PageSet> memory_of(const Program& program) {
  return {{static_cast<std::uint32_t>(program.pid()), program.pages()}};
}

// Returns the milliseconds of CPU.
double serve(By by, int socket, const std::string& address, const Program& program) {
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
  PageServer server(linux_kernel(), {}, 0, connect);
  must(server.connect(1, soon()));
  auto staging = server.staging();
  double cpu = cpu_milliseconds();
  ZeroCopyUnit unit;
  std::vector<RemoteRange> ranges;
  if (by == By::kZeroCopy) unit.prepare({program.pid()}, domain);
  program.stop();
  auto began = Clock::now();
  if (by == By::kZeroCopy)
    ranges = unit.register_pages(memory_of(program), kMaxRemoteRanges, soon());
  if (by == By::kZeroCopy && unit.pages() != program.pages().pages())
    must(Result<void>(fail(ErrorCode::kUnavailable, "not all pages could be registered")));
  server.serve(memory_of(program));
  tell(socket, Told{staging[kFirstBulkLink], static_cast<std::uint32_t>(program.pid()),
                    program.start(), program.pages().pages(), ranges.size()});
  for (const auto& range : ranges) tell(socket, range);
  auto reads = hear<std::uint64_t>(socket);
  double seconds = seconds_between(began, Clock::now());
  unit.release();
  cpu = cpu_milliseconds() - cpu;
  program.go_on();
  std::println("source_cpu_ms_{} {:.2f}", name_of(by), cpu);
  std::println("elapsed_ms_{} {:.1f}", name_of(by), seconds * 1e3);
  std::println("reads_{} {}", name_of(by), reads);
  server.stop();
  tell(socket, 'x');
  return cpu;
}

void compare(const char* name, int advice, int socket, const std::string& address,
             std::uint64_t bytes, Ways ways) {
  Program program(bytes, advice, kPageBytes);
  std::println("pages {}", name);
  std::map<By, double> cpu;
  for (By by : ways) cpu[by] = serve(by, socket, address, program);
  if (cpu.contains(By::kZeroCopy)) {
    std::println("zero_copy_of_rdma_staged {:.4f}", cpu[By::kZeroCopy] / cpu[By::kStaged]);
    std::println("zero_copy_of_tcp {:.4f}", cpu[By::kZeroCopy] / cpu[By::kTcp]);
  }
  (void)std::fflush(stdout);
}

int run(const std::string& address, Ways ways, std::uint64_t bytes) {
  int ends[2];
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0 ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return 1;
  pid_t destination = ::fork();
  if (destination == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (std::size_t i = 0; i < kPageSizes; ++i) run_destination(ends[1], address, ways);
    ::_exit(0);
  }
  ::close(ends[1]);
  compare("small", MADV_NOHUGEPAGE, ends[0], address, bytes, ways);
  compare("huge", MADV_HUGEPAGE, ends[0], address, bytes, ways);
  (void)::waitpid(destination, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::println(stderr, "usage: serve_cost ADDRESS|tcp [MIB]");
    return 2;
  }
  std::size_t mib = argc == 3 ? std::strtoul(argv[2], nullptr, 10) : 64;
  const std::size_t bytes = (mib != 0 ? mib : 64) << 20;
  using namespace gestalt;
  if (argv[1] == std::string("tcp")) return run("127.0.0.1", Ways(kAll).first(1), bytes);
  return run(argv[1], kAll, bytes);
}
