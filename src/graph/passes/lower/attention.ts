/**
 * Attention in plain operators, the scores as a whole. With S = scale·Q·Kᵀ + bias, P = softmax(S) over
 * the keys that are seen, D the kept elements of dropout and Y = (D∘P)·V:
 *   dV = (D∘P)ᵀ·dY,  dP = D∘(dY·Vᵀ),  dS = P∘(dP − rowsum(dY∘Y)),  dQ = scale·dS·K,  dK = scale·dSᵀ·Q
 * (Dao et al. 2022, arXiv 2205.14135, appendix B.2).
 */
import { floatAttribute, intAttribute, stringAttribute } from '../../attributes.ts';
import { type AttentionDims, attentionDims } from '../../attention-dims.ts';
import type { Emitter } from '../../emitter.ts';
import type { NodeContext } from '../../node-context.ts';
import { dropped, rotated, transposed } from './linear.ts';

/** Everything of a node but its numbers: where its operands are, and what they mean. */
class AttentionNode {
  readonly dims: AttentionDims;
  readonly scale: number;
  readonly emit: Emitter;
  private readonly c: NodeContext;
  /** Index of Q, and of bias. */
  private readonly first: number;
  private readonly options: number;

  constructor(c: NodeContext, first: number, options: number) {
    this.c = c;
    this.emit = c.emit;
    this.first = first;
    this.options = options;
    const heads = intAttribute(c.node, 'heads', 1);
    const layout = stringAttribute(c.node, 'layout', '');
    const k = c.has(first + 1) ? c.shape(first + 1) : undefined;
    const kvHeads = intAttribute(c.node, 'kv_heads', heads);
    this.dims = attentionDims(layout, heads, kvHeads, c.shape(first), k)!;
    this.scale = floatAttribute(c.node, 'scale', 1);
  }

  /** Q, K and V as [B, heads, length, width], Q and K rotated, K and V still of their own heads. */
  operands(): { q: string; k: string; v: string } {
    const { emit, c, first } = this;
    const { layout, heads, kvHeads, width } = this.dims;
    let parts = [0, 1, 2].map((i) => c.node.inputs[first + i]!);
    if (layout === 'packed') {
      const sizes = [heads, kvHeads, kvHeads].map((count) => count * width);
      parts = emit.split(c.input(first), 2, sizes);
    }
    const [q, k, v] = parts.map((part, i) => this.split(part, i === 0 ? heads : kvHeads));
    return { q: this.rotate(q!, false), k: this.rotate(k!, false), v: v! };
  }

  /** A value laid out as the node's operands are → [B, heads, length, width]. */
  split(x: string, heads: number): string {
    const { layout, batch, width } = this.dims;
    if (layout === 'bhsd') return x;
    const rows = this.emit.reshape(x, [batch, this.emit.shape(x)[1]!, heads, width]);
    return this.emit.transpose(rows, [0, 2, 1, 3]);
  }

  /** The way back. */
  merge(x: string): string {
    if (this.dims.layout === 'bhsd') return x;
    const [batch, heads, length, width] = this.emit.shape(x) as [number, number, number, number];
    const rows = this.emit.transpose(x, [0, 2, 1, 3]);
    return this.emit.reshape(rows, [batch, length, heads * width]);
  }

  rotate(x: string, inverse: boolean): string {
    const [cos, sin] = [this.options + 2, this.options + 3];
    if (!this.c.has(cos)) return x;
    return rotated(this.emit, x, this.c.input(cos), this.c.input(sin), inverse);
  }

  /** Keys or values of each query's head. */
  repeat(x: string): string {
    const { batch, heads, kvHeads, keys, width } = this.dims;
    if (heads === kvHeads) return x;
    const groups = heads / kvHeads;
    const apart = this.emit.reshape(x, [batch, kvHeads, 1, keys, width]);
    const spread = this.emit.expand(apart, [batch, kvHeads, groups, keys, width]);
    return this.emit.reshape(spread, [batch, heads, keys, width]);
  }

  /** The sum over the query heads that share a key head. */
  gather(x: string): string {
    const { batch, heads, kvHeads, keys, width } = this.dims;
    if (heads === kvHeads) return x;
    const apart = this.emit.reshape(x, [batch, kvHeads, heads / kvHeads, keys, width]);
    return this.emit.sum(apart, [2], false);
  }

