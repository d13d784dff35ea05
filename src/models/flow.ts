/**
 * What GPT-2 and Llama share: the pieces of a decoder layer, and the two settings they are built in.
 *
 * Shapes: B sequences, S tokens, T = S plus cached tokens, H heads of queries, K of keys and values,
 * G = H / K queries per key, D = H · head width.
 */
import type { GraphBuilder } from '../graph/builder.ts';

/** Where a layer is built: training sees whole sequences, decoding a cache and portable operators. */
export interface Flow {
  b: GraphBuilder;
  /** int64 [S], or [B, S] when every sequence has its own. */
  positions: string;
  positionsPerSequence: boolean;
  /** Added to the scores: 0 where a query may look, else `masked`. [B or 1, 1, S, T]. */
  mask: string;
  /** float [B, S, D_in] times a weight stored [D_out, D_in], as torch Linear does, without copying it. */
  linear(x: string, weight: string, output?: string): string;
  /** alpha · a · bᵀ over the last two axes. */
  matmulTransposed(a: string, b: string, alpha: number): string;
  /** This layer's new keys and values [B, K, S, D/H] → all that its queries look at, [B, K, T, D/H]. */
  withCache(layer: number, keys: string, values: string): { keys: string; values: string };
  dropout(x: string, ratio: number): string;
}

/**
 * Masked scores are this low: their probability is exactly 0 in float32 and float16, yet a padding query
 * that may look at nothing gets a uniform softmax and not NaN.
 */
const masked = -65504;

/**
 * The additive mask of causal attention, [B or 1, 1, S, T]. The last query is at the last of the T key
 * positions. `attentionMask` int64 [B, T] takes padding keys (0) out as well; without it T = S.
 */
export function causalMask(b: GraphBuilder, inputIds: string, attentionMask?: string): string {
  const queries = sizeOf(b, inputIds, 1);
  const keys = attentionMask === undefined ? queries : sizeOf(b, attentionMask, 1);
  const zero = b.constant('int64', [], [0]);
  const one = b.constant('int64', [], [1]);
  const keyIndex = b.op('Range', [zero, keys, one]);
  const queryIndex = b.op('Range', [b.op('Sub', [keys, queries]), keys, one]);
  const column = b.op('Unsqueeze', [queryIndex, b.constant('int64', [1], [1])]);
  let visible = b.op('LessOrEqual', [keyIndex, column]);
  if (attentionMask !== undefined) {
    const present = b.op('Cast', [attentionMask], { to: 9 });
    const spread = b.op('Unsqueeze', [present, b.constant('int64', [2], [1, 2])]);
    visible = b.op('And', [visible, spread]);
  } else {
    visible = b.op('Unsqueeze', [visible, b.constant('int64', [2], [0, 1])]);
  }
  return b.op('Where', [
    visible,
    b.constant('float32', [], [0]),
    b.constant('float32', [], [masked]),
  ]);
}

/** A dimension of a value, int64 []. */
export function sizeOf(b: GraphBuilder, value: string, axis: number): string {
  return b.op('Gather', [b.op('Shape', [value]), b.constant('int64', [], [axis])], { axis: 0 });
}

/** 0, 1, ..., S − 1 for the S of `inputIds` [B, S]. */
export function arange(b: GraphBuilder, inputIds: string): string {
  const start = b.constant('int64', [], [0]);
  return b.op('Range', [start, sizeOf(b, inputIds, 1), b.constant('int64', [], [1])]);
}

/** [B, S, heads · width] → [B, heads, S, width]. */
export function splitHeads(b: GraphBuilder, x: string, heads: number, width: number): string {
  const split = b.op('Reshape', [x, b.constant('int64', [4], [0, 0, heads, width])]);
  return b.op('Transpose', [split], { perm: [0, 2, 1, 3] });
}

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  headWidth: number;
  /** Multiplies the scores. */
  scale: number;
  dropout: number;
}

/**
 * softmax(scale · Q Kᵀ + mask) V for queries [B, H, S, D/H], keys and values [B, K, T, D/H] → [B, S, D].
 * The G queries that share a key are laid one after the other as rows of one product, so keys and
 * values are never repeated in memory. `mask` has G · S rows then (see `maskForGroups`).
 */
export function attention(
  flow: Flow,
  queries: string,
  keys: string,
  values: string,
  mask: string,
  shape: AttentionShape,
): string {
  const { b } = flow;
  const { heads, kvHeads, headWidth } = shape;
  const rows = (x: string, count: number) =>
    heads === kvHeads
      ? x
      : b.op('Reshape', [x, b.constant('int64', [4], [0, count, -1, headWidth])]);
  const scores = flow.matmulTransposed(rows(queries, kvHeads), keys, shape.scale);
  const probabilities = b.op('Softmax', [b.op('Add', [scores, mask])], { axis: -1 });
  const context = b.op('MatMul', [flow.dropout(probabilities, shape.dropout), values]);
  const merged = b.op('Transpose', [rows(context, heads)], { perm: [0, 2, 1, 3] });
  return b.op('Reshape', [merged, b.constant('int64', [3], [0, 0, heads * headWidth])]);
}

/** The mask repeated for the G queries of every key: [.., 1, G · S, T]. */
export function maskForGroups(b: GraphBuilder, mask: string, groups: number): string {
  return groups === 1 ? mask : b.op('Concat', Array(groups).fill(mask), { axis: 2 });
}

export function layerNorm(
  b: GraphBuilder,
  x: string,
  weight: string,
  bias: string,
  epsilon: number,
): string {
  return b.op('LayerNormalization', [x, weight, bias], { axis: -1, epsilon });
}

/** x / √(mean(x²) + ε) · weight, in the operators that ONNX Runtime and our passes fuse. */
export function rmsNorm(b: GraphBuilder, x: string, weight: string, epsilon: number): string {
  const squares = b.op('Pow', [x, b.constant('float32', [], [2])]);
  const mean = b.op('ReduceMean', [squares, b.constant('int64', [1], [-1])], { keepdims: 1 });
  const root = b.op('Sqrt', [b.op('Add', [mean, b.constant('float32', [], [epsilon])])]);
  return b.op('Mul', [b.op('Div', [x, root]), weight]);
}
