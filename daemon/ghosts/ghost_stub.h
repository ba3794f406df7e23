#pragma once

namespace gestalt {

// What runs in a ghost; `slot` is a GhostSlot. For clone_and_call() with CLONE_VM, all
// signals blocked. Uses system calls only: no C library, no thread-local storage, and its
// file is compiled without sanitizers and stack protector.
void run_ghost(void* slot);

}  // namespace gestalt
