// Memory account and thread pool.
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "core/memory.h"
#include "core/testing.h"
#include "core/threads.h"

using namespace dsjs;

namespace {

void test_account() {
  auto account = std::make_shared<MemoryAccount>();
  {
    auto small = allocate_private(10, Category::kInputs, account);
    auto large = allocate_private(5 << 20, Category::kMaster, account);
    CHECK(reinterpret_cast<uintptr_t>(small->data()) % 64 == 0);
    CHECK(reinterpret_cast<uintptr_t>(large->data()) % (2 << 20) == 0);
    bool zero = true;
    for (size_t index = 0; index < large->bytes(); ++index)
      zero &= static_cast<char*>(large->data())[index] == 0;
    CHECK(zero);
    CHECK(account->current(Category::kMaster) == 5 << 20 && account->total() == (5 << 20) + 10);
  }
  CHECK(account->total() == 0 && account->peak(Category::kMaster) == 5 << 20);
  CHECK(account->allocations() == 2);
  CHECK_THROWS_CODE(allocate_private(size_t{1} << 55, Category::kMaster, account), "OUT_OF_MEMORY");
  CHECK_THROWS_CODE(category_from_name("nothing"), "INVALID_ARGUMENT");
  for (int index = 0; index < static_cast<int>(Category::kCount); ++index) {
    const auto category = static_cast<Category>(index);
    CHECK(category_from_name(category_name(category)) == category);
  }
}

void test_pool() {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (size_t total : {0, 1, 63, 64, 65, 1000, 4096}) {
      std::vector<std::atomic<int>> visits(total);
      std::atomic<int> uneven{0};
      pool.parallel_for(total, 64, [&](size_t begin, size_t end) {
        if (begin % 64 != 0 || (end % 64 != 0 && end != total)) ++uneven;
        for (size_t index = begin; index < end; ++index) ++visits[index];
      });
      bool once = true;
      for (const auto& count : visits) once &= count == 1;
      CHECK(once && uneven == 0);
    }
    std::string caught;
    try {
      pool.parallel_for(1000, 1, [](size_t, size_t end) {
        if (end == 1000) throw std::runtime_error("the last piece");
      });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    CHECK(caught == "the last piece");
    std::atomic<size_t> after{0};
    pool.parallel_for(10, 1, [&](size_t begin, size_t end) { after += end - begin; });
    CHECK(after == 10);
  }
}

}  // namespace

int main() {
  test_account();
  test_pool();
  return dsjs::testing::summary();
}
