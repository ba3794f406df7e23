// Reads /proc as ps does, and prints JSON.
//
//   proc_reader cost PID COUNT     opens, reads and closes /proc/PID/stat COUNT times:
//                                  {"ns_each": …}
//   proc_reader age PID SECONDS    every 20 ms how old the name of PID, a `crowd clock`, is:
//                                  {"median_ms": …, "max_ms": …, "samples": …}
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

namespace {

long long now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<long long>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// What was read; nothing if it could not be.
std::string_view read_once(const char* path, char (&buffer)[4096]) {
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  ssize_t got = ::read(fd, buffer, sizeof buffer);
  ::close(fd);
  return {buffer, got > 0 ? static_cast<std::size_t>(got) : 0};
}

int cost(const char* path, long count) {
  char buffer[4096];
  auto began = now_ns();
  for (long i = 0; i < count; ++i)
    if (read_once(path, buffer).empty()) {
      std::perror(path);
      return 1;
    }
  std::printf("{\"ns_each\": %.1f}\n",
              static_cast<double>(now_ns() - began) / static_cast<double>(count));
  return 0;
}

int age(const char* path, long seconds) {
  char buffer[4096];
  std::vector<long long> ages_ms;
  for (auto until = now_ns() + seconds * 1'000'000'000LL; now_ns() < until; ::usleep(20'000)) {
    auto text = read_once(path, buffer);
    auto open = text.find('(');
    if (open == text.npos) {
      std::perror(path);
      return 1;
    }
    ages_ms.push_back(now_ns() / 1'000'000 - std::atoll(text.data() + open + 1));
  }
  std::ranges::sort(ages_ms);
  std::printf("{\"median_ms\": %lld, \"max_ms\": %lld, \"samples\": %zu}\n",
              ages_ms[ages_ms.size() / 2], ages_ms.back(), ages_ms.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view verb = argc == 4 ? argv[1] : "";
  long number = argc == 4 ? std::atol(argv[3]) : 0;
  if ((verb != "cost" && verb != "age") || number <= 0) {
    std::fprintf(stderr, "usage: proc_reader cost PID COUNT | proc_reader age PID SECONDS\n");
    return 2;
  }
  std::string path = std::string("/proc/") + argv[2] + "/stat";
  return verb == "cost" ? cost(path.c_str(), number) : age(path.c_str(), number);
}
