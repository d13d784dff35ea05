// Engines of two ranks that are threads: one that fails or goes never leaves the other waiting.
#include "engine/engine.h"

#include <algorithm>
#include <future>
#include <limits>
#include <string>
#include <thread>

#include "comm/backends.h"
#include "core/testing.h"

using namespace dsjs;

namespace {

// Far beyond what any case takes: a rank that would have to wait for it fails the test.
constexpr double kHangMs = 20'000;

std::string outcome(Engine& engine, WorkId work) {
  try {
    engine.queues().wait(work);
    return "done";
  } catch (const EngineError& error) {
    return error.code();
  }
}

// Runs `body` on two ranks with an engine each.
void run_pair(const char* key, const std::function<void(Engine&, int rank)>& body) {
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&, rank] {
      Engine engine(make_inprocess(key, rank, 2, kHangMs), {});
      body(engine, rank);
    });
  for (std::thread& rank : ranks) rank.join();
}

// Rank 1 misses one of two equal collectives: rank 0's first must not meet rank 1's second.
void a_skipped_collective_ends_the_group() {
  std::promise<void> rank0_ended;
  run_pair("skipped", [&](Engine& engine, int rank) {
    const Region region{engine.allocate(64, Category::kGradients, true), 0, 16, DType::kFloat32};
    std::vector<WorkId> after;
    // Only floats can be filled: the work fails when it runs.
    if (rank == 1) {
      const Region integers{region.buffer, 0, 8, DType::kInt64};
      after.push_back(engine.fill(integers, 1, {}));
    }
    const WorkId first = engine.all_reduce(region, ReduceOp::kSum, after);
    const WorkId second = engine.all_reduce(region, ReduceOp::kSum, {});
    if (rank == 1) {
      CHECK(outcome(engine, first) == "INVALID_ARGUMENT");
      CHECK(outcome(engine, second) == "INVALID_ARGUMENT");
      rank0_ended.get_future().wait();  // alive, and never another call
    } else {
      CHECK(outcome(engine, first) == "COMM_PEER_LEFT");
      CHECK(outcome(engine, second) == "COMM_PEER_LEFT");
      rank0_ended.set_value();
    }
  });
}

void a_disposed_engine_has_left() {
  std::promise<void> rank0_ended;
  run_pair("disposed", [&](Engine& engine, int rank) {
    if (rank == 1) {
      const WorkId waiting = engine.barrier({});
      engine.dispose();  // while its own collective waits, or before it starts
      CHECK(outcome(engine, waiting) == "DISPOSED");
      CHECK_THROWS_CODE(engine.comm_stats(), "DISPOSED");
      CHECK_THROWS_CODE(engine.throttle_comm(0), "DISPOSED");
      rank0_ended.get_future().wait();
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      CHECK(outcome(engine, engine.all_reduce({engine.allocate(8, Category::kInputs, false), 0, 2,
                                               DType::kFloat32},
                                              ReduceOp::kSum, {})) != "done");
      rank0_ended.set_value();
    }
  });
}

// An engine computes one chunk of a compressed all-reduce while another is on its way.
void a_compressed_all_reduce_in_chunks_is_that_in_one() {
  const std::vector<size_t> tensors{3, 2 * CompressedAllReduce::kChunkElements, 100'000};
  const size_t count = tensors[0] + tensors[1] + tensors[2];
  const auto fill = [&](float* values, int rank) {
    uint32_t state = 1 + static_cast<uint32_t>(rank);
    for (size_t i = 0; i < count; ++i) {
      state = state * 1664525 + 1013904223;
      values[i] = static_cast<float>(state) / 2147483648.0f - 1;
    }
  };
  run_pair("chunks", [&](Engine& engine, int rank) {
    const auto region = [&](size_t elements) {
      return Region{engine.allocate(4 * elements, Category::kOptimizer, false), 0, elements,
                    DType::kFloat32};
    };
    const uint32_t id = engine.create_compressor(tensors);
    const Region x = region(count), worker = region(count);
    const Region server = region(engine.compressor_served(id));
    const auto values = [](const Region& of) { return static_cast<float*>(of.data()); };
    std::vector<float> want(count), want_worker(count), want_server(server.count);
    auto alone = make_inprocess("chunks, alone", rank, 2, kHangMs);
    CompressedAllReduce plain(*alone, tensors, std::make_shared<MemoryAccount>(), count);
    CHECK(plain.chunks() == 1);
    for (int round = 0; round < 2; ++round) {
      fill(values(x), rank);
      fill(want.data(), rank);
      CHECK(outcome(engine, engine.compressed_all_reduce(id, x, worker, server, {})) == "done");
      plain.run(want.data(), want_worker.data(), want_server.data());
      CHECK(std::equal(want.begin(), want.end(), values(x)));
      CHECK(std::equal(want_worker.begin(), want_worker.end(), values(worker)));
      CHECK(std::equal(want_server.begin(), want_server.end(), values(server)));
    }
    // In the last chunk of one rank: no rank has anything of it.
    fill(values(x), rank);
    if (rank == 1) values(x)[count - 1] = std::numeric_limits<float>::infinity();
    CHECK(outcome(engine, engine.compressed_all_reduce(id, x, worker, server, {})) == "NON_FINITE");
    std::vector<float> given(count);
    fill(given.data(), rank);
    CHECK(std::equal(given.begin(), given.end() - 1, values(x)));
  });
}

}  // namespace

int main() {
  a_skipped_collective_ends_the_group();
  a_disposed_engine_has_left();
  a_compressed_all_reduce_in_chunks_is_that_in_one();
  return testing::summary();
}
