/** Normalisation, dropout and losses. */
import type { Operands, ShapeRule } from './operands.ts';

/** Y like X, then statistics with ones from `axis` on, in float32. */
function withStatistics(node: Operands, count: number): ReturnType<ShapeRule> {
  const shape = node.shape(0);
  const axis = node.axis(node.int('axis', -1), shape.length);
  const statistics = {
    dtype: 'float32',
    shape: shape.map((dim, i) => (i < axis ? dim : 1)),
  } as const;
  const scale = node.shape(1);
  const tail = shape.slice(axis);
  const fits = scale.every((dim, i) => dim === 1 || dim === tail[tail.length - scale.length + i]);
  node.require(scale.length <= tail.length && fits, 'the scale does not fit the normalised axes');
  return [{ dtype: node.dtype(0), shape }, ...Array(count).fill(statistics)];
}

/** Y, mean, inverse standard deviation */
export const layerNormalization: ShapeRule = (node) => withStatistics(node, 2);

/** Y, and for ONNX Runtime's own SimplifiedLayerNormalization the inverse standard deviation */
export const rmsNormalization: ShapeRule = (node) => withStatistics(node, 1);

/** Softmax and its kin: the axis must exist. */
export const alongAxis: ShapeRule = (node) => {
  const shape = node.shape(0);
  node.axis(node.int('axis', -1), shape.length);
  return [{ dtype: node.dtype(0), shape }];
};

/** Y and the mask of what was kept */
export const dropout: ShapeRule = (node) => [
  { dtype: node.dtype(0), shape: node.shape(0) },
  { dtype: 'bool', shape: node.shape(0) },
];

/** Scores [N, C, ...], labels [N, ...], weights [C]?; the loss, then for cross-entropy the log of softmax. */
export const classLoss: ShapeRule = (node) => {
  const [scores, labels] = [node.shape(0), node.shape(1)];
  const fits = scores.length >= 2 && labels.join() === [scores[0], ...scores.slice(2)].join();
  node.require(fits, 'the labels do not have the shape of the scores without their class axis');
  const weights = node.optional(2);
  if (weights !== undefined) {
    node.require(weights.shape.join() === String(scores[1]), 'there is not one weight per class');
  }
  const shape = node.string('reduction', 'mean') === 'none' ? labels : [];
  return [
    { dtype: node.dtype(0), shape },
    { dtype: node.dtype(0), shape: scores },
  ];
};
