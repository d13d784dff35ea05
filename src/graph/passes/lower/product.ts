/** Our matrix products in plain operators. */
import { floatAttribute, intAttribute, stringAttribute } from '../../attributes.ts';
import type { Emitter } from '../../emitter.ts';
import { flattenAt } from '../../emitter.ts';
import type { NodeContext } from '../../node-context.ts';
import * as activation from './activation.ts';
import { transposed } from './linear.ts';

type Slope = (emit: Emitter, z: string) => string;

/** The factor that an epilogue of this name multiplies the product by, at Z. */
const slopes: Record<string, Slope> = {
  gelu_grad: (emit, z) => activation.geluSlope(emit, z, 'none'),
  gelu_tanh_grad: (emit, z) => activation.geluSlope(emit, z, 'tanh'),
  silu_grad: activation.siluSlope,
};

function activated(emit: Emitter, x: string, name: string): string {
  if (name === 'gelu') return activation.gelu(emit, x, 'none');
  if (name === 'gelu_tanh') return activation.gelu(emit, x, 'tanh');
  return name === 'silu' ? activation.silu(emit, x, 1) : x;
}

/** A factor as the product takes it, by an attribute; `second` is the index of A2 or B2. */
function prologue(c: NodeContext, name: string, factor: number, second: number): string {
  const kind = stringAttribute(c.node, name, 'none');
  if (kind !== 'silu_mul') return activated(c.emit, c.input(factor), kind);
  return c.emit.mul(activation.silu(c.emit, c.input(factor), 1), c.input(second));
}

/** alpha · op(a) · op(b) by the node's attributes. */
function scaledProduct(c: NodeContext, a: string, b: string, transA: number): string {
  const { emit, node } = c;
  const left = intAttribute(node, 'transA', transA) ? transposed(emit, a) : a;
  const right = intAttribute(node, 'transB', 0) ? transposed(emit, b) : b;
  return emit.scale(emit.product(left, right), floatAttribute(node, 'alpha', 1));
}

/** A, B (which may be in 16 bits), A2?, bias?, residual?, Z? */
export function lowerMatMul(c: NodeContext): string[] {
  const { emit } = c;
  const b = emit.cast(c.input(1), emit.dtype(c.input(0)));
  let y = scaledProduct(c, prologue(c, 'prologue', 0, 2), b, 0);
  if (c.has(3)) y = emit.add(y, c.input(3));
  const epilogue = stringAttribute(c.node, 'epilogue', 'none');
  const slope = slopes[epilogue];
  y = slope === undefined ? activated(emit, y, epilogue) : emit.mul(y, slope(emit, c.input(5)));
  return [c.has(4) ? emit.add(y, c.input(4)) : y];
}

/** The gradients that a MatMulAccumulate adds to its buffers: of the weight, and of the bias. */
export function lowerMatMulAccumulate(c: NodeContext): { weight: string; bias: string } {
  const { emit } = c;
  const flat = (x: string) => emit.reshape(x, flattenAt(emit.shape(x), emit.shape(x).length - 1));
  const a = flat(prologue(c, 'prologue', 0, 4));
  const b = flat(prologue(c, 'prologueB', 1, 7));
  const weight = scaledProduct(c, a, b, 1);
  const rows = intAttribute(c.node, 'transB', 0) ? 1 : 0;
  return { weight, bias: emit.sum(b, [rows], false) };
}
