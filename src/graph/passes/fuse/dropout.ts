/** Dropout with counter-based randomness. */
import { operatorKey } from '../../operator-key.ts';
import type { Fusion } from './pattern.ts';

/**
 * Brings in the graph input `rng` int64 [2 + B]. Streams are numbered when the graph is cut
 * (randomness.ts), so that equal layers stay equal. The training switch stays what it was: a constant,
 * or a graph input.
 */
export const dropout: Fusion = {
  name: 'Dropout → deepspeed.Dropout',
  match(node, view, live) {
    if (operatorKey(node) !== 'Dropout') return undefined;
    const [x, , training] = node.inputs as [string, string?, string?];
    const batch = view.batchSize();
    const shape = view.shape(x);
    const ratio = node.inputs[1] ? view.scalar(node.inputs[1]) : 0.5;
    // Without training mode dropout does nothing; that is left to the plain rule.
    if (!training || view.scalar(training) === 0 || ratio === undefined) return undefined;
    if (live.has(node.outputs[1] ?? '') || batch === undefined) return undefined;
    // Samples must be in front: the mask depends on the sample's number and the place in the sample.
    if (shape.length === 0 || batch === 0 || shape[0]! % batch !== 0) return undefined;
    return () => {
      const { emit } = view;
      const rng = view.bringInput({ name: 'rng', dtype: 'int64', shape: [2 + batch] });
      const samples =
        shape[0] === batch ? x : emit.reshape(x, [batch, shape[0]! / batch, ...shape.slice(1)]);
      const always = view.scalar(training) !== undefined;
      const on = always ? emit.constant('bool', [1], [1]) : emit.reshape(training, [1]);
      const inputs = [samples, rng, on];
      const attributes = { ratio, stream: 0 };
      const type = { dtype: emit.dtype(x), shape: emit.shape(samples) };
      return [emit.reshape(emit.one('Dropout', inputs, type, attributes, 'deepspeed'), shape)];
    };
  },
};
