// Numbered faults for tests: GESTALT_FAULT=N[:action] makes the N-th fault point fail.
// The numbers are stable and listed here; docs/migration.md says which step each hits.
#pragma once

#include "common/result.h"

namespace gestalt {

enum class Fault {
  kNone = 0,
  // Source stand-in, in order.
  kSourceConnect = 1,
  kSourcePreflight = 2,
  kSourceDump = 3,
  kSourceFreeze = 4,
  kSourceSendState = 5,
  kSourceSendPages = 6,
  kSourceSendHandover = 7,
  kSourceAwaitReady = 8,
  kSourceAsk = 9,
  kSourceCommit = 10,
  kSourceAwaitResumed = 11,
  kSourceDestroy = 12,
  kSourceRound = 13,     // pre-copy, before each round
  kSourceServe = 14,     // completed: pages are still served
  kSourceDeputy = 15,    // completed: the root becomes its deputy
  kSourceRdmaLink = 16,  // each page connection by RDMA but the first
  // Destination stand-in, in order.
  kDestinationListen = 20,
  kDestinationAccept = 21,
  kDestinationReceiveState = 22,
  kDestinationRestore = 23,
  kDestinationReceivePages = 24,
  kDestinationUserfault = 25,
  kDestinationReady = 26,
  kDestinationAwaitCommit = 27,
  kDestinationResume = 28,
  kDestinationConfirm = 29,
  kDestinationPaging = 30,       // runs here, pages are still at the source
  kDestinationDone = 31,         // the last page is here, the source does not know
  kDestinationHomeRoom = 32,     // coming home, before the deputy is ended
  kDestinationHomeRestore = 33,  // the deputy has been ended
  // Leader.
  kLeaderPrepare = 40,
  kLeaderGrant = 41,
  kLeaderComplete = 42,
  // Source stand-in again: its pages registered where they are, in order.
  kZeroCopyPrepare = 50,     // before there is a keeper
  kZeroCopyPrepared = 51,    // the keeper stands by, the process runs
  kZeroCopyRegister = 52,    // frozen
  kZeroCopyMapped = 53,      // the keeper has scratch memory in the process
  kZeroCopyGiven = 54,       // and the device's descriptor
  kZeroCopyCalled = 55,      // pages are pinned, the scratch memory is still there
  kZeroCopyRegistered = 56,  // only the pins are left
  kZeroCopyRelease = 57,     // they are about to be ended
};

// Hits the fault point: nothing happens unless GESTALT_FAULT (or the file
// /run/gestalt/fault, for processes that are started by daemons) names its number. That
// there is a new file is noticed within 10 ms.
// Actions: "fail" (default) returns an error; "exit" ends the process at once as a
// crash would; "hang" sleeps for ten minutes; "garbage" lets it pass, but what the thread
// sends next to the other node is garbage.
[[nodiscard]] Result<void> fault_point(Fault fault);
// Whether this thread's next frame shall be garbage; once.
[[nodiscard]] bool take_garbage();

}  // namespace gestalt
