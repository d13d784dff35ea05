/** Gradients of layer and root-mean-square normalisation. */
import { floatAttribute, intAttribute } from '../attributes.ts';
import { positiveAxis } from '../emitter.ts';
import { plainNormGradient } from '../passes/lower/normalization.ts';
import type { GradientRule } from './rule.ts';

/** ONNX nodes, over `axis` and all later axes. The statistics are recomputed: they are one number a row. */
function plainRule(centred: boolean): GradientRule {
  return (c) => {
    const rank = c.shape(0).length;
    const first = positiveAxis(intAttribute(c.node, 'axis', -1), rank);
    const { dX, normalised } = plainNormGradient(c.emit, {
      dY: c.dY,
      x: c.input(0),
      gamma: c.input(1),
      axes: Array.from({ length: rank - first }, (_, i) => first + i),
      epsilon: floatAttribute(c.node, 'epsilon', 1e-5),
      centred,
    });
    return [dX, c.when(1, () => c.emit.mul(c.dY, normalised)), c.when(2, () => c.dY)];
  };
}

export const onnxLayerNormalization = plainRule(true);
export const onnxRmsNormalization = plainRule(false);

export const layerNormalization: GradientRule = (c) => {
  const { emit, node } = c;
  const [x, gamma] = [c.input(0), c.input(1)];
  const inputs = [c.dY, x, gamma, c.output(1), c.output(2)];
  const types = [emit.type(x), emit.type(gamma), emit.type(gamma)];
  return emit.node('LayerNormalizationGrad', inputs, types, epsilonOf(node), 'deepspeed');
};

export const rmsNormalization: GradientRule = (c) => {
  const { emit, node } = c;
  const [x, gamma] = [c.input(0), c.input(1)];
  const types = [emit.type(x), emit.type(gamma)];
  const inputs = [c.dY, x, gamma, c.output(1)];
  return emit.node('RMSNormalizationGrad', inputs, types, epsilonOf(node), 'deepspeed');
};

function epsilonOf(node: Parameters<typeof floatAttribute>[0]): { epsilon: number } {
  return { epsilon: floatAttribute(node, 'epsilon', 1e-5) };
}
