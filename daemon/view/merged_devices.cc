// /proc/diskstats and /proc/net/dev: a line for each device. The leader's keep their
// names; another node's get its name before theirs, as in "node1.sda": a colon would end
// an interface's name, and a dot can be in no node's.
#include <algorithm>
#include <array>
#include <vector>

#include "daemon/view/mergers.h"
#include "daemon/view/text.h"

namespace gestalt {
namespace {

using view_text::append_number;
using view_text::next_line;
using view_text::next_word;
using view_text::parse_number;

// Longer names would overflow buffers in readers: vmstat's 34 bytes, ifconfig's IFNAMSIZ.
constexpr std::size_t kMaxDiskNameBytes = 34;
constexpr std::size_t kMaxInterfaceNameBytes = 15;

constexpr std::size_t kMinDiskCounters = 11;  // kernels before 4.18
constexpr std::size_t kMaxDiskCounters = 32;
constexpr std::size_t kInterfaceCounters = 16;

std::string_view last_bytes(std::string_view text, std::size_t count) {
  return text.substr(text.size() - std::min(text.size(), count));
}

// "node1.eth0". What is too long loses its beginning, names of a series differ at the end.
std::string device_name(std::string_view node, std::string_view device, std::size_t max_bytes) {
  std::size_t room = max_bytes - 1;
  std::size_t half = room / 2;
  std::size_t for_node = std::min(node.size(), room - std::min(device.size(), room - half));
  std::string name(last_bytes(node, for_node));
  name += '.';
  return name += last_bytes(device, room - for_node);
}

// False if there is anything but numbers.
bool parse_numbers(std::string_view line, std::size_t max, std::vector<std::uint64_t>& out) {
  out.clear();
  for (auto word = next_word(line); !word.empty(); word = next_word(line)) {
    auto number = parse_number(word);
    if (!number || out.size() == max) return false;
    out.push_back(*number);
  }
  return true;
}

bool all_zero(const std::vector<std::uint64_t>& counters) {
  return std::ranges::all_of(counters, [](std::uint64_t each) { return each == 0; });
}

struct DiskLine {
  std::uint64_t major = 0;
  std::uint64_t minor = 0;
  std::string_view name;
  std::vector<std::uint64_t> counters;
};

bool parse_disk(std::string_view line, DiskLine& out) {
  auto major = parse_number(next_word(line));
  auto minor = parse_number(next_word(line));
  out.name = next_word(line);
  if (!major || !minor || !view_text::is_name(out.name)) return false;
  out.major = *major;
  out.minor = *minor;
  return parse_numbers(line, kMaxDiskCounters, out.counters) &&
         out.counters.size() >= kMinDiskCounters;
}

void append_disk(std::string& out, const DiskLine& disk, std::string_view name) {
  append_number(out, disk.major, 4);
  out += ' ';
  append_number(out, disk.minor, 7);
  out.append(" ").append(name);
  for (auto counter : disk.counters) {
    out += ' ';
    append_number(out, counter);
  }
  out += '\n';
}

struct InterfaceLine {
  std::string_view name;
  std::vector<std::uint64_t> counters;
};

bool parse_interface(std::string_view line, InterfaceLine& out) {
  auto colon = line.rfind(':');
  if (colon == std::string_view::npos) return false;  // a heading
  out.name = view_text::trim(line.substr(0, colon));
  return view_text::is_name(out.name) && !out.name.contains('/') &&
         parse_numbers(line.substr(colon + 1), kInterfaceCounters, out.counters) &&
         out.counters.size() == kInterfaceCounters;
}

void append_interface(std::string& out, const InterfaceLine& interface, std::string_view name) {
  static constexpr std::array<std::size_t, kInterfaceCounters> kWidths{7, 7, 4, 4, 4, 5, 10, 9,
                                                                       8, 7, 4, 4, 4, 5, 7,  10};
  if (name.size() < 6) out.append(6 - name.size(), ' ');
  out.append(name) += ':';
  for (std::size_t i = 0; i < kWidths.size(); ++i) {
    out += ' ';
    append_number(out, interface.counters[i], kWidths[i]);
  }
  out += '\n';
}

// Of a node whose name cannot stand before a device's, no devices are shown.
bool shows_devices(const NodeFiles& node) {
  return view_text::is_name(node.name) && !node.name.contains('/');
}

}  // namespace

// Numbers of devices are kept, though another node's 8:0 is not the leader's: readers look
// a device up by its name in sysfs, find none, and take it for no disk of this machine's.
// Other nodes' devices that have done nothing, like most loop devices, are left out.
std::string merge_diskstats(std::string_view name, Nodes nodes) {
  std::string out;
  DiskLine disk;
  for (const NodeFiles& node : nodes) {
    bool is_leader = &node == nodes.data();
    if (!is_leader && !shows_devices(node)) continue;
    auto text = file_of(node, name);
    for (std::string_view line; next_line(text, line);) {
      if (!parse_disk(line, disk) || (!is_leader && all_zero(disk.counters))) continue;
      if (is_leader)
        append_disk(out, disk, disk.name);
      else
        append_disk(out, disk, device_name(node.name, disk.name, kMaxDiskNameBytes));
    }
  }
  return out;
}

// Other nodes' lo, and interfaces that have carried nothing, are left out.
std::string merge_net_dev(std::string_view name, Nodes nodes) {
  std::string out =
      "Inter-|   Receive                                                |  Transmit\n"
      " face |bytes    packets errs drop fifo frame compressed multicast|"
      "bytes    packets errs drop fifo colls carrier compressed\n";
  InterfaceLine interface;
  for (const NodeFiles& node : nodes) {
    bool is_leader = &node == nodes.data();
    if (!is_leader && !shows_devices(node)) continue;
    auto text = file_of(node, name);
    for (std::string_view line; next_line(text, line);) {
      if (!parse_interface(line, interface)) continue;
      if (is_leader)
        append_interface(out, interface, interface.name);
      else if (interface.name != "lo" && !all_zero(interface.counters))
        append_interface(out, interface,
                         device_name(node.name, interface.name, kMaxInterfaceNameBytes));
    }
  }
  return out;
}

}  // namespace gestalt
