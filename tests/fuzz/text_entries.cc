// Texts from people and from the kernel.
#include <algorithm>
#include <cmath>
#include <set>

#include "common/frame.h"
#include "common/node_set.h"
#include "common/proc.h"
#include "daemon/config.h"
#include "daemon/join_token.h"
#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

void run_proc_stat(std::string_view bytes) {
  auto stat = parse_stat(std::string(bytes));
  if (stat) promise(stat->pid > 0, "a process has a pid");
}

std::vector<std::string> proc_stat_seeds() {
  return {
      "4711 (bash) S 4700 4711 4711 34816 4800 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 "
      "18446744073709551615 1 1 1 0 0 0 65536 3670020 1266777851 0 0 0 17 1 0 0 0 0 0 0 0 0 0 "
      "0 0 0 0\n",
      "1 (a) b (c)) R 0 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 8 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 "
      "0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"};
}

void run_proc_status(std::string_view bytes) { (void)parse_status(std::string(bytes)); }

std::vector<std::string> proc_status_seeds() {
  return {
      "Name:\tbash\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t9\nPid:\t9\nPPid:\t1\n"
      "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t27 1000 \n"
      "NStgid:\t70009\t9\nNSpid:\t70009\t9\nNSpgid:\t70009\t9\nVmRSS:\t  1024 kB\nThreads:\t1\n"};
}

void run_node_set(std::string_view bytes) {
  auto names = expand_node_set(bytes);
  if (!names) {
    promise(names.error().code == ErrorCode::kInvalidArgument, "a bad set is a bad argument");
    return;
  }
  promise(!names->empty() && names->size() <= kMaxNodeSetNames, "a set keeps to its limit");
  promise(std::ranges::all_of(*names, valid_node_name), "names in a set are valid");
  if (names->size() > 2000) return;
  auto again = expand_node_set(fold_node_set(*names));
  promise(again.has_value(), "a folded set can be expanded");
  std::set<std::string> before(names->begin(), names->end());
  promise(before.size() == names->size(), "each name comes once");
  promise(before == std::set<std::string>(again->begin(), again->end()), "and it is the same set");
}

std::vector<std::string> node_set_seeds() {
  return {"node1",   "n[001-064,070],login", "r[1-3]n[1-4]", "a,b,c", "n[0-499]", "n[9-10]",
          "n[09-10]"};
}

void run_join_token(std::string_view bytes) {
  auto token = parse_join_token(bytes);
  if (!token) {
    promise(bytes.size() < 16 || !token.error().text().contains(bytes), "a token is never shown");
    return;
  }
  auto again = parse_join_token(format_join_token(*token));
  promise(again && again->ca_sha256 == token->ca_sha256 && again->secret_hex == token->secret_hex,
          "a token survives being written");
  promise(join_secret_matches(token->secret_hex, join_secret_hash(token->secret_hex)),
          "a secret matches its own hash");
}

std::vector<std::string> join_token_seeds() {
  std::string token = "gestalt1." + std::string(64, 'a') + "." + std::string(64, '7');
  return {token, "  " + token + "\n", "gestalt1..", "gestalt2." + token.substr(9)};
}

void run_config(std::string_view bytes) {
  auto config = parse_config(bytes, "fuzz.toml");
  if (!config) {
    promise(config.error().message.contains("fuzz.toml"), "an error in a file names the file");
    return;
  }
  const auto& membership = config->membership;
  promise(std::isfinite(membership.heartbeat_seconds) && membership.heartbeat_seconds > 0,
          "a heartbeat has a period");
  auto again = parse_config(render_config(*config), "again.toml");
  promise(again.has_value(), "what was rendered can be parsed");
  promise(render_config(*again) == render_config(*config), "and says the same");
}

std::vector<std::string> config_seeds() {
  return {
      render_config({}),
      "[cluster]\nname = \"lab\"\nleader = \"head\"\nleader_address = \"10.0.0.1\"\nport = 7480\n",
      "[membership]\nheartbeat_seconds = 0.5\nsuspect_seconds = 2\nfailed_seconds = 4.0\n",
      "[log]\nlevel = \"debug\"\n[node]\ncpus = 2.5\n"};
}

void run_utf8(std::string_view bytes) {
  std::string valid = valid_utf8(bytes);
  wire::Message message;
  message.mutable_error()->set_message(valid);
  wire::Message again;
  promise(again.ParseFromString(message.SerializeAsString()), "protobuf takes the text");
  promise(valid_utf8(valid) == valid, "valid text stays as it is");
}

std::vector<std::string> utf8_seeds() {
  return {"plain", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc0\x80\xed\xa0\x80\xf5\x80\x80\x80",
          "\xff"};
}

}  // namespace

std::span<const Entry> text_entries() {
  static constexpr Entry kEntries[] = {{"proc_stat", run_proc_stat, proc_stat_seeds},
                                       {"proc_status", run_proc_status, proc_status_seeds},
                                       {"node_set", run_node_set, node_set_seeds},
                                       {"join_token", run_join_token, join_token_seeds},
                                       {"config", run_config, config_seeds},
                                       {"utf8", run_utf8, utf8_seeds}};
  return kEntries;
}

}  // namespace gestalt::fuzz