  /** bool that broadcasts to the scores: which keys a query sees; undefined: all. */
  visible(): string | undefined {
    const { emit, c, options } = this;
    const { batch, length, keys } = this.dims;
    const masks: string[] = [];
    if (intAttribute(c.node, 'causal', 0) !== 0) {
      const last = emit.reshape(emit.range(keys - length, keys), [length, 1]);
      masks.push(emit.compare('LessOrEqual', emit.range(0, keys), last));
    }
    if (c.has(options + 1)) masks.push(emit.reshape(c.input(options + 1), [batch, 1, 1, keys]));
    if (c.has(options + 6)) masks.push(this.blocks(c.input(options + 6)));
    return masks.length === 0 ? undefined : masks.reduce((a, b) => emit.compare('And', a, b));
  }

  /** A truth for each block → one for each score: bool [1 or heads, length, keys]. */
  private blocks(mask: string): string {
    const { emit } = this;
    const { length, keys } = this.dims;
    const block = intAttribute(this.c.node, 'block', 16);
    const [layouts, rows, columns] = emit.shape(mask) as [number, number, number];
    const apart = emit.reshape(mask, [layouts, rows, 1, columns, 1]);
    const spread = emit.expand(apart, [layouts, rows, block, columns, block]);
    const whole = emit.reshape(spread, [layouts, rows * block, columns * block]);
    // The last blocks may reach beyond the sequence.
    const cut = rows * block === length ? whole : emit.slice(whole, 1, 0, length);
    return columns * block === keys ? cut : emit.slice(cut, 2, 0, keys);
  }

  /** scale·Q·Kᵀ + bias, with the lowest number where `visible` does not hold. */
  scores(q: string, k: string, visible: string | undefined): string {
    const { emit, c, options } = this;
    let scores = emit.scale(emit.product(q, transposed(emit, this.repeat(k))), this.scale);
    if (c.has(options)) scores = emit.add(scores, c.input(options));
    if (visible === undefined) return scores;
    return emit.where(visible, scores, emit.scalar(lowest, scores));
  }

  /** Dropout of probabilities, or of their gradient. */
  drop(x: string): string {
    const { c, options } = this;
    if (!c.has(options + 4)) return x;
    return dropped(c, x, c.input(options + 5));
  }
}

/** Of float32. */
const lowest = -3.4028234663852886e38;

/** The probabilities from scores and their log-sum-exp; 0 where a key is not seen. */
function probabilities(emit: Emitter, scores: string, lse: string, visible: string | undefined) {
  const weights = emit.unary('Exp', emit.sub(scores, emit.reshape(lse, [...emit.shape(lse), 1])));
  return visible === undefined ? weights : emit.keepWhere(visible, weights);
}

export function lowerAttention(c: NodeContext): string[] {
  const node = new AttentionNode(c, 0, 3);
  const { emit, dims } = node;
  const { q, k, v } = node.operands();
  const visible = node.visible();
  const scores = node.scores(q, k, visible);
  const top = emit.reduce('ReduceMax', scores, [3], true);
  const raw = emit.unary('Exp', emit.sub(scores, top));
  const seen = visible === undefined ? raw : emit.keepWhere(visible, raw);
  const column = emit.add(emit.unary('Log', emit.sum(seen, [3])), top);
  const lse = emit.reshape(column, [dims.batch, dims.heads, dims.length]);
  const weights = node.drop(probabilities(emit, scores, lse, visible));
  return [node.merge(emit.product(weights, node.repeat(v))), lse];
}

export function lowerAttentionGrad(c: NodeContext): string[] {
  const node = new AttentionNode(c, 1, 6);
  const { emit, scale } = node;
  const { heads, layout } = node.dims;
  const { q, k, v } = node.operands();
  const [dY, y] = [node.split(c.input(0), heads), node.split(c.input(4), heads)];
  const visible = node.visible();
  const weights = probabilities(emit, node.scores(q, k, visible), c.input(5), visible);
  const dV = node.gather(emit.product(transposed(emit, node.drop(weights)), dY));
  const dWeights = node.drop(emit.product(dY, transposed(emit, node.repeat(v))));
  const along = emit.sum(emit.mul(dY, y), [3]);
  const dScores = emit.scale(emit.mul(weights, emit.sub(dWeights, along)), scale);
  const dQ = node.rotate(emit.product(dScores, node.repeat(k)), true);
  const dK = node.rotate(node.gather(emit.product(transposed(emit, dScores), q)), true);
  const gradients = [dQ, dK, dV].map((gradient) => node.merge(gradient));
  return layout === 'packed' ? [emit.concat(gradients, 2)] : gradients;
}
