#include "migrate/injected_program.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/format.h"

namespace gestalt {
namespace {

// The three arguments of execve(2), as they are to lie at an address of the other process.
struct Layout {
  std::string bytes;
  ProgramBlock block;

  std::uint64_t add(const std::string& text, std::uint64_t base) {
    auto at = base + bytes.size();
    bytes.append(text.c_str(), text.size() + 1);
    return at;
  }

  std::uint64_t add(const std::vector<std::string>& texts, std::uint64_t base) {
    std::vector<std::uint64_t> pointers;
    for (const auto& text : texts) pointers.push_back(add(text, base));
    pointers.push_back(0);
    bytes.resize((bytes.size() + 7) & ~std::size_t{7});
    auto at = base + bytes.size();
    bytes.append(reinterpret_cast<const char*>(pointers.data()), pointers.size() * 8);
    return at;
  }

  Layout(const InjectedProgram& program, std::uint64_t base) {
    block.path = add(program.path, base);
    block.argv = add(program.argv, base);
    block.environment = add(program.environment, base);
    block.start = base;
    block.bytes = bytes.size();
  }
};

}  // namespace

Result<ProgramBlock> write_program(Injector& process, const InjectedProgram& program) {
  std::size_t bytes = Layout(program, 0).bytes.size();
  GESTALT_ASSIGN(auto address, process.call(SYS_mmap, {0, bytes, PROT_READ | PROT_WRITE,
                                                       MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0}));
  if (address < 0 && address > -4096)
    return fail_errno(static_cast<int>(-address),
                      formatted("map memory in process {}", process.pid()));
  Layout layout(program, static_cast<std::uint64_t>(address));
  GESTALT_ASSIGN(auto memory, open_file(formatted("/proc/{}/mem", process.pid()), O_RDWR));
  if (::pwrite(memory.get(), layout.bytes.data(), layout.bytes.size(), address) !=
      static_cast<ssize_t>(layout.bytes.size()))
    return fail_errno(errno, formatted("write to the memory of process {}", process.pid()));
  return layout.block;
}

}  // namespace gestalt
