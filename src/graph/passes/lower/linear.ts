/** Matrix products, rotation and dropout in plain operators. */
import { floatAttribute, intAttribute } from '../../attributes.ts';
import type { Emitter } from '../../emitter.ts';
import type { NodeContext } from '../../node-context.ts';

/** The last two axes swapped. */
export function transposed(emit: Emitter, x: string): string {
  const rank = emit.shape(x).length;
  const perm = emit.shape(x).map((_, i) => i);
  return emit.transpose(x, [...perm.slice(0, -2), rank - 1, rank - 2]);
}

/** com.microsoft.FusedMatMul; the transposed operands are copied, which is why it is not the default. */
export function lowerFusedMatMul(c: NodeContext): string[] {
  const { emit, node } = c;
  const a = intAttribute(node, 'transA', 0) ? transposed(emit, c.input(0)) : c.input(0);
  const b = intAttribute(node, 'transB', 0) ? transposed(emit, c.input(1)) : c.input(1);
  return [emit.scale(emit.product(a, b), floatAttribute(node, 'alpha', 1))];
}

/** y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin on the halves of the last axis; inverse: −sin. */
export function rotated(
  emit: Emitter,
  x: string,
  cos: string,
  table: string,
  inverse: boolean,
): string {
  const sin = inverse ? emit.neg(table) : table;
  const last = emit.shape(x).length - 1;
  const half = emit.shape(x)[last]! / 2;
  const [x1, x2] = emit.split(x, last, [half, half]) as [string, string];
  const y1 = emit.sub(emit.mul(x1, cos), emit.mul(x2, sin));
  const y2 = emit.add(emit.mul(x2, cos), emit.mul(x1, sin));
  return emit.concat([y1, y2], last);
}

export function lowerRotaryEmbedding(c: NodeContext): string[] {
  const inverse = intAttribute(c.node, 'inverse', 0) !== 0;
  return [rotated(c.emit, c.input(0), c.input(1), c.input(2), inverse)];
}

/** Name of the graph input that carries the mask of a dropout stream in a lowered graph. */
export function maskName(stream: number): string {
  return `mask.${stream}`;
}

/**
 * Plain operators have no counter-based generator, so a node's mask (bool, true = kept, the shape of x)
 * comes in as an input shared by forward and backward. `training` bool [1]: else x is passed on.
 */
export function dropped(c: NodeContext, x: string, training: string): string {
  const { emit, node } = c;
  const scaled = emit.scale(x, 1 / (1 - floatAttribute(node, 'ratio', 0.5)));
  const kept = emit.keepWhere(maskName(intAttribute(node, 'stream', 0)), scaled);
  return emit.where(training, kept, x);
}

/** deepspeed.Dropout and DropoutGrad. */
export function lowerDropout(c: NodeContext): string[] {
  return [dropped(c, c.input(0), c.input(2))];
}
