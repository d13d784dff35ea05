/** Gradients of activation functions. */
import { floatAttribute, intAttribute, stringAttribute } from '../attributes.ts';
import { positiveAxis } from '../emitter.ts';
import type { GradientRule, RuleContext } from './rule.ts';

function geluGradient(c: RuleContext, x: string, approximate: string): string {
  return c.emit.one('GeluGrad', [c.dY, x], c.emit.type(x), { approximate }, 'deepspeed');
}

/** ai.onnx Gelu and deepspeed.Gelu: the form is an attribute. */
export const gelu: GradientRule = (c) => [
  geluGradient(c, c.input(0), stringAttribute(c.node, 'approximate', 'none')),
];

/** com.microsoft.Gelu is the exact form. */
export const exactGelu: GradientRule = (c) => [geluGradient(c, c.input(0), 'none')];

/** com.microsoft.FastGelu is the tanh form of x + bias. */
export const fastGelu: GradientRule = (c) => {
  const x = c.has(1) ? c.emit.add(c.input(0), c.input(1)) : c.input(0);
  const dX = geluGradient(c, x, 'tanh');
  return [dX, dX];
};

/** y = x·σ(αx): dx = σ·(1 + αx·(1 − σ)). */
export function scaledSilu(defaultAlpha: number): GradientRule {
  return (c) => {
    const { emit, dY } = c;
    const scaled = emit.scale(c.input(0), floatAttribute(c.node, 'alpha', defaultAlpha));
    const gate = emit.unary('Sigmoid', scaled);
    const slope = emit.shift(emit.mul(scaled, emit.sub(emit.scalar(1, gate), gate)), 1);
    return [emit.mul(dY, emit.mul(gate, slope))];
  };
}

export const silu: GradientRule = (c) => {
  const x = c.input(0);
  return [c.emit.one('SiluGrad', [c.dY, x], c.emit.type(x), {}, 'deepspeed')];
};

export const siluMul: GradientRule = (c) => {
  const [gate, up] = [c.input(0), c.input(1)];
  const types = [c.emit.type(gate), c.emit.type(up)];
  return c.emit.node('SiluMulGrad', [c.dY, gate, up], types, {}, 'deepspeed');
};

/** dx = y·(dy − Σ dy·y) along the axis. */
export const softmax: GradientRule = (c) => {
  const { emit, dY } = c;
  const y = c.output(0);
  const rank = emit.shape(y).length;
  const axis = positiveAxis(intAttribute(c.node, 'axis', -1), rank);
  if (axis === rank - 1) {
    return [emit.one('SoftmaxGrad', [dY, y], emit.type(y), { axis: -1 }, 'deepspeed')];
  }
  return [emit.mul(y, emit.sub(dY, emit.sum(emit.mul(dY, y), [axis])))];
};

/** dx = dy − eʸ·Σ dy along the axis. */
export const logSoftmax: GradientRule = (c) => {
  const { emit, dY } = c;
  const y = c.output(0);
  const axis = positiveAxis(intAttribute(c.node, 'axis', -1), emit.shape(y).length);
  return [emit.sub(dY, emit.mul(emit.unary('Exp', y), emit.sum(dY, [axis])))];
};
