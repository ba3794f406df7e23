#include "migrate/userfault_keeper.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "common/child.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr std::uint32_t kMaxKept = 4096;
constexpr std::uint32_t kKeep = 1;
constexpr std::uint32_t kRelease = 2;
constexpr std::uint32_t kEnd = 3;

struct Order {
  std::uint32_t what = 0;
  std::uint32_t number = 0;
};

// In the child of a process with threads: nothing but system calls from here on.

int receive_order(int socket, Order& order) {
  iovec part{&order, sizeof order};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t count = 0;
  do {
    count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count != sizeof order) order = {};
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  int fd = -1;
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS)
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

bool is_populated(int events) {
  char text[256];
  ssize_t count = ::pread(events, text, sizeof text - 1, 0);
  if (count <= 0) return false;  // the group itself is gone
  text[count] = '\0';
  return std::strstr(text, "populated 1") != nullptr;
}

[[noreturn]] void hold(int socket, int events) {
  std::array<int, kMaxKept> kept;
  kept.fill(-1);
  while (true) {
    Order order;
    int fd = receive_order(socket, order);
    if (order.what == kEnd) ::_exit(0);
    if (order.what == 0) break;
    if (order.number >= kMaxKept) continue;
    if (kept[order.number] >= 0) ::close(kept[order.number]);
    kept[order.number] = order.what == kKeep ? fd : -1;
  }
  // Who brought the pages is dead.
  while (is_populated(events)) {
    pollfd polled{events, POLLPRI, 0};
    (void)::poll(&polled, 1, 200);
  }
  ::_exit(0);
}

}  // namespace

UserfaultKeeper::~UserfaultKeeper() {
  if (child_ == 0) return;
  Order end{kEnd, 0};
  (void)::send(socket_.get(), &end, sizeof end, MSG_NOSIGNAL);
  socket_.reset();
  (void)wait_child(child_, deadline_in(std::chrono::seconds(5)));
}

Result<void> UserfaultKeeper::start(int cgroup_directory) {
  Fd events(::openat(cgroup_directory, "cgroup.events", O_RDONLY | O_CLOEXEC));
  if (!events) return fail_errno(errno, "open cgroup.events");
  GESTALT_ASSIGN(auto sockets, make_socket_pair());
  pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "start a keeper of userfault descriptors");
  if (pid == 0) {
    // No other descriptor may live on in it: their closing means something to others.
    if (::dup2(events.get(), 0) != 0 || ::dup2(sockets.theirs.get(), 1) != 1) ::_exit(1);
    (void)::syscall(SYS_close_range, 2U, ~0U, 0U);
    (void)::prctl(PR_SET_NAME, "gestalt-keeper");
    hold(1, 0);
  }
  child_ = pid;
  socket_ = std::move(sockets.ours);
  return {};
}

Result<std::uint32_t> UserfaultKeeper::keep(int uffd) {
  std::lock_guard lock(mutex_);
  if (next_ >= kMaxKept) return fail(ErrorCode::kNoSpace, "too many address spaces at once");
  Order order{kKeep, next_};
  GESTALT_TRY(
      send_with_fds(socket_.get(), std::as_bytes(std::span(&order, 1)), std::span(&uffd, 1)));
  return next_++;
}

void UserfaultKeeper::release(std::uint32_t number) {
  std::lock_guard lock(mutex_);
  Order order{kRelease, number};
  (void)::send(socket_.get(), &order, sizeof order, MSG_NOSIGNAL);
}

}  // namespace gestalt
