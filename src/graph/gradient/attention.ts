/** Gradient of fused attention: the probabilities are computed again from the saved log-sum-exp. */
import type { PlainAttribute } from '../attributes.ts';
import type { GradientRule } from './rule.ts';

export const attention: GradientRule = (c) => {
  const { emit, node } = c;
  if (c.needs(3)) throw c.refuse('a trainable bias');
  if (c.needs(5) || c.needs(6)) throw c.refuse('trainable rotary tables');
  const operands = [0, 1, 2].map((i) => node.inputs[i] || undefined);
  const options = node.inputs.slice(3).map((input) => input || undefined);
  const inputs = [c.dY, ...operands, c.output(0), c.output(1), ...options];
  const attributes: Record<string, PlainAttribute> = {};
  for (const [name, { value }] of Object.entries(node.attributes)) attributes[name] = value;
  const types = operands.flatMap((operand) => (operand === undefined ? [] : [emit.type(operand)]));
  return emit.node('AttentionGrad', inputs, types, attributes, 'deepspeed');
};
