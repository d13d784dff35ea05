/** Activations in plain operators; Φ is the normal distribution function, σ the logistic one. */
import { floatAttribute, stringAttribute } from '../../attributes.ts';
import type { Emitter } from '../../emitter.ts';
import type { NodeContext } from '../../node-context.ts';

const cubic = 0.044715;
const tanhScale = Math.sqrt(2 / Math.PI);

/** (1 + erf(x/√2))/2. */
function normalDistribution(emit: Emitter, x: string): string {
  return emit.scale(emit.shift(emit.unary('Erf', emit.scale(x, Math.SQRT1_2)), 1), 0.5);
}

/** tanh(√(2/π)·(x + 0.044715·x³)) (Hendrycks and Gimpel 2016, arXiv 1606.08415). */
function tanhTerm(emit: Emitter, x: string): string {
  const cube = emit.mul(x, emit.mul(x, x));
  return emit.unary('Tanh', emit.scale(emit.add(x, emit.scale(cube, cubic)), tanhScale));
}

export function gelu(emit: Emitter, x: string, approximate: string): string {
  if (approximate === 'none') return emit.mul(x, normalDistribution(emit, x));
  return emit.mul(emit.scale(x, 0.5), emit.shift(tanhTerm(emit, x), 1));
}

/** ai.onnx and deepspeed Gelu. */
export function lowerGelu(c: NodeContext): string[] {
  return [gelu(c.emit, c.input(0), stringAttribute(c.node, 'approximate', 'none'))];
}

/** com.microsoft.FastGelu: the tanh form of x + bias. */
export function lowerFastGelu(c: NodeContext): string[] {
  const x = c.has(1) ? c.emit.add(c.input(0), c.input(1)) : c.input(0);
  return [gelu(c.emit, x, 'tanh')];
}

export function lowerGeluGrad(c: NodeContext): string[] {
  const { emit } = c;
  const [dY, x] = [c.input(0), c.input(1)];
  return [emit.mul(dY, geluSlope(emit, x, stringAttribute(c.node, 'approximate', 'none')))];
}

/** The derivative of gelu at x. */
export function geluSlope(emit: Emitter, x: string, approximate: string): string {
  return approximate === 'none' ? exactSlope(emit, x) : tanhSlope(emit, x);
}

/** Φ(x) + x·φ(x). */
function exactSlope(emit: Emitter, x: string): string {
  const density = emit.unary('Exp', emit.scale(emit.mul(x, x), -0.5));
  const weighted = emit.scale(emit.mul(x, density), 1 / Math.sqrt(2 * Math.PI));
  return emit.add(normalDistribution(emit, x), weighted);
}

/** With t the tanh term: (1 + t)/2 + x/2·(1 − t²)·√(2/π)·(1 + 3·0.044715·x²). */
function tanhSlope(emit: Emitter, x: string): string {
  const t = tanhTerm(emit, x);
  const inner = emit.shift(emit.scale(emit.mul(x, x), 3 * cubic), 1);
  const outer = emit.sub(emit.scalar(1, t), emit.mul(t, t));
  const second = emit.scale(emit.mul(emit.mul(x, outer), inner), tanhScale / 2);
  return emit.add(emit.scale(emit.shift(t, 1), 0.5), second);
}

export function silu(emit: Emitter, x: string, alpha: number): string {
  return emit.mul(x, emit.unary('Sigmoid', emit.scale(x, alpha)));
}

/** x·σ(αx): deepspeed.Silu (α = 1), ai.onnx Swish (1), com.microsoft.QuickGelu (1.702). */
export function lowerSilu(defaultAlpha: number): (c: NodeContext) => string[] {
  return (c) => [silu(c.emit, c.input(0), floatAttribute(c.node, 'alpha', defaultAlpha))];
}

/** σ·(1 + x·(1 − σ)). */
export function siluSlope(emit: Emitter, x: string): string {
  const gate = emit.unary('Sigmoid', x);
  return emit.mul(gate, emit.shift(emit.mul(x, emit.sub(emit.scalar(1, gate), gate)), 1));
}

export function lowerSiluGrad(c: NodeContext): string[] {
  return [c.emit.mul(c.input(0), siluSlope(c.emit, c.input(1)))];
}

export function lowerSiluMul(c: NodeContext): string[] {
  return [c.emit.mul(silu(c.emit, c.input(0), 1), c.input(1))];
}

export function lowerSiluMulGrad(c: NodeContext): string[] {
  const { emit } = c;
  const [dY, gate, up] = [c.input(0), c.input(1), c.input(2)];
  return [emit.mul(emit.mul(dY, up), siluSlope(emit, gate)), emit.mul(dY, silu(emit, gate, 1))];
}

/** y·(dy − Σ dy·y) over the last axis. */
export function lowerSoftmaxGrad(c: NodeContext): string[] {
  const { emit } = c;
  const [dY, y] = [c.input(0), c.input(1)];
  return [emit.mul(y, emit.sub(dY, emit.sum(emit.mul(dY, y), [c.shape(1).length - 1])))];
}
