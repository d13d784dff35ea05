// Memory that several processes map: a file descriptor with no name, so that nothing is left behind
// however its users end. Linux: memfd. macOS: shm_open, unlinked at once, of a size fixed at
// creation.
#pragma once
#include <cstddef>
#include <vector>

namespace dsjs {

// Close-on-exec; a launcher that passes it to a child does so explicitly. `reserve` is the most it
// may ever hold; no memory is taken yet. Throws EngineError SYSTEM.
int create_shared_memory(const char* label, size_t reserve);

// Maps `reserve` bytes, of which only committed ones may be touched, and asks for huge pages.
// Throws EngineError SYSTEM.
char* map_shared_memory(int fd, size_t reserve);
void unmap_shared_memory(char* base, size_t reserve);

// Committed stretches of shared memory, in whole kSharedPage.
struct SharedPiece {
  int fd;
  size_t offset, bytes;
};
// Maps them one behind the other, all `bytes` of them. unmap_shared_memory ends it. Throws
// EngineError SYSTEM.
char* map_shared_pieces(const std::vector<SharedPiece>& pieces, size_t bytes);

// Takes the pages of [offset, offset + bytes), whole pages, zeroed, so that touching them can never
// fail with SIGBUS. Throws EngineError OUT_OF_MEMORY, with nothing taken.
void commit_shared_memory(int fd, char* base, size_t offset, size_t bytes);
// Gives the pages back to the system. They read as zeros when they are committed again.
void release_shared_memory(int fd, char* base, size_t offset, size_t bytes);

// What an arena reserves of the address space: room for more than the machine's memory.
size_t arena_reserve();

constexpr size_t kSharedPage = 16384;  // a multiple of every page size in use (Apple: 16 KiB)

}  // namespace dsjs
