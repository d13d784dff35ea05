// The memory that ONNX Runtime takes inside sessions and runs, counted and kept for the next run.
#pragma once
#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/memory.h"
#include "ort/ort_api.h"

namespace dsjs::ort {

// A cache of blocks by size class, one per engine, so that steady-state steps do no system
// allocation. Blocks count as `workspace` from the moment the system gives them until `trim`
// returns them: what the cache holds is memory that this engine occupies.
class WorkspacePool : public std::enable_shared_from_this<WorkspacePool> {
 public:
  explicit WorkspacePool(std::shared_ptr<MemoryAccount> account) : account_(std::move(account)) {}
  ~WorkspacePool();
  WorkspacePool(const WorkspacePool&) = delete;
  WorkspacePool& operator=(const WorkspacePool&) = delete;

  // 64-byte aligned, not zeroed; null when the system has no memory (the runtime reports it).
  void* take(size_t bytes);
  // Gives a block back to the pool that it came from.
  static void give_back(void* memory);
  // Returns every unused block to the system.
  void trim();

 private:
  struct Header;
  Header* allocate(size_t capacity);
  void release(Header* header);

  std::shared_ptr<MemoryAccount> account_;
  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<Header*>> unused_;  // by capacity
};

// Which pool allocations on this thread come from; sessions and runs set it around their calls. The
// runtime has one registered allocator per process while ranks can be threads of one process, so
// the thread that calls the runtime says whose memory it is. The runtime's own threads, which
// allocate nothing but tiny objects, fall back to a pool of the process.
class WorkspaceScope {
 public:
  explicit WorkspaceScope(WorkspacePool* pool);
  ~WorkspaceScope();
  WorkspaceScope(const WorkspaceScope&) = delete;
  WorkspaceScope& operator=(const WorkspaceScope&) = delete;

 private:
  WorkspacePool* previous_;
};

// The allocator to register with the environment. Lives as long as the process.
OrtAllocator* workspace_allocator();

}  // namespace dsjs::ort
