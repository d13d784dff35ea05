#include "comm/lane_choice.h"

#include <algorithm>
#include <bit>

namespace dsjs {

LaneChoice::LaneChoice(std::vector<int> candidates) : candidates_(std::move(candidates)) {}

bool LaneChoice::is_decided(const Trials& trials) const {
  return trials.calls >= kRounds * candidates_.size();
}

int LaneChoice::next(size_t bytes) const {
  const auto found = by_size_.find(std::bit_width(bytes));
  if (found == by_size_.end() || candidates_.size() == 1) return candidates_.front();
  const Trials& trials = found->second;
  if (!is_decided(trials)) return candidates_[trials.calls % candidates_.size()];
  return std::min_element(trials.least_ns.begin(), trials.least_ns.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

void LaneChoice::took(size_t bytes, int lanes, uint64_t nanoseconds) {
  Trials& trials = by_size_[std::bit_width(bytes)];
  if (is_decided(trials)) return;
  if (trials.calls++ < candidates_.size()) return;
  const auto [place, is_new] = trials.least_ns.try_emplace(lanes, nanoseconds);
  if (!is_new) place->second = std::min(place->second, nanoseconds);
}

}  // namespace dsjs
