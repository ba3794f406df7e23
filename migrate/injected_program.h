// A program, with its arguments and environment, put into another process's memory for execve(2).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "migrate/injector.h"

namespace gestalt {

struct InjectedProgram {
  std::string path;  // the process's own user must be able to execute it
  std::vector<std::string> argv;
  std::vector<std::string> environment;
};

// Addresses in the other process.
struct ProgramBlock {
  std::uint64_t path = 0;
  std::uint64_t argv = 0;
  std::uint64_t environment = 0;
  std::uint64_t start = 0;  // of the memory that was mapped for it
  std::uint64_t bytes = 0;
};

// Into memory of its own: what lies below the stack pointer may be in use.
[[nodiscard]] Result<ProgramBlock> write_program(Injector& process, const InjectedProgram& program);

}  // namespace gestalt
