#include "core/half.h"
#include "core/simd_half.h"

namespace dsjs::DSJS_ISA {
namespace {

template <F32 (*widen)(U16)>
void widen_all(const uint16_t* source, float* target, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(target + i, widen(load16(source + i)));
  if (i < count) store_part(target + i, widen(load16_part(source + i, count - i)), count - i);
}

template <U16 (*narrow)(F32)>
void narrow_all(const float* source, uint16_t* target, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store16(target + i, narrow(load(source + i)));
  if (i < count) store16_part(target + i, narrow(load_part(source + i, count - i)), count - i);
}

}  // namespace

extern const HalfKernels half;
const HalfKernels half = {widen_all<widen_bf16>, widen_all<widen_fp16>, narrow_all<narrow_bf16>,
                          narrow_all<narrow_fp16>};

}  // namespace dsjs::DSJS_ISA
