// Memory that a parent and its child share in three ways: an anonymous mapping made
// before the fork, a memfd, and an unlinked file on the shared root. They take turns by
// a futex in the shared page; each checks what the other wrote in its last turn. A
// private mapping made before the fork (COW) must stay apart.
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <span>

#include "victim.h"

namespace {

using victim::bad;
using victim::check;
using victim::mix;
using victim::must;

constexpr std::size_t kBytes = 256 * 1024;
constexpr std::size_t kWords = kBytes / 8;
constexpr std::uint32_t kStop = 0xffffffff;

using Area = std::span<std::uint64_t>;

struct Control {
  std::atomic<std::uint32_t> turn;  // even: the parent's; kStop: the end
};

void* map(std::size_t bytes, int flags, int fd) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (address == MAP_FAILED) bad("mmap: {}", std::strerror(errno));
  return address;
}

Area map_area(int flags, int fd) {
  return {static_cast<std::uint64_t*>(map(kBytes, flags, fd)), kWords};
}

int unlinked_file(const std::string& directory) {
  std::string path = std::format("{}/shared.{}", directory, ::getpid());
  int fd = must(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), "open");
  must(::ftruncate(fd, kBytes), "ftruncate");
  must(::unlink(path.c_str()), "unlink");
  return fd;
}

int memory_file() {
  int fd = must(static_cast<int>(::syscall(SYS_memfd_create, "victim", 1U)), "memfd_create");
  must(::ftruncate(fd, kBytes), "ftruncate");
  return fd;
}

void write_turn(std::span<const Area> areas, std::uint32_t turn) {
  for (std::size_t a = 0; a < areas.size(); ++a)
    for (std::size_t i = turn % 7; i < kWords; i += 61) areas[a][i] = mix(turn + a * 1000 + i);
}

void check_turn(std::span<const Area> areas, std::uint32_t turn) {
  static constexpr std::array<const char*, 3> kNames{"anonymous", "memfd", "unlinked file"};
  for (std::size_t a = 0; a < areas.size(); ++a)
    for (std::size_t i = turn % 7; i < kWords; i += 61)
      check(areas[a][i] == mix(turn + a * 1000 + i), "{}: word {} of turn {} differs", kNames[a], i,
            turn);
}

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, nullptr,
                   nullptr, 0);
}

// The turn that begins, or kStop. Shared futexes are found by their page, so this also
// shows that both still have the same page.
std::uint32_t await_turn(Control& control, std::uint32_t parity) {
  for (;;) {
    std::uint32_t now = control.turn;
    if (now == kStop || now % 2 == parity) return now;
    futex(control.turn, FUTEX_WAIT, now);
  }
}

void end_turn(Control& control, std::uint32_t next) {
  control.turn = next;
  futex(control.turn, FUTEX_WAKE, 1);
}

void fill_private(Area area, std::uint64_t seed) {
  for (std::size_t i = 0; i < kWords; i += 512) area[i] = mix(seed + i);
}

void check_private(Area area, std::uint64_t seed, const char* whose) {
  for (std::size_t i = 0; i < kWords; i += 512)
    check(area[i] == mix(seed + i), "the {}'s private page {} differs", whose, i / 512);
}

[[noreturn]] void run_child(Control& control, std::span<const Area> areas, Area apart) {
  fill_private(apart.first(kWords / 2), 2);
  const pid_t parent = ::getppid();
  for (;;) {
    std::uint32_t turn = await_turn(control, 1);
    if (turn == kStop) break;
    check_turn(areas, turn - 1);
    check_private(apart.first(kWords / 2), 2, "child");
    victim::same(parent, ::getppid(), "the child's parent");
    write_turn(areas, turn);
    end_turn(control, turn + 1);
  }
  ::_exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 200;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  auto* control = static_cast<Control*>(map(4096, MAP_SHARED | MAP_ANONYMOUS, -1));
  const int memfd = memory_file();
  const int file = unlinked_file(options.directory);
  const std::array<Area, 3> areas{map_area(MAP_SHARED | MAP_ANONYMOUS, -1),
                                  map_area(MAP_SHARED, memfd), map_area(MAP_SHARED, file)};
  Area apart = map_area(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  fill_private(apart, 1);
  pid_t child = must(::fork(), "fork");
  if (child == 0) {
    ::signal(SIGTERM, SIG_IGN);
    must(::prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
    run_child(*control, areas, apart);
  }

  victim::Pace pace(options.rate);
  run.ready();
  std::uint32_t turn = 0;
  while (run.keep_going(turn)) {
    for (std::uint64_t step = pace.step(); step > 0; --step) {
      write_turn(areas, turn);
      end_turn(*control, turn + 1);
      turn = await_turn(*control, 0);
      check_turn(areas, turn - 1);
    }
    check_private(apart, 1, "parent");
  }
  end_turn(*control, kStop);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) check(errno == EINTR, "waitpid");
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with {:#x}", status);
  // The descriptors still lead to the same memory as the mappings.
  std::uint64_t word = 0;
  check(::pread(memfd, &word, 8, 0) == 8 && word == areas[1][0], "memfd and its mapping differ");
  check(::pread(file, &word, 8, 0) == 8 && word == areas[2][0], "file and its mapping differ");
  run.ok("turns={}", turn);
}
