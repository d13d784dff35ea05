#include "comm/transport.h"

namespace dsjs {

void NoticeBoard::post(const Notice& notice) {
  std::lock_guard lock(mutex_);
  const auto [place, is_first] = notices_.try_emplace({notice.channel, notice.rank}, notice);
  if (is_first || notice.channel != Notice::kWholeRun) return;
  if (notice.completed > place->second.completed) place->second = notice;
}

std::optional<Notice> NoticeBoard::find(int channel, int rank) const {
  std::lock_guard lock(mutex_);
  const auto found = notices_.find({channel, rank});
  if (found == notices_.end()) return std::nullopt;
  return found->second;
}

void NoticeBoard::forget(int channel) {
  std::lock_guard lock(mutex_);
  std::erase_if(notices_, [&](const auto& entry) { return entry.first.first == channel; });
}

}  // namespace dsjs
