import type { Region } from '../../native/contract.ts';
import { type FlatLayout, tensorRanges } from '../../layout.ts';
import type { CompressedMomentumOptions } from './compressed-momentum.ts';
import { FreezingOptimizer } from './freezing-optimizer.ts';

/** By tensor: the averaged trust ratio, and the factor on it. */
const ratiosPerTensor = 2;

/** Bytes beside the states and the errors: trust ratios, and the momentum before the step. */
export function oneBitLambBytes(layout: FlatLayout): number {
  return 4 * (ratiosPerTensor * tensorRanges(layout).length + layout.total);
}

/**
 * 1-bit LAMB (Li et al., arXiv 2104.06069, algorithm 1). For `freezeStep` steps it is LAMB on averaged
 * gradients, and keeps an average of each tensor's trust ratio. After that the second moments are constant,
 * the momentum travels, and the ratio is that average times a factor, from what the momentum says of the
 * gradient (addon/optim/lamb_frozen.h). The paper scales tensors to one size before they share a scale on
 * the wire; here no block of one scale has elements of two tensors, so there is nothing to scale.
 */
export function createOneBitLamb(
  options: CompressedMomentumOptions,
  freezeStep: number,
): FreezingOptimizer {
  const { engine, layout, dense } = options;
  const ranges = tensorRanges(layout);
  const count = ratiosPerTensor * ranges.length;
  const vector = (name: string, length: number): Region => ({
    buffer: engine.allocate(length * 4, { category: 'optimizer', name: `1-bit LAMB: ${name}` }),
    byteOffset: 0,
    count: length,
    dtype: 'float32',
  });
  const ratios = vector('trust ratios', count);
  /** The momentum before the step; nothing of it outlives the step. */
  const previous = vector('previous momentum', layout.total);

  return new FreezingOptimizer(options, freezeStep, (compressed) => ({
    local: [{ name: 'trust ratios', buffer: ratios.buffer, count, otherwise: 'rank 0' }],
    dense: (context) => dense.enqueue(context, { ratios }),
    compressed(step, groups) {
      const { momentum, variance } = compressed;
      const fresh = compressed.flat(dense.states[2]!);
      if (step === freezeStep + 1) {
        engine.copy(variance, fresh, options.beingSaved.before({ offset: 0, count: layout.total }));
      }
      engine.copy(momentum, previous);
      const sent = compressed.sendMomentum(step, groups);
      const { master, copy16 } = dense.weights;
      const updated = engine.optimizerStep(
        {
          kind: 'lamb_frozen',
          step,
          master,
          ...(copy16 && { copy16 }),
          gradient: momentum,
          state1: variance,
          state2: fresh,
          state3: previous,
          ratios,
          ranges,
          groups,
          gradientScale: 1,
          maxNorm: 0,
          norm: compressed.norm,
        },
        [sent],
      );
      return dense.weights.publish(updated);
    },
  }));
}
