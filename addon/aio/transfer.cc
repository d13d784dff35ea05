#include "aio/transfer.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <exception>

#include "core/error.h"
#include "io/fault.h"
#include "io/system_error.h"

namespace dsjs::aio {
namespace {

// Threads that the pool of one lane may have: more would only take memory.
constexpr size_t kMostThreads = 64;

Backend choose(Backend wanted) {
  if (wanted == Backend::kUring && !uring_available())
    throw EngineError("INVALID_ARGUMENT", "io_uring is not available on this machine", "aio");
  if (wanted != Backend::kAuto) return wanted;
  return uring_available() ? Backend::kUring : Backend::kThreads;
}

std::string place(const Request& request) {
  return " (" + std::to_string(request.bytes) + " bytes at " + std::to_string(request.offset) + ")";
}

// What is left of a request after a completion that was cut short. Direct I/O goes on at a multiple
// of its alignment, so that up to one block of the disk is moved twice.
Request rest_of(const Completion& ended, const std::string& path) {
  const size_t done = static_cast<size_t>(ended.result) / kAlignment * kAlignment;
  const Request& request = ended.request;
  if (done == 0 && !request.write)
    throw EngineError("IO_SHORT_FILE",
                      "cannot read " + path + place(request) + ": the file ends there", "read");
  if (done == 0) io::throw_system_error("write", path, ENOSPC, place(request));
  return {request.descriptor, request.write, request.data + done, request.bytes - done,
          request.offset + done};
}

}  // namespace

void check_options(const Options& options) {
  const auto require = [](bool ok, const std::string& message) {
    if (!ok) throw EngineError("INVALID_ARGUMENT", "aio: " + message, "aio");
  };
  require(options.block_size >= kAlignment && options.block_size % kAlignment == 0,
          "block_size must be a multiple of " + std::to_string(kAlignment) + ", got " +
              std::to_string(options.block_size));
  require(options.queue_depth >= 1 && options.queue_depth <= 4096,
          "queue_depth must be from 1 to 4096, got " + std::to_string(options.queue_depth));
  require(options.threads >= 1 && options.threads <= 256,
          "threads must be from 1 to 256, got " + std::to_string(options.threads));
}

Transfers::Transfers(const Options& options)
    : options_((check_options(options), options)),
      backend_(choose(options.backend)),
      stats_(options.threads),
      pool_(static_cast<int>(options.threads)) {
  for (size_t lane = 0; lane < options.threads; ++lane)
    lanes_.push_back(backend_ == Backend::kUring
                         ? make_uring_queue(options.queue_depth)
                         : make_thread_queue(std::min(options.queue_depth, kMostThreads)));
}

Transfers::~Transfers() = default;

TransferStats Transfers::stats() const {
  TransferStats sum;
  for (const TransferStats& lane : stats_) {
    sum.bytes_read += lane.bytes_read;
    sum.bytes_written += lane.bytes_written;
    sum.requests += lane.requests;
    sum.submissions += lane.submissions;
    sum.most_under_way = std::max(sum.most_under_way, lane.most_under_way);
  }
  return sum;
}

void Transfers::read(int descriptor, const std::string& path,
                     const std::vector<Stretch>& stretches) {
  run(descriptor, false, path, stretches);
}

void Transfers::write(int descriptor, const std::string& path,
                      const std::vector<Stretch>& stretches) {
  run(descriptor, true, path, stretches);
}

void Transfers::run(int descriptor, bool write, const std::string& path,
                    const std::vector<Stretch>& stretches) {
  std::vector<Request> blocks;
  for (const Stretch& stretch : stretches)
    for (size_t done = 0; done < stretch.bytes; done += options_.block_size)
      blocks.push_back({descriptor, write, stretch.data + done,
                        std::min(options_.block_size, stretch.bytes - done),
                        stretch.offset + done});
  const size_t each = (blocks.size() + lanes_.size() - 1) / lanes_.size();
  pool_.parallel_for(lanes_.size(), 1, [&](size_t first, size_t last) {
    for (size_t lane = first; lane < last; ++lane)
      run_lane(lane, blocks, std::min(blocks.size(), lane * each),
               std::min(blocks.size(), (lane + 1) * each), path);
  });
}

// Everything that was submitted is waited for, whatever fails: the kernel still uses its memory.
void Transfers::run_lane(size_t lane, const std::vector<Request>& blocks, size_t begin, size_t end,
                         const std::string& path) {
  RequestQueue& queue = *lanes_[lane];
  TransferStats& stats = stats_[lane];
  const auto submit = [&] {
    queue.submit();
    ++stats.submissions;
  };
  std::deque<Request> rest;
  std::vector<Completion> ended;
  std::exception_ptr failure;
  size_t next = begin, under_way = 0;
  for (;;) {
    const bool more = !failure && (next < end || !rest.empty());
    if (!more && under_way == 0) break;
    if (more && (options_.overlap_events || under_way == 0)) {
      bool pushed = false;
      while (under_way < options_.queue_depth && (next < end || !rest.empty())) {
        if (rest.empty()) {
          if (blocks[next].write) io::fault_point();
          queue.push(blocks[next++]);
        } else {
          queue.push(rest.front());
          rest.pop_front();
        }
        stats.most_under_way = std::max<uint64_t>(stats.most_under_way, ++under_way);
        ++stats.requests;
        pushed = !options_.single_submit;
        if (options_.single_submit) submit();
      }
      if (pushed) submit();
    }
    ended.clear();
    queue.wait(ended);
    under_way -= ended.size();
    for (const Completion& completion : ended) {
      const Request& request = completion.request;
      if (completion.result > 0)
        (request.write ? stats.bytes_written : stats.bytes_read) +=
            static_cast<uint64_t>(completion.result);
      if (completion.result == static_cast<int64_t>(request.bytes)) continue;
      try {
        if (completion.result == -EAGAIN || completion.result == -EINTR)
          rest.push_back(request);
        else if (completion.result < 0)
          io::throw_system_error(request.write ? "write" : "read", path,
                                 static_cast<int>(-completion.result), place(request));
        else
          rest.push_back(rest_of(completion, path));
      } catch (...) {
        if (!failure) failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace dsjs::aio
