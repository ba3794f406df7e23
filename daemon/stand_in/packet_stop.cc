#include "daemon/stand_in/packet_stop.h"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

namespace gestalt {
namespace {

Result<Fd> bpf(bpf_cmd command, bpf_attr& attributes, const char* what) {
  Fd made(static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes)));
  if (!made) return fail_errno(errno, what, "Gestalt needs a kernel with CONFIG_CGROUP_BPF");
  return made;
}

Result<Fd> drop_all(int cgroup, bpf_attach_type where) {
  // return 0: not this packet
  constexpr std::array<bpf_insn, 2> kProgram{
      bpf_insn{.code = BPF_ALU64 | BPF_MOV | BPF_K,
               .dst_reg = BPF_REG_0,
               .src_reg = 0,
               .off = 0,
               .imm = 0},
      bpf_insn{.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  static constexpr char kLicense[] = "GPL";
  bpf_attr load{};
  load.prog_type = BPF_PROG_TYPE_CGROUP_SKB;
  load.expected_attach_type = where;
  load.insns = reinterpret_cast<std::uint64_t>(kProgram.data());
  load.insn_cnt = kProgram.size();
  load.license = reinterpret_cast<std::uint64_t>(kLicense);
  GESTALT_ASSIGN(auto program, bpf(BPF_PROG_LOAD, load, "load a packet filter"));
  bpf_attr link{};
  link.link_create.prog_fd = static_cast<std::uint32_t>(program.get());
  link.link_create.target_fd = static_cast<std::uint32_t>(cgroup);
  link.link_create.attach_type = where;
  return bpf(BPF_LINK_CREATE, link, "attach a packet filter");
}

}  // namespace

Result<void> PacketStop::hold(int cgroup) {
  if (incoming_ && outgoing_) return {};
  GESTALT_ASSIGN(incoming_, drop_all(cgroup, BPF_CGROUP_INET_INGRESS));
  GESTALT_ASSIGN(outgoing_, drop_all(cgroup, BPF_CGROUP_INET_EGRESS));
  return {};
}

}  // namespace gestalt
