// Memory that is there without being in use as usual: forbidden regions that hold
// something and are allowed again now and then, locked memory, and private pages of a file,
// some of them written, in a mapping that changes its protection.
#include <vector>

#include "pages.h"

namespace {

using victim::bad;
using victim::check;
using victim::kPageBytes;
using victim::must;
using victim::Page;

// Pages of one region and their generations. Not accessible while it is forbidden.
class Region {
 public:
  Region(std::uint64_t pages, const char* name)
      : name_(name), pages_(victim::map_pages(pages)), generations_(pages, 1) {
    for (std::uint64_t i = 0; i < pages; ++i) victim::fill(pages_[i], i, 1);
  }
  void protect(int protection) {
    must(::mprotect(pages_.data(), pages_.size_bytes(), protection), "mprotect");
  }
  void lock() { must(::mlock(pages_.data(), pages_.size_bytes()), "mlock"); }
  void rewrite(std::uint64_t random) {
    std::uint64_t i = random % pages_.size();
    victim::verify(pages_[i], i, generations_[i], name_);
    victim::fill(pages_[i], i, ++generations_[i]);
  }
  void verify_all() const {
    for (std::uint64_t i = 0; i < pages_.size(); ++i)
      victim::verify(pages_[i], i, generations_[i], name_);
  }

 private:
  const char* name_;
  std::span<Page> pages_;
  std::vector<std::uint64_t> generations_;
};

// A file on the shared root, unlinked: every third page is written here, and nowhere else.
class PrivateFile {
 public:
  PrivateFile(std::uint64_t pages, const std::string& directory) : generations_(pages, 0) {
    std::string path = std::format("{}/protections.{}", directory, ::getpid());
    fd_ = must(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), "open");
    must(::unlink(path.c_str()), "unlink");
    Page page;
    for (std::uint64_t i = 0; i < pages; ++i) {
      victim::fill(page, i, 5);
      page.address = written_address(i);
      check(victim::write_all(fd_, {reinterpret_cast<const char*>(&page), sizeof(page)}), "write");
    }
    pages_ = {static_cast<Page*>(
                  victim::map(pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd_)),
              pages};
    for (std::uint64_t i = 0; i < pages; i += 3) victim::fill(pages_[i], i, ++generations_[i]);
  }
  void rewrite(std::uint64_t random) {
    std::uint64_t i = random % pages_.size() / 3 * 3;
    verify(i);
    protect(PROT_READ | PROT_WRITE);
    victim::fill(pages_[i], i, ++generations_[i]);
    protect(PROT_READ);
  }
  void verify_all() const {
    for (std::uint64_t i = 0; i < pages_.size(); ++i) verify(i);
  }
  // None of it got into the file.
  void verify_file() const {
    Page page;
    for (std::uint64_t i = 0; i < pages_.size(); ++i) {
      check(::pread(fd_, &page, kPageBytes, static_cast<off_t>(i * kPageBytes)) == kPageBytes,
            "pread of the file");
      victim::verify(page, i, 5, "file's", written_address(i));
    }
  }

 private:
  // The address of page 0 would stand for "where it is".
  static std::uint64_t written_address(std::uint64_t i) { return i == 0 ? kNowhere : i; }
  void protect(int protection) {
    must(::mprotect(pages_.data(), pages_.size_bytes(), protection), "mprotect");
  }
  void verify(std::uint64_t i) const {
    if (generations_[i] > 0)
      victim::verify(pages_[i], i, generations_[i], "private file's");
    else
      victim::verify(pages_[i], i, 5, "file's unwritten", written_address(i));
  }

  static constexpr std::uint64_t kNowhere = ~0ULL;
  int fd_ = -1;
  std::span<Page> pages_;
  std::vector<std::uint64_t> generations_;
};

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 1000;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  std::uint64_t pages = std::max<std::uint64_t>(options.mib, 1) * 256;
  Region forbidden(pages / 4, "forbidden");  // all the time
  forbidden.protect(PROT_NONE);
  Region sometimes(pages / 4, "sometimes forbidden");
  Region locked(pages / 4, "locked");
  locked.lock();
  PrivateFile file(pages / 8, options.directory);
  victim::Pace pace(options.rate);
  std::uint64_t written = 0;
  std::uint64_t rounds = 0;
  bool is_forbidden = false;
  run.ready();
  while (run.keep_going(written)) {
    for (std::uint64_t step = pace.step(); step > 0; --step) {
      locked.rewrite(victim::mix(written));
      if (!is_forbidden) sometimes.rewrite(victim::mix(written));
      file.rewrite(victim::mix(++written));
    }
    if (++rounds % 40 != 0) continue;
    is_forbidden = !is_forbidden;
    sometimes.protect(is_forbidden ? PROT_NONE : PROT_READ | PROT_WRITE);
  }
  forbidden.protect(PROT_READ);
  sometimes.protect(PROT_READ);
  forbidden.verify_all();
  sometimes.verify_all();
  locked.verify_all();
  file.verify_all();
  file.verify_file();
  run.ok("mib={} written={}", options.mib, written);
}
