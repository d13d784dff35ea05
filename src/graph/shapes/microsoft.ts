/** ONNX Runtime's own operators (domain com.microsoft) that transformers' forward graphs contain. */
import type { MicrosoftOperator } from '../operators.ts';
import { likeFirst } from './elementwise.ts';
import type { ShapeRule } from './operands.ts';
import { fusedMatMul, gemm } from './products.ts';

/** Y, mean, inverse standard deviation, sum of input, skip and bias */
const skipNormalization: ShapeRule = (node) => {
  const shape = node.shape(0);
  node.require(node.shape(1).at(-1) === shape.at(-1), 'input and skip differ in their last axis');
  const statistics = { dtype: 'float32', shape: shape.with(-1, 1) } as const;
  const full = { dtype: node.dtype(0), shape };
  return [full, statistics, statistics, full];
};

/** input [..., D], bias [D] */
const biased: ShapeRule = (node) => {
  const bias = node.optional(1);
  if (bias !== undefined) {
    node.require(bias.shape.join() === String(node.shape(0).at(-1)), 'the bias is not [last axis]');
  }
  return likeFirst(node);
};

/**
 * query [B, S, N·H], or packed [B, S, N, 3, H]; key and value [B, L, N·H], packed key-value
 * [B, L, N, 2, H], or of a cross-attention [B, N, L, H]. Outputs: [B, S, N·Hv], present key and value
 * [B, N, P + L, H].
 */
const multiHeadAttention: ShapeRule = (node) => {
  const dtype = node.dtype(0);
  const heads = node.int('num_heads', 0);
  node.require(heads > 0, 'num_heads is missing');
  const [batch, length] = [node.shape(0)[0]!, node.shape(0)[1]!];
  const packed = node.shape(0).length === 5;
  const querySize = packed ? node.shape(0)[4]! : node.shape(0)[2]! / heads;
  let keyLength = length;
  let valueSize = querySize;
  if (!packed) {
    const key = node.shape(1);
    keyLength = key.length === 4 ? key[2]! : key[1]!;
    const value = node.optional(2)?.shape;
    if (value !== undefined) valueSize = value.length === 4 ? value[3]! : value[2]! / heads;
  }
  const total = (node.optional(6)?.shape[2] ?? 0) + keyLength;
  return [
    { dtype, shape: [batch, length, heads * valueSize] },
    { dtype, shape: [batch, heads, total, querySize] },
    { dtype, shape: [batch, heads, total, valueSize] },
  ];
};

/**
 * query [B, S, N·H], key and value [B, S, K·H] (or all packed in query), past key and value
 * [B, K, P, H], sequence lengths, total sequence length. Present tensors hold max(P, total) positions.
 */
const groupQueryAttention: ShapeRule = (node) => {
  const dtype = node.dtype(0);
  const [heads, pairs] = [node.int('num_heads', 0), node.int('kv_num_heads', 0)];
  node.require(heads > 0 && pairs > 0, 'num_heads or kv_num_heads is missing');
  const [batch, length, width] = [node.shape(0)[0]!, node.shape(0)[1]!, node.shape(0)[2]!];
  const size = node.has(1) ? width / heads : width / (heads + 2 * pairs);
  const output = { dtype, shape: [batch, length, heads * size] };
  const wantsPresent = node.node.outputs.slice(1).some((name) => name !== '');
  if (!wantsPresent) return [output];
  const total = node.values(6, 'total sequence length')[0]!;
  const positions = Math.max(node.optional(3)?.shape[2] ?? 0, total);
  const present = { dtype, shape: [batch, pairs, positions, size] };
  return [output, present, present];
};

export const microsoftRules: Record<MicrosoftOperator, ShapeRule> = {
  BiasGelu: biased,
  FastGelu: biased,
  FusedGemm: gemm,
  FusedMatMul: fusedMatMul,
  Gelu: likeFirst,
  GroupQueryAttention: groupQueryAttention,
  MultiHeadAttention: multiHeadAttention,
  QuickGelu: likeFirst,
  RotaryEmbedding: likeFirst,
  SkipLayerNormalization: skipNormalization,
  SkipSimplifiedLayerNormalization: skipNormalization,
};
