/** Gradients of rotary position embeddings: the rotation back. */
import { intAttribute } from '../attributes.ts';
import type { PlainAttribute } from '../attributes.ts';
import type { GradientRule, RuleContext } from './rule.ts';

export const fusedRotary: GradientRule = (c) => {
  const inputs = [c.dY, c.input(1), c.input(2)];
  const inverse = 1 - intAttribute(c.node, 'inverse', 0);
  return [c.emit.one('RotaryEmbedding', inputs, c.emit.type(c.dY), { inverse }, 'deepspeed')];
};

/** com.microsoft: x, position ids, cos, sin. */
export const microsoftRotary: GradientRule = (c) => {
  refuseTableGradient(c, [2, 3]);
  const inputs = [c.dY, c.input(1), c.input(2), c.emit.neg(c.input(3))];
  return [rotateBack(c, inputs)];
};

/** ai.onnx 23: x, cos, sin, position ids. */
export const onnxRotary: GradientRule = (c) => {
  refuseTableGradient(c, [1, 2]);
  const positions = c.has(3) ? c.input(3) : undefined;
  return [rotateBack(c, [c.dY, c.input(1), c.emit.neg(c.input(2)), positions])];
};

function rotateBack(c: RuleContext, inputs: (string | undefined)[]): string {
  const attributes: Record<string, PlainAttribute> = {};
  for (const [name, { value }] of Object.entries(c.node.attributes)) attributes[name] = value;
  return c.emit.one('RotaryEmbedding', inputs, c.emit.type(c.dY), attributes, c.node.domain);
}

function refuseTableGradient(c: RuleContext, tables: readonly number[]): void {
  if (tables.some((i) => c.needs(i))) throw c.refuse('trainable rotary tables');
}
