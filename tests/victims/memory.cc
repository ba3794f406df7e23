// Pages of every kind, checked all the time.
//
//   hot        rewritten all the time; each page carries its index, its generation and a
//              checksum, and the generations are kept a second time elsewhere
//   cold       written once, half of it on huge pages if there are any
//   read_only  written once, then protected
//   zero       one third never touched, one third read, one third written with zeroes
//   file       this program's own file, private; every second page written (COW)
//   heap       small blocks below brk
//
// Also built as `static` (without shared libraries) from the same source.
#include <memory>
#include <vector>

#include "pages.h"

namespace {

using victim::bad;
using victim::check;
using victim::fill;
using victim::kPageBytes;
using victim::map;
using victim::map_pages;
using victim::mix;
using victim::must;
using victim::Page;
using victim::verify;

// Written once and never again.
class Constant {
 public:
  Constant(std::size_t pages, const char* name, bool huge) : name_(name), pages_(map_pages(pages)) {
    if (huge) ::madvise(pages_.data(), pages_.size() / 2 * kPageBytes, MADV_HUGEPAGE);
    for (std::size_t i = 0; i < pages_.size(); ++i) fill(pages_[i], i, 7);
  }
  void protect() { must(::mprotect(pages_.data(), pages_.size_bytes(), PROT_READ), "mprotect"); }
  void verify_one(std::uint64_t random) const {
    verify(pages_[random % pages_.size()], random % pages_.size(), 7, name_);
  }
  void verify_all() const {
    for (std::size_t i = 0; i < pages_.size(); ++i) verify(pages_[i], i, 7, name_);
  }

 private:
  const char* name_;
  std::span<Page> pages_;
};

class Hot {
 public:
  explicit Hot(std::size_t pages) : pages_(map_pages(pages)), generations_(pages, 0) {
    for (std::size_t i = 0; i < pages; ++i) fill(pages_[i], i, 0);
  }
  void rewrite(std::uint64_t random) {
    std::size_t i = random % pages_.size();
    verify(pages_[i], i, generations_[i], "hot");
    fill(pages_[i], i, ++generations_[i]);
  }
  void verify_all() const {
    for (std::size_t i = 0; i < pages_.size(); ++i) verify(pages_[i], i, generations_[i], "hot");
  }

 private:
  std::span<Page> pages_;
  std::vector<std::uint64_t> generations_;
};

class Zero {
 public:
  explicit Zero(std::size_t pages) : pages_(map_pages(pages)) {
    std::size_t third = pages / 3;
    for (std::size_t i = third; i < 2 * third; ++i) check_zero(i);
    std::memset(static_cast<void*>(pages_.data()), 0, third * kPageBytes);
  }
  void check_zero(std::uint64_t random) const {
    victim::verify_zero(pages_[random % pages_.size()], random % pages_.size(), "zero");
  }
  // The last third stays a hole until the very end.
  void check_touched(std::uint64_t random) const { check_zero(random % (pages_.size() / 3 * 2)); }
  void verify_all() const {
    for (std::size_t i = 0; i < pages_.size(); ++i) check_zero(i);
  }

 private:
  std::span<Page> pages_;
};

class PrivateFile {
 public:
  PrivateFile() {
    int fd = must(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "open /proc/self/exe");
    struct stat info{};
    must(::fstat(fd, &info), "fstat");
    std::size_t pages =
        std::min<std::size_t>(static_cast<std::size_t>(info.st_size) / kPageBytes, 64);
    pages_ = {static_cast<Page*>(map(pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd)),
              pages};
    original_.resize(pages * kPageBytes);
    if (::pread(fd, original_.data(), original_.size(), 0) !=
        static_cast<ssize_t>(original_.size()))
      bad("short read of /proc/self/exe");
    ::close(fd);
    for (std::size_t i = 0; i < pages; i += 2) fill(pages_[i], i, 3);
  }
  void verify_all() const {
    for (std::size_t i = 0; i < pages_.size(); ++i) {
      if (i % 2 == 0)
        verify(pages_[i], i, 3, "private file");
      else
        check(std::memcmp(&pages_[i], original_.data() + i * kPageBytes, kPageBytes) == 0,
              "private file: page {}, never written, differs from the file", i);
    }
  }

 private:
  std::span<Page> pages_;
  std::string original_;
};

class Heap {
 public:
  Heap() {
    for (std::size_t i = 0; i < 2000; ++i)
      blocks_.push_back(std::make_unique<std::string>(16 + i % 300, static_cast<char>(i)));
  }
  void verify_all() const {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const std::string& block = *blocks_[i];
      bool good = block.size() == 16 + i % 300 &&
                  block.find_first_not_of(static_cast<char>(i)) == std::string::npos;
      check(good, "heap block {} differs", i);
    }
  }

 private:
  std::vector<std::unique_ptr<std::string>> blocks_;
};

}  // namespace

int main(int argc, char** argv) {
  victim::Options options = victim::parse_options(argc, argv);
  victim::Run run(options);
  std::size_t pages = std::max<std::size_t>(options.mib, 1) * 256;
  Hot hot(pages / 2);
  Constant cold(pages / 4, "cold", true);
  Constant read_only(pages / 8, "read-only", false);
  read_only.protect();
  Zero zero(pages / 8);
  PrivateFile file;
  Heap heap;
  victim::Pace pace(options.rate);
  run.ready();

  std::uint64_t rewritten = 0;
  std::uint64_t rounds = 0;
  while (run.keep_going(rewritten)) {
    std::uint64_t step = pace.step();
    for (std::uint64_t i = 0; i < step; ++i) hot.rewrite(mix(rewritten++));
    for (std::uint64_t i = 0; i < 4; ++i) {
      cold.verify_one(mix(rewritten + i));
      read_only.verify_one(mix(rewritten + i));
      zero.check_touched(mix(rewritten + i));
    }
    if (++rounds % 64 == 0) {
      file.verify_all();
      heap.verify_all();
    }
  }

  hot.verify_all();
  cold.verify_all();
  read_only.verify_all();
  zero.verify_all();
  file.verify_all();
  heap.verify_all();
  run.ok("mib={} rewritten={}", options.mib, rewritten);
}
