import type { HostContext } from './context.ts';
import type { Core, Layer, Moments, Tensor } from './library.ts';

/**
 * Batch normalisation over the rows of all ranks: mean and variance of the whole batch, and gradients
 * through them. The layer asks `tf.moments` of the core's exports; while it does, in training over a part
 * of a batch, the answer comes from all ranks.
 */
export function patchBatchNorm(context: HostContext, core: Core): void {
  const [layer] =
    core.serialization.SerializationMap.getMap().classNameMap.BatchNormalization ?? [];
  if (!layer) return;
  let inside = false;
  const { call } = layer.prototype;
  layer.prototype.call = function (this: Layer, inputs, options) {
    const before = inside;
    inside = true;
    try {
      return call.call(this, inputs, options);
    } finally {
      inside = before;
    }
  };
  const { moments } = core;
  (core as { moments: Core['moments'] }).moments = (x, axes, keepDims) => {
    const { pass } = context;
    const whole = !inside || !pass || pass.rows.count === pass.rows.total;
    return whole ? moments(x, axes, keepDims) : momentsOverRanks(context, core, x, axes);
  };
}

/** True for a model whose forward pass asks the other ranks, so that every rank must take part in it. */
export function isSynchronised(layer: Layer): boolean {
  return layer.getClassName() === 'BatchNormalization';
}

/**
 * Mean and variance over `axes` and over ranks (Ioffe and Szegedy, 1502.03167, in two passes). With N the
 * elements of a channel on all ranks: ∂mean/∂x = 1/N, ∂variance/∂x = 2(x − mean)/N; the gradients that
 * arrive here are those of this rank's part of the loss, so that their sum over ranks is the whole.
 */
function momentsOverRanks(
  context: HostContext,
  core: Core,
  x: Tensor,
  axes: readonly number[],
): Moments {
  const { communicator } = context.runtime;
  const along = x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
  const channels = along.reduce((product, size) => product * size, 1);

  /** Float32 sums of this rank, added up in float64 in rank order. */
  const sumOverRanks = (local: Tensor, extra = 0): Float64Array => {
    const sums = new Float64Array(local.size + 1);
    sums.set(local.dataSync());
    sums[local.size] = extra;
    communicator.allReduce(sums);
    return sums;
  };
  const spread = (values: Float64Array) => core.tensor(Float32Array.from(values), along);

  const stacked = core.customGrad((input, save) => {
    const first = sumOverRanks(core.sum(input, axes), input.size / channels);
    const count = first[channels]!;
    const mean = first.subarray(0, channels).map((sum) => sum / count);
    const centred = core.sub(input, spread(mean));
    const second = sumOverRanks(core.sum(core.square(centred), axes));
    const both = new Float32Array(2 * channels);
    both.set(mean);
    both.set(
      second.subarray(0, channels).map((sum) => sum / count),
      channels,
    );
    save([centred]);
    return {
      value: core.tensor(both, [2, channels]),
      gradFunc: (dy, [deviation]) => {
        const total = sumOverRanks(core.reshape(dy, [2 * channels]));
        const scaled = (from: number, factor: number) =>
          spread(total.subarray(from, from + channels).map((value) => (value * factor) / count));
        return core.add(scaled(0, 1), core.mul(deviation!, scaled(channels, 2)));
      },
    };
  })(x);
  const row = (index: number) =>
    core.reshape(core.slice(stacked, [index, 0], [1, channels]), [channels]);
  return { mean: row(0), variance: row(1) };
}
